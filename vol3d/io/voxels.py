"""What voxels may hold: finite intensities, whole label codes, weights. Checks run block by block, in memory order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import FileFormatError, LabelError

_BLOCK = 1 << 20
_WHOLE = 1e-3  # how far a stored label may lie from a whole number


def require_finite(array: NDArray[Any], nan: float | None, name: str) -> NDArray[Any]:
    """The array with NaN and Inf replaced by `nan` in place. Raises `FileFormatError` with their count for None."""
    if array.dtype.kind != "f":
        return array
    count = 0
    for block in _blocks(array):
        strange = ~np.isfinite(block)
        found = int(np.count_nonzero(strange))
        if found and nan is not None:
            block[strange] = nan
        count += found
    if count and nan is None:
        raise FileFormatError(
            f"{name} has {count} voxel(s) that are NaN or infinite. Replace them with --nan VALUE, such as --nan 0."
        )
    return array


def to_codes(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Label codes in the smallest unsigned dtype that holds them, same shape.

    2.9999 counts as 3 (within 0.001). Raises `LabelError` for anything that is no whole number ≥ 0.
    """
    largest = 0
    for block in _blocks(array):
        largest = max(largest, _largest_code(block, name))
    dtype = np.min_scalar_type(largest)
    if array.dtype.kind != "f":
        return array.astype(dtype, copy=False)
    codes = np.empty_like(array, dtype=dtype)
    for source, target in zip(_blocks(array), _blocks(codes), strict=True):
        target[...] = np.rint(source)
    return codes


def require_weights(array: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Weights as float32. Raises `FileFormatError` where one is negative or too large."""
    lowest, largest = float(array.min()), float(array.max())
    if lowest < 0 or largest > float(np.finfo(np.float32).max):
        found = lowest if lowest < 0 else largest
        raise FileFormatError(f"{name}: expected weights from 0 to 3.4e38, found {found:g}. Mend the file.")
    weights: NDArray[np.float32] = array.astype(np.float32, copy=False)
    return weights


def smallest_unsigned(codes: NDArray[Any]) -> np.dtype[Any]:
    """The smallest unsigned dtype that holds every code."""
    return np.min_scalar_type(int(codes.max()))


def _largest_code(block: NDArray[Any], name: str) -> int:
    remedy = "Labels are whole numbers from 0; name the label file, or mend it."
    if block.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            strange = ~(np.abs(block - np.rint(block)) <= _WHOLE)
        if strange.any():
            raise LabelError(f"{name} holds {block[strange][0].item()}, which is no label code. {remedy}")
    low, high = (round(value.item()) for value in (block.min(), block.max()))
    if low < 0 or high >= 2**64:
        raise LabelError(f"{name} holds {low if low < 0 else high}, which is no label code. {remedy}")
    return high


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Flat views of a contiguous array in the order of memory."""
    flat = array.ravel(order="K")
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK]
