"""Reading TIFF through tifffile, imported only when needed: ImageJ's, OME-TIFF, plain stacks of pages.

A TIFF says how large voxels are, not how they lie in the world: axes are those of HDF5 (ZYX stored, +x right, +y
anterior, +z superior).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from xml.etree import ElementTree

import numpy as np

from vol3d.errors import FileFormatError, GeometryError
from vol3d.io import class_names
from vol3d.io.hdf5 import to_xyz
from vol3d.io.kinds import Facts, Location, ReadOptions, choose_channel
from vol3d.io.tiff_layout import require_whole
from vol3d.volume import Affine, Volume

_MM = {
    "m": 1000.0, "dm": 100.0, "cm": 10.0, "mm": 1.0, "um": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3,
    "micrometre": 1e-3, "nm": 1e-6, "nanometer": 1e-6, "å": 1e-7, "angstrom": 1e-7, "in": 25.4, "inch": 25.4,
}  # fmt: skip
_ORDER = "CZYX"
_MEANING = {"S": "C", "I": "Z", "Q": "Z"}  # tifffile's letters for samples of a pixel, and for pages without a name


def read(location: Location, options: ReadOptions) -> Volume:
    """All channels, or the one asked for, as a `Volume` (C, X, Y, Z).

    Without a voxel size in the file voxels count as 1 mm cubes, and attributes["spacing_assumed"] is True. Raises
    `FileFormatError`, `GeometryError`, `ResourceError`.
    """
    with _opened(location) as (series, file, pages):
        facts = _facts(series, file, pages, location)
        if facts.affine is None:
            raise GeometryError(facts.problems[0])
        wanted = None if options.channel is None else choose_channel(location.name, facts.channels, options.channel)
        options.budget.require(location.name, math.prod(facts.shape) * facts.channels * np.dtype(facts.dtype).itemsize)
        axes = _axes(series, location.name)
        with _faults_named(location.name):
            stored = series.asarray()
    order = sorted(range(len(axes)), key=lambda at: _ORDER.index(axes[at][0]))
    channels = stored.reshape([n for _, n in axes]).transpose(order).reshape(facts.channels, *facts.shape[::-1])
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
    with _opened(location) as (series, file, pages):
        return _facts(series, file, pages, location)


@contextmanager
def _opened(location: Location) -> Iterator[tuple[Any, Any, int]]:
    """The one image in a file, the file, and how many pages it has. Raises `FileFormatError`."""
    import tifffile

    pages = require_whole(location.path, location.name)
    with ExitStack() as opened:
        with _faults_named(location.name):
            file = opened.enter_context(tifffile.TiffFile(location.path))
            images = file.series
        if len(images) != 1:
            raise FileFormatError(
                f"{location.name} holds {len(images)} images of different size or type; expected one stack. Save the "
                "one that is needed alone."
            )
        yield images[0].levels[0], file, pages


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


def _facts(series: Any, file: Any, pages: int, location: Location) -> Facts:  # noqa: ANN401  as tifffile has them
    name = location.name
    if series.dtype is None or series.dtype.kind not in "biuf" or series.dtype.itemsize > 8:
        raise FileFormatError(f"{name} stores {series.dtype}; expected plain real numbers. Convert it.")
    axes = _axes(series, name)
    sizes = dict(axes)
    _require_planes(series, file, pages, sizes, name)
    channels = sizes.get("C", 1)
    shape = (sizes["X"], sizes["Y"], sizes.get("Z", 1))
    attributes: dict[str, Any] = {}
    if names := class_names.read_sidecar(location.path):
        attributes["class_names"] = names
    affine = None
    problems: tuple[str, ...] = ()
    try:
        edges, channel_names = _said(file, shape[2] > 1)
        affine = Affine.from_spacing((1.0, 1.0, 1.0) if edges is None else edges)
        if edges is None:
            attributes["spacing_assumed"] = True
        if channels > 1 and len(channel_names) == channels:
            attributes["channel_names"] = channel_names
    except (GeometryError, ElementTree.ParseError) as error:
        problems = (f"{name}: its voxel size cannot be read ({error}). Set it again (in Fiji: Image ▸ Properties).",)
    order = "".join(axis for axis, _ in axes).lower()
    return Facts(shape, channels, series.dtype.name, affine, order, None, attributes, problems)


def _axes(series: Any, name: str) -> list[tuple[str, int]]:  # noqa: ANN401
    """Which of X, Y, Z and channels C the stored axes are, and how long; those of length 1 are left out, but X and Y.

    Raises `FileFormatError` for other axes, and for frames that may be slices.
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
    if not set(letters) <= set(_ORDER) or len(set(letters)) < len(letters) or not {"X", "Y"} <= set(letters):
        raise FileFormatError(f"{name} has axes {told}; expected z, y, x and at most channels. Save one part alone.")
    return axes


