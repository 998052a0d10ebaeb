"""Which labels validate and which train: held-out annotated slices, or blocks where there are no slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.sampling.painting import find_planes
from vol3d.volume import SparseLabels

_BLOCK = 16
_FEWEST_SLICES = 4
_DENSE = 0.5
_AXES = "xyz"


@dataclass(frozen=True, eq=False)
class HoldOut:
    """labels split in two: `training` and `validation` share no voxel. said: one line for the user.

    validation is None where nothing could be held out; training is then the labels as they came.
    """

    training: SparseLabels
    validation: SparseLabels | None
    said: str


def painted_slices(labeled: NDArray[np.bool_], fraction: float = 0.5) -> list[tuple[int, int]]:
    """Annotated slices as (axis, index): planes with at least `fraction` of their voxels labeled.

    An axis of one voxel has no slices: its only plane is the whole volume, and those across the others are lines.
    """
    found: list[tuple[int, int]] = []
    for axis in range(labeled.ndim) if 1 not in labeled.shape else ():
        others = tuple(a for a in range(labeled.ndim) if a != axis)
        found += [(axis, int(i)) for i in np.flatnonzero(labeled.mean(axis=others) >= fraction)]
    return found


def slice_groups(labeled: NDArray[np.bool_], name: Callable[[int, int], str]) -> list[list[tuple[int, int]]]:
    """Annotated slices as lists of planes, (axis, index) each, that have one name: those of one slice of the file.

    A slice is at least half labeled, not counting what crossing slices label; what is labeled in a box is no slice.
    """
    found = [plane for plane, part in find_planes(labeled).items() if part >= _DENSE] if 1 not in labeled.shape else []
    return [list(planes) for _, planes in groupby(found, key=lambda plane: name(*plane))]


def plane_name(axis: int, index: int) -> str:
    """A plane of the grid as it is, such as z=12."""
    return f"{_AXES[axis]}={index}"


def hold_out(labels: SparseLabels, every: int, name: Callable[[int, int], str] = plane_name) -> HoldOut:
    """Keep every `every`-th annotated slice out of training. every: 0 holds out nothing. name: of (axis, index).

    A voxel where a held-out slice crosses a training slice counts for neither. Labels that are not slices
    (scribbles), or that cover most of the volume, are split by blocks of 16 voxels. With fewer than four slices,
    or where a class would be left without any training voxel, nothing is held out. Planes of one name, which a slice
    becomes on a finer grid, stay together.
    """
    if every < 2:
        return HoldOut(labels, None, "no labels are held out")
    known = labels.known
    slices = slice_groups(known, name)
    if not slices or known.mean() > _DENSE:
        return _hold_out_blocks(labels, every)
    if len(slices) < _FEWEST_SLICES:
        return HoldOut(labels, None, f"{len(slices)} annotated slices are too few to hold any out (4 are needed)")
    for offset in [every // 2, *range(every)]:
        chosen = slices[offset::every]
        if chosen and len(chosen) < len(slices):
            away = _planes(labels.labeled.shape, [plane for one in chosen for plane in one])
            kept = _planes(labels.labeled.shape, [plane for one in slices if one not in chosen for plane in one])
            split = _split(labels, ~away, away & ~kept)
            if split is not None:
                names = ", ".join(name(*one[0]) for one in chosen)
                return HoldOut(*split, f"held out for validation: {len(chosen)} of {len(slices)} slices ({names})")
    return HoldOut(labels, None, "no slice can be held out without losing a class from training")


def _hold_out_blocks(labels: SparseLabels, every: int) -> HoldOut:
    blocks = tuple(-(-n // _BLOCK) for n in labels.shape)
    at = np.nonzero(labels.labeled)
    number = np.ravel_multi_index(tuple(index // _BLOCK for index in at), blocks)
    filled = np.unique(number)
    order = np.random.default_rng(len(filled)).permutation(filled)  # neighbours must not all be held out
    for offset in range(every):
        away = np.zeros(labels.shape, dtype=bool)
        away[at] = np.isin(number, order[offset::every])
        split = _split(labels, ~away, away)
        if split is not None and len(filled) >= _FEWEST_SLICES:
            count = len(order[offset::every])
            return HoldOut(*split, f"held out for validation: {count} of {len(filled)} blocks of {_BLOCK} voxels")
    return HoldOut(labels, None, "too few labels to hold any out")


def _planes(shape: tuple[int, ...], slices: list[tuple[int, int]]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    for axis, index in slices:
        mask[(slice(None),) * axis + (index,)] = True
    return mask


def _split(
    labels: SparseLabels, training: NDArray[np.bool_], validation: NDArray[np.bool_]
) -> tuple[SparseLabels, SparseLabels] | None:
    """Both parts, or None where one is empty or training would lose a class."""
    train, held = labels.within(training), labels.within(validation)
    if not held.labeled.any() or _present(labels) != _present(train):
        return None
    return train, held


def _present(labels: SparseLabels) -> set[Any]:
    return set(np.unique(labels.classes[labels.labeled]).tolist())
