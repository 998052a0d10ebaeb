"""Writing TIFF through tifffile, imported only when needed: as ImageJ does where it has the type, else as OME-TIFF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vol3d.errors import FileFormatError
from vol3d.io.kinds import Content, Location

_OME = (".ome.tif", ".ome.tiff")
_IMAGEJ = ("uint8", "uint16", "float32")
_LARGEST = (1 << 32) - (1 << 25)  # bytes of a file that 32 bits can point into


def write(temporary: Path, location: Location, content: Content) -> None:
    """Store (C, X, Y, Z), compressed; of the grid only the size of its voxels, if it was in the scan's file.

    Fiji's own reader knows ImageJ's files; types that these do not have, names in `.ome.tif` and files of more than
    4 GB become OME-TIFF. Raises `FileFormatError` for integers of 64 bits, `OSError`.
    """
    import tifffile

    if content.dtype.kind in "iu" and content.dtype.itemsize > 4:
        raise FileFormatError(f"{location.name}: TIFF files hold no 64-bit integers. Write .nii.gz or .h5.")
    array = content.array.astype(content.dtype, copy=False).transpose(0, 3, 2, 1)
    if location.path.name.lower().endswith(_OME) or array.dtype.name not in _IMAGEJ or array.nbytes > _LARGEST:
        options: dict[str, Any] = {"ome": True, "bigtiff": array.nbytes > _LARGEST, "metadata": _for_ome(content)}
    else:
        array = array.transpose(1, 0, 2, 3)[None, ..., None]  # all six axes: one of length 1 could mean another
        options = {"imagej": True, **_for_imagej(content)}
    stored = np.ascontiguousarray(array)
    tifffile.imwrite(temporary, stored, photometric="minisblack", compression="zlib", **options)


def _for_ome(content: Content) -> dict[str, Any]:
    said: dict[str, Any] = {"axes": "CZYX"}
    if content.channel_names:
        said["Channel"] = {"Name": list(content.channel_names)}
    for axis, edge in zip("XYZ", _edges_um(content), strict=False):
        said |= {f"PhysicalSize{axis}": edge, f"PhysicalSize{axis}Unit": "µm"}
    return said


def _for_imagej(content: Content) -> dict[str, Any]:
    said: dict[str, Any] = {"axes": "TZCYXS"}
    if content.channel_names:
        said["Labels"] = list(content.channel_names) * content.like.shape[2]  # of every plane
    edges = _edges_um(content)
    if not edges:
        return {"metadata": said}
    x, y, z = edges
    return {"metadata": said | {"unit": "micron", "spacing": z}, "resolution": (1 / x, 1 / y)}


def _edges_um(content: Content) -> list[float]:
    """The size of voxels along x, y, z; nothing where the scan does not say."""
    if content.like.attributes.get("spacing_assumed"):
        return []
    return [1000 * edge for edge in content.like.spacing_mm]
