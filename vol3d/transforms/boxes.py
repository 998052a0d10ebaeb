"""A scan that is read box by box, and prepared as it is read: for scans that are larger than the memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vol3d.transforms.statistics import Scaling
from vol3d.transforms.undo import Undo
from vol3d.volume import Affine, Box, Orientation

Size = tuple[int, int, int]


class BoxSource(Protocol):
    """A stored scan. shape: (X, Y, Z). block: the size of boxes that it is best read in."""

    name: str
    shape: Size
    channels: int
    affine: Affine

    @property
    def block(self) -> Size:
        """A box that is read at no extra cost."""
        ...

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels as stored, (C, *box.size)."""
        ...


@dataclass(frozen=True, eq=False)
class PreparedByBox:
    """What `PreparedImage` is, of a scan whose voxels stay where they are stored.

    scalings: of every channel. steps, seen: every how many voxels of the turned grid were looked at for the statistics,
    and what was seen there, (C, x, y, z) as stored.
    """

    source: BoxSource
    orientation: Orientation
    scalings: list[Scaling]
    affine: Affine
    statistics: list[dict[str, float]]
    steps: tuple[int, ...]
    seen: NDArray[Any]

    @property
    def ndim(self) -> int:
        """4."""
        return 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, X, Y, Z), as the network sees it."""
        x, y, z = (self.source.shape[axis] for axis in self.orientation.order)
        return (self.source.channels, x, y, z)

    @property
    def undo(self) -> Undo:
        """The way back."""
        return Undo(self.source.shape, self.source.affine, self.orientation)

    def without_samples(self) -> PreparedByBox:
        """The same without what was `seen`, which may be as large as the scan."""
        return replace(self, seen=self.seen[:, :0].copy())

    def read(self, box: Box) -> NDArray[np.float32]:
        """The prepared voxels of a box inside the volume, float32 (C, *box.size)."""
        stored = self.orientation.apply(self.source.read(stored_box(box, self.orientation, self.source.shape)))
        found = np.empty(stored.shape, dtype=np.float32)
        for channel, scaling, values in zip(stored, self.scalings, found, strict=True):
            values[...] = scaling.apply(channel)
        return found


def stored_box(box: Box, orientation: Orientation, shape: Size) -> Box:
    """Where a box of the turned grid lies in the stored one, whose shape is `shape`."""
    start, size = [0, 0, 0], [0, 0, 0]
    for turned, (stored, flip) in enumerate(zip(orientation.order, orientation.flips, strict=True)):
        size[stored] = box.size[turned]
        start[stored] = shape[stored] - box.stop[turned] if flip else box.start[turned]
    return Box(tuple(start), tuple(size))


def strided(source: BoxSource, orientation: Orientation, steps: Sequence[int]) -> NDArray[Any]:
    """Every n-th voxel of the turned grid, (C, x, y, z) as stored; read in the source's own blocks."""
    own = [0, 0, 0]  # steps along the stored axes, and the first voxel there
    first = [0, 0, 0]
    for turned, (stored, flip) in enumerate(zip(orientation.order, orientation.flips, strict=True)):
        own[stored] = steps[turned]
        first[stored] = (source.shape[stored] - 1) % steps[turned] if flip else 0
    found: NDArray[Any] | None = None
    counts = [len(range(a, n, s)) for a, n, s in zip(first, source.shape, own, strict=True)]
    for box in _blocks(source.shape, source.block):
        wanted = [_within(a, s, low, high) for a, s, low, high in zip(first, own, box.start, box.stop, strict=True)]
        if any(len(part) == 0 for part in wanted):
            continue
        block = source.read(box)
        if found is None:
            found = np.empty((len(block), *counts), dtype=block.dtype)
        there = tuple(
            slice((part[0] - a) // s, (part[-1] - a) // s + 1) for part, a, s in zip(wanted, first, own, strict=True)
        )
        here = tuple(
            slice(part[0] - low, part[-1] - low + 1, s) for part, low, s in zip(wanted, box.start, own, strict=True)
        )
        found[(slice(None), *there)] = block[(slice(None), *here)]
    if found is None:
        raise AssertionError("a scan has voxels")
    return orientation.apply(found)


def _within(first: int, step: int, low: int, high: int) -> range:
    """Those of first, first + step, … that are in low … high − 1."""
    begin = first if low <= first else first + -(-(low - first) // step) * step
    return range(begin, high, step)


def _blocks(shape: Size, size: Size) -> Iterator[Box]:
    starts = (range(0, n, step) for n, step in zip(shape, size, strict=True))
    for start in itertools.product(*starts):
        yield Box(start, size).clip(shape)
