"""A grid of another spacing over the same field of view: where its voxels lie, and linear resampling, axis by axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int, int]
_SAME = 1e-3  # spacings that differ by less, relatively, count as equal: nothing is resampled


def same_spacing(spacing_mm: Sequence[float], target_mm: Sequence[float]) -> bool:
    """Whether two spacings are so close that resampling would be for nothing."""
    ratio = np.asarray(spacing_mm, dtype=np.float64) / np.asarray(target_mm, dtype=np.float64)
    return bool(np.abs(ratio - 1).max() <= _SAME)


@dataclass(frozen=True)
class Regrid:
    """From `shape` voxels to `new_shape` voxels along X, Y, Z with one centre; `step`: new spacing / old spacing."""

    shape: Size
    new_shape: Size
    step: tuple[float, float, float]

    @classmethod
    def to_spacing(cls, shape: Size, spacing_mm: Sequence[float], target_mm: Sequence[float]) -> Regrid:
        """The new grid that covers the old one's field of view to half a voxel, at least one voxel per axis."""
        x, y, z = (float(new / old) for old, new in zip(spacing_mm, target_mm, strict=True))
        a, b, c = (max(round(n / step), 1) for n, step in zip(shape, (x, y, z), strict=True))
        return cls(shape, (a, b, c), (x, y, z))

    @property
    def inverse(self) -> Regrid:
        """The way back."""
        x, y, z = (1 / step for step in self.step)
        return Regrid(self.new_shape, self.shape, (x, y, z))

    def positions(self, axis: int) -> NDArray[np.float64]:
        """Where the new voxels lie, in old voxels; float64 (new_shape[axis],), a fraction may stand out beyond."""
        n, m = self.shape[axis], self.new_shape[axis]
        return (n - 1) / 2 + (np.arange(m, dtype=np.float64) - (m - 1) / 2) * self.step[axis]

    def nearest(self, axis: int) -> NDArray[np.int64]:
        """The old voxel next to every new one; int64 (new_shape[axis],), halves go up."""
        index = np.floor(self.positions(axis) + 0.5).astype(np.int64)
        return index.clip(0, self.shape[axis] - 1)

    def between(self, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """For linear interpolation: the old voxels on both sides and the share of the upper one, per new voxel."""
        positions = self.positions(axis).clip(0, self.shape[axis] - 1)
        lower = np.floor(positions).astype(np.int64)
        upper = np.minimum(lower + 1, self.shape[axis] - 1)
        return lower, upper, (positions - lower).astype(np.float32)

    def smooth(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """`array` (X, Y, Z) on the new grid: linear where it gets finer, triangle-weighted means where coarser.

        The triangle is as wide as two new voxels, so that nothing is skipped; beyond the border weights are left out.
        """
        for axis in sorted(range(3), key=lambda a: self.new_shape[a] / self.shape[a]):
            array = self._smooth_axis(array, axis)
        return array

    def _smooth_axis(self, array: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        positions = self.positions(axis)
        if np.array_equal(positions, np.arange(self.shape[axis])):
            return array
        reach = max(self.step[axis], 1.0)
        first = np.ceil(positions - reach).astype(np.int64)
        taps = first + np.arange(int(2 * reach) + 1)[:, None]
        weights = np.clip(1 - np.abs(taps - positions) / reach, 0, None)
        weights[(taps < 0) | (taps >= self.shape[axis])] = 0
        weights /= weights.sum(axis=0)
        result = np.zeros((*array.shape[:axis], len(positions), *array.shape[axis + 1 :]), dtype=np.float32)
        shape = [1, 1, 1]
        shape[axis] = -1
        for tap, weight in zip(taps.clip(0, self.shape[axis] - 1), weights.astype(np.float32), strict=True):
            if weight.any():
                part: NDArray[Any] = np.take(array, tap, axis=axis)
                part *= weight.reshape(shape)
                result += part
        return result