def _require_planes(series: Any, file: Any, pages: int, sizes: dict[str, int], name: str) -> None:  # noqa: ANN401
    """Raise `FileFormatError` where the header speaks of more planes than there are in the file."""
    planes = sizes.get("Z", 1) * (1 if "S" in series.axes else sizes.get("C", 1))
    promised = int((file.imagej_metadata or {}).get("images", 1)) if file.is_imagej else planes
    at_once = series.dataoffset is not None and series.dataoffset + series.nbytes <= file.filehandle.size
    if promised != planes or (pages < planes and not at_once):
        raise FileFormatError(
            f"{name}: its header speaks of {max(promised, planes)} planes, and not all of them are in the file. It is "
            "truncated, or one of several: save it as one file."
        )


def _said(file: Any, stack: bool) -> tuple[tuple[float, float, float] | None, list[str]]:  # noqa: ANN401
    """Voxel size along x, y, z in mm, None where the file has none, and names of channels."""
    if file.is_ome:
        return _said_by_ome(file.ome_metadata, stack)
    if file.is_imagej:
        return _said_by_imagej(file, stack), _channel_labels(file)
    return None, []


def _said_by_ome(xml: str, stack: bool) -> tuple[tuple[float, float, float] | None, list[str]]:
    pixels = ElementTree.fromstring(xml).find("{*}Image/{*}Pixels")
    if pixels is None:
        return None, []
    names = [channel.get("Name", "") for channel in pixels.findall("{*}Channel")]
    edges: dict[str, float] = {}
    for axis in "XYZ":
        given, unit = pixels.get(f"PhysicalSize{axis}"), _unit(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if given is not None and unit is not None:
            edges[axis] = _positive(given) * unit
    if edges and not stack:
        edges.setdefault("Z", 1e-3)
    lacking = ", ".join(axis for axis in "XYZ" if axis not in edges).lower()
    if edges and lacking:
        raise GeometryError(f"it is there along {', '.join(edges).lower()} and not along {lacking}")
    return (edges["X"], edges["Y"], edges["Z"]) if edges else None, names if all(names) else []


def _said_by_imagej(file: Any, stack: bool) -> tuple[float, float, float] | None:  # noqa: ANN401
    """ImageJ leaves out what is 1: the depth of a voxel, and its resolution."""
    said = file.imagej_metadata or {}
    unit = said.get("unit", "")
    units = [_unit(said.get(key, unit)) for key in ("unit", "yunit", "zunit")]
    across, down, deep = units
    if across is None or down is None or deep is None:
        return None
    tags = file.pages[0].tags
    edges = [_positive(_edge(tags, key)) for key in ("XResolution", "YResolution")]
    depth = abs(_positive(said.get("spacing", 1.0), signed=True)) if stack else 1e-3 / deep
    return (edges[0] * across, edges[1] * down, depth * deep)


def _edge(tags: Any, key: str) -> float:  # noqa: ANN401
    """The size of a pixel, of pixels per unit as numerator and denominator."""
    if key not in tags:
        return 1.0
    numerator, denominator = tags[key].value
    return denominator / numerator if numerator else 1.0


def _channel_labels(file: Any) -> list[str]:  # noqa: ANN401
    """What `tiff_write` calls the planes of a stack: the names of its channels, again for every plane."""
    said = file.imagej_metadata or {}
    labels, channels = list(said.get("Labels") or ()), int(said.get("channels", 1))
    names = labels[:channels]
    return names if labels == names * (len(labels) // max(channels, 1)) and len(set(names)) == channels else []


def _unit(text: object) -> float | None:
    """Mm per unit, None where it is none of length."""
    return _MM.get(str(text).strip().replace("\\u00B5", "u").replace("µ", "u").replace("μ", "u").lower())


def _positive(value: object, *, signed: bool = False) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number == 0 or (number < 0 and not signed):
        raise GeometryError(f"it says that voxels have the size {value}")
    return number
