"""What a pixel classifier looks at: a voxel's gray value, edges, curvature and texture at several scales."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.baselines.pyramid import Places, bend, halved, radius, slope, smoothed, spread

SCALES = (0.7, 1.0, 2.0, 4.0, 8.0)
TEXTURES = (1.0, 2.0, 4.0)
_PER_SCALE, _PER_TEXTURE = 5, 3
_NARROWEST = 0.35  # σ in voxels along an axis, below which nothing is smoothed and no derivative taken along it
_COARSE = 4.0  # σ in voxels along an axis, from which on every second voxel is enough
_INNER = 0.7  # σ of a texture's gradients, in σ of what they are averaged over
_ALIKE = 1.01  # ratio of the voxels' edges up to which they are cubes
SLAB_BYTES = 256e6
_EXTENT = 1e-12
Sigmas = tuple[float, float, float]


@dataclass(frozen=True)
class Recipe:
    """Which features there are of every channel: its value, then five per scale and three per texture.

    scales: σ in voxels of the finest spacing, the same in mm along every axis. grid_scales: σ in voxels along every
    axis, whatever the spacing. textures: as grid_scales.
    """

    scales: tuple[float, ...] = SCALES
    grid_scales: tuple[float, ...] = ()
    textures: tuple[float, ...] = ()

    def count(self, channels: int) -> int:
        """How many values there are for every voxel."""
        scales = len(self.scales) + len(self.grid_scales)
        return channels * (1 + _PER_SCALE * scales + _PER_TEXTURE * len(self.textures))


def image_recipe(spacings_mm: Sequence[Sequence[float]]) -> Recipe:
    """The features for scans of these spacings. What scales on the grid would add to cubic voxels is there already."""
    cubes = all(max(spacing) <= _ALIKE * min(spacing) for spacing in spacings_mm)
    return Recipe(SCALES, () if cubes else SCALES, TEXTURES)


def pixel_features(image: Tensor, spacing_mm: Sequence[float], recipe: Recipe | None = None) -> Tensor:
    """Features of every voxel, float32 (F, X, Y, Z); image: (C, X, Y, Z). recipe None: `image_recipe`.

    Per channel: the value; at every scale the smoothed value, the gradient's magnitude and the three eigenvalues of
    the Hessian in descending order, both times σ or σ²; for every texture the square roots of the eigenvalues of the
    structure tensor. They do not change where the volume is mirrored or its axes are permuted. An axis with voxels much
    longer than σ is not looked along. Beyond the border the volume is mirrored. Coarse scales are computed on coarser
    grids and interpolated. Source: the features of ilastik's pixel classification (Berg et al. 2019).
    """
    recipe = image_recipe([spacing_mm]) if recipe is None else recipe
    maps = FeatureMaps(image, spacing_mm, recipe)
    return torch.cat([features for _, _, features in maps.slabs()], dim=1)


@dataclass(frozen=True, eq=False)
class _Coarse:
    """Features (…, x, y, z) on a coarser grid, and where its samples lie."""

    values: Tensor
    places: tuple[Places, Places, Places]

    def slab(self, start: int, stop: int, shape: Sequence[int]) -> Tensor:
        found = self.values
        for axis, (low, high) in enumerate(((start, stop), (0, shape[1]), (0, shape[2]))):
            if self.places[axis] != Places():
                found = spread(found, 1 + axis, self.places[axis], low, high)
            elif axis == 0:
                found = found[:, low:high]
        return found


class FeatureMaps:
    """The features of a volume, slab by slab. image: float32 (C, X, Y, Z).

    What is coarse is computed once and kept on its coarse grid; what is fine anew for every slab, in the memory of a
    few planes, or once where all of it takes no more than `keep_bytes`.
    """

    def __init__(
        self,
        image: Tensor | NDArray[Any],
        spacing_mm: Sequence[float],
        recipe: Recipe,
        *,
        keep_bytes: float = 0.0,
    ) -> None:
        self._image = torch.as_tensor(image)
        self._recipe = recipe
        steps = [mm / min(spacing_mm) for mm in spacing_mm]
        self._parts = [_Part(_sigmas(scale, steps)) for scale in recipe.scales]
        self._parts += [_Part(_sigmas(scale, (1.0, 1.0, 1.0))) for scale in recipe.grid_scales]
        self._parts += [_Part(_sigmas(scale, (1.0, 1.0, 1.0)), texture=True) for scale in recipe.textures]
        self._count = recipe.count(len(self._image))
        self._coarse = [
            {part: part.on_coarse_grid(channel.to(torch.float32)) for part in self._parts if part.is_coarse}
            for channel in self._image
        ]
        shape = self._image.shape[1:]
        self._halo = max((part.reach for part in self._parts if not part.is_coarse), default=0)
        fitting = int(SLAB_BYTES / (4 * self._count * math.prod(shape[1:])))
        self._planes = max(fitting, 2 * self._halo, 1)  # thinner slabs would look at the same planes again and again
        self._whole: Tensor | None = None
        if 4.0 * self._count * math.prod(shape) <= keep_bytes:
            whole = torch.empty((self._count, *shape))
            for start, stop, features in self.slabs():
                whole[:, start:stop] = features
            self._whole = whole

    def slabs(self) -> Iterator[tuple[int, int, Tensor]]:
        """(start, stop, features float32 (F, stop − start, Y, Z)) for one slab of X planes after the other."""
        extent = self._image.shape[1]
        for start in range(0, extent, self._planes):
            stop = min(start + self._planes, extent)
            yield start, stop, self.slab(start, stop)

    def slab(self, start: int, stop: int) -> Tensor:
        """Features of the planes start … stop − 1, float32 (F, stop − start, Y, Z)."""
        return self._slab(start, stop, self._halo) if self._whole is None else self._whole[:, start:stop]

    def at(self, places: NDArray[np.int64]) -> Tensor:
        """Features of some voxels, float32 (N, F). places: their indices in the volume's memory, ascending."""
        plane = math.prod(self._image.shape[2:])
        found = [torch.empty((0, self._count))]
        for start, stop, features in self.slabs():
            first, last = np.searchsorted(places, (start * plane, stop * plane))
            if last > first:
                found.append(features.flatten(1)[:, torch.from_numpy(places[first:last] - start * plane)].T)
        return torch.cat(found)

    def _slab(self, start: int, stop: int, halo: int) -> Tensor:
        shape = self._image.shape[1:]
        low, high = max(0, start - halo), min(shape[0], stop + halo)
        found = torch.empty((self._count, stop - start, *shape[1:]))
        at = 0
        for channel, coarse in zip(self._image, self._coarse, strict=True):
            found[at] = channel[start:stop]
            at += 1
            near = channel[low:high].to(torch.float32)
            for part in self._parts:
                if part.is_coarse:
                    values = coarse[part].slab(start, stop, shape)
                    found[at : at + part.count] = values
                else:
                    for number, value in enumerate(part.of(near, part.sigmas, (0.0, 0.0, 0.0))):
                        found[at + number] = value[start - low : stop - low]
                at += part.count
        return found


