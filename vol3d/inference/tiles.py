"""The overlap-tile plan (Ronneberger et al. 2015): boxes that are read, and what their answers are right for.

Valid networks: outputs lie side by side and begin at multiples of the total stride, so that the stitched answer equals
one pass over the mirrored whole. Same-padded networks, whose answer fades towards a tile's border, overlap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from vol3d.errors import ModelError, ResourceError
from vol3d.inference.budget import Axes, Budget, Sizes, cheapest, largest
from vol3d.volume import Box

_NO_FLIP = (False, False, False)


class TiledNetwork(Protocol):
    """What tiling must know of a network: sizes in voxels along its two or three axes."""

    @property
    def margin(self) -> tuple[int, ...]:
        """Input − output."""
        ...

    @property
    def classes(self) -> int:
        """Channels of the output."""
        ...

    @property
    def total_stride(self) -> tuple[int, ...]:
        """Product of all pooling sizes."""
        ...

    def input_size(self, output_at_least: Sequence[int]) -> tuple[int, ...]:
        """The smallest valid input whose output has at least this size."""
        ...


@dataclass(frozen=True)
class Tile:
    """One pass of the network.

    input: the box it reads; it may leave the volume, which is mirrored there. output: the part of its answer that is
    used, inside the volume. flips: axes along which the input is reversed before the pass and the answer after it.
    """

    input: Box
    output: Box
    flips: tuple[bool, bool, bool] = _NO_FLIP

    def reflected(self, flips: tuple[bool, bool, bool], shape: Sizes) -> Tile:
        """The same tile of the volume reversed along `flips`, in coordinates of the volume as it is."""
        return Tile(_reflected(self.input, flips, shape), _reflected(self.output, flips, shape), flips)


@dataclass(frozen=True)
class TilePlan:
    """Tiles that cover a volume, in the order in which its planes across X get finished.

    axes, budget: what it was planned from. size: the input of the largest tile, (X, Y, Z). seen: the axes that the
    network sees, ascending; across the axis that a 2-D network does not see, the planes of a tile are a batch.
    flip_axes: axes whose flips are averaged.
    """

    axes: Axes
    budget: Budget
    size: Sizes
    seen: tuple[int, ...]
    flip_axes: tuple[int, ...] = ()

    @property
    def dimensions(self) -> int:
        """Of the network."""
        return len(self.seen)

    @property
    def planes(self) -> int | None:
        """The axis across which a 2-D network goes slice by slice; None for a 3-D network."""
        return next((axis for axis in range(3) if axis not in self.seen), None)

    @property
    def shape(self) -> Sizes:
        """Of the volume, (X, Y, Z)."""
        return (self.axes[0].length, self.axes[1].length, self.axes[2].length)

    @property
    def margin(self) -> Sizes:
        """Input − output of the network along X, Y, Z."""
        return (self.axes[0].margin, self.axes[1].margin, self.axes[2].margin)

    @property
    def classes(self) -> int:
        """Channels that the network answers."""
        return self.budget.classes

    @property
    def indices(self) -> bool:
        """Whether class indices are handed on instead of values of every class."""
        return self.budget.indices

    @property
    def blended(self) -> tuple[bool, bool, bool]:
        """Axes along which tiles overlap and are blended."""
        x, y, z = (axis.overlap is not None for axis in self.axes)
        return (x, y, z)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles; ordered by the first plane of their output, which is never before that of the tile before."""
        spans = [axis.spans(size) for axis, size in zip(self.axes, self.size, strict=True)]
        unflipped = [
            Tile(
                Box(tuple(s.start for s in at), tuple(s.size for s in at)),
                Box(tuple(s.output_start for s in at), tuple(s.output_size for s in at)),
            )
            for at in itertools.product(*spans)
        ]
        every = [t.reflected(flips, self.shape) for flips in self._flips() for t in unflipped]
        return tuple(sorted(every, key=lambda tile: tile.output.start[0]))

    @property
    def thickness(self) -> int:
        """Planes that are unfinished at one time: the thickest output."""
        return max(tile.output.size[0] for tile in self.tiles)

    @property
    def voxels(self) -> int:
        """Voxels through the network, all tiles together: what the time goes with."""
        return sum(tile.input.voxels for tile in self.tiles)

    @property
    def bytes(self) -> float:
        """Expected peak memory: the largest tile in the network, and the planes that are not finished."""
        return sum(float(taken) for taken, _, what in self.budget.demands(self.size, self.axes) if what != "voxels")

    def flipped(self, axes: Sequence[int] = (0, 1, 2)) -> TilePlan:
        """The same for every combination of flips of the whole volume along `axes`, the unflipped one included.

        Axes of one voxel and axes the network does not see change nothing and are left out. Raises `ModelError` for a
        plan of class indices, which have no average.
        """
        if self.indices:
            raise ModelError("class indices cannot be averaged over flips; plan without `indices`")
        return replace(self, flip_axes=tuple(axis for axis in self.seen if axis in axes and self.shape[axis] > 1))

    def smaller(self) -> TilePlan:
        """A plan with at most half as large tiles, else the next smaller ones. Raises `ResourceError` if there is none.

        A valid network answers the same with it.
        """
        now = math.prod(self.size)
        for most in (now // 2, now - 1):
            try:
                size = choose_size(self.axes, replace(self.budget, most_voxels=most), self.size)
            except ResourceError:
                continue
            return replace(self, size=size)
        raise ResourceError(
            f"out of memory with the smallest tile, {'×'.join(map(str, self.size))} voxels. Free memory, predict on "
            "another device or train a smaller network."
        )

    def _flips(self) -> list[tuple[bool, bool, bool]]:
        choices = [(False, True) if axis in self.flip_axes else (False,) for axis in range(3)]
        return [(x, y, z) for x, y, z in itertools.product(*choices)]


def choose_size(axes: Axes, budget: Budget, wanted: Sizes, sight: Sizes | None = None) -> Sizes:
    """The input of a tile: the cheapest of a valid network; of a same-padded one the largest up to `wanted`.

    sight: what a tile of a same-padded network should see at least. Where all of the volume is wanted it gets the
    cheapest tile that sees twice as much, or else as much; overlapping tiles of the largest size may cost far more.
    """
    if all(axis.overlap is None for axis in axes):
        return cheapest(axes, budget)
    if sight is not None and all(n >= axis.whole for n, axis in zip(wanted, axes, strict=True)):
        for times in (2, 1):
            x, y, z = (min(axis.at_least(times * n), axis.whole) for n, axis in zip(sight, axes, strict=True))
            if budget.fits((x, y, z), axes):
                return cheapest(axes, budget, (x, y, z))
    return largest(wanted, axes, budget)


def _reflected(box: Box, flips: tuple[bool, bool, bool], shape: Sizes) -> Box:
    start = tuple(
        n - stop if flip else begin for begin, stop, flip, n in zip(box.start, box.stop, flips, shape, strict=True)
    )
    return Box(start, box.size)
