"""Which labels train and which are scored, for every row of an experiment: the two never share a voxel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import ConfigError
from vol3d.sampling import painted_slices

Mask = NDArray[np.bool_]
Planes = tuple[tuple[int, int], ...]  # (axis, index) of the file's own grid
Counts = tuple[int, int, int]  # slices across x, y, z

_DENSE = 0.5
_AXES = "xyz"


@dataclass(frozen=True)
class PlaneSplit:
    """How the labels of one volume are divided.

    learn: planes whose labels train, None for every label. held: planes whose labels are scored and never train; None
    for every voxel outside `learn`. apart: planes whose labels are not scored, because a row trains on them.
    Where a held plane crosses one of `apart`, a voxel counts for neither.
    """

    learn: Planes | None = None
    held: Planes | None = None
    apart: Planes = ()

    def masks(self, labeled: Mask) -> tuple[Mask, Mask]:
        """(voxels that train, voxels that are scored): parts of `labeled`, bool (X, Y, Z), without a common voxel."""
        learned = np.ones_like(labeled) if self.learn is None else planes_mask(labeled.shape, self.learn)
        held = ~learned if self.held is None else planes_mask(labeled.shape, self.held)
        return labeled & learned & ~held, labeled & held & ~planes_mask(labeled.shape, self.apart)


ALL_TRAIN = PlaneSplit(learn=None, held=())
ALL_SCORED = PlaneSplit(learn=(), held=None)


def planes_mask(shape: Sequence[int], planes: Iterable[tuple[int, int]]) -> Mask:
    """True on the planes (axis, index) of a grid; bool of that shape."""
    mask = np.zeros(tuple(shape), dtype=bool)
    for axis, index in planes:
        mask[(slice(None),) * axis + (index,)] = True
    return mask


def is_dense(labeled: Mask) -> bool:
    """Whether labels cover so much of a volume that they are no slices."""
    return bool(labeled.mean() > _DENSE)


def fold_splits(labeled: Sequence[Mask], folds: int, pools: Sequence[Planes]) -> list[tuple[PlaneSplit, ...]]:
    """For every fold, how each volume is divided: every `folds`-th annotated slice is held, all the others train.

    pools: the annotated slices of every volume. Slices are counted on over all axes and volumes, so that folds differ
    by one slice at most. Labels outside the slices train in every fold, except in densely labeled volumes, where the
    pool is all that counts as annotated. Raises `ConfigError` for more folds than slices.
    """
    total = sum(len(pool) for pool in pools)
    if folds < 2:
        raise ConfigError(f"--folds: expected at least 2, found {folds}")
    if folds > total:
        raise ConfigError(
            f"{folds} folds need at least {folds} annotated slices (planes with half of their voxels labeled), found "
            f"{total}. Paint more slices, or ask for fewer --folds."
        )
    starts = np.cumsum([0, *(len(pool) for pool in pools)])[:-1]
    found = []
    for fold in range(folds):
        splits = []
        for mask, pool, start in zip(labeled, pools, starts, strict=True):
            held = tuple(plane for number, plane in enumerate(pool) if (start + number) % folds == fold)
            kept = tuple(plane for plane in pool if plane not in held)
            splits.append(PlaneSplit(pool if is_dense(mask) else None, held, kept))
        found.append(tuple(splits))
    return found


def pool_of(labeled: Mask) -> Planes:
    """The annotated slices of sparse labels."""
    return tuple(painted_slices(labeled))


def dense_set(filled: Mask, counts: Counts) -> Planes:
    """`counts` planes across x, y, z, evenly spread over the extent of `filled`, bool (X, Y, Z).

    Raises `ConfigError` where an axis has fewer planes than that.
    """
    chosen: list[tuple[int, int]] = []
    for axis, count in enumerate(counts):
        found = np.flatnonzero(filled.any(axis=tuple(a for a in range(3) if a != axis)))
        room = 0 if filled.shape[axis] == 1 or not len(found) else int(found[-1] - found[0] + 1)
        if count > room:
            raise ConfigError(_too_many(counts, axis, room, "planes with a class other than background"))
        first, span = (int(found[0]), room - 1) if room else (0, 0)
        chosen += [(axis, math.floor(first + span * (n + 0.5) / count + 0.5)) for n in range(count)]
    return tuple(chosen)


def reserve(pool: Planes, every: int) -> tuple[Planes, Planes]:
    """(slices that may train, slices that are scored): every `every`-th of the annotated ones is scored."""
    held = pool[every // 2 :: every]
    return tuple(plane for plane in pool if plane not in held), held


def sparse_set(pool: Planes, counts: Counts) -> Planes:
    """`counts` of the annotated slices across x, y, z, evenly spread. Raises `ConfigError` where there are fewer."""
    chosen: list[tuple[int, int]] = []
    for axis, count in enumerate(counts):
        along = [plane for plane in pool if plane[0] == axis]
        if count > len(along):
            raise ConfigError(_too_many(counts, axis, len(along), "annotated slices that may train"))
        chosen += [along[math.floor((n + 0.5) * len(along) / count)] for n in range(count)]
    return tuple(chosen)


def growing_sets(pool: Planes) -> list[Counts]:
    """Numbers of slices to try: one across every axis that has any, then a quarter, half and all of the pool."""
    along = [sum(axis == a for axis, _ in pool) for a in range(3)]
    sizes = [[min(1, n) for n in along], *([-(-n // part) for n in along] for part in (4, 2, 1))]
    return list(dict.fromkeys((x, y, z) for x, y, z in sizes))


def parse_counts(text: str) -> Counts:
    """`3,3,2` → (3, 3, 2). Raises `ConfigError` on anything else."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() for part in parts) or not any(int(part) for part in parts):
        raise ConfigError(f"--slices expects numbers of slices across x, y and z such as 3,3,2, found {text!r}")
    return (int(parts[0]), int(parts[1]), int(parts[2]))


def counts_text(counts: Counts) -> str:
    """(3, 3, 2) → `3,3,2`."""
    return ",".join(map(str, counts))


def _too_many(counts: Counts, axis: int, found: int, what: str) -> str:
    return (
        f"--slices {counts_text(counts)}: expected at least {counts[axis]} {what} across {_AXES[axis]}, found {found}"
    )
