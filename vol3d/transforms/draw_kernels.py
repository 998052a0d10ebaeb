"""Counting and finding voxels of a class in a label map, compiled: one pass over the codes, nothing kept of them."""

from __future__ import annotations

import numpy as np

from vol3d.transforms.compiled import Array, compiled


@compiled
def count_codes(codes: Array, known: Array, lowest: int, length: int, counts: Array) -> None:
    """Add to counts[block, code − lowest] for every one of `codes` (n,) that is `known` (n,), bool; empty: all are.

    length: of a block of codes. Where all are known four tables take turns, since to count one code twice in a row
    means to wait, and indices are unsigned, since negative ones would have to be looked out for.
    """
    width = counts.shape[1] if len(known) == 0 else 0
    first, second = np.zeros(width, np.int64), np.zeros(width, np.int64)
    third, fourth = np.zeros(width, np.int64), np.zeros(width, np.int64)
    for block in range(len(counts)):
        part = codes[block * length : (block + 1) * length]
        if len(known):
            sure = known[block * length : (block + 1) * length]
            for at in range(len(part)):
                if sure[at]:
                    counts[block, np.int64(part[at]) - lowest] += 1
            continue
        fours = len(part) // 4
        for at in range(fours):
            first[np.uint64(np.int64(part[4 * at]) - lowest)] += 1
            second[np.uint64(np.int64(part[4 * at + 1]) - lowest)] += 1
            third[np.uint64(np.int64(part[4 * at + 2]) - lowest)] += 1
            fourth[np.uint64(np.int64(part[4 * at + 3]) - lowest)] += 1
        for at in range(4 * fours, len(part)):
            first[np.uint64(np.int64(part[at]) - lowest)] += 1
        for code in range(width):
            counts[block, code] += first[code] + second[code] + third[code] + fourth[code]
            first[code] = second[code] = third[code] = fourth[code] = 0


@compiled
def find_code(codes: Array, known: Array, lowest: int, wanted: Array, start: int, number: int) -> int:
    """Where the `number`-th (from 0) of the voxels from `start` on is whose code is `wanted`: bool, by code − lowest.

    −1: nowhere.
    """
    for at in range(start, len(codes)):
        if wanted[np.int64(codes[at]) - lowest] and (len(known) == 0 or known[at]):
            if number == 0:
                return at
            number -= 1
    return -1
