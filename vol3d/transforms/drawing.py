"""Draws a labeled voxel out of a label map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_CODES = 1 << 20  # between the lowest and the highest one
_LARGEST_CODE = 2**63 - 1  # of compiled code


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
    base, highest = (int(codes.min()), int(codes.max())) if whole else (0, 0)
    if not whole or highest - base >= _MOST_CODES or highest > _LARGEST_CODE:
        there, codes = np.unique(codes, return_inverse=True)  # the rank of a code instead of the code
        unlabeled = [rank for rank, code in enumerate(there.tolist()) if code in unlabeled]
        base, highest = 0, len(there) - 1
    counts = np.zeros(highest - base + 1, dtype=np.int64)
    count_codes(codes, known, base, counts)
    for code in unlabeled:
        if 0 <= code - base < len(counts):
            counts[code - base] = 0
    if not counts.any():
        return None
    wanted = counts > 0
    if balanced:
        present = np.flatnonzero(wanted)
        wanted = np.zeros_like(wanted)
        wanted[present[int(rng.integers(len(present)))]] = True
    return int(find_code(codes, known, base, wanted, int(rng.integers(counts[wanted].sum()))))
