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


def find_seeds(
    inside: NDArray[np.bool_], things: NDArray[np.bool_], landscape: NDArray[np.float32], rules: ResolvedRules
) -> NDArray[np.int32]:
    """Seeds 1…n, 0 elsewhere; int32 (X, Y, Z).

    inside, things: bool (X, Y, Z), what is surely inside an object of the class, and what is no stuff. landscape:
    float32 (X, Y, Z), lowered in place by distance_weight × distance to whatever is not inside; the volume's edge is
    no such thing.
    Voxels are connected by faces. With `split`, every connected part starts as many objects as its distance transform
    has maxima of split_depth_mm (h-maxima, Soille 2003), else one. A hole of stuff in the midst of a part, up to
    hole_volume_mm3, is taken for a part of it, and seeds may lie there. Works part by part: memory is that of the
    largest part.
    """
    parts = cc3d.connected_components(inside, connectivity=6)
    if not rules.split and rules.distance_weight == 0:
        return parts.astype(np.int32)
    seeds = np.zeros(inside.shape, dtype=np.int32)
    count = 0
    for number, box in enumerate(cc3d.statistics(parts)["bounding_boxes"][1:], start=1):
        around = tuple(slice(max(b.start - 1, 0), b.stop + 1) for b in box)
        part = _with_holes(parts[around] == number, things[around], rules.hole_voxels)
        distance = _distance(part, rules)
        if rules.distance_weight:
            landscape[around][part] -= np.float32(rules.distance_weight) * distance[part]
        tops, n = _tops(part, distance, rules)
        seeds[around][tops > 0] = tops[tops > 0] + count
        count += n
    return seeds


def _with_holes(part: NDArray[np.bool_], things: NDArray[np.bool_], most_voxels: float) -> NDArray[np.bool_]:
    """The part and what it encloses of stuff in pieces of up to `most_voxels`; borders are no holes."""
    if most_voxels < 1 or (things | part).all():
        return part
    pieces = cc3d.connected_components(~part, connectivity=6)
    hole = np.bincount(pieces.ravel()) <= most_voxels
    for axis, extent in enumerate(part.shape):
        if extent > 1:
            hole[np.take(pieces, [0, -1], axis=axis)] = False
    hole[pieces[things & ~part]] = False
    hole[0] = False
    return part | hole[pieces]


def _distance(part: NDArray[np.bool_], rules: ResolvedRules) -> NDArray[np.float32]:
    """Distance to the nearest voxel outside the part, in mm; 0 everywhere where the part fills the whole volume."""
    if part.all():
        return np.zeros(part.shape, dtype=np.float32)
    return ndimage.distance_transform_edt(part, sampling=rules.spacing_mm).astype(np.float32)


def _tops(part: NDArray[np.bool_], distance: NDArray[np.float32], rules: ResolvedRules) -> tuple[NDArray[Any], int]:
    """(the maxima of one part, numbered; how many)."""
    depth = rules.split_depth_mm
    if not rules.split or distance.max() <= depth:
        return part.astype(np.int32), 1
    filled = reconstruction(np.maximum(distance - np.float32(depth), 0), distance)
    top = (distance - filled >= depth * _SHARE) & part
    return cc3d.connected_components(top, connectivity=26, return_N=True)
