"""Which planes to paint next: those that are expected to settle most of what a prediction is unsure of.

A painted plane settles the voxels in it, and, the less the farther they lie, those around it: by exp(−d / reach) at the
distance d. A voxel is as settled as the nearest paint makes it, so that a plane beside a painted one is worth little,
planes that cross what is known gain only between it, and a plane that was chosen counts as painted for the next. The
gain of a plane is what it adds to Σ weight · settled, where a voxel's weight is the prediction's entropy over the root
of its class's frequency: errors in a rare class cost more of it. The sum is monotone and submodular: taking the best
plane, again and again, gets at least 1 − 1/e of what the best set of planes would (Nemhauser et al. 1978).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from vol3d.errors import ConfigError, GeometryError

Floats = NDArray[np.float64]
_CELLS = 64  # along an axis, at most: what happens within a cell is averaged
_REACH = 0.2  # of the volume's mean extent
_RAREST = 1e-3  # share of the volume that a class counts as having at least


@dataclass(frozen=True)
class PlaneGain:
    """A plane to paint.

    axis, index: of the grid. gain: the share of all the uncertainty, 0 … 1, that painting it is expected to settle
    beyond the paint and the planes chosen before it. uncertainty: mean entropy of its unpainted voxels, 0 … 1.
    distance_mm: how far these lie from what is painted or chosen before, in the median; inf where there is none.
    voxels: how many there are to paint. planes chosen before it count as painted.
    """

    axis: int
    index: int
    gain: float
    uncertainty: float
    distance_mm: float
    voxels: int


def suggest_planes(
    entropy: NDArray[Any],
    classes: NDArray[Any],
    labeled: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    n: int = 3,
    *,
    axes: Sequence[int] = (0, 1, 2),
    reach_mm: float | None = None,
    per_voxel: bool = False,
) -> list[PlaneGain]:
    """Up to `n` planes in the order in which to paint them; fewer where no other has anything to gain.

    entropy: of the prediction, float (X, Y, Z), 0 … 1. classes: predicted class indices, unsigned, same grid. labeled:
    bool, same grid, True where somebody painted. axes: across which planes may lie; an axis of one voxel has none.
    reach_mm: how far a painted plane tells about its neighbourhood, default a fifth of the volume's mean extent.
    per_voxel: choose by the gain per voxel to paint, not per plane. Ties go to the lower axis, then the lower index.
    The sums are taken over cells of the grid, at most 64 along an axis; planes are single planes all the same.
    Raises `GeometryError` for arrays of different shapes, `ConfigError` for numbers that make no sense.
    """
    _require(entropy, classes, labeled, spacing_mm, n, axes, reach_mm)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    extent = np.array(entropy.shape) * spacing
    reach = _REACH * float(np.prod(extent[extent > spacing])) ** (1 / max(int((extent > spacing).sum()), 1))
    field = _Field(entropy, classes, labeled, spacing, reach if reach_mm is None else reach_mm)
    candidates = [axis for axis in sorted(set(axes)) if entropy.shape[axis] > 1]
    found: list[PlaneGain] = []
    while len(found) < n:
        best = field.best(candidates, per_voxel=per_voxel)
        if best is None:
            break
        found.append(best)
        field.paint(best)
    return found


class _Field:
    """What is still unsettled, on cells, and what is painted, plane by plane."""

    def __init__(
        self, entropy: NDArray[Any], classes: NDArray[Any], labeled: NDArray[np.bool_], spacing: Floats, reach: float
    ) -> None:
        self._entropy, self._labeled, self._spacing, self._reach = entropy, labeled, spacing, reach
        self._chosen: list[tuple[int, int]] = []
        shape = entropy.shape
        self._starts = [np.arange(0, length, -(-length // _CELLS)) for length in shape]
        self._centres = [
            (start + np.append(start[1:], length) - 1) / 2 * step
            for start, length, step in zip(self._starts, shape, spacing, strict=True)
        ]
        self._weight = self._sums(entropy, _class_weights(classes), classes)
        self._total = float(self._weight.sum())
        self._distance = self._to_paint()
        self._open = [_by_plane(~labeled, axis) for axis in range(3)]

    def best(self, axes: Sequence[int], *, per_voxel: bool) -> PlaneGain | None:
        """The plane that gains most; None where none gains anything."""
        chosen: tuple[float, int, int, float] | None = None
        settled = np.exp(-self._distance / self._reach)
        for axis in axes:
            gains = self._gains(axis, settled)
            cost = self._open[axis] if per_voxel else np.ones_like(gains)
            value = np.where(self._open[axis] > 0, gains / np.maximum(cost, 1), 0.0)
            index = int(value.argmax())
            if value[index] > 0 and (chosen is None or value[index] > chosen[0] * (1 + 1e-9)):
                chosen = (float(value[index]), axis, index, float(gains[index]))
        if chosen is None:
            return None
        _, axis, index, gain = chosen
        uncertainty, distance, voxels = self._facts(axis, index)
        return PlaneGain(axis, index, gain / self._total, uncertainty, distance, voxels)

    def paint(self, plane: PlaneGain) -> None:
        """From now on the plane counts as painted."""
        crossing = self._unpainted(plane.axis, plane.index)
        for line, axis in enumerate(_others(plane.axis)):
            self._open[axis] -= np.count_nonzero(crossing, axis=1 - line)
        self._open[plane.axis][plane.index] = 0
        self._chosen.append((plane.axis, plane.index))
        away = np.abs(self._centres[plane.axis] - plane.index * self._spacing[plane.axis])
        self._distance = np.minimum(self._distance, _along(away, plane.axis))

    def _gains(self, axis: int, settled: Floats) -> Floats:
        """Σ weight · max(0, exp(−d / reach) − settled) for every plane across `axis`.

        Row by row of cells: of the cells that a plane settles more than before, the weights and weight · settled are
        read from running sums over the cells sorted by what is settled.
        """
        rows = len(self._centres[axis])
        before = np.moveaxis(settled, axis, 0).reshape(rows, -1)
        weight = np.moveaxis(self._weight, axis, 0).reshape(rows, -1)
        at = np.arange(self._entropy.shape[axis]) * self._spacing[axis]
        gains = np.zeros(len(at))
        for row, centre in enumerate(self._centres[axis]):
            after = np.exp(-np.abs(at - centre) / self._reach)
            order = np.argsort(before[row], kind="stable")
            known, heavy = before[row][order], weight[row][order]
            count = np.searchsorted(known, after)
            sums = np.concatenate([[0.0], np.cumsum(heavy)])[count]
            gains += after * sums - np.concatenate([[0.0], np.cumsum(heavy * known)])[count]
        return np.maximum(gains, 0.0)

    def _facts(self, axis: int, index: int) -> tuple[float, float, int]:
        """Mean entropy, median distance to paint in mm, and number of the plane's unpainted voxels."""
        unpainted = self._unpainted(axis, index)
        values = self._entropy[_across(axis, index)][unpainted]
        cell = int(np.searchsorted(self._starts[axis], index, side="right")) - 1
        away = self._distance.take(cell, axis=axis)
        return float(values.mean(dtype=np.float64)), float(np.median(away)), int(unpainted.sum())

    def _unpainted(self, axis: int, index: int) -> NDArray[np.bool_]:
        """Bool (two axes): the voxels of a plane that neither paint nor a chosen plane covers."""
        unpainted = ~self._labeled[_across(axis, index)]
        for other, at in self._chosen:
            if other == axis:
                if at == index:
                    unpainted[:] = False
                continue
            line = _others(axis).index(other)
            unpainted[(slice(None),) * line + (at,)] = False
        return unpainted

    def _sums(self, entropy: NDArray[Any], weights: Floats, classes: NDArray[Any]) -> Floats:
        """Entropy times the weight of its class, summed over every cell; one layer of cells at a time."""
        layers = [
            self._reduced(entropy[layer].astype(np.float64) * weights[classes[layer]], np.add)
            for layer in self._layers()
        ]
        return np.stack(layers)

    def _to_paint(self) -> Floats:
        """Mm from the middle of every cell to that of the nearest cell with paint in it; inf without paint."""
        painted = np.stack([self._reduced(self._labeled[layer], np.logical_or) for layer in self._layers()])
        if not painted.any():
            return np.full(painted.shape, np.inf)
        steps = [
            float(np.diff(centres).mean()) if len(centres) > 1 else float(step)
            for centres, step in zip(self._centres, self._spacing, strict=True)
        ]
        return np.asarray(distance_transform_edt(~painted, sampling=steps), dtype=np.float64)

    def _layers(self) -> Iterator[slice]:
        starts = self._starts[0]
        for start, stop in zip(starts, [*starts[1:], self._entropy.shape[0]], strict=True):
            yield slice(int(start), int(stop))

    def _reduced(self, layer: NDArray[Any], add: np.ufunc) -> NDArray[Any]:
        """One layer of cells (x, Y, Z) → (cells along Y, cells along Z)."""
        return add.reduceat(add.reduceat(add.reduce(layer, axis=0), self._starts[1], axis=0), self._starts[2], axis=1)


