"""A scan on a coarser grid, and what is said there on the grid it came from: for scans of very many voxels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.baselines.pyramid import Places, spread_within
from vol3d.volume import Affine, Box, Slab, SparseLabels

Factors = tuple[int, int, int]
Size = tuple[int, int, int]
_PLANES = 16  # that are worked on at a time, fewer where that would be more values or voxels
_SLAB_VALUES, _PART_VOXELS = 2**24, 2**22
_READ_BYTES = 3e7  # of an image, at once, to make a coarser grid of


class ReadValues(Protocol):
    """Values (C, X, Y, Z) that are read box by box."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, X, Y, Z)."""
        ...

    def read(self, box: Box) -> NDArray[np.float32]:
        """Those of a box inside the volume, (C, *box.size)."""
        ...


@dataclass(frozen=True, eq=False)
class Enlarged:
    """Values on a coarser grid as if they were on the fine one: interpolated linearly when they are read.

    values: float32 (C, x, y, z), in memory or read box by box. factors: voxels of the fine grid to one of the coarse
    one, along X, Y, Z; where all are 1 the values are handed on as they are. shape: of the fine grid. The last coarse
    voxel of an axis is taken to lie where it would if it stood for as many voxels as the others.
    """

    values: Tensor | ReadValues
    factors: Factors
    shape: Size

    @property
    def count(self) -> int:
        """C."""
        return int(self.values.shape[0])

    def read(self, box: Box) -> Tensor:
        """The values of a box inside the fine volume, float32 (C, *box.size)."""
        if self.factors == (1, 1, 1):
            return self._coarse(box)
        places = [Places((factor - 1) / 2, factor) for factor in self.factors]
        needed = [
            place.around(first, stop, samples)
            for place, first, stop, samples in zip(places, box.start, box.stop, self.values.shape[1:], strict=True)
        ]
        found = self._coarse(Box(tuple(low for low, _ in needed), tuple(stop - low for low, stop in needed)))
        return spread_within(found, [place.since(low) for place, (low, _) in zip(places, needed, strict=True)], box)

    def at(self, mask: NDArray[np.bool_]) -> Tensor:
        """The values where `mask` (X, Y, Z) is True, in the order of its voxels in memory, float32 (C, N)."""
        found = torch.empty((self.count, int(mask.sum())))
        for first, values in self._parts_at(mask):
            found[:, first : first + values.shape[1]] = values
        return found

    def largest_at(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Which of the C values is the largest where `mask` is True, (N,) as in `at`."""
        parts = [values.numpy().argmax(axis=0) for _, values in self._parts_at(mask)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _parts_at(self, mask: NDArray[np.bool_]) -> Iterator[tuple[int, Tensor]]:
        """(how many came before, values (C, n)), some planes at a time."""
        index = np.flatnonzero(mask)
        plane, (_, y, z) = self.shape[1] * self.shape[2], self.shape
        for start in range(0, self.shape[0], _PLANES):
            first, last = np.searchsorted(index, (start * plane, (start + _PLANES) * plane))
            if last > first:
                here = np.stack(np.unravel_index(index[first:last], self.shape))
                low, high = here.min(axis=1), here.max(axis=1) + 1
                box = Box(tuple(int(n) for n in low), tuple(int(n) for n in high - low)).clip((start + _PLANES, y, z))
                a, b, c = torch.from_numpy(here - low[:, None])
                yield int(first), self.read(box)[:, a, b, c]

    def slabs(self) -> Iterator[Slab]:
        """All values, a few planes of X at a time."""
        extent, y, z = self.shape
        planes = max(1, min(_PLANES, _SLAB_VALUES // (self.count * y * z)))
        for start in range(0, extent, planes):
            yield Slab(start, self.read(Box((start, 0, 0), (min(planes, extent - start), y, z))).numpy())

    def _coarse(self, box: Box) -> Tensor:
        if isinstance(self.values, Tensor):
            return self.values[(slice(None), *box.slices())]
        return torch.from_numpy(self.values.read(box))


def reduced_shape(shape: Sequence[int], factors: Factors) -> Size:
    """How many voxels the coarse grid has; the last ones may stand for fewer of the fine grid than the others."""
    x, y, z = (-(-n // factor) for n, factor in zip(shape, factors, strict=True))
    return (x, y, z)


def reduced_spacing(spacing_mm: Sequence[float], factors: Factors) -> tuple[float, float, float]:
    """The edges of the coarse grid's voxels."""
    x, y, z = (mm * factor for mm, factor in zip(spacing_mm, factors, strict=True))
    return (x, y, z)


def fine_box(box: Box, factors: Factors, shape: Sequence[int]) -> Box:
    """The voxels of the fine grid, whose shape is `shape`, that the voxels of a box of the coarse one stand for."""
    start = tuple(a * factor for a, factor in zip(box.start, factors, strict=True))
    size = tuple(n * factor for n, factor in zip(box.size, factors, strict=True))
    return Box(start, size).clip(tuple(shape))


def reduced_image(image: Tensor, factors: Factors) -> Tensor:
    """Means over the voxels that a voxel of the coarse grid stands for, float32 (C, x, y, z); image: (C, X, Y, Z)."""
    if factors == (1, 1, 1):
        return image
    window = tuple(min(n, factor) for n, factor in zip(image.shape[1:], factors, strict=True))
    means = [
        torch.nn.functional.avg_pool3d(
            channel[None].to(torch.float32), window, factors, ceil_mode=True, count_include_pad=False
        )
        for channel in image
    ]
    return torch.cat(means)


def read_reduced(image: ReadValues, factors: Factors) -> Callable[[Box], NDArray[np.float32]]:
    """Reads boxes of the coarse grid of an image that is read box by box itself, a few planes at a time."""
    if factors == (1, 1, 1):
        return image.read
    channels, *extents = image.shape

    def read(box: Box) -> NDArray[np.float32]:
        found = np.empty((channels, *box.size), dtype=np.float32)
        planes = max(1, int(_READ_BYTES / (4.0 * channels * math.prod(factors) * math.prod(box.size[1:]))))
        for start in range(0, box.size[0], planes):
            part = Box((start, 0, 0), (planes, *box.size[1:])).clip(box.size)
            fine = torch.from_numpy(image.read(fine_box(part.shift(box.start), factors, extents)))
            found[(slice(None), *part.slices())] = reduced_image(fine, factors).numpy()
        return found

    return read


def reduced_mask(mask: NDArray[np.bool_], factors: Factors) -> NDArray[np.bool_]:
    """Where a voxel of the coarse grid stands for any that is True."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], factor), axis=axis)
    return mask


def reduced_labels(labels: SparseLabels, factors: Factors, classes: int) -> SparseLabels:
    """For every voxel of the coarse grid the class of most of the labeled voxels that it stands for, and their weight.

    Voxels count by their weight. Of classes that are as frequent as each other the last is taken. A class that is
    nowhere the most frequent gets the voxels that hold any of it, but for the last one of another class: none is lost.
    Voxels that are only known to be of one of several classes are left out. classes: how many there are.
    """
    if factors == (1, 1, 1):
        return labels
    known = reduced_mask(labels.labeled, factors)
    totals = np.zeros(classes)
    found = np.zeros(known.shape, labels.classes.dtype)
    planes = max(1, min(_PLANES, _PART_VOXELS // math.prod((factors[0], *labels.shape[1:]))))
    for first in range(0, len(found), planes):
        part = slice(first * factors[0], (first + planes) * factors[0])
        own = found[first : first + planes]
        at = np.nonzero(labels.labeled[part])
        coarse = np.ravel_multi_index(tuple(n // factor for n, factor in zip(at, factors, strict=True)), own.shape)
        keys, place = np.unique(coarse * np.int64(classes) + labels.classes[part][at], return_inverse=True)
        weights = None if labels.weight is None else labels.weight[part][at]
        counts = np.bincount(place, weights, minlength=len(keys))
        totals += np.bincount(labels.classes[part][at], weights, minlength=classes)
        order = np.lexsort((counts, keys // classes))  # the last one that is written to a voxel is the most frequent
        own.reshape(-1)[keys[order] // classes] = keys[order] % classes
    _keep_every_class(found, known, labels, factors, totals)
    weight = None
    if labels.weight is not None:
        total = _sums(labels.labeled * labels.weight, factors)
        weight = (total / np.maximum(_sums(labels.labeled.astype(np.float32), factors), 1)).astype(np.float32)
    middle = np.diag([*(float(factor) for factor in factors), 1.0])
    middle[:3, 3] = [(factor - 1) / 2 for factor in factors]
    return SparseLabels(found, known, Affine(labels.affine.matrix @ middle), labels.name, weight)


def _keep_every_class(
    found: NDArray[np.integer],
    known: NDArray[np.bool_],
    labels: SparseLabels,
    factors: Factors,
    totals: NDArray[np.float64],
) -> None:
    """Give classes that no voxel of the coarse grid has those that hold any of them, the rarest last; in place.

    totals: how much of each class is labeled.
    """
    counts = np.bincount(found[known], minlength=len(totals))
    lost = [index for index in np.argsort(-totals) if totals[index] > 0 and not counts[index]]
    for index in lost:
        held = labels.labeled & (labels.classes == index)
        if labels.weight is not None:
            held &= labels.weight > 0
        for place in map(tuple, np.argwhere(reduced_mask(held, factors))):
            if counts[found[place]] > 1:
                counts[found[place]] -= 1
                found[place] = index
                counts[index] += 1


def _sums(values: NDArray[np.float32], factors: Factors) -> NDArray[np.float32]:
    for axis, factor in enumerate(factors):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], factor), axis=axis)
    return values
