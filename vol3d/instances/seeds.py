"""Where objects start: connected voxels that are surely inside, cut apart at necks."""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import reconstruction

from vol3d.instances.rules import ResolvedRules

_SHARE = 0.999  # of the depth, against rounding


def find_seeds(inside: NDArray[np.bool_], landscape: NDArray[np.float32], rules: ResolvedRules) -> NDArray[np.int32]:
    """Seeds 1…n, 0 elsewhere; int32 (X, Y, Z).

    inside: bool (X, Y, Z). landscape: float32 (X, Y, Z), lowered in place by distance_weight × distance to whatever is
    not inside; the volume's edge is none. Voxels are connected by faces. With `split`, every connected part starts as
    many objects as its distance transform has maxima of split_depth_mm (h-maxima, Soille 2003), else one.
    Works part by part, so that memory is that of the largest part.
    """
    parts = cc3d.connected_components(inside, connectivity=6)
    if not rules.split and rules.distance_weight == 0:
        return parts.astype(np.int32)
    seeds = np.zeros(inside.shape, dtype=np.int32)
    count = 0
    for number, box in enumerate(cc3d.statistics(parts)["bounding_boxes"][1:], start=1):
        around = tuple(slice(max(b.start - 1, 0), b.stop + 1) for b in box)
        part = parts[around] == number
        solid = _without_cavities(part, rules.hole_voxels)
        distance = ndimage.distance_transform_edt(solid, sampling=rules.spacing_mm) if not solid.all() else _flat(part)
        if rules.distance_weight:
            landscape[around][part] -= (rules.distance_weight * distance[part]).astype(np.float32)
        tops, n = _tops(part, distance, rules)
        seeds[around][tops > 0] = tops[tops > 0] + count
        count += n
    return seeds


def _tops(part: NDArray[np.bool_], distance: NDArray[np.float64], rules: ResolvedRules) -> tuple[NDArray[Any], int]:
    """(the maxima of one part, numbered; how many)."""
    depth = rules.split_depth_mm
    if not rules.split or distance.max() <= depth:
        return part.astype(np.int32), 1
    filled = reconstruction(np.maximum(distance - depth, 0), distance)
    top = (distance - filled >= depth * _SHARE) & part
    return cc3d.connected_components(top, connectivity=26, return_N=True)


def _without_cavities(part: NDArray[np.bool_], most_voxels: float) -> NDArray[np.bool_]:
    """The part and what it encloses in pieces of up to `most_voxels`: a speck in its middle is no neck."""
    if most_voxels < 1:
        return part
    pieces = cc3d.connected_components(~part, connectivity=6)
    few = np.bincount(pieces.ravel()) <= most_voxels
    for axis in range(part.ndim):
        few[np.take(pieces, [0, -1], axis=axis)] = False
    few[0] = False
    return part | few[pieces]


def _flat(part: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The distance of a part that fills the whole volume: from nothing to nothing."""
    return np.zeros(part.shape)
