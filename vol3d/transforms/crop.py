"""Exact crops: a copy inside the volume, mirrored beyond its border."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.errors import GeometryError
from vol3d.transforms.mirror import fold_index
from vol3d.volume import Box

Array = TypeVar("Array", NDArray[Any], Tensor)


class ReadByBox(Protocol):
    """An image (C, X, Y, Z) that is not in memory."""

    @property
    def ndim(self) -> int:
        """4."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, X, Y, Z)."""
        ...

    def read(self, box: Box) -> NDArray[np.float32]:
        """The voxels of a box inside the volume, (C, *box.size)."""
        ...


def crop_read(image: ReadByBox, box: Box) -> NDArray[np.float32]:
    """As `crop`, of an image that is read box by box; each voxel that the box needs is read once."""
    folded = [fold_index(np.arange(a, b), n) for a, b, n in zip(box.start, box.stop, image.shape[1:], strict=True)]
    low = tuple(int(index.min()) for index in folded)
    inner = Box(low, tuple(int(index.max()) - a + 1 for index, a in zip(folded, low, strict=True)))
    block = image.read(inner)
    if inner == box:
        return block
    for axis, (index, a) in enumerate(zip(folded, low, strict=True), 1):
        block = np.take(block, index - a, axis=axis)
    return block


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
