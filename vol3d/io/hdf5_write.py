"""Writing a dataset into an HDF5 file, new or existing: other datasets are left alone."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import FileFormatError, ResourceError
from vol3d.io import atomic, class_names
from vol3d.io.hdf5 import AFFINE, CHANNEL_NAMES, CLASS_NAMES, ELEMENT_SIZE, default_affine
from vol3d.io.hdf5_links import resolve
from vol3d.io.kinds import Content, Location

_CHUNK = 64
_COMPRESSION = 4
_METADATA, _PER_CHUNK = 1 << 16, 512  # generous: bytes of HDF5's own bookkeeping


def write(temporary: Path, location: Location, content: Content) -> None:
    """Store (C, X, Y, Z) as ZYX, or CZYX for several channels, in a copy of the file at `location`, or a new one.

    A dataset of that name is replaced. Raises `ResourceError` where another program changed the file meanwhile. The
    space is reserved beforehand: the HDF5 library does not survive a full disk. Raises `OSError`, `FileFormatError`.
    """
    stored = _stored(content.array)
    depth = min(_CHUNK, stored.shape[-3])
    _write(temporary, location, content, stored.shape, lambda dataset: _fill(dataset, stored, depth))


def write_runs(
    temporary: Path, location: Location, content: Content, runs: Iterable[tuple[tuple[slice, ...], NDArray[Any]]]
) -> None:
    """As `write`, of voxels that come piece by piece: a box of the grid (slices along X, Y, Z) and what is in it.

    content: one channel; its array is only looked at for its shape.
    """

    def fill(dataset: Any) -> None:  # noqa: ANN401  h5py is untyped
        for box, codes in runs:
            dataset[box[::-1]] = np.ascontiguousarray(codes.transpose(2, 1, 0), dtype=dataset.dtype)

    _write(temporary, location, content, content.array.shape[:0:-1], fill)


def _write(
    temporary: Path, location: Location, content: Content, shape: tuple[int, ...], fill: Callable[[Any], None]
) -> None:
    """A dataset of `shape` in the order it is stored in, whose voxels `fill` puts there."""
    import h5py

    chunks = (1,) * (len(shape) - 3) + tuple(min(_CHUNK, n) for n in shape[-3:])
    before = _state(location.path)
    if before is not None:
        shutil.copyfile(location.path, temporary)
    else:
        with h5py.File.in_memory() as empty:
            empty.flush()
            temporary.write_bytes(empty.id.get_file_image())
    names = len(class_names.encode(content.class_names or {})) + sum(map(len, content.channel_names or ()))
    atomic.reserve(temporary, temporary.stat().st_size + _needed(shape, chunks, content.dtype) + 8 * names)
    try:
        with h5py.File(temporary, "r+", locking="best-effort") as file:
            group, name = _place(file, location)
            dataset = group.create_dataset(
                name, shape, content.dtype, chunks=chunks, compression="gzip", compression_opts=_COMPRESSION,
                shuffle=content.dtype.itemsize > 1,
            )  # fmt: skip
            fill(dataset)
            _describe(dataset, content)
    except (RuntimeError, ValueError, TypeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise FileFormatError(f"{location.name} cannot be written as HDF5 ({cause}). Choose another file.") from error
    if _state(location.path) != before:
        raise ResourceError(
            f"{location.path} was changed by another program while {location.dataset} was written into it; it stays as "
            "it is now. Run the command again, or write into a file of its own (-o)."
        )


def _state(path: Path) -> tuple[int, int, int] | None:
    """What tells whether a file was written to or replaced; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _stored(array: NDArray[Any]) -> NDArray[Any]:
    turned = array.transpose(0, 3, 2, 1)
    return turned[0] if len(turned) == 1 else turned


def _needed(shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    count = math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    return count * (math.ceil(math.prod(chunks) * dtype.itemsize * 1.001) + _PER_CHUNK) + _METADATA


def _place(file: Any, location: Location) -> tuple[Any, str]:  # noqa: ANN401  h5py is untyped
    """The group and the free name for the dataset; groups on the way are made, an old dataset is removed."""
    import h5py

    *above, name = [part for part in (location.dataset or "").split("/") if part not in ("", ".")]
    for depth in range(len(above)):
        path = "/".join(above[: depth + 1])
        found = resolve(file, path, location.name)
        if found is None:
            file.create_group(path)
        elif not isinstance(found, h5py.Group):
            raise FileFormatError(f"{location.name}: {path!r} is a dataset, not a group. Choose another name.")
    group = resolve(file, "/".join(above), location.name)
    if isinstance(resolve(file, "/".join([*above, name]), location.name), h5py.Group):
        raise FileFormatError(f"{location.name} is a group. Name a dataset in it.")
    if group is None:
        raise FileFormatError(f"{location.name}: a link on its way leads nowhere. Choose another name.")
    if group.id.links.exists(os.fsencode(name)):
        del group[name]
    return group, name


def _fill(dataset: Any, stored: NDArray[Any], depth: int) -> None:  # noqa: ANN401
    """Whole chunks at a time, so that no chunk is packed twice and no large copy is made."""
    volumes = stored if stored.ndim == 4 else stored[np.newaxis]
    for channel, volume in enumerate(volumes):
        lead = (channel,) if stored.ndim == 4 else ()
        for start in range(0, volume.shape[0], depth):
            part = np.s_[start : start + depth]
            dataset[(*lead, part)] = np.ascontiguousarray(volume[part], dtype=dataset.dtype)


def _describe(dataset: Any, content: Content) -> None:  # noqa: ANN401
    affine, shape = content.like.affine, content.like.shape
    sizes = affine.spacing[::-1] * 1000
    if not content.like.attributes.get("spacing_assumed"):
        dataset.attrs[ELEMENT_SIZE] = sizes
    if default_affine(sizes).corner_distance(affine, shape) > 1e-6:
        dataset.attrs[AFFINE] = affine.matrix
    if content.class_names:
        dataset.attrs[CLASS_NAMES] = class_names.encode(content.class_names)
    if content.channel_names:
        dataset.attrs[CHANNEL_NAMES] = json.dumps(list(content.channel_names))
