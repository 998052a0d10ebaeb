"""Reading TIFF through tifffile, imported only when needed: ImageJ's, OME-TIFF, plain stacks of pages.

A TIFF says how large voxels are, not how they lie in the world: axes are those of HDF5 (ZYX stored, +x right, +y
anterior, +z superior).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from vol3d.errors import FileFormatError, GeometryError
from vol3d.io import class_names
from vol3d.io.hdf5 import to_xyz
from vol3d.io.kinds import Facts, Location, ReadOptions, choose_channel
from vol3d.io.tiff_layout import require_whole
from vol3d.io.tiff_sizes import Sizes, from_imagej, from_ome, imagej_channels
from vol3d.volume import Affine, Volume

_ORDER = "CZYX"
_MEANING = {"S": "C", "I": "Z", "Q": "Z"}  # tifffile's letters for samples of a pixel, and for pages without a name


@dataclass(frozen=True, eq=False)
class _Stack:
    """The one image in an open file. series, file: of tifffile. pages: how many there are. axes: see `_axes`."""

    series: Any
    file: Any
    pages: int
    axes: list[tuple[str, int]]

    @property
    def shape(self) -> tuple[int, int, int]:
        sizes = dict(self.axes)
        return (sizes["X"], sizes["Y"], sizes.get("Z", 1))

    @property
    def channels(self) -> int:
        return dict(self.axes).get("C", 1)

    @property
    def order(self) -> list[int]:
        """Where channels, Z, Y and X lie among the stored axes."""
        return sorted(range(len(self.axes)), key=lambda at: _ORDER.index(self.axes[at][0]))


def read(location: Location, options: ReadOptions) -> Volume:
    """All channels, or the one asked for, as a `Volume` (C, X, Y, Z).

    Without a voxel size in the file voxels count as 1 mm cubes, and attributes["spacing_assumed"] is True. Raises
    `FileFormatError`, `GeometryError`, `ResourceError`.
    """
    with _opened(location) as stack:
        facts = _facts(stack, location)
        if facts.affine is None:
            raise GeometryError(facts.problems[0])
        wanted = None if options.channel is None else choose_channel(location.name, facts.channels, options.channel)
        size = math.prod(facts.shape) * facts.channels * np.dtype(facts.dtype).itemsize
        turned = stack.order != sorted(stack.order) or (wanted is not None and facts.channels > 1)
        options.budget.require(location.name, 2 * size if turned else size)
        with _faults_named(location.name):
            stored = stack.series.asarray()
    stored = stored.reshape([n for _, n in stack.axes]).transpose(stack.order)
    channels = stored.reshape(facts.channels, *facts.shape[::-1])
    chosen = channels if wanted is None else channels[wanted : wanted + 1]
    dtype = np.dtype(np.uint8) if stored.dtype == np.bool_ else stored.dtype.newbyteorder("=")
    attributes = dict(facts.attributes)
    if wanted is not None and facts.channels > 1:
        attributes |= {"channel": wanted}
        attributes.pop("channel_names", None)
    array = to_xyz(np.ascontiguousarray(chosen, dtype=dtype), facts.shape)
    return Volume(array, facts.affine, location.name, None, attributes)


def describe(location: Location) -> Facts:
    """What the header says. Raises `FileFormatError`."""
    with _opened(location) as stack:
        return _facts(stack, location)


@contextmanager
def _opened(location: Location) -> Iterator[_Stack]:
    """The one image in a file, all of which is there. Raises `FileFormatError`."""
    import tifffile

    name = location.name
    pages = require_whole(location.path, name)
    with ExitStack() as opened:
        with _faults_named(name):
            file = opened.enter_context(tifffile.TiffFile(location.path))
            images = file.series
        if len(images) != 1:
            raise FileFormatError(
                f"{name} holds {len(images)} images of different size or type; expected one stack. Save the one that "
                "is needed alone."
            )
        series = images[0].levels[0]
        if series.dtype is None or series.dtype.kind not in "biuf" or series.dtype.itemsize > 8:
            raise FileFormatError(f"{name} stores {series.dtype}; expected plain real numbers. Convert it.")
        stack = _Stack(series, file, pages, _axes(series, name))
        _require_described(stack, name)
        yield stack


@contextmanager
def _faults_named(name: str) -> Iterator[None]:
    """Whatever tifffile and its decoders raise in the body becomes `FileFormatError`."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        cause = " ".join(str(error).split())[:160]
        if isinstance(error, ImportError) or "imagecodecs" in cause:
            raise FileFormatError(
                f"{name} is compressed in a way that needs another package ({cause}). pip install imagecodecs, or save "
                "it without compression."
            ) from error
        raise FileFormatError(
            f"{name} cannot be read as TIFF: damaged, or of a kind that is not known ({cause}). Save it again."
        ) from error


