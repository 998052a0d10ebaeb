"""Draws a labeled voxel out of a label map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_CODES = 1 << 20  # between the lowest and the highest one
_LARGEST_CODE = 2**63 - 1  # of compiled code
_BLOCK, _MOST_COUNTS = 1 << 16, 1 << 20  # voxels that are counted together; numbers that are kept of all blocks


def draw_voxel(
    rng: np.random.Generator,
    codes: NDArray[Any],
    known: NDArray[np.bool_],
    unlabeled: Sequence[int],
    *,
    balanced: bool,
) -> int | None:
    """The index of a voxel that is labeled; None where there is none.

    codes: (n,), contiguous. known: bool (n,), whether a voxel is labeled; empty: wherever its code is none of
    `unlabeled`. balanced: draw one of the codes that there are, then one of its voxels; else any labeled voxel.
    """
    from vol3d.transforms.draw_kernels import count_codes, find_code

    if codes.size == 0:
        return None
    whole = codes.dtype.kind in "biu"
    base, highest = _bounds(codes) if whole else (0, 0)
    if not whole or highest - base >= _MOST_CODES or highest > _LARGEST_CODE:
        there, codes = np.unique(codes, return_inverse=True)  # the rank of a code instead of the code
        unlabeled = [rank for rank, code in enumerate(there.tolist()) if code in unlabeled]
        base, highest = 0, len(there) - 1
    width = highest - base + 1
    length = max(_BLOCK, -(-codes.size * width // _MOST_COUNTS))
    counts = np.zeros((-(-codes.size // length), width), dtype=np.int64)
    count_codes(codes, known, base, length, counts)
    for code in unlabeled:
        if 0 <= code - base < width:
            counts[:, code - base] = 0
    wanted: NDArray[np.bool_] = np.logical_or.reduce(counts > 0, axis=0)
    if not wanted.any():
        return None
    if balanced:
        present = np.flatnonzero(wanted)
        wanted = np.zeros_like(wanted)
        wanted[present[int(rng.integers(len(present)))]] = True
    until = counts[:, wanted].sum(axis=1).cumsum()
    number = int(rng.integers(until[-1]))
    block = int(np.searchsorted(until, number, side="right"))
    before = int(until[block - 1]) if block else 0
    return int(find_code(codes, known, base, wanted, block * length, number - before))


def _bounds(codes: NDArray[Any]) -> tuple[int, int]:
    """Codes between which all are; of one byte those that there can be, which costs no look at them."""
    if codes.dtype.itemsize > 1:
        return int(codes.min()), int(codes.max())
    if codes.dtype.kind == "b":
        return 0, 1
    limits = np.iinfo(codes.dtype)
    return int(limits.min), int(limits.max)
