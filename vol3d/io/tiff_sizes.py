"""What a TIFF says about the size of its voxels and the names of its channels, in ImageJ's words and in OME's."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

from vol3d.errors import GeometryError

Sizes = tuple[float, float, float]
_MM = {
    "m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 1e-3, "micron": 1e-3, "nm": 1e-6, "pm": 1e-9, "å": 1e-7, "angstrom": 1e-7,
    "meter": 1000.0, "centimeter": 10.0, "millimeter": 1.0, "micrometer": 1e-3, "nanometer": 1e-6,
    "in": 25.4, "inch": 25.4,
}  # fmt: skip
_NOT_A_LENGTH = ("", "pixel", "px", "voxel", "reference frame")
_INCH = 25.4


def from_ome(xml: str, stack: bool) -> tuple[Sizes | None, list[str]]:
    """Voxel size along x, y, z in mm, None where there is none, and names of channels. stack: of several slices.

    Raises `GeometryError` where it cannot be told, also for several images.
    """
    try:
        images = ElementTree.fromstring(xml).findall("{*}Image/{*}Pixels")
    except ElementTree.ParseError as error:
        raise GeometryError(f"its OME description is damaged: {error}") from error
    if len(images) != 1:
        raise GeometryError(f"its OME description speaks of {len(images)} images, not of one")
    (pixels,) = images
    names = [channel.get("Name", "") for channel in pixels.findall("{*}Channel")]
    edges: dict[str, float] = {}
    for axis in "XYZ":
        given = pixels.get(f"PhysicalSize{axis}")
        unit = None if given is None else _unit(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if unit is not None:
            edges[axis] = _positive(given) * unit
    if edges and not stack:
        edges.setdefault("Z", 1e-3)
    lacking = ", ".join(axis for axis in "XYZ" if axis not in edges).lower()
    if edges and lacking:
        raise GeometryError(f"it is there along {', '.join(edges).lower()} and not along {lacking}")
    return (edges["X"], edges["Y"], edges["Z"]) if edges else None, names if all(names) else []


def from_imagej(said: dict[str, Any], tags: Any, stack: bool) -> Sizes | None:  # noqa: ANN401  of tifffile
    """Voxel size along x, y, z in mm, None where there is none. said: ImageJ's description. tags: of the first page.

    ImageJ leaves out what is 1, the depth of a voxel and its resolution; what has a resolution in inches and no depth
    is a picture with its dpi. Raises `GeometryError` where it cannot be told.
    """
    unit = said.get("unit", "")
    across, down, deep = (_unit(said.get(key, unit)) for key in ("unit", "yunit", "zunit"))
    if across is None or down is None or deep is None or (stack and across == _INCH and "spacing" not in said):
        return None
    x, y = (_edge(tags[key].value) if key in tags else 1.0 for key in ("XResolution", "YResolution"))
    z = abs(_positive(said.get("spacing", 1.0), signed=True)) if stack else 1e-3 / deep
    return (x * across, y * down, z * deep)


def imagej_channels(said: dict[str, Any]) -> list[str]:
    """What `tiff_write` calls the planes of a stack: the names of its channels, again for every slice."""
    labels, channels = list(said.get("Labels") or ()), int(said.get("channels", 1))
    names = labels[:channels]
    return names if labels == names * (len(labels) // max(channels, 1)) and len(set(names)) == channels else []


def _edge(per_unit: object) -> float:
    """The size of a pixel, of pixels per unit: a number, or its numerator and denominator."""
    match per_unit:
        case (above, below):
            return _positive(below) / _positive(above)
        case (number,) | number:
            return 1.0 / _positive(number)


def _unit(text: object) -> float | None:
    """Mm per unit, None where it is none of length. Raises `GeometryError` for a word that is not known."""
    plain = str(text).strip().replace("\\u00B5", "u").replace("µ", "u").replace("μ", "u").lower()
    plural = (plain.removesuffix("s"), plain.removesuffix("es")) if len(plain) > 3 else ()  # ms is no length
    words = [word.replace("metre", "meter") for word in (plain, *plural)]
    if any(word in _NOT_A_LENGTH for word in words):
        return None
    known = [_MM[word] for word in words if word in _MM]
    if not known:
        raise GeometryError(f"it is in {plain!r}, which is no unit of length that is known")
    return known[0]


def _positive(value: object, *, signed: bool = False) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number == 0 or (number < 0 and not signed):
        raise GeometryError(f"it says {value}")
    return number
