"""Exact crops: a copy inside the volume, mirrored beyond its border."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.errors import GeometryError
from vol3d.transforms.mirror import fold_index
from vol3d.volume import Box

Array = TypeVar("Array", NDArray[Any], Tensor)


def crop(array: Array, box: Box) -> Array:
    """The voxels of `box`; a copy of the same type and dtype, shape (..., *box.size).

    array: (C, X, Y, Z), or any array whose last axes are the box's. Beyond the border it is mirrored without
    repeating the edge, as often as needed; a one-voxel axis is replicated. Only voxels the box needs are read.
    Raises `GeometryError` for an empty box or an array with too few axes.
    """
    lead = array.ndim - len(box.start)
    if lead < 0 or box.voxels == 0:
        raise GeometryError(f"expected a box with voxels inside {array.ndim} axes, found start {box.start} {box.size}")
    block = array
    for axis, (start, stop) in enumerate(zip(box.start, box.stop, strict=True), lead):
        wanted = np.arange(start, stop)
        folded = fold_index(wanted, array.shape[axis])
        low = int(folded.min())
        block = _take(block, axis, slice(low, int(folded.max()) + 1))
        if not np.array_equal(folded, wanted):
            block = _take(block, axis, folded - low)
    return _copy(block)


def _take(array: Array, axis: int, index: slice | NDArray[np.int64]) -> Array:
    if isinstance(array, Tensor) and not isinstance(index, slice):
        return array[(slice(None),) * axis + (torch.from_numpy(index).to(array.device),)]
    return array[(slice(None),) * axis + (index,)]


def _copy(array: Array) -> Array:
    if isinstance(array, Tensor):
        return array.clone(memory_format=torch.contiguous_format)
    return np.array(array, order="C")
