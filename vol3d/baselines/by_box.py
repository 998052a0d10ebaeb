"""A pixel classifier's answers one box of a volume at a time, for volumes that are larger than the memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.baselines.features import FeatureMaps, Recipe, coarse_values, neighbourhood
from vol3d.baselines.perceptrons import Perceptrons
from vol3d.baselines.pixel_classifier import PixelClassifier, told_of
from vol3d.volume import Box

Read = Callable[[Box], NDArray[Any]]
_PIECE_BYTES = 64e6  # of the features that are held at once
_PIECES = 5  # times that: what is joined of them, and what they are made of
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
        return told_of(self.classifier.classes)

    def first(self, box: Box) -> Tensor:
        """What the first stage says, float32 (told, *box.size): the probabilities of all classes but the last."""
        features = self._features(self.image, self.classifier.recipe, box)
        return _answers(self.classifier.first, [features], box)[: self.told]

    def second(self, box: Box, first: Read) -> Tensor:
        """Class probabilities, float32 (K, *box.size). first: reads what `first` gave."""
        features = self._features(self.image, self.classifier.recipe, box)
        return _answers(self.classifier.second, [features, self._features(first, self.classifier.context, box)], box)

    def bytes_of(self, box: Box) -> float:
        """Memory that either stage takes for a box, about."""
        held = 8.0 * self.classifier.classes * box.voxels + _PIECES * _PIECE_BYTES
        looks = ((self.classifier.recipe, self.classifier.channels), (self.classifier.context, self.told))
        for recipe, channels in looks:
            values = channels * (1 + coarse_values(recipe, self.spacing_mm, self.shape)) + _TEMPORARIES
            held += 4.0 * values * neighbourhood(box, recipe, self.spacing_mm, self.shape).voxels
        return held

    def _features(self, read: Read, recipe: Recipe, box: Box) -> Callable[[Box], Tensor]:
        """Features in boxes inside `box`."""
        outer = neighbourhood(box, recipe, self.spacing_mm, self.shape)
        maps = FeatureMaps(read(outer), self.spacing_mm, recipe, extents=self.shape)
        back = tuple(-n for n in outer.start)
        return lambda part: maps.within(part.shift(back))


def _answers(perceptrons: Perceptrons, features: Sequence[Callable[[Box], Tensor]], box: Box) -> Tensor:
    """Class probabilities in a box, float32 (K, *box.size); piece by piece, so that features take little memory."""
    found = torch.empty((perceptrons.classes, *box.size))
    for piece in _pieces(box, len(perceptrons.mean)):
        columns = torch.cat([part(piece) for part in features]).flatten(1)
        inside = piece.shift(tuple(-n for n in box.start)).slices()
        found[(slice(None), *inside)] = perceptrons.answer(columns).view(-1, *piece.size)
    return found


def _pieces(box: Box, count: int) -> Iterator[Box]:
    """A box in nearly equal pieces, nearly cubes, for `count` features of every voxel."""
    side = (_PIECE_BYTES / (4 * count)) ** (1 / 3)
    steps = [math.ceil(n / math.ceil(n / side)) for n in box.size]
    starts = (range(a, b, step) for a, b, step in zip(box.start, box.stop, steps, strict=True))
    for start in itertools.product(*starts):
        stop = (min(a + step, b) for a, step, b in zip(start, steps, box.stop, strict=True))
        yield Box(start, tuple(b - a for a, b in zip(start, stop, strict=True)))
