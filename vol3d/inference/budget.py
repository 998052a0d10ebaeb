"""How much memory a tile may take, and the best tile within it. No torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import ResourceError
from vol3d.inference.axes import Axis

Sizes = tuple[int, int, int]
Axes = tuple[Axis, Axis, Axis]
SLAB_PLANES = 16  # finished planes are handed on at most this many at a time
_FLOAT, _INDEX = 4, 2
_LITTLE = 5e8  # bytes that are not worth saving
_COPIES = 2  # of a tile's answer: logits and probabilities


@dataclass(frozen=True)
class Budget:
    """Memory allowed, and what a tile takes of it.

    memory_bytes: for everything, or for the device alone where `host_memory_bytes` says what the buffers of unfinished
    planes may take beside it. bytes_per_voxel: peak of the network per input voxel. classes: K. most_voxels: largest
    input of a tile; the default keeps maps of 128 channels below 2³¹ values, the limit of many GPU kernels. indices:
    whether unfinished planes are kept as class indices instead of values of every class. thrift: share of further work
    that a tile may cost if it takes less memory, see `cheapest`.
    """

    memory_bytes: float
    bytes_per_voxel: float
    classes: int
    host_memory_bytes: float | None = None
    most_voxels: float = 2**24
    indices: bool = False
    thrift: float = 0.0

    def demands(self, tile: Sequence[Any], axes: Axes) -> list[tuple[Any, float, str]]:
        """What tiles of `tile` take, what is allowed, and of what; sizes may be arrays of one shape."""
        x, y, z = (np.asarray(size, dtype=np.float64) for size in tile)
        answered = [size - axis.margin for size, axis in zip((x, y, z), axes, strict=True)]
        values = self.classes * answered[0] * answered[1] * answered[2]
        network = self.bytes_per_voxel * x * y * z + _COPIES * _FLOAT * values
        buffers = self.buffer_bytes(answered[0], axes)
        voxels = (x * y * z, self.most_voxels, "voxels")
        if self.host_memory_bytes is None:
            return [(network + buffers, self.memory_bytes, "bytes of memory"), voxels]
        host = (buffers, self.host_memory_bytes, "bytes of host memory")
        return [(network, self.memory_bytes, "bytes of memory"), host, voxels]

    def buffer_bytes(self, planes: Any, axes: Axes) -> Any:  # noqa: ANN401  numbers or arrays
        """Memory for unfinished planes (sums and weights) and for the slab that is handed on."""
        length, plane = axes[0].length, axes[1].length * axes[2].length
        held, handed = np.minimum(planes, length), min(SLAB_PLANES, length)
        if self.indices:
            return _INDEX * plane * (held + handed)
        return _FLOAT * plane * (held * (self.classes + 1) + handed * self.classes)

    def fits(self, tile: Sequence[Any], axes: Axes) -> Any:  # noqa: ANN401  bool or an array of them
        """Whether tiles of `tile` keep within every limit."""
        return functools.reduce(np.logical_and, [taken <= allowed for taken, allowed, _ in self.demands(tile, axes)])

    def require(self, tile: Sizes, axes: Axes, which: str) -> None:
        """Raise `ResourceError` unless the tile fits."""
        for taken, allowed, what in self.demands(tile, axes):
            if taken > allowed:
                raise ResourceError(
                    f"{which}, {'×'.join(map(str, tile))} voxels, needs {_human(float(taken), what)}; "
                    f"{_human(allowed, what)} are allowed. Allow more, or take a smaller tile or network."
                )


def cheapest(axes: Axes, budget: Budget, least: Sizes = (1, 1, 1)) -> Sizes:
    """The tile with which the fewest voxels go through the network, all tiles together; of equals the fewest tiles.

    With `budget.thrift`, where that takes more than half a gigabyte and all axes have a margin, the one that takes the
    least memory of those that cost so little more. least: no smaller ones are taken. Raises `ResourceError` where not
    even the smallest tile fits.
    """
    frontiers = [_frontier(axis, size) for axis, size in zip(axes, least, strict=True)]
    budget.require(_sizes([f[0, 0] for f in frontiers]), axes, "the smallest tile")
    grids = np.meshgrid(*(np.arange(len(f)) for f in frontiers), indexing="ij", sparse=True)
    size, cost, count = ([f[i, column] for f, i in zip(frontiers, grids, strict=True)] for column in range(3))
    through = np.where(budget.fits(size, axes), cost[0] * cost[1] * cost[2], np.inf)
    tiles = count[0] * count[1] * count[2]
    best = _least(through, tiles)
    memory = budget.demands(size, axes)[0][0]
    if budget.thrift and memory[best] > _LITTLE and all(axis.margin for axis in axes):  # else small tiles cost nothing
        affordable = through <= (1.0 + budget.thrift) * through.min()
        best = _least(np.where(affordable, np.maximum(memory, _LITTLE), np.inf), through, tiles)
    return _sizes([f[i, 0] for f, i in zip(frontiers, best, strict=True)])


def largest(wanted: Sizes, axes: Axes, budget: Budget) -> Sizes:
    """`wanted` if it fits, else shrunk: first along axes that are not blended, then along the longest one.

    For blended tiles of a size that somebody wants. Raises `ResourceError` where not even the smallest fits.
    """
    least = _sizes([axis.sizes()[0] for axis in axes])
    budget.require(least, axes, "the smallest tile")
    tile = wanted
    while not budget.fits(tile, axes):
        shrinkable = [a for a in range(3) if tile[a] > least[a]]
        at = max(shrinkable, key=lambda a: (axes[a].overlap is None, tile[a]))
        share = (budget.memory_bytes / 2) if budget.host_memory_bytes is None else budget.host_memory_bytes
        if tile[0] > least[0] and budget.buffer_bytes(tile[0], axes) > share:
            at = 0  # only thinner slabs help
        tile = _sizes([n - axes[a].stride * (a == at) for a, n in enumerate(tile)])
    return tile


def _least(*values: NDArray[Any]) -> tuple[Any, ...]:
    """Where the first of `values`, arrays of one shape, is least; of equals where the next one is."""
    order = np.lexsort([one.ravel() for one in reversed(values)])
    return np.unravel_index(int(order[0]), values[0].shape)


def _frontier(axis: Axis, least: int) -> NDArray[np.int64]:
    """Sizes worth trying along one axis, from `least` on: larger ones where they cost less, or as much in fewer tiles.

    Rows: size, voxels through the network along the axis, number of tiles.
    """
    rows: list[tuple[int, int, int]] = []
    for size in (n for n in axis.sizes() if n >= least):
        spans = axis.spans(size)
        cost, count = sum(span.size for span in spans), len(spans)
        if not rows or (cost, count) < rows[-1][1:]:
            rows.append((size, cost, count))
    return np.array(rows, dtype=np.int64)


def _sizes(values: Sequence[int]) -> Sizes:
    x, y, z = (int(value) for value in values)
    return (x, y, z)


def _human(count: float, what: str) -> str:
    return f"{count:.0f} {what}" if what == "voxels" else f"{count / 1e9:.3g} GB{what.removeprefix('bytes')}"