@dataclass(frozen=True)
class _Part:
    """The features of one scale or texture. sigmas: in voxels along X, Y, Z, 0 where an axis is not smoothed."""

    sigmas: Sigmas
    texture: bool = False

    @property
    def count(self) -> int:
        return _PER_TEXTURE if self.texture else _PER_SCALE

    @property
    def is_coarse(self) -> bool:
        return max(self.sigmas) >= _COARSE

    @property
    def reach(self) -> int:
        """How many planes of X away a voxel can matter."""
        sigma = self.sigmas[0]
        return radius(sigma) + 2 + (radius(_INNER * sigma) if self.texture else 0)

    def of(self, volume: Tensor, sigmas: Sigmas, have: Sigmas) -> list[Tensor]:
        """The features of a volume that is smoothed by `have` already; both σ in its samples."""
        return _texture(volume, sigmas, have) if self.texture else _at_scale(volume, sigmas, have)

    def on_coarse_grid(self, channel: Tensor) -> _Coarse:
        """As `of`, from as few samples as will do."""
        volume, places = channel, [Places(), Places(), Places()]
        sigmas, have = list(self.sigmas), [0.0, 0.0, 0.0]
        most = [_INNER * sigma if self.texture else sigma for sigma in sigmas]  # smoothing that there may be beforehand
        for axis in range(3):
            while sigmas[axis] >= _COARSE and volume.shape[axis] > 2 * _COARSE and most[axis] >= 1:
                if have[axis] < 1:
                    volume = smoothed(volume, axis, math.sqrt(1 - have[axis] ** 2))
                    have[axis] = 1.0
                places[axis] = places[axis].halved(volume.shape[axis])
                volume = halved(volume, axis)
                sigmas[axis], have[axis], most[axis] = sigmas[axis] / 2, have[axis] / 2, most[axis] / 2
        values = self.of(volume, (sigmas[0], sigmas[1], sigmas[2]), (have[0], have[1], have[2]))
        return _Coarse(torch.stack(values), (places[0], places[1], places[2]))


def _sigmas(scale: float, steps: Sequence[float]) -> Sigmas:
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
