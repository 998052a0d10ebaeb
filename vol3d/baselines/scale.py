"""The features of one scale: smoothed value, edges, curvature; or texture. On a coarser grid where that will do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vol3d.baselines.pyramid import Places, bend, halved, radius, slope, smoothed, spread_within
from vol3d.volume import Box

PER_SCALE, PER_TEXTURE = 5, 3
_NARROWEST = 0.35  # σ in voxels along an axis, below which nothing is smoothed and no derivative taken along it
_COARSE = 4.0  # σ in voxels along an axis, from which on every second voxel is enough
_INNER = 0.7  # σ of a texture's gradients, in σ of what they are averaged over
_EXTENT = 1e-12
Sigmas = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Coarse:
    """Features (…, x, y, z) on a coarser grid, and where its samples lie."""

    values: Tensor
    places: tuple[Places, Places, Places]

    def within(self, box: Box) -> Tensor:
        """The features of the voxels of a box inside the volume, (…, *box.size)."""
        return spread_within(self.values, self.places, box)


@dataclass(frozen=True)
class Part:
    """The features of one scale or texture. sigmas: in voxels along X, Y, Z, 0 where an axis is not smoothed."""

    sigmas: Sigmas
    texture: bool = False

    @property
    def count(self) -> int:
        """How many features it has."""
        return PER_TEXTURE if self.texture else PER_SCALE

    @property
    def is_coarse(self) -> bool:
        """Whether a coarser grid will do along some axis."""
        return max(self.sigmas) >= _COARSE

    def of(self, volume: Tensor, sigmas: Sigmas, have: Sigmas) -> list[Tensor]:
        """The features of a volume that is smoothed by `have` already; both σ in its samples."""
        return _texture(volume, sigmas, have) if self.texture else _at_scale(volume, sigmas, have)

    def on_coarse_grid(self, channel: Tensor, extents: Sequence[int]) -> Coarse:
        """As `of`, from as few samples as will do. extents: see `FeatureMaps`."""
        volume, places = channel, [Places(), Places(), Places()]
        sigmas, have = list(self.sigmas), [0.0, 0.0, 0.0]
        for axis in range(3):
            for missing, extent in self._halvings(axis, extents[axis]):
                volume = smoothed(volume, axis, missing)
                places[axis] = places[axis].halved(extent)
                volume = halved(volume, axis, extent)
                sigmas[axis], have[axis] = sigmas[axis] / 2, 0.5
        values = self.of(volume, (sigmas[0], sigmas[1], sigmas[2]), (have[0], have[1], have[2]))
        return Coarse(torch.stack(values), (places[0], places[1], places[2]))

    def around(self, axis: int, extent: int) -> tuple[int, int]:
        """(how many voxels away along an axis another can matter, voxels between its samples on the coarsest grid)."""
        if not self.is_coarse:
            return self._beyond(self.sigmas[axis], 0.0), 1
        reach, step, sigma, have = 0, 1, self.sigmas[axis], 0.0
        for missing, _ in self._halvings(axis, extent):
            reach += step * (radius(missing) + 1)
            step, sigma, have = 2 * step, sigma / 2, 0.5
        return reach + step * (self._beyond(sigma, have) + (step > 1)), step

    def _halvings(self, axis: int, extent: int) -> Iterator[tuple[float, int]]:
        """(σ in samples to smooth by, number of samples) before each time that the samples are halved."""
        sigma, have = self.sigmas[axis], 0.0
        most = _INNER * sigma if self.texture else sigma  # smoothing that there may be beforehand
        while sigma >= _COARSE and extent > 2 * _COARSE and most >= 1:
            yield math.sqrt(1 - have**2), extent
            extent, sigma, most, have = (extent + 1) // 2, sigma / 2, most / 2, 0.5

    def _beyond(self, sigma: float, have: float) -> int:
        """How many samples away another can matter to `of` along an axis; 0 where it is not looked along."""
        if sigma <= 0:
            return 0
        if not self.texture:
            return radius(math.sqrt(max(sigma**2 - have**2, _EXTENT))) + 2
        return radius(math.sqrt(max((_INNER * sigma) ** 2 - have**2, _EXTENT))) + 1 + radius(sigma)


def sigmas_of(scale: float, steps: Sequence[float]) -> Sigmas:
    """σ in voxels along X, Y, Z; 0 along axes whose voxels are much longer."""
    x, y, z = (scale / step if scale / step >= _NARROWEST else 0.0 for step in steps)
    return (x, y, z)


def _blurred(volume: Tensor, sigmas: Sequence[float], have: Sequence[float] = (0.0, 0.0, 0.0)) -> Tensor:
    """Smoothed to σ along every axis, of which `have` is there already; axes of one voxel stay."""
    for axis in range(3):
        missing = sigmas[axis] ** 2 - have[axis] ** 2
        if missing > _EXTENT and volume.shape[axis] > 1:
            volume = smoothed(volume, axis, math.sqrt(missing))
    return volume


def _open(volume: Tensor, sigmas: Sigmas) -> list[int]:
    return [axis for axis in range(3) if sigmas[axis] > 0 and volume.shape[axis] > 1]


def _at_scale(volume: Tensor, sigmas: Sigmas, have: Sigmas) -> list[Tensor]:
    """Smoothed value, gradient magnitude and the Hessian's eigenvalues."""
    smooth = _blurred(volume, sigmas, have)
    axes = _open(volume, sigmas)
    slopes = {axis: slope(smooth, axis).mul_(sigmas[axis]) for axis in axes}
    magnitude = torch.zeros_like(smooth)
    for value in slopes.values():
        magnitude.addcmul_(value, value)
    hessian: dict[tuple[int, int], Tensor] = {}
    for position, first in enumerate(axes):
        hessian[first, first] = bend(smooth, first).mul_(sigmas[first] ** 2)
        for second in axes[position + 1 :]:
            hessian[first, second] = slope(slopes[first], second).mul_(sigmas[second])
    return [smooth, magnitude.sqrt_(), *_eigenvalues(hessian, smooth)]


