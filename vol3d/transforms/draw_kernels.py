"""Counting and finding voxels of a class in a label map, compiled: one pass over the codes, nothing kept of them."""

from __future__ import annotations

import numpy as np

from vol3d.transforms.compiled import Array, compiled


@compiled
def count_codes(codes: Array, known: Array, lowest: int, counts: Array) -> None:
    """Add to counts[code − lowest] for every one of `codes` (n,) that is `known` (n,), bool; empty: all are."""
    if len(known) == 0:
        for code in codes:
            counts[np.int64(code) - lowest] += 1
    else:
        for at in range(len(codes)):
            if known[at]:
                counts[np.int64(codes[at]) - lowest] += 1


@compiled
def find_code(codes: Array, known: Array, lowest: int, wanted: Array, number: int) -> int:
    """Where the `number`-th (from 0) of the voxels is whose code is `wanted`: bool, by code − lowest. −1: nowhere."""
    for at in range(len(codes)):
        if wanted[np.int64(codes[at]) - lowest] and (len(known) == 0 or known[at]):
            if number == 0:
                return at
            number -= 1
    return -1
