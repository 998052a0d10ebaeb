"""Instance labels → what the network learns: stuff, inside and border, known only where somebody annotated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vol3d.errors import ConfigError, GeometryError
from vol3d.instances.scheme import InstanceScheme

_ROUNDING = 1 + 1e-6  # a border as wide as a voxel takes that voxel, whatever the last digit of the spacing


def encode(
    values: NDArray[Any],
    labeled: NDArray[np.bool_],
    planes: Sequence[tuple[int, int]],
    spacing_mm: Sequence[float],
    scheme: InstanceScheme,
    border_mm: float | None = None,
) -> NDArray[Any]:
    """The network output that every labeled voxel should have; uint8 (uint16 above 256 outputs) (X, Y, Z).

    values: integer label values (X, Y, Z), see `InstanceScheme`. labeled: bool (X, Y, Z). Unlabeled voxels get 0, and
    what they hold has no influence. planes: fully annotated planes (axis, index). spacing_mm: mm per voxel, (3,).

    A voxel of an object is border
    - with border_mm None: where a face neighbour is annotated and is not of that object;
    - with border_mm: where the nearest annotated voxel that is not of that object is within border_mm (from centre to
      centre), or a face neighbour is of another object: objects that touch always have a wall on both sides.
    An unannotated neighbour is unknown, so never different, and nor is the volume's edge. The neighbourhood of a plane
    is the plane; planes side by side are one slab, looked at in 3-D. A voxel in several planes is border if it is
    border in any. Labeled voxels in none of the planes, and all where `planes` is empty, look at all labeled voxels.

    Raises `LabelError` on labeled values that make no sense, `GeometryError` on other shapes, spacings or planes,
    `ConfigError` on a border_mm that is not positive.
    """
    _check(values, labeled, planes, spacing_mm, border_mm)
    regions, plain, outside = _regions(values, labeled, scheme)
    things = outside != plain
    spacing = tuple(float(s) for s in spacing_mm)
    border = np.zeros(values.shape, dtype=bool)
    rest = labeled.copy()
    for slab in _slabs(planes):
        border[slab] |= _border(regions[slab], things, spacing, border_mm)
        rest[slab] = False
    if rest.any():
        border |= _border(regions, things, spacing, border_mm) & rest
    return np.where(border, outside[regions], plain[regions])


def _check(
    values: NDArray[Any],
    labeled: NDArray[np.bool_],
    planes: Sequence[tuple[int, int]],
    spacing_mm: Sequence[float],
    border_mm: float | None,
) -> None:
    if values.ndim != 3 or values.shape != labeled.shape:
        raise GeometryError(f"expected labels and mask of one shape (x, y, z), found {values.shape}, {labeled.shape}")
    if len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise GeometryError(f"expected three spacings in mm, found {list(spacing_mm)}")
    for axis, index in planes:
        if not (0 <= axis < 3 and 0 <= index < values.shape[axis]):
            raise GeometryError(f"plane {index} across axis {axis} is not in a volume of shape {values.shape}")
    if border_mm is not None and not (math.isfinite(border_mm) and border_mm > 0):
        raise ConfigError(f"expected a border width above 0 mm, found {border_mm}")


def _regions(
    values: NDArray[Any], labeled: NDArray[np.bool_], scheme: InstanceScheme
) -> tuple[NDArray[np.int32], NDArray[Any], NDArray[Any]]:
    """(regions, the output inside of every region, its output at the border, which is the same for stuff).

    regions: int32 (X, Y, Z), 0 where unlabeled, else one number for every value that occurs.
    """
    present, inverse = np.unique(values[labeled], return_inverse=True)
    regions = np.zeros(values.shape, dtype=np.int32)
    regions[labeled] = inverse + 1
    codes, _ = scheme.meaning(present)
    away = {c.code: scheme.index(c.code, "inside" if c.thing else "stuff") for c in scheme.classes}
    edge = {c.code: scheme.index(c.code, "border" if c.thing else "stuff") for c in scheme.classes}
    dtype = np.uint8 if len(scheme) <= 256 else np.uint16
    plain = np.array([0, *(away[code] for code in codes.tolist())], dtype=dtype)
    outside = np.array([0, *(edge[code] for code in codes.tolist())], dtype=dtype)
    return regions, plain, outside


def _slabs(planes: Sequence[tuple[int, int]]) -> list[tuple[slice, ...]]:
    """Boxes of planes; neighbouring parallel planes in one."""
    slabs: list[tuple[slice, ...]] = []
    for axis in range(3):
        indices = np.unique([index for across, index in planes if across == axis]).astype(int)
        for run in np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1):
            if len(run):
                slabs.append((slice(None),) * axis + (slice(int(run[0]), int(run[-1]) + 1),))
    return slabs


def _border(
    regions: NDArray[np.int32], things: NDArray[np.bool_], spacing: tuple[float, ...], border_mm: float | None
) -> NDArray[np.bool_]:
    """Where a thing meets something else; bool, same shape. things: whether a region is one object."""
    border = np.zeros(regions.shape, dtype=bool)
    for axis in range(regions.ndim):
        low = (slice(None),) * axis + (slice(None, -1),)
        high = (slice(None),) * axis + (slice(1, None),)
        one, other = regions[low], regions[high]
        meet = (one != other) & (one > 0) & (other > 0)
        if border_mm is not None:
            meet &= things[one] & things[other]
        border[low] |= meet & things[one]
        border[high] |= meet & things[other]
    if border_mm is not None:
        _add_near(border, regions, things, spacing, border_mm * _ROUNDING)
    return border


def _add_near(
    border: NDArray[np.bool_],
    regions: NDArray[np.int32],
    things: NDArray[np.bool_],
    spacing: tuple[float, ...],
    border_mm: float,
) -> None:
    """Mark the voxels of every thing that are within border_mm of something known that is not it."""
    margin = [min(math.ceil(border_mm / s), n) for s, n in zip(spacing, regions.shape, strict=True)]
    for number, box in enumerate(ndimage.find_objects(regions), start=1):
        if box is None or not things[number]:
            continue
        around = tuple(slice(max(b.start - m, 0), b.stop + m) for b, m in zip(box, margin, strict=True))
        crop = regions[around]
        elsewhere = (crop > 0) & (crop != number)
        if elsewhere.any():
            far = ndimage.distance_transform_edt(~elsewhere, sampling=spacing)
            border[around] |= (crop == number) & (far <= border_mm)
