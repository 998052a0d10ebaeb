"""An image with further channels beside it, and a part of an image, as networks take them: nothing is copied for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vol3d.baselines.reduced import Enlarged
from vol3d.inference.forward import Image
from vol3d.transforms.crop import ReadByBox
from vol3d.volume import Box


@dataclass(frozen=True, eq=False)
class WithChannels:
    """An image and, as its further channels, the logarithms of the class probabilities that a classifier gave."""

    image: Image
    logs: Enlarged

    @property
    def ndim(self) -> int:
        """4."""
        return 4

    @property
    def shape(self) -> tuple[int, ...]:
        """(C + K, X, Y, Z)."""
        channels, *size = self.image.shape
        return (channels + self.logs.count, *size)

    def read(self, box: Box) -> NDArray[np.float32]:
        """The voxels of a box inside the volume, (C + K, *box.size)."""
        found = np.empty((self.shape[0], *box.size), dtype=np.float32)
        own = self.image.shape[0]
        found[:own] = read_part(self.image, box)
        found[own:] = self.logs.read(box).numpy()
        return found


@dataclass(frozen=True, eq=False)
class PartOf:
    """A box of an image, as an image of its own."""

    image: ReadByBox
    box: Box

    @property
    def ndim(self) -> int:
        """4."""
        return 4

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *box.size)."""
        return (self.image.shape[0], *self.box.size)

    def read(self, box: Box) -> NDArray[np.float32]:
        """The voxels of a box inside this one, whose first voxel is (0, 0, 0)."""
        return self.image.read(box.shift(self.box.start))


def part_of(image: Image, box: Box) -> Image:
    """A box inside an image; nothing is read, nothing is copied."""
    if isinstance(image, (np.ndarray, Tensor)):
        return image[(slice(None), *box.slices())]
    return PartOf(image, box)


def read_part(image: Image, box: Box) -> NDArray[Any]:
    """The voxels of a box inside an image, (C, *box.size)."""
    if isinstance(image, (np.ndarray, Tensor)):
        part = image[(slice(None), *box.slices())]
        return part.cpu().numpy() if isinstance(part, Tensor) else part
    return image.read(box)
