"""Integer codes of a whole volume, counted and replaced without a copy of them that takes several times as much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHORT = 2  # bytes of codes that are counted in a table
_LONGEST_TABLE = 2**16
_PART = 2**18  # voxels


def value_counts(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """(values, ascending; how often each occurs) of numbers of any shape; quick where they are short integers."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize > _SHORT:
        return np.unique(array, return_counts=True)
    low = int(np.iinfo(array.dtype).min)
    counts = np.zeros(256**array.dtype.itemsize, dtype=np.int64)
    for part in _parts(array if array.flags.c_contiguous else array.T):
        counts += np.bincount(part.ravel(order="K").astype(np.intp) - low, minlength=len(counts))
    values = np.flatnonzero(counts)
    return values + low, counts[values]


def replaced(codes: NDArray[Any], present: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """For every code its value; of the shape of `codes`, the dtype of `values`.

    present: all codes that occur, ascending. values: one for each of them.
    """
    found = np.empty_like(codes, dtype=values.dtype)  # in the same order in memory
    table = None
    if len(present) and codes.dtype.kind in "iu" and present[0] >= 0 and present[-1] < _LONGEST_TABLE:
        table = np.zeros(int(present[-1]) + 1, dtype=values.dtype)
        table[present] = values
    turned = codes.flags.f_contiguous and not codes.flags.c_contiguous
    for part, into in zip(*(_parts(array.T if turned else array) for array in (codes, found)), strict=True):
        into[...] = values[np.searchsorted(present, part)] if table is None else table[part]
    return found


def _parts(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """All of an array, some of its planes across the first axis at a time."""
    while array.ndim > 1 and len(array) == 1:
        array = array[0]
    if array.ndim == 0:
        yield array
        return
    step = max(1, _PART * len(array) // max(1, array.size))
    for start in range(0, len(array), step):
        yield array[start : start + step]
