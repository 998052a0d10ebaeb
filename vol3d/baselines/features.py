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

from vol3d.baselines.scale import PER_SCALE, PER_TEXTURE, Part, sigmas_of
from vol3d.volume import Box

SCALES = (0.7, 1.0, 2.0, 4.0, 8.0)
TEXTURES = (1.0, 2.0, 4.0)
_ALIKE = 1.01  # ratio of the voxels' edges up to which they are cubes
SLAB_BYTES = 256e6


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
        return channels * (1 + PER_SCALE * scales + PER_TEXTURE * len(self.textures))


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


class FeatureMaps:
    """The features of a volume, slab by slab. image: float32 (C, X, Y, Z).

    What is coarse is computed once and kept on its coarse grid; what is fine anew for every slab, in the memory of a
    few planes, or once where all of it takes no more than `keep_bytes`. extents: of the volume that the image is a part
    of, as `neighbourhood` cuts it.
    """

    def __init__(
        self,
        image: Tensor | NDArray[Any],
        spacing_mm: Sequence[float],
        recipe: Recipe,
        *,
        keep_bytes: float = 0.0,
        extents: Sequence[int] | None = None,
    ) -> None:
        self._image = torch.as_tensor(image)
        self._parts = _parts(recipe, spacing_mm)
        self._count = recipe.count(len(self._image))
        extents = tuple(self._image.shape[1:]) if extents is None else extents
        self._coarse = [
            {part: part.on_coarse_grid(channel.to(torch.float32), extents) for part in self._parts if part.is_coarse}
            for channel in self._image
        ]
        shape = self._image.shape[1:]
        fine = [part for part in self._parts if not part.is_coarse]
        self._halo = tuple(max((part.around(axis, 0)[0] for part in fine), default=0) for axis in range(3))
        fitting = int(SLAB_BYTES / (4 * self._count * math.prod(shape[1:])))
        self._planes = max(fitting, 2 * self._halo[0], 1)  # thinner slabs would look at the same planes again and again
        self._whole: Tensor | None = None
        if 4.0 * self._count * math.prod(shape) <= keep_bytes:
            whole = torch.empty((self._count, *shape))
            for start, stop, features in self.slabs():
                whole[:, start:stop] = features
            self._whole = whole

    @property
    def thickness(self) -> int:
        """X planes of a slab."""
        return self._planes

    def slabs(self) -> Iterator[tuple[int, int, Tensor]]:
        """(start, stop, features float32 (F, stop − start, Y, Z)) for one slab of X planes after the other."""
        extent = self._image.shape[1]
        for start in range(0, extent, self._planes):
            stop = min(start + self._planes, extent)
            yield start, stop, self.slab(start, stop)

    def slab(self, start: int, stop: int) -> Tensor:
        """Features of the planes start … stop − 1, float32 (F, stop − start, Y, Z)."""
        if self._whole is not None:
            return self._whole[:, start:stop]
        _, y, z = self._image.shape[1:]
        return self.within(Box((start, 0, 0), (stop - start, y, z)))

    def at(self, places: NDArray[np.int64]) -> Tensor:
        """Features of some voxels, float32 (N, F). places: their indices in the volume's memory, ascending."""
        plane = math.prod(self._image.shape[2:])
        found = [torch.empty((0, self._count))]
        for start, stop, features in self.slabs():
            first, last = np.searchsorted(places, (start * plane, stop * plane))
            if last > first:
                found.append(features.flatten(1)[:, torch.from_numpy(places[first:last] - start * plane)].T)
        return torch.cat(found)

    def within(self, box: Box) -> Tensor:
        """Features of the voxels of a box inside the volume, float32 (F, *box.size)."""
        outer = box.grow(self._halo).clip(tuple(self._image.shape[1:]))
        inner = box.shift(tuple(-n for n in outer.start)).slices()
        found = torch.empty((self._count, *box.size))
        at = 0
        for channel, coarse in zip(self._image, self._coarse, strict=True):
            found[at] = channel[box.slices()]
            at += 1
            near = channel[outer.slices()].to(torch.float32)
            for part in self._parts:
                if part.is_coarse:
                    found[at : at + part.count] = coarse[part].within(box)
                else:
                    for number, value in enumerate(part.of(near, part.sigmas, (0.0, 0.0, 0.0))):
                        found[at + number] = value[inner]
                at += part.count
        return found


def coarse_values(recipe: Recipe, spacing_mm: Sequence[float], extents: Sequence[int]) -> float:
    """How many values `FeatureMaps` holds of a channel on coarse grids, per voxel. extents: of the volume."""
    parts = [part for part in _parts(recipe, spacing_mm) if part.is_coarse]
    steps = [[part.around(axis, extent)[1] for axis, extent in enumerate(extents)] for part in parts]
    return sum(part.count / math.prod(step) for part, step in zip(parts, steps, strict=True))


def neighbourhood(box: Box, recipe: Recipe, spacing_mm: Sequence[float], extents: Sequence[int]) -> Box:
    """The part of a volume that the features inside a box depend on; of it `FeatureMaps` can be made.

    extents: of the volume, (X, Y, Z).
    """
    starts, stops = [], []
    for axis, extent in enumerate(extents):
        found = [part.around(axis, extent) for part in _parts(recipe, spacing_mm)]
        reach, step = max(reach for reach, _ in found), max(step for _, step in found)
        starts.append(max(0, (box.start[axis] - reach) // step * step))
        stops.append(min(extent, -(-(box.stop[axis] + reach) // step) * step))
    return Box(tuple(starts), tuple(stop - start for start, stop in zip(starts, stops, strict=True)))


def _parts(recipe: Recipe, spacing_mm: Sequence[float]) -> list[Part]:
    steps = [mm / min(spacing_mm) for mm in spacing_mm]
    return [
        *(Part(sigmas_of(scale, steps)) for scale in recipe.scales),
        *(Part(sigmas_of(scale, (1.0, 1.0, 1.0))) for scale in recipe.grid_scales),
        *(Part(sigmas_of(scale, (1.0, 1.0, 1.0)), texture=True) for scale in recipe.textures),
    ]