def _class_weights(classes: NDArray[Any]) -> Floats:
    """1 / √frequency of every predicted class, float64 (K,)."""
    counts = sum(np.bincount(plane.ravel(), minlength=int(classes.max()) + 1) for plane in classes)
    return 1 / np.sqrt(np.maximum(np.asarray(counts, dtype=np.float64) / classes.size, _RAREST))


def _by_plane(mask: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    """True voxels of every plane across `axis`; int64 (n,)."""
    return np.count_nonzero(mask, axis=_others(axis)).astype(np.int64)


def _others(axis: int) -> tuple[int, int]:
    first, second = (a for a in range(3) if a != axis)
    return first, second


def _across(axis: int, index: int) -> tuple[slice | int, ...]:
    return (slice(None),) * axis + (index,)


def _along(values: Floats, axis: int) -> Floats:
    return values.reshape([-1 if a == axis else 1 for a in range(3)])


def _require(
    entropy: NDArray[Any],
    classes: NDArray[Any],
    labeled: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    n: int,
    axes: Sequence[int],
    reach_mm: float | None,
) -> None:
    if entropy.ndim != 3 or not entropy.shape == classes.shape == labeled.shape:
        raise GeometryError(
            f"expected entropy, classes and mask of one shape (x, y, z), found {entropy.shape}, {classes.shape} and "
            f"{labeled.shape}"
        )
    if not np.isfinite(entropy).all() or float(entropy.min()) < 0:
        raise ConfigError("expected entropies from 0 on, found negative or infinite ones")
    if len(spacing_mm) != 3 or not all(math.isfinite(step) and step > 0 for step in spacing_mm):
        raise ConfigError(f"expected three positive spacings in mm, found {list(spacing_mm)}")
    if n < 1:
        raise ConfigError(f"expected to suggest at least one plane, found {n}")
    if not axes or not set(axes) <= {0, 1, 2}:
        raise ConfigError(f"expected axes among 0, 1 and 2, found {list(axes)}")
    if reach_mm is not None and not (math.isfinite(reach_mm) and reach_mm > 0):
        raise ConfigError(f"expected a positive reach in mm, found {reach_mm}")