def _texture(volume: Tensor, sigmas: Sigmas, have: Sigmas) -> list[Tensor]:
    """Square roots of the eigenvalues of the structure tensor: how much the gray value changes, in which directions."""
    inner = (_INNER * sigmas[0], _INNER * sigmas[1], _INNER * sigmas[2])
    smooth = _blurred(volume, inner, have)
    axes = _open(volume, sigmas)
    slopes = {axis: slope(smooth, axis).mul_(sigmas[axis]) for axis in axes}
    tensor = {
        (first, second): _blurred(slopes[first] * slopes[second], sigmas)
        for position, first in enumerate(axes)
        for second in axes[position:]
    }
    return [value.clamp_min_(0).sqrt_() for value in _eigenvalues(tensor, smooth)]


def _eigenvalues(matrix: dict[tuple[int, int], Tensor], like: Tensor) -> list[Tensor]:
    """Eigenvalues of symmetric 3×3 matrices, descending; missing entries are 0. Trigonometric form (Smith 1961)."""
    zero = torch.zeros_like(like)
    xx, yy, zz = (matrix.get((a, a), zero) for a in range(3))
    xy, xz, yz = (matrix.get(pair, zero) for pair in ((0, 1), (0, 2), (1, 2)))
    mean = (xx + yy + zz).div_(3)
    a, b, c = xx - mean, yy - mean, zz - mean
    size = (xy * xy).addcmul_(xz, xz).addcmul_(yz, yz).mul_(2)
    size = size.addcmul_(a, a).addcmul_(b, b).addcmul_(c, c).div_(6).sqrt_().clamp_min_(1e-12)
    determinant = (b * c).addcmul_(yz, yz, value=-1).mul_(a)
    determinant.addcmul_(xy, (xy * c).addcmul_(yz, xz, value=-1), value=-1)
    determinant.addcmul_(xz, (xy * yz).addcmul_(b, xz, value=-1))
    half = determinant.div_(size).div_(size).div_(size).div_(2).clamp_(-1, 1)
    angle = half.acos_().div_(3)
    first = torch.cos(angle).mul_(size).mul_(2).add_(mean)
    last = angle.add_(2 * math.pi / 3).cos_().mul_(size).mul_(2).add_(mean)
    middle = mean.mul_(3).sub_(first).sub_(last)
    return [first, middle, last]
