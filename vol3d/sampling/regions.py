"""Boxes around the labeled voxels of a volume: what must be predicted to know what a network says of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vol3d.sampling.holdout import painted_slices
from vol3d.sampling.painting import across
from vol3d.volume import Box

_CELL, _FEW_CELLS = 128, 16  # edge of a cube, in voxels; as many of them are looked at one by one
_HARDLY_LESS = 0.9  # of the volume's voxels: boxes that hold as many save nothing


@dataclass(frozen=True, eq=False)
class Region:
    """A box inside a volume, and which of its voxels are asked for here: bool (*box.size)."""

    box: Box
    asked: NDArray[np.bool_]


def whole_region(asked: NDArray[np.bool_]) -> list[Region]:
    """The volume as a single region."""
    return [Region(Box.whole(asked.shape), asked)]


def with_whole_slices(asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`asked` (X, Y, Z) and all of the slices that it holds at least half of."""
    found = asked.copy()
    for axis, index in painted_slices(asked):
        found[across(axis, index)] = True
    return found


def regions_around(asked: NDArray[np.bool_], halo: Sequence[int]) -> list[Region]:
    """Boxes that hold every voxel of `asked` (X, Y, Z) with at least `halo` voxels around it, as far as there are any.

    Each voxel is asked for in one region only. A box per painted slice; for what is left one, or one per cube of 128
    voxels where that are few; boxes that are no smaller apart than together are joined. The whole volume where that is
    hardly more.
    """
    cores = _joined(_cores(asked), halo, asked.shape)
    boxes = [_grown(core, halo, asked.shape) for core in cores]
    if not boxes or sum(box.voxels for box in boxes) >= _HARDLY_LESS * asked.size:
        return whole_region(asked)
    found, left = [], asked.copy()
    for core, box in zip(cores, boxes, strict=True):
        own = np.zeros(box.size, dtype=bool)
        own[core.shift(tuple(-a for a in box.start)).slices()] = left[core.slices()]
        left[core.slices()] = False
        if own.any():
            found.append(Region(box, own))
    return found


def _cores(asked: NDArray[np.bool_]) -> list[Box]:
    """The tightest box around the voxels of each painted slice, and around those that lie in none."""
    left, cores = asked.copy(), []
    for axis, index in painted_slices(asked):
        at = across(axis, index)
        tight = _tight(left[at])
        if tight is not None:
            start, size = list(tight.start), list(tight.size)
            cores.append(Box((*start[:axis], index, *start[axis:]), (*size[:axis], 1, *size[axis:])))
            left[at] = False
    parts = [part for _, part in cells_of(left)]
    rest = parts if len(parts) <= _FEW_CELLS else [_tight(left)]
    return cores + [part for part in rest if part is not None]


def cells_of(mask: NDArray[np.bool_]) -> Iterator[tuple[Box, Box]]:
    """Cubes that a volume is cut into and that hold any of `mask` (X, Y, Z); and the smallest box around that."""
    for start in itertools.product(*(range(0, n, _CELL) for n in mask.shape)):
        cell = Box(start, (_CELL,) * mask.ndim).clip(mask.shape)
        tight = _tight(mask[cell.slices()])
        if tight is not None:
            yield cell, tight.shift(start)


def _joined(cores: list[Box], halo: Sequence[int], shape: tuple[int, ...]) -> list[Box]:
    """Cores, of which any two that cost no more together are one."""
    while True:
        for a, b in itertools.combinations(range(len(cores)), 2):
            together = _around(cores[a], cores[b])
            apart = sum(_grown(core, halo, shape).voxels for core in (cores[a], cores[b]))
            if _grown(together, halo, shape).voxels <= apart:
                cores = [together, *(core for n, core in enumerate(cores) if n not in {a, b})]
                break
        else:
            return cores


def _grown(core: Box, halo: Sequence[int], shape: tuple[int, ...]) -> Box:
    return core.grow(tuple(halo)).clip(shape)


def _around(one: Box, other: Box) -> Box:
    start = tuple(map(min, one.start, other.start))
    stop = tuple(map(max, one.stop, other.stop))
    return Box(start, tuple(b - a for a, b in zip(start, stop, strict=True)))


def _tight(mask: NDArray[np.bool_]) -> Box | None:
    """The smallest box that holds everything in `mask`; None where that is nothing."""
    if not mask.any():
        return None
    ends = []
    for axis in range(mask.ndim):
        there = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        ends.append((int(there[0]), int(there[-1]) + 1))
    return Box(tuple(a for a, _ in ends), tuple(b - a for a, b in ends))
