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

from vol3d.errors import GeometryError, ModelError, ResourceError
from vol3d.inference.axes import Axis
from vol3d.inference.budget import Axes, Budget, Sizes, cheapest, largest
from vol3d.volume import Box

_LETTERS = "XYZ"
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

    axes, budget: what it was planned from. size: the input of the largest tile, (X, Y, Z). dimensions: of the network;
    the planes of a tile along further axes are a batch. flip_axes: axes whose flips are averaged.
    """

    axes: Axes
    budget: Budget
    size: Sizes
    dimensions: int
    flip_axes: tuple[int, ...] = ()

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

        Axes of one voxel and axes the network does not see change nothing and are left out.
        """
        seen = tuple(axis for axis in sorted(set(axes)) if axis < self.dimensions and self.shape[axis] > 1)
        return replace(self, flip_axes=seen)

    def smaller(self) -> TilePlan:
        """A plan with at most half as large tiles, else the next smaller ones. Raises `ResourceError` if there is none.

        A valid network answers the same with it.
        """
        now = math.prod(self.size)
        for most in (now // 2, now - 1):
            try:
                size = _choose(self.axes, replace(self.budget, most_voxels=most), self.size)
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


def plan_tiles(  # noqa: PLR0913  every fact the plan is made from, by its name
    shape: Sizes,
    margin: Sequence[int],
    stride: Sequence[int],
    *,
    memory_bytes: float,
    bytes_per_voxel: float,
    classes: int,
    tile: Sequence[int] | None = None,
    patch: Sequence[int] | None = None,
    smallest: Sequence[int] | None = None,
    overlap: float = 0.25,
    host_memory_bytes: float | None = None,
    most_voxels: float = 2**24,
) -> TilePlan:
    """Plan the tiles of a volume.

    shape: (X, Y, Z). margin, stride: of the network along its axes; two numbers mean a 2-D network, which sees X and Y,
    planes across Z being its batch. All margins 0: a same-padded network, tiles overlap by at least `overlap` of their
    size. tile: input size that is wanted, cut down to what the volume needs; None: for a valid network the size with
    which the fewest voxels go through it within the memory, for a same-padded one `patch` (the size it was trained on;
    None: the whole) or what fits. smallest: a valid network's smallest input; `tile` or `patch` tells it as well.
    memory_bytes, bytes_per_voxel, host_memory_bytes, most_voxels: see `Budget`. A tile may be given for the network's
    axes alone.

    Raises `ModelError` for sizes the network cannot take, `ResourceError` where memory is too small for any tile.
    """
    dimensions, padded = len(margin), not any(margin)
    if len(shape) != 3 or min(shape) < 1:
        raise GeometryError(f"expected a volume of three non-empty axes, found {tuple(shape)}")
    if dimensions not in {2, 3} or len(stride) != dimensions or any(m % 2 for m in margin):
        raise ModelError(
            f"expected two or three even margins and as many strides, found {tuple(margin)}, {tuple(stride)}"
        )
    least = tuple(stride) if padded else _smallest(margin, stride, smallest or tile or patch)
    x, y, z = (
        Axis(shape[a], margin[a], stride[a], least[a], overlap if padded else None)
        if a < dimensions
        else Axis(shape[a], 0, 1, 1)
        for a in range(3)
    )
    axes = (x, y, z)
    budget = Budget(memory_bytes, bytes_per_voxel, classes, host_memory_bytes, most_voxels)
    if tile is None:
        seen = (patch or [axis.whole for axis in axes])[:dimensions]
        return TilePlan(axes, budget, _choose(axes, budget, _accepted(seen, axes)), dimensions)
    size = _accepted(tile, axes) if len(tile) == 3 else _with_planes(_accepted(tile, axes), axes, budget)
    budget.require(size, axes, "the tile asked for")
    return TilePlan(axes, budget, size, dimensions)


def plan_for(
    network: TiledNetwork,
    shape: Sizes,
    *,
    memory_bytes: float,
    bytes_per_voxel: float,
    tile: Sequence[int] | None = None,
    patch: Sequence[int] | None = None,
    overlap: float = 0.25,
    host_memory_bytes: float | None = None,
) -> TilePlan:
    """`plan_tiles` with what the network tells about itself."""
    return plan_tiles(
        shape,
        network.margin,
        network.total_stride,
        memory_bytes=memory_bytes,
        bytes_per_voxel=bytes_per_voxel,
        classes=network.classes,
        tile=tile,
        patch=patch,
        smallest=network.input_size((1,) * len(network.margin)),
        overlap=overlap,
        host_memory_bytes=host_memory_bytes,
    )


def _smallest(margin: Sequence[int], stride: Sequence[int], valid: Sequence[int] | None) -> Sequence[int]:
    """The smallest valid input, from any valid one."""
    if valid is None:
        raise ModelError("a network with a margin has valid input sizes; give one of them as tile, patch or smallest")
    return [n - max((n - m - 1) // s, 0) * s for n, m, s in zip(valid, margin, stride, strict=False)]


def _accepted(size: Sequence[int], axes: Axes) -> Sizes:
    """A size that was asked for, cut down to what the volume needs; along axes that nobody spoke of, all of it."""
    asked = [*size, *(axis.whole for axis in axes[len(size) :])]
    x, y, z = (axis.accept(n, letter) for axis, n, letter in zip(axes, asked, _LETTERS, strict=True))
    return (x, y, z)


def _with_planes(size: Sizes, axes: Axes, budget: Budget) -> Sizes:
    """As many of the planes as fit."""
    x, y, most = size
    return next(((x, y, z) for z in range(most, 0, -1) if budget.fits((x, y, z), axes)), (x, y, 1))


def _choose(axes: Axes, budget: Budget, wanted: Sizes) -> Sizes:
    return cheapest(axes, budget) if axes[0].overlap is None else largest(wanted, axes, budget)


def _reflected(box: Box, flips: tuple[bool, bool, bool], shape: Sizes) -> Box:
    start = tuple(
        n - stop if flip else begin for begin, stop, flip, n in zip(box.start, box.stop, flips, shape, strict=True)
    )
    return Box(start, box.size)
