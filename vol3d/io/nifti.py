"""Reading NIfTI (.nii, .nii.gz): every byte of the header checked against the file before voxels are allocated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError
from vol3d.io import nifti_header
from vol3d.io.kinds import Facts, Location, ReadOptions, choose_channel
from vol3d.io.nifti_header import NiftiHeader
from vol3d.io.stream import open_stream
from vol3d.volume import Volume


def read(location: Location, options: ReadOptions) -> Volume:
    """One channel of a NIfTI file as a `Volume` (1, X, Y, Z).

    Units are turned into mm; `forms` keeps them as stored. Stored numbers are scaled as the header says: float32
    where that is exact, float64 otherwise. Raises `FileFormatError`, `GeometryError`, `ResourceError`.
    """
    with open_stream(location.path, location.name) as stream:
        header = nifti_header.parse(stream, location.name)
        channel = choose_channel(location.name, header.channels, options.channel)
        affine, source = header.affine(options.xform)
        planes = 1 if header.interleaved else header.channels
        together = header.channels if header.interleaved else 1
        size = header.voxels * together * header.dtype.itemsize
        stream.require(size * planes)
        options.budget.require(location.name, size + _extra(header))
        stored = np.empty(header.voxels * together, dtype=header.dtype)
        stream.skip(0 if header.interleaved else channel * size)
        stream.read_into(stored.view(np.uint8).data)
        stream.skip(0 if header.interleaved else (planes - 1 - channel) * size)
        stream.finish()
    if header.interleaved:
        stored = stored.reshape(-1, together)[:, channel].copy()
    array = _scaled(_native(stored), header).reshape(header.shape, order="F")
    attributes = {**header.attributes, "affine_source": source}
    if header.channels > 1:
        attributes |= {"channel": channel}
        attributes.pop("channel_names", None)
    return Volume(array[np.newaxis], affine, location.name, header.forms, attributes)


def describe(location: Location) -> Facts:
    """What the header says. Raises `FileFormatError`."""
    with open_stream(location.path, location.name) as stream:
        header = nifti_header.parse(stream, location.name)
    attributes = dict(header.attributes)
    problems: tuple[str, ...] = ()
    affine = None
    try:
        affine, attributes["affine_source"] = header.affine(None)
    except GeometryError as error:
        problems = (str(error),)
    kind = header.dtype.newbyteorder("=").name
    held = _scaled_dtype(header).name if header.scaled else None
    return Facts(header.shape, header.channels, kind, affine, "xyz", header.forms, attributes, problems, held)


def _extra(header: NiftiHeader) -> int:
    """Bytes that scaling or picking a colour takes beyond the stored voxels."""
    if header.interleaved:
        return header.voxels
    return header.voxels * _scaled_dtype(header).itemsize if header.scaled else 0


def _native(stored: NDArray[Any]) -> NDArray[Any]:
    if stored.dtype.isnative:
        return stored
    return stored.byteswap(inplace=True).view(stored.dtype.newbyteorder("="))


def _scaled_dtype(header: NiftiHeader) -> np.dtype[Any]:
    """float32 where whole numbers stay whole and small enough to be exact, as in a CT's −1024; else float64."""
    whole = header.slope == int(header.slope) and header.inter == int(header.inter)
    small = header.dtype.kind in "iu" and header.dtype.itemsize <= 2
    if whole and small and abs(header.slope) * 65535 + abs(header.inter) < 2**24:
        return np.dtype(np.float32)
    return np.dtype(np.float64)


def _scaled(stored: NDArray[Any], header: NiftiHeader) -> NDArray[Any]:
    if not header.scaled:
        return stored
    array = np.empty(stored.shape, dtype=_scaled_dtype(header))
    np.multiply(stored, header.slope, out=array, dtype=array.dtype, casting="unsafe")
    array += header.inter
    return array
