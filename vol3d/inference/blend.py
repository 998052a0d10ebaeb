"""Weighted averaging of tiles into slabs, with buffers only as thick as a tile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.inference.budget import SLAB_PLANES, Sizes
from vol3d.volume import Box, Slab

_FAINTEST = 1e-3


def profile(size: int, blended: bool) -> NDArray[np.float64]:
    """Weights along one axis of a tile, float64 (size,): a Gaussian of σ = size/8 around the middle, at most 1.

    Never below 1e-3, so that a corner that one tile alone covers keeps its precision. All 1 where not blended.
    """
    if not blended:
        return np.ones(size)
    distance = (np.arange(size) - (size - 1) / 2) / (size / 8)
    return np.maximum(np.exp(-0.5 * distance**2), _FAINTEST)


def weights(size: Sizes, blended: tuple[bool, bool, bool], dtype: torch.dtype) -> Tensor:
    """Weights of a tile, (X, Y, Z): the product of its profiles."""
    x, y, z = (torch.from_numpy(profile(n, b)) for n, b in zip(size, blended, strict=True))
    return (x[:, None, None] * y[:, None] * z).to(dtype)


def most_probable(values: Tensor) -> Tensor:
    """The class of the largest value, the first of equal ones: (K, X, Y, Z) → int64 (X, Y, Z).

    `argmax` says the same, and takes twelve times as long where a class's voxels lie side by side (PyTorch 2.13, CPU).
    """
    return values.max(dim=0).indices


class Canvas:
    """The planes of a volume that tiles still add to: weighted means so far, in a ring of `thickness` planes.

    classes: channels. shape: of the volume, (X, Y, Z). start: the first plane that is wanted. dtype: of the values.
    """

    def __init__(self, classes: int, thickness: int, shape: Sizes, start: int, dtype: torch.dtype) -> None:
        self.next_plane = start
        self._means = torch.zeros((classes, thickness, *shape[1:]), dtype=dtype)
        self._weights = torch.zeros((thickness, *shape[1:]), dtype=dtype)

    def add(self, box: Box, values: Tensor, weight: Tensor | None) -> None:
        """Take a tile's answer into the means; planes that were handed on already must not be in it.

        box: inside the volume, within `thickness` planes of the next plane. values: (K, *box.size) on the CPU.
        weight: (*box.size), None for 1. The mean moves towards the new values by their share of the weight so far, so
        that it stays where it is, to the last bit, where tiles agree.
        """
        ring = self._weights.shape[0]
        (_, y, z), done = box.slices(), 0
        while done < box.size[0]:
            at = (box.start[0] + done) % ring
            run = min(box.size[0] - done, ring - at)
            here, there = slice(at, at + run), slice(done, done + run)
            total = self._weights[here, y, z]
            share = torch.ones_like(total) if weight is None else weight[there]
            total.add_(share)
            self._means[:, here, y, z].lerp_(values[:, there], share / total)
            done += run

    def finish(self, stop: int) -> Iterator[Slab]:
        """Hand on the means of all planes before `stop` that were not handed on yet; 0 where no tile answered."""
        ring = self._weights.shape[0]
        while self.next_plane < stop:
            at = self.next_plane % ring
            run = min(SLAB_PLANES, stop - self.next_plane, ring - at)
            means = self._means[:, at : at + run]
            slab = Slab(self.next_plane, means.numpy().copy())
            means.zero_()
            self._weights[at : at + run].zero_()
            self.next_plane += run
            yield slab


class IndexCanvas:
    """As `Canvas`, for tiles that lie side by side: of every voxel the most probable class is kept, two bytes."""

    def __init__(self, thickness: int, shape: Sizes, start: int) -> None:
        self.next_plane = start
        self._indices = torch.zeros((thickness, *shape[1:]), dtype=torch.int16)

    def add(self, box: Box, values: Tensor, weight: Tensor | None) -> None:
        """Take a tile's answer; box, values: as those of `Canvas`. weight: None."""
        if weight is not None:
            raise AssertionError("indices are not blended")
        ring = len(self._indices)
        _, y, z = box.slices()
        places = torch.arange(box.start[0], box.start[0] + box.size[0]) % ring
        self._indices[places, y, z] = most_probable(values).to(torch.int16)

    def finish(self, stop: int) -> Iterator[Slab]:
        """Hand on the indices of all planes before `stop` that were not handed on yet, (1, x, Y, Z)."""
        ring = len(self._indices)
        while self.next_plane < stop:
            at = self.next_plane % ring
            run = min(SLAB_PLANES, stop - self.next_plane, ring - at)
            slab = Slab(self.next_plane, self._indices[None, at : at + run].numpy().copy())
            self._indices[at : at + run].zero_()
            self.next_plane += run
            yield slab
