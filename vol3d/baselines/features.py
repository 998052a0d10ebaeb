"""What a pixel classifier looks at: a voxel's gray value, edges and curvature at several scales."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SCALES = (0.7, 1.0, 2.0, 4.0, 8.0)  # σ in voxels of the finest spacing
_PER_SCALE = 5
_TRUNCATE = 3.0  # σ, where the kernels end
_NARROWEST = 0.35  # σ in voxels along an axis, below which nothing is smoothed and no derivative taken along it
_SLAB_BYTES = 512e6
Triple = tuple[int, int, int]


def feature_count(channels: int, scales: Sequence[float] = SCALES) -> int:
    """How many values `pixel_features` has for every voxel."""
    return channels * (1 + _PER_SCALE * len(scales))


def feature_slabs(
    image: Tensor | NDArray[np.float32], spacing_mm: Sequence[float], scales: Sequence[float] = SCALES
) -> Iterator[tuple[int, int, Tensor]]:
    """(start, stop, features float32 (F, stop − start, Y, Z)) for one slab of X planes after the other.

    image: float32 (C, X, Y, Z). The slabs together are what `pixel_features` gives for the whole volume, in the memory
    of a few planes.
    """
    whole = torch.as_tensor(image)
    channels, extent = whole.shape[0], whole.shape[1]
    halo = _reach(spacing_mm, scales)
    fitting = int(_SLAB_BYTES / (4 * feature_count(channels, scales) * math.prod(whole.shape[2:])))
    planes = max(fitting, halo, 1)  # thinner slabs would look at the same planes again and again
    for start in range(0, extent, planes):
        stop = min(start + planes, extent)
        low, high = max(0, start - halo), min(extent, stop + halo)
        yield start, stop, _features(whole[:, low:high], spacing_mm, scales, slice(start - low, stop - low))


def pixel_features(image: Tensor, spacing_mm: Sequence[float], scales: Sequence[float] = SCALES) -> Tensor:
    """Features of every voxel, float32 (F, X, Y, Z); image: (C, X, Y, Z). The same number whatever the spacing.

    Per channel: the value, and at every scale the smoothed value, the gradient's magnitude and the three eigenvalues of
    the Hessian in descending order, both times σ or σ². They do not change where the volume is mirrored or its axes are
    permuted. scales: σ in voxels of the finest spacing; an axis with voxels much longer than σ is not looked along.
    Beyond the border the volume is mirrored. Source: the features of ilastik's pixel classification (Berg et al. 2019).
    """
    return _features(image, spacing_mm, scales, slice(None))


def _features(image: Tensor, spacing_mm: Sequence[float], scales: Sequence[float], kept: slice) -> Tensor:
    """`pixel_features` of the planes `kept` of X, of an image with more planes around them."""
    steps = [mm / min(spacing_mm) for mm in spacing_mm]
    planes = range(*kept.indices(image.shape[1]))
    found = torch.empty((feature_count(len(image), scales), len(planes), *image.shape[2:]))
    at = 0
    for channel in image.to(torch.float32):
        found[at] = channel[kept]
        at += 1
        for scale in scales:
            for value in _at_scale(channel, steps, scale):
                found[at] = value[kept]
                at += 1
    return found


def _at_scale(channel: Tensor, steps: Sequence[float], scale: float) -> list[Tensor]:
    sigmas = [scale / step for step in steps]
    axes = [a for a in range(3) if sigmas[a] >= _NARROWEST and channel.shape[a] > 1]
    smooth = channel
    for axis in axes:
        smooth = _smoothed(smooth, axis, sigmas[axis])
    factor = [sigma if axis in axes else 0.0 for axis, sigma in enumerate(sigmas)]  # per voxel → per σ
    slopes = {axis: _slope(smooth, axis) * factor[axis] for axis in axes}
    magnitude = torch.zeros_like(smooth)
    for slope in slopes.values():
        magnitude.addcmul_(slope, slope)
    hessian: dict[tuple[int, int], Tensor] = {}
    for position, first in enumerate(axes):
        hessian[first, first] = _bend(smooth, first) * factor[first] ** 2
        for second in axes[position + 1 :]:
            hessian[first, second] = _slope(slopes[first], second) * factor[second]
    return [smooth, magnitude.sqrt_(), *_eigenvalues(hessian, torch.zeros_like(smooth))]


def _smoothed(volume: Tensor, axis: int, sigma: float) -> Tensor:
    radius = _radius(sigma)
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    extent = volume.shape[axis]
    padded = _mirrored(volume, axis, radius)
    result = torch.zeros_like(volume)
    for offset, weight in enumerate(weights):
        result.add_(padded.narrow(axis, offset, extent), alpha=weight / sum(weights))
    return result


def _slope(volume: Tensor, axis: int) -> Tensor:
    """Central difference per voxel."""
    padded, extent = _mirrored(volume, axis, 1), volume.shape[axis]
    return (padded.narrow(axis, 2, extent) - padded.narrow(axis, 0, extent)) / 2


def _bend(volume: Tensor, axis: int) -> Tensor:
    """Second difference per voxel²."""
    padded, extent = _mirrored(volume, axis, 1), volume.shape[axis]
    return padded.narrow(axis, 2, extent) + padded.narrow(axis, 0, extent) - 2 * volume


def _mirrored(volume: Tensor, axis: int, margin: int) -> Tensor:
    """With `margin` more voxels on both sides, reflected without repeating the edge."""
    extent = volume.shape[axis]
    index = np.arange(-margin, extent + margin)
    period = max(1, 2 * (extent - 1))
    index = np.abs(index) % period
    index = np.where(index >= extent, period - index, index)
    return volume.index_select(axis, torch.from_numpy(index).to(volume.device))


def _eigenvalues(hessian: dict[tuple[int, int], Tensor], zero: Tensor) -> list[Tensor]:
    """Eigenvalues of symmetric 3×3 matrices, descending; missing entries are 0. Trigonometric form (Smith 1961)."""
    xx, yy, zz = (hessian.get((a, a), zero) for a in range(3))
    xy, xz, yz = (hessian.get(pair, zero) for pair in ((0, 1), (0, 2), (1, 2)))
    mean = (xx + yy + zz) / 3
    squares = (xx - mean) ** 2 + (yy - mean) ** 2 + (zz - mean) ** 2 + 2 * (xy**2 + xz**2 + yz**2)
    radius = (squares / 6).sqrt().clamp_min(1e-12)
    a, b, c = ((value - mean) / radius for value in (xx, yy, zz))
    d, e, f = (value / radius for value in (xy, xz, yz))
    half = (a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e)) / 2
    angle = torch.acos(half.clamp(-1, 1)) / 3
    first = mean + 2 * radius * torch.cos(angle)
    last = mean + 2 * radius * torch.cos(angle + 2 * math.pi / 3)
    return [first, 3 * mean - first - last, last]


def _radius(sigma: float) -> int:
    return max(1, math.ceil(_TRUNCATE * sigma))


def _reach(spacing_mm: Sequence[float], scales: Sequence[float]) -> int:
    """How many planes of X away a voxel can matter."""
    sigma = max(scales) * min(spacing_mm) / spacing_mm[0]
    return _radius(sigma) + 2
