"""Painted planes: which they are, how much of each is labeled, and how far the rest of the volume is from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = tuple[int, int]  # axis and index
WHOLE = 0.9
_PART = 0.1
_PLAINLY_WHOLE = 0.98
_THICKEST = 3
_FEWEST = 20
_MOST_INSIDE = 0.8


def others(axis: int) -> tuple[int, int]:
    """The two axes that lie in a plane across `axis`, ascending."""
    first, second = (a for a in range(3) if a != axis)
    return first, second


def find_planes(labeled: NDArray[np.bool_]) -> dict[Plane, float]:
    """Painted planes of labels (X, Y, Z), and the part of each that is labeled: 0.1 … 1, sorted by axis and index.

    A plane's part counts neither voxels of planes that cross it nor what those planes label: the fullest plane is
    taken out first, then the next one is counted in what is left. Planes that are labeled in part and lie side by
    side in runs of more than three are a block, no planes, and are left out. An axis of one voxel has no planes.
    """
    found: dict[Plane, float] = {}
    left = labeled.copy()
    taken = [0, 0, 0]
    counts = _plane_counts(left)
    for axis, extent in enumerate(labeled.shape):
        share = counts[axis] / max(labeled.size // extent, 1)
        found |= {(axis, int(i)): float(share[i]) for i in np.flatnonzero(share >= _PLAINLY_WHOLE) if extent > 1}
    for axis, index in found:
        left[across(axis, index)] = False
        taken[axis] += 1
    counts = _plane_counts(left)
    while True:
        best, part = _fullest(counts, labeled.shape, taken)
        if best is None or part < _PART:
            break
        found[best] = part
        axis, index = best
        plane = left[across(axis, index)]
        for at, other in enumerate(others(axis)):
            counts[other] -= plane.sum(axis=1 - at)
        counts[axis][index] = 0
        left[across(axis, index)] = False
        taken[axis] += 1
    return dict(sorted(_without_blocks(found).items()))


def thin_planes(filled: NDArray[np.bool_]) -> tuple[list[Plane], float]:
    """Planes that hold far more than their neighbours do, sorted, and the share of all filled voxels inside them.

    filled: bool (X, Y, Z). What somebody painted slice by slice is one to three voxels thick across the slice; a
    thing in a densely labeled volume is not. Empty where nothing is filled.
    """
    found = _thin(filled)
    left = _without(filled, found)
    inside = _share_gone(filled, left)
    if _MOST_INSIDE <= inside < 1:  # what crosses many planes shows once these are out of the way
        found = sorted({*found, *_thin(left)})
        inside = _share_gone(filled, _without(left, found))
    return found, inside


def _without(filled: NDArray[np.bool_], planes: Iterable[Plane]) -> NDArray[np.bool_]:
    left = filled.copy()
    for plane in planes:
        left[across(*plane)] = False
    return left


def _share_gone(filled: NDArray[np.bool_], left: NDArray[np.bool_]) -> float:
    return 1 - float(np.count_nonzero(left)) / max(float(np.count_nonzero(filled)), 1.0) if filled.any() else 0.0


def _thin(filled: NDArray[np.bool_]) -> list[Plane]:
    found: list[Plane] = []
    for axis, (extent, counts) in enumerate(zip(filled.shape, _plane_counts(filled), strict=True)):
        if extent <= _THICKEST:
            continue
        thin = counts - _plane_counts(_thick(filled, axis))[axis]
        likely = (2 * thin >= counts) & (counts >= _FEWEST) & (counts > 3 * np.median(counts))
        found += [(axis, int(index)) for index in np.flatnonzero(likely)]
    return found


def across(axis: int, index: int) -> tuple[slice | int, ...]:
    """Indexes a plane in an array (X, Y, Z)."""
    return (slice(None),) * axis + (index,)


def off_crossings(array: NDArray[Any], plane: Plane, planes: Iterable[Plane]) -> NDArray[Any]:
    """A plane of an array (X, Y, Z) without its lines that lie in planes across other axes."""
    crossing = list(planes)
    kept = [np.delete(np.arange(array.shape[axis]), [i for a, i in crossing if a == axis]) for axis in others(plane[0])]
    return array[across(*plane)][np.ix_(*kept)]


def runs(indices: Iterable[int]) -> list[tuple[int, int]]:
    """First and last index of every run of consecutive indices, ascending."""
    found: list[tuple[int, int]] = []
    for index in sorted(indices):
        if found and index == found[-1][1] + 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return found


@dataclass(frozen=True)
class Reach:
    """The voxel that is farthest from all painted planes: along `axis` at `index`, `slices` steps or `mm` away."""

    axis: int
    index: int
    slices: int
    mm: float


def farthest(shape: Sequence[int], planes: Iterable[Plane], spacing_mm: Sequence[float]) -> Reach | None:
    """How far from a painted plane a voxel can be; None without planes.

    The distance to planes across one axis does not depend on the two other indices. The farthest voxel is thus
    farthest along every axis at once, and its distance is the least of the three.
    """
    found: list[Reach] = []
    for axis, extent in enumerate(shape):
        painted = np.array(sorted(index for a, index in planes if a == axis))
        if not len(painted):
            continue
        steps = np.abs(np.arange(extent)[:, None] - painted).min(axis=1)
        index = int(steps.argmax())
        found.append(Reach(axis, index, int(steps[index]), float(steps[index] * spacing_mm[axis])))
    return min(found, key=lambda reach: reach.mm, default=None)


def _plane_counts(mask: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """True voxels of every plane, across each axis."""
    columns = np.count_nonzero(mask, axis=2)
    return [columns.sum(axis=1), columns.sum(axis=0), _last_axis(mask)]


def _last_axis(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    return sum((np.count_nonzero(plane, axis=0) for plane in mask), np.zeros(mask.shape[2], dtype=np.intp))


def _fullest(counts: list[NDArray[np.intp]], shape: tuple[int, ...], taken: list[int]) -> tuple[Plane | None, float]:
    """The plane with the largest labeled part of what no taken plane crosses, and that part."""
    best: Plane | None = None
    most = 0.0
    for axis, extent in enumerate(shape):
        first, second = others(axis)
        area = (shape[first] - taken[first]) * (shape[second] - taken[second])
        index = int(counts[axis].argmax())
        if extent > 1 and area and counts[axis][index] / area > most:
            best, most = (axis, index), float(counts[axis][index] / area)
    return best, most


def _without_blocks(found: dict[Plane, float]) -> dict[Plane, float]:
    kept = dict(found)
    for axis in range(3):
        for first, last in runs(i for (a, i), part in found.items() if a == axis and part < WHOLE):
            if last - first >= _THICKEST:
                for index in range(first, last + 1):
                    del kept[axis, index]
    return kept


def _thick(filled: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Filled voxels that lie in a run of more than three along `axis`."""
    steps = _THICKEST + 1
    extent = filled.shape[axis]

    def part(start: int, stop: int) -> tuple[slice, ...]:
        return (slice(None),) * axis + (slice(start, stop),)

    begins = filled[part(0, extent - steps + 1)].copy()
    for step in range(1, steps):
        begins &= filled[part(step, extent - steps + 1 + step)]
    thick = np.zeros_like(filled)
    for step in range(steps):
        thick[part(step, extent - steps + 1 + step)] |= begins
    return thick