def _facts(stack: _Stack, location: Location) -> Facts:
    name, attributes = location.name, dict[str, Any]()
    if names := class_names.read_sidecar(location.path):
        attributes["class_names"] = names
    affine = None
    problems: tuple[str, ...] = ()
    try:
        edges, channel_names = _said(stack)
        affine = Affine.from_spacing((1.0, 1.0, 1.0) if edges is None else edges)
        if edges is None:
            attributes["spacing_assumed"] = True
        if stack.channels > 1 and len(channel_names) == stack.channels:
            attributes["channel_names"] = channel_names
    except GeometryError as error:
        problems = (f"{name}: its voxel size cannot be read ({error}). Set it again (in Fiji: Image ▸ Properties).",)
    order = "".join(axis for axis, _ in stack.axes).lower()
    return Facts(stack.shape, stack.channels, stack.series.dtype.name, affine, order, None, attributes, problems)


def _said(stack: _Stack) -> tuple[Sizes | None, list[str]]:
    """Voxel size along x, y, z in mm, None where the file has none, and names of channels. Raises `GeometryError`."""
    file, several = stack.file, stack.shape[2] > 1
    if file.is_ome:
        return from_ome(file.ome_metadata, several)
    if file.is_imagej:
        said = file.imagej_metadata or {}
        return from_imagej(said, file.pages[0].tags, several), imagej_channels(said)
    return None, []


def _axes(series: Any, name: str) -> list[tuple[str, int]]:  # noqa: ANN401  of tifffile
    """Which of X, Y, Z and channels C the stored axes are, and how long; those of length 1 are left out, but X and Y.

    Raises `FileFormatError` for other axes, for frames that may be slices, and for slices that may be colors.
    """
    given = [(letter, int(n)) for letter, n in zip(series.axes, series.shape, strict=True) if n > 1 or letter in "YX"]
    axes = [(_MEANING.get(letter, letter), n) for letter, n in given]
    letters = [letter for letter, _ in axes]
    told = " × ".join(f"{letter} {n}" for letter, n in given)
    if "T" in letters and "Z" not in letters:
        raise FileFormatError(
            f"{name} holds time points and no z ({told}). If they are the slices of a stack, say so (in Fiji: "
            "Image ▸ Properties, slices and frames) and save it again; else save one time point."
        )
    if series.kind == "shaped" and given[0][0] == "S":
        raise FileFormatError(
            f"{name} says of its {given[0][1]} planes that they are colors, as tifffile does of stacks with so few "
            "slices. Save slices with photometric='minisblack', or open and save it in Fiji."
        )
    if not set(letters) <= set(_ORDER) or len(set(letters)) < len(letters) or not {"X", "Y"} <= set(letters):
        raise FileFormatError(f"{name} has axes {told}; expected z, y, x and at most channels. Save one part alone.")
    return axes


def _require_described(stack: _Stack, name: str) -> None:
    """Raise `FileFormatError` where the description does not fit the pages, or not all of its planes are there."""
    series, file = stack.series, stack.file
    described = file.is_ome or file.is_imagej
    if described and series.kind in {"generic", "uniform"}:
        raise FileFormatError(
            f"{name}: what it says about its axes does not fit its pages, so that slices could be taken for channels. "
            "It is damaged, or one of several files: open it in Fiji and save it as one file."
        )
    planes = stack.shape[2] * (1 if "S" in series.axes else stack.channels)
    promised = int((file.imagej_metadata or {}).get("images", 1)) if file.is_imagej else planes
    at_once = series.dataoffset is not None and series.dataoffset + series.nbytes <= file.filehandle.size
    missing = any(page is None for page in series.pages)
    if promised != planes or missing or (stack.pages < planes and not at_once):
        raise FileFormatError(
            f"{name}: its header speaks of {max(promised, planes)} planes, and not all of them are in the file. It is "
            "truncated, or one of several: save it as one file."
        )
