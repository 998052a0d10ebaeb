"""What painted slices alone say about the voxels between them: shape-based interpolation, blind to the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from vol3d.errors import LabelError
from vol3d.volume import SparseLabels

_PAINTED = 0.5  # part of a plane that must be labeled for it to count as a painted slice
_BLOCK = 1 << 19  # votes held in memory at once: what a processor keeps near
_NEAREST = 0.5  # in voxels: below any distance between an unlabeled voxel and a labeled one
Floats = NDArray[np.float32]


def interpolate(labels: SparseLabels, spacing_mm: Sequence[float], classes: int) -> NDArray[Any]:
    """The class of every voxel as the painted slices have it; the smallest unsigned dtype, (X, Y, Z).

    spacing_mm: along X, Y, Z. classes: K. Labeled voxels keep their class. For any other voxel, on every axis the
    painted slice before it and the one after it vote, beyond the outermost slice that one alone. The vote for a class
    is the signed distance d to its outline within the slice (positive inside), seen from the voxel's distance δ to
    the slice: d / δ, cut to −1 … 1, with the weight 1 / δ². A plane is a painted slice where at least half of it is
    labeled (half of the rest, where crossing slices label a part of every plane); within it δ reaches to the nearest
    labeled voxel, and the inner slices of a solid block say nothing new.
    Where a labeled voxel outside all those slices (a scribble, a block) is nearer than any of them, its class holds;
    without slices that is the nearest labeled voxel everywhere. Among equal votes the lowest class wins.
    Raises `LabelError` where nothing is labeled, or with a class that is not below `classes`.
    Sources: signed distances between slices: Raya & Udupa 1990, Herman et al. 1992; weights: Shepard 1968.
    """
    _check(labels, classes)
    known = labels.labeled
    spacing = np.asarray(spacing_mm, dtype=np.float64) / float(np.min(spacing_mm))
    out = np.zeros(labels.shape, dtype=np.min_scalar_type(max(classes - 1, 0)))
    stacks = [stack for axis in range(3) if (stack := _stack(labels, axis, spacing, classes)) is not None]
    reach = np.full(labels.shape, np.inf, dtype=np.float32)
    for rows in _blocks(labels.shape, classes) if stacks else ():
        votes = np.zeros((classes, *reach[rows].shape), dtype=np.float32)
        for stack in stacks:
            found, distance = stack.votes(rows)
            votes += found
            np.minimum(reach[rows], distance, out=reach[rows])
        out[rows] = votes.argmax(axis=0)
    _take_nearest(out, reach, labels, known & ~_covered(labels.shape, stacks), spacing)
    out[known] = labels.classes[known]
    return out


@dataclass(frozen=True, eq=False)
class _Stack:
    """The painted slices across one axis. planes: where they are, ascending; int (P,). length: of the axis.

    depth: signed distance to the outline of every class, within the slice, in units of the smallest spacing; float32
    (K, P, A, B); −inf where the class is missing, inf where it is alone. gap: distance to the nearest labeled voxel of
    the slice, float32 (P, A, B), or (P, 1, 1) where it is 0 throughout. step: distance between neighbouring planes.
    """

    axis: int
    length: int
    planes: NDArray[np.intp]
    depth: Floats
    gap: Floats
    step: float

    def votes(self, rows: slice) -> tuple[Floats, Floats]:
        """For the voxels in these rows of the X axis: votes (K, x, Y, Z), distance to the nearest slice (x, Y, Z)."""
        at = np.arange(self.length)
        depth, gap = self.depth, self.gap
        if self.axis == 0:
            at = at[rows]
        else:
            depth, gap = depth[:, :, rows], gap[:, rows] if gap.shape[1] > 1 else gap
        before = np.searchsorted(self.planes, at, side="right") - 1
        after = np.searchsorted(self.planes, at, side="left")
        first, last = (np.clip(side, 0, len(self.planes) - 1) for side in (before, after))
        total, nearest = self._vote(depth, gap, at, first)
        second, distance = self._vote(depth, gap, at, last)
        total[:, first != last] += second[:, first != last]  # beyond the ends, and in a slice, there is only one
        nearest = np.minimum(nearest, distance)
        return np.moveaxis(total, 1, self.axis + 1), np.moveaxis(nearest, 0, self.axis)

    def _vote(
        self, depth: Floats, gap: Floats, at: NDArray[np.intp], number: NDArray[np.intp]
    ) -> tuple[Floats, Floats]:
        """Votes (K, n, …) of slice `number` for the plane `at`, n of each, and how far away the slice is."""
        across = (self.step * np.abs(self.planes[number] - at)).astype(np.float32)[:, None, None]
        distance = np.maximum(np.sqrt(across**2 + gap[number] ** 2), np.float32(_NEAREST))
        vote = depth[:, number]
        vote /= distance
        np.clip(vote, -1, 1, out=vote)
        vote /= distance**2
        return vote, distance


def _stack(labels: SparseLabels, axis: int, spacing: NDArray[np.float64], classes: int) -> _Stack | None:
    """The painted slices across an axis, without those that lie between two painted neighbours; None for none."""
    others = tuple(a for a in range(3) if a != axis)
    known, codes = np.moveaxis(labels.labeled, axis, 0), np.moveaxis(labels.classes, axis, 0)
    share = known.mean(axis=(1, 2))
    painted = share >= share.min() + _PAINTED * (1 - share.min())
    if len(painted) == 1 or not painted.any():
        return None
    inner = np.zeros_like(painted)
    inner[1:-1] = painted[:-2] & painted[1:-1] & painted[2:]
    planes = np.flatnonzero(painted & ~inner)
    sampling = [float(spacing[a]) for a in others]
    depth = np.empty((classes, len(planes), *known.shape[1:]), dtype=np.float32)
    gap = np.empty(depth.shape[1:], dtype=np.float32)
    for number, plane in enumerate(planes):
        away = np.full((max(classes, 2), *known.shape[1:]), np.inf, dtype=np.float32)
        for k in np.unique(codes[plane][known[plane]]):
            away[k] = distance_transform_edt(~(known[plane] & (codes[plane] == k)), sampling=sampling)
        least, second = np.partition(away, 1, axis=0)[:2]
        away = away[:classes]
        depth[:, number] = np.where(away == least, second, least) - away
        gap[number] = least
    if not gap.any():
        gap = gap[:, :1, :1]
    return _Stack(axis, len(painted), planes, depth, gap, float(spacing[axis]))


def _take_nearest(
    out: NDArray[Any], reach: Floats, labels: SparseLabels, loose: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> None:
    """Give voxels that are nearer to a labeled voxel outside the slices than to any slice that voxel's class."""
    if not loose.any():
        return
    distance, index = distance_transform_edt(~loose, sampling=spacing.tolist(), return_indices=True)
    nearer = distance.astype(np.float32) < reach
    out[nearer] = labels.classes[tuple(index[:, nearer])]


def _covered(shape: tuple[int, int, int], stacks: list[_Stack]) -> NDArray[np.bool_]:
    """The voxels of all painted slices; bool (X, Y, Z)."""
    mask = np.zeros(shape, dtype=bool)
    for stack in stacks:
        np.moveaxis(mask, stack.axis, 0)[stack.planes] = True
    return mask


def _blocks(shape: tuple[int, int, int], classes: int) -> Iterator[slice]:
    """Rows of the X axis, few enough at a time."""
    x, y, z = shape
    rows = max(1, _BLOCK // (classes * y * z))
    return (slice(start, min(start + rows, x)) for start in range(0, x, rows))


def _check(labels: SparseLabels, classes: int) -> None:
    if not labels.labeled.any():
        raise LabelError(f"{labels.name}: expected labeled voxels to interpolate from, found none. Paint some slices.")
    highest = int(labels.classes[labels.labeled].max())
    if highest >= classes:
        raise LabelError(
            f"{labels.name}: expected class indices 0 to {classes - 1}, found {highest}; give the number of classes "
            f"of its table"
        )
