"""Which blocks of a volume a member of a classifier does not learn from, to be asked about labels it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_EDGE = 16.0  # of a block, in voxels of the finest spacing
_LEAST_BLOCKS = 3  # along an axis that has as many voxels


@dataclass(frozen=True, eq=False)
class Blocks:
    """A volume in blocks, each left out by one of `members`; neighbours by different ones.

    shape: (X, Y, Z) in voxels. spacing_mm: along X, Y, Z. Blocks are as long in mm along every axis, but no longer than
    a third of the volume.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    members: int

    def within(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Which member leaves a voxel out, (stop − start, Y, Z), in the planes start … stop − 1 of X."""
        x, y, z = (self._numbers(axis) for axis in range(3))
        sums = x[start:stop, None, None] + y[:, None] + z
        return (sums % self.members).astype(np.uint8)

    def at(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The same of some voxels, (N,). places: their indices in the volume's memory."""
        indices = np.unravel_index(places, self.shape)
        sums = np.sum([self._numbers(axis)[index] for axis, index in enumerate(indices)], axis=0)
        return (sums % self.members).astype(np.uint8)

    def _numbers(self, axis: int) -> NDArray[np.int64]:
        """The number of every voxel's block along an axis."""
        extent = self.shape[axis]
        edge = min(round(_EDGE * min(self.spacing_mm) / self.spacing_mm[axis]), extent // _LEAST_BLOCKS)
        return np.arange(extent) // max(1, edge)


def learned_by(
    left_out: NDArray[np.uint8], labels: NDArray[np.int64], classes: int, members: int
) -> list[NDArray[np.int64]]:
    """For each member the labeled voxels that it learns from: all but those it leaves out.

    A class of which a member would then see less than half is not left out by it. left_out, labels: (N,), which member
    leaves a voxel out and the voxel's class.
    """
    learned = []
    for member in range(members):
        kept = left_out != member
        seen, all_of = (np.bincount(some, minlength=classes) for some in (labels[kept], labels))
        learned.append(np.flatnonzero(kept | (2 * seen < all_of)[labels]))
    return learned


def members_of(blocks: Sequence[Blocks], scan: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Which member leaves a labeled voxel out, (N,). scan, place: its scan and its index in that scan's memory."""
    found = np.zeros(len(scan), dtype=np.uint8)
    for number, one in enumerate(blocks):
        found[scan == number] = one.at(place[scan == number])
    return found
