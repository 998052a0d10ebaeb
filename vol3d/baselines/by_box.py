"""A pixel classifier's answers one box of a volume at a time, for volumes that are larger than the memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
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
PIECE_BYTES = 64e6  # of the features that are held at once
_PIECES = 5  # times that: what is joined of them, and what they are made of
_TEMPORARIES = 4  # volumes of the size of a neighbourhood, while coarse grids are made


@dataclass(frozen=True, eq=False)
class ByBox:
    """A classifier and the volume it is asked about.

    shape: (X, Y, Z). spacing_mm: along X, Y, Z. image: reads a box inside the volume, float32 (C, *box.size).
    piece_bytes: what features may take; the less, the more of them are computed twice. The answers are those of
    `classify` but for rounding.
    """

    classifier: PixelClassifier
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    image: Read
    piece_bytes: float = PIECE_BYTES

    @property
    def told(self) -> int:
        """How many class probabilities `first` gives, and `second` wants of it."""
        return told_of(self.classifier.classes)

    def first(self, box: Box) -> Tensor:
        """What the first stage says, float32 (told, *box.size): the probabilities of all classes but the last."""
        features = self._features(self.image, self.classifier.recipe, box)
        return _answers(self.classifier.first, [features], self._pieces(box, self.classifier.first))[: self.told]

    def second(self, box: Box, first: Read) -> Tensor:
        """Class probabilities, float32 (K, *box.size). first: reads what `first` gave."""
        features = self._features(self.image, self.classifier.recipe, box)
        both = [features, self._features(first, self.classifier.context, box)]
        found = _answers(self.classifier.second, both, self._pieces(box, self.classifier.second))
        return self.classifier.settled(found)

    def bytes_of(self, box: Box) -> float:
        """Memory that either stage takes for a box, about."""
        held = 8.0 * self.classifier.classes * box.voxels + _PIECES * self.piece_bytes
        looks = ((self.classifier.recipe, self.classifier.channels), (self.classifier.context, self.told))
        for recipe, channels in looks:
            values = channels * (1 + coarse_values(recipe, self.spacing_mm, self.shape)) + _TEMPORARIES
            held += 4.0 * values * neighbourhood(box, recipe, self.spacing_mm, self.shape).voxels
        return held

    def looked_at(self, box: Box) -> int:
        """Voxels that both stages read for a box, in it and around it."""
        recipes = (self.classifier.recipe, self.classifier.context)
        return sum(neighbourhood(box, recipe, self.spacing_mm, self.shape).voxels for recipe in recipes)

    def _pieces(self, box: Box, perceptrons: Perceptrons) -> list[Box]:
        """A box in nearly equal pieces, nearly cubes."""
        side = (self.piece_bytes / (4 * len(perceptrons.mean))) ** (1 / 3)
        steps = [math.ceil(n / math.ceil(n / side)) for n in box.size]
        starts = (range(a, b, step) for a, b, step in zip(box.start, box.stop, steps, strict=True))
        return [Box(start, tuple(steps)).clip(box.stop) for start in itertools.product(*starts)]

    def _features(self, read: Read, recipe: Recipe, box: Box) -> Callable[[Box], Tensor]:
        """Features in boxes inside `box`."""
        outer = neighbourhood(box, recipe, self.spacing_mm, self.shape)
        maps = FeatureMaps(read(outer), self.spacing_mm, recipe, extents=self.shape)
        back = tuple(-n for n in outer.start)
        return lambda part: maps.within(part.shift(back))


def _answers(perceptrons: Perceptrons, features: Sequence[Callable[[Box], Tensor]], pieces: Sequence[Box]) -> Tensor:
    """Class probabilities in the box that the pieces make up, in order, float32 (K, …)."""
    start, stop = pieces[0].start, pieces[-1].stop
    found = torch.empty((perceptrons.classes, *(b - a for a, b in zip(start, stop, strict=True))))
    for piece in pieces:
        columns = torch.cat([part(piece) for part in features]).flatten(1)
        inside = piece.shift(tuple(-n for n in start)).slices()
        found[(slice(None), *inside)] = perceptrons.answer(columns).view(-1, *piece.size)
    return found
