"""Smoothing, derivatives, and coarser grids, along one axis at a time; the same whichever way round an axis is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vol3d.volume import Box

_TRUNCATE = 3.0  # σ, where the kernels end


@dataclass(frozen=True)
class Places:
    """Where the samples of a coarser grid lie along one axis: sample i at voxel first + step · i."""

    first: float = 0.0
    step: int = 1

    def halved(self, extent: int) -> Places:
        """Those of `halved` of `extent` samples."""
        return Places(self.first + (0 if extent % 2 else self.step / 2), 2 * self.step)

    def around(self, start: int, stop: int, extent: int) -> tuple[int, int]:
        """The samples, of `extent` in all, that voxels start … stop − 1 are interpolated from: the first, the end."""
        low = math.floor((start - self.first) / self.step)
        high = math.ceil((stop - 1 - self.first) / self.step)
        return min(max(low, 0), extent - 1), min(max(high, 0), extent - 1) + 1

    def since(self, sample: int) -> Places:
        """Those of the samples from one on."""
        return Places(self.first + self.step * sample, self.step)


def radius(sigma: float) -> int:
    """How many samples a kernel of σ reaches to either side."""
    return max(1, math.ceil(_TRUNCATE * sigma))


def smoothed(volume: Tensor, axis: int, sigma: float) -> Tensor:
    """Convolved with a Gaussian of σ samples; beyond the border the volume is mirrored."""
    reach = radius(sigma)
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-reach, reach + 1)]
    extent, total = volume.shape[axis], sum(weights)
    padded = _mirrored(volume, axis, reach)
    result = padded.narrow(axis, reach, extent) * (weights[reach] / total)
    for offset in range(reach):  # pairs, so that the sum is the same from either side
        pair = padded.narrow(axis, offset, extent) + padded.narrow(axis, 2 * reach - offset, extent)
        result.add_(pair, alpha=weights[offset] / total)
    return result


def slope(volume: Tensor, axis: int) -> Tensor:
    """Central difference per sample."""
    padded, extent = _mirrored(volume, axis, 1), volume.shape[axis]
    return (padded.narrow(axis, 2, extent) - padded.narrow(axis, 0, extent)).div_(2)


def bend(volume: Tensor, axis: int) -> Tensor:
    """Second difference per sample²."""
    padded, extent = _mirrored(volume, axis, 1), volume.shape[axis]
    return (padded.narrow(axis, 2, extent) + padded.narrow(axis, 0, extent)).sub_(volume, alpha=2)


def halved(volume: Tensor, axis: int, whole: int | None = None) -> Tensor:
    """Every second sample; of an even number of samples the means of neighbours, so that the middle stays the middle.

    The volume must be smooth: σ of at least one sample. whole: how many samples there are in all along the axis, where
    the volume is a part that begins at an even one, and ends at another or the last.
    """
    extent = volume.shape[axis]
    if (extent if whole is None else whole) % 2:
        return volume.narrow(axis, 0, extent)[_every_second(volume.ndim, axis, 0)]
    return (volume[_every_second(volume.ndim, axis, 0)] + volume[_every_second(volume.ndim, axis, 1)]) / 2


def spread(volume: Tensor, axis: int, places: Places, start: int, stop: int) -> Tensor:
    """Linear interpolation at the voxels start … stop − 1 of samples at `places`; constant beyond the outermost."""
    last = volume.shape[axis] - 1
    at = (torch.arange(start, stop, dtype=torch.float64) - places.first) / places.step
    at = at.clamp(0, last)
    low = at.floor().clamp_max(max(last - 1, 0)).long()
    shape = [1] * volume.ndim
    shape[axis] = len(at)
    share = (at - low).to(volume.dtype).view(shape).to(volume.device)
    low = low.to(volume.device)
    return torch.lerp(volume.index_select(axis, low), volume.index_select(axis, (low + 1).clamp_max(last)), share)


def spread_within(volume: Tensor, places: Sequence[Places], box: Box) -> Tensor:
    """`spread` along X, Y and Z at the voxels of a box, of samples (C, x, y, z) → (C, *box.size).

    Innermost axis first: along the others whole rows are copied, and along it there is least to copy by then.
    """
    shifted = []
    for axis, (place, start, stop) in enumerate(zip(places, box.start, box.stop, strict=True)):
        low, end = place.around(start, stop, volume.shape[1 + axis])
        volume = volume.narrow(1 + axis, low, end - low)
        shifted.append(place.since(low))
    for axis in (2, 1, 0):
        if shifted[axis] != Places(box.start[axis]):
            volume = spread(volume, 1 + axis, shifted[axis], box.start[axis], box.stop[axis])
    return volume


def _every_second(dimensions: int, axis: int, first: int) -> tuple[slice, ...]:
    return tuple(slice(first, None, 2) if a == axis else slice(None) for a in range(dimensions))


def _mirrored(volume: Tensor, axis: int, margin: int) -> Tensor:
    """With `margin` more samples on both sides, reflected without repeating the edge."""
    extent = volume.shape[axis]
    index = np.arange(-margin, extent + margin)
    period = max(1, 2 * (extent - 1))
    index = np.abs(index) % period
    index = np.where(index >= extent, period - index, index)
    return volume.index_select(axis, torch.from_numpy(index).to(volume.device))
