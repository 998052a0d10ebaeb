"""Intensities of a channel in a few numbers, and the scaling that normalises it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_VOXELS = 20_000_000
_AT_A_TIME = 1 << 20


@dataclass(frozen=True)
class Statistics:
    """Raw intensities of one channel. low, high: over all finite voxels; the rest without a black surround.

    percentiles: the two that were asked for. All 0 where no voxel is finite.
    """

    low: float
    high: float
    mean: float
    std: float
    p1: float
    p99: float
    percentiles: tuple[float, float]

    @classmethod
    def of(cls, channel: NDArray[Any], percentiles: tuple[float, float], most_voxels: int = _MOST_VOXELS) -> Statistics:
        """Of `channel` (X, Y, Z), float64 inside. Above `most_voxels` every n-th voxel along the axes is looked at.

        Where more than half of the voxels equal the lowest value (the black surround of a scan), mean, std and
        percentiles are those of the voxels above it, unless these are all equal.
        """
        steps = sampling_steps(channel.shape, most_voxels)
        values = np.array(channel[tuple(slice(None, None, step) for step in steps)], order="C").ravel()
        if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            values = values[finite]
        if values.size == 0:
            return cls(0, 0, 0, 0, 0, 0, (0, 0))
        values.sort()
        low, high = float(values[0]), float(values[-1])
        above = values[np.searchsorted(values, values[0], side="right") :]
        if above.size and 2 * above.size < values.size and above[0] < above[-1]:
            values = above
        p1, p99, lower, upper = (_percentile(values, q) for q in (1, 99, *percentiles))
        mean = float(values.mean(dtype=np.float64))
        parts = (values[at : at + _AT_A_TIME] for at in range(0, values.size, _AT_A_TIME))
        squares = sum(float(np.square(np.subtract(part, mean, dtype=np.float64)).sum()) for part in parts)
        std = math.sqrt(squares / values.size)
        return cls(low, high, mean, std, p1, p99, (lower, upper))

    def to_json(self) -> dict[str, float]:
        """Plain JSON values: low, high, mean, std, p1, p99."""
        return {key: getattr(self, key) for key in ("low", "high", "mean", "std", "p1", "p99")}


def _percentile(ordered: NDArray[Any], percent: float) -> float:
    """Percentile of ascending values, linear between neighbours."""
    place = percent / 100 * (len(ordered) - 1)
    at = min(int(place), len(ordered) - 1)
    lower, upper = float(ordered[at]), float(ordered[min(at + 1, len(ordered) - 1)])
    return lower + (place - at) * (upper - lower)


def sampling_steps(shape: tuple[int, ...], most_voxels: int = _MOST_VOXELS) -> tuple[int, ...]:
    """Every how many voxels along each axis one is looked at, so that they are no more than `most_voxels`."""
    steps = [1] * len(shape)
    while True:
        counts = [-(-n // step) for n, step in zip(shape, steps, strict=True)]
        if np.prod(counts, dtype=np.int64) <= most_voxels:
            return tuple(steps)
        steps[counts.index(max(counts))] += 1


@dataclass(frozen=True)
class Scaling:
    """(intensity − shift) · factor, then clipped to `limits`; voxels that are not finite become 0."""

    shift: float
    factor: float
    limits: tuple[float, float] | None = None

    @classmethod
    def zscore(cls, statistics: Statistics) -> Scaling:
        """Mean 0, standard deviation 1; a constant channel becomes 0."""
        return cls(
            statistics.mean, 1 / statistics.std if statistics.low < statistics.high and statistics.std > 0 else 0.0
        )

    @classmethod
    def percentile(cls, statistics: Statistics) -> Scaling:
        """The two percentiles to 0 and 1, clipped there; a constant channel becomes 0."""
        lower, upper = statistics.percentiles
        if lower >= upper:
            lower, upper = statistics.low, statistics.high
        return cls(lower, 1 / (upper - lower) if lower < upper else 0.0, (0.0, 1.0))

    @classmethod
    def window(cls, window: tuple[float, float]) -> Scaling:
        """The window to 0 and 1, clipped there."""
        return cls(window[0], 1 / (window[1] - window[0]), (0.0, 1.0))

    def apply(self, channel: NDArray[Any]) -> NDArray[np.float32]:
        """Scale `channel` (X, Y, Z) in float64, a few planes at a time; float32, C-contiguous."""
        result = np.empty(channel.shape, dtype=np.float32)
        planes = max(_AT_A_TIME // result[0].size, 1)
        for start in range(0, len(result), planes):
            part = slice(start, start + planes)
            values = channel[part].astype(np.float64, order="C")
            values[~np.isfinite(values)] = np.nan
            values -= self.shift
            values *= self.factor
            if self.limits is not None:
                np.clip(values, *self.limits, out=values)
            result[part] = np.nan_to_num(values, copy=False, nan=0.0)
        return result
