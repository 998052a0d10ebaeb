"""A pixel classifier's answers one box of a volume at a time, for volumes that are larger than the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.baselines.features import FeatureMaps, Recipe, neighbourhood
from vol3d.baselines.pixel_classifier import PixelClassifier
from vol3d.volume import Box

Read = Callable[[Box], NDArray[Any]]
_SLAB_BYTES = 64e6  # of the features that are held at once
_TEMPORARIES = 4  # volumes of the size of a neighbourhood, while coarse grids are made


@dataclass(frozen=True, eq=False)
class ByBox:
    """A classifier and the volume it is asked about.

    shape: (X, Y, Z). spacing_mm: along X, Y, Z. image: reads a box inside the volume, float32 (C, *box.size). The
    answers are those of `classify` but for rounding.
    """

    classifier: PixelClassifier
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    image: Read

    @property
    def told(self) -> int:
        """How many class probabilities `first` gives, and `second` wants of it."""
        return max(1, self.classifier.classes - 1)

    def first(self, box: Box) -> Tensor:
        """What the first stage says, float32 (told, *box.size): the probabilities of all classes but the last."""
        found = torch.empty((self.told, *box.size))
        recipe = self.classifier.recipe
        near = self._features(self.image, recipe, box)
        for part in _slabs(box, recipe.count(self.classifier.channels)):
            said = self.classifier.first.answer(near(part).flatten(1))[: self.told]
            found[:, part.start[0] - box.start[0] : part.stop[0] - box.start[0]] = said.view(-1, *part.size)
        return found

    def second(self, box: Box, first: Read) -> Tensor:
        """Class probabilities, float32 (K, *box.size). first: reads what `first` gave."""
        found = torch.empty((self.classifier.classes, *box.size))
        recipe, context = self.classifier.recipe, self.classifier.context
        near, around = self._features(self.image, recipe, box), self._features(first, context, box)
        for part in _slabs(box, recipe.count(self.classifier.channels) + context.count(self.told)):
            said = self.classifier.second.answer(torch.cat([near(part), around(part)]).flatten(1))
            found[:, part.start[0] - box.start[0] : part.stop[0] - box.start[0]] = said.view(-1, *part.size)
        return found

    def bytes_of(self, box: Box) -> float:
        """Memory that either stage takes for a box, about."""
        held = 4.0 * (self.classifier.classes + self.told) * box.voxels + 3 * _SLAB_BYTES
        for recipe, channels in (
            (self.classifier.recipe, self.classifier.channels),
            (self.classifier.context, self.told),
        ):
            outer = neighbourhood(box, recipe, self.spacing_mm, self.shape)
            held += 4.0 * (channels + _TEMPORARIES) * outer.voxels
        return held

    def looked_at(self, box: Box) -> int:
        """How many voxels there are in a box and around it that its answers depend on."""
        return neighbourhood(box, self.classifier.recipe, self.spacing_mm, self.shape).voxels

    def _features(self, read: Read, recipe: Recipe, box: Box) -> Callable[[Box], Tensor]:
        """Features in boxes inside `box`."""
        outer = neighbourhood(box, recipe, self.spacing_mm, self.shape)
        maps = FeatureMaps(read(outer), self.spacing_mm, recipe, extents=self.shape)
        back = tuple(-n for n in outer.start)
        return lambda part: maps.within(part.shift(back))


def _slabs(box: Box, count: int) -> Iterator[Box]:
    """A box cut across X, so that `count` features of every voxel of one part take little memory."""
    thickness = max(1, int(_SLAB_BYTES / (4 * count * math.prod(box.size[1:]))))
    for start in range(box.start[0], box.stop[0], thickness):
        size = (min(thickness, box.stop[0] - start), *box.size[1:])
        yield Box((start, *box.start[1:]), size)
