"""How far apart the surfaces of two objects lie, in mm.

The surface of an object is the set of its voxels that have a voxel outside the object among their face neighbours
(six in 3-D); what lies beyond the border of the volume counts as outside. Along an axis of a single voxel there are no
neighbours, so a plane is measured as a 2-D picture (and a volume of one voxel is all surface). Distances run between
voxel centres. This is MONAI's definition.
Where exactly one object is empty every distance is inf and the surface Dice 0; where both are, 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import ConfigError, GeometryError, LabelError

_SLACK = 1e-6  # relative: spacings often come from float32 headers, where 0.3 mm is 0.30000001 mm


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances from each surface to the nearest voxel of the other one, from which all the metrics are read.

    to_reference: mm from every surface voxel of the prediction, float64 (p,). to_prediction: from every surface voxel
    of the reference, float64 (r,). All inf where the other object is empty.
    """

    to_reference: NDArray[np.float64]
    to_prediction: NDArray[np.float64]

    def hausdorff(self) -> float:
        """Hausdorff distance in mm: the farthest that any surface voxel lies from the other surface."""
        return self.percentile(100.0)

    def percentile(self, percentile: float = 95.0) -> float:
        """The larger of the two directed distances at a percentile (0 to 100, linear between ranks), in mm."""
        if not 0 <= percentile <= 100:
            raise ConfigError(f"expected a percentile from 0 to 100, found {percentile}")
        if self._both_empty or self._one_empty:
            return math.inf if self._one_empty else 0.0
        return float(max(np.percentile(side, percentile) for side in (self.to_reference, self.to_prediction)))

    def average(self) -> float:
        """Average symmetric surface distance in mm: the mean over the surface voxels of both sides together."""
        if self._both_empty:
            return 0.0
        total = self.to_reference.sum() + self.to_prediction.sum()
        return float(total / (self.to_reference.size + self.to_prediction.size))

    def dice(self, tolerance_mm: float) -> float:
        """Part of the surface voxels of both sides that lie within `tolerance_mm` (≥ 0) of the other surface."""
        if not 0 <= tolerance_mm < math.inf:
            raise ConfigError(f"expected a tolerance of 0 mm or more, found {tolerance_mm}")
        if self._both_empty:
            return 1.0
        limit = tolerance_mm * (1 + _SLACK)
        near = np.count_nonzero(self.to_reference <= limit) + np.count_nonzero(self.to_prediction <= limit)
        return near / (self.to_reference.size + self.to_prediction.size)

    @property
    def _both_empty(self) -> bool:
        return not self.to_reference.size and not self.to_prediction.size

    @property
    def _one_empty(self) -> bool:
        return not self._both_empty and not (self.to_reference.size and self.to_prediction.size)


def surface_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Distances between the surfaces of two objects, both ways, exact.

    prediction, reference: bool (X, Y, Z), same grid. spacing_mm: 3 positive numbers.
    Raises `GeometryError` on other shapes and spacings, `LabelError` on another dtype.
    """
    spacing = _checked(prediction, reference, spacing_mm)
    ours, theirs = _surface_voxels(prediction), _surface_voxels(reference)
    return SurfaceDistances(_nearest(ours, theirs, spacing), _nearest(theirs, ours, spacing))


def hausdorff(prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
    """Symmetric Hausdorff distance in mm: the larger of the two directed ones.

    prediction, reference: bool (X, Y, Z), same grid. Returns inf where exactly one is empty, 0.0 where both are.
    Source: Huttenlocher et al. 1993.
    """
    return surface_distances(prediction, reference, spacing_mm).hausdorff()


def hausdorff_percentile(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    percentile: float = 95.0,
) -> float:
    """Symmetric surface distance at a percentile, in mm: the larger of the two directed percentiles.

    prediction, reference: bool (X, Y, Z), same grid. Returns inf where exactly one is empty, 0.0 where both are.
    Source: Huttenlocher et al. 1993; percentile form as in Taha & Hanbury 2015 and in MONAI, not that of the pooled
    distances.
    """
    return surface_distances(prediction, reference, spacing_mm).percentile(percentile)


def average_symmetric_surface_distance(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> float:
    """Mean distance in mm of the surface voxels of both objects together from the other surface (ASSD).

    prediction, reference: bool (X, Y, Z), same grid. Returns inf where exactly one is empty, 0.0 where both are.
    Source: Heimann et al. 2009, over all voxels pooled, as in MONAI.
    """
    return surface_distances(prediction, reference, spacing_mm).average()


def surface_dice(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float], tolerance_mm: float
) -> float:
    """Part of both surfaces that lies within `tolerance_mm` of the other one, 0 to 1, counted in surface voxels.

    prediction, reference: bool (X, Y, Z), same grid. A voxel at exactly the tolerance (up to 1e-6 of it) counts as
    near. Returns 0.0 where exactly one is empty, 1.0 where both are.
    Source: Nikolov et al. 2018 (normalised surface distance); voxels counted as in Seidlitz et al. 2022 and in MONAI.
    """
    return surface_distances(prediction, reference, spacing_mm).dice(tolerance_mm)


def _checked(prediction: NDArray[Any], reference: NDArray[Any], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    if prediction.ndim != 3 or prediction.shape != reference.shape:
        raise GeometryError(
            f"expected prediction and reference of one shape (x, y, z), found {prediction.shape} and {reference.shape}"
        )
    for array, name in ((prediction, "prediction"), (reference, "reference")):
        if array.dtype != np.bool_:
            raise LabelError(f"expected a bool mask as {name}, found {array.dtype}; compare with a class code first")
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise GeometryError(f"expected three positive spacings in mm, found {spacing.tolist()}")
    return spacing


def _surface_voxels(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Voxel indices of the surface, int64 (n, 3)."""
    box = _bounding_box(mask)
    if box is None:
        return np.zeros((0, 3), dtype=np.int64)
    inside = mask[box]
    core = inside.copy()  # beyond its bounding box an object has no voxels, inside the volume or not
    for axis, size in enumerate(mask.shape):
        if size == 1 and mask.size > 1:
            continue
        lower, upper = (slice(None),) * axis + (slice(None, -1),), (slice(None),) * axis + (slice(1, None),)
        core[upper] &= inside[lower]
        core[lower] &= inside[upper]
        core[(slice(None),) * axis + ([0, -1],)] = False
    return np.argwhere(inside & ~core) + [side.start for side in box]


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The smallest box around the True voxels, None where there is none."""
    sides = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not found.size:
            return None
        sides.append(slice(int(found[0]), int(found[-1]) + 1))
    return (sides[0], sides[1], sides[2])


def _nearest(start: NDArray[np.int64], end: NDArray[np.int64], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mm from every voxel of `start` to the nearest of `end`; float64 (n,)."""
    if not len(end) or not len(start):
        return np.full(len(start), math.inf)
    from scipy.spatial import KDTree

    tree = KDTree(end * spacing, leafsize=32, balanced_tree=False)
    _, which = tree.query(start * spacing)
    steps = (start - end[which]) * spacing  # from whole steps, so that it is the same wherever the object lies
    return np.sqrt((steps * steps).sum(axis=1))
