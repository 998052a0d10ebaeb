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
    inner, places = _needed(box, image.shape[1:])
    return _spread(image.read(inner), places)


def crop(array: Array, box: Box) -> Array:
    """The voxels of `box`; a copy of the same type and dtype, shape (..., *box.size).

    array: (C, X, Y, Z), or any array whose last axes are the box's. Beyond the border it is mirrored without
    repeating the edge, as often as needed; a one-voxel axis is replicated. Only voxels the box needs are read.
    Raises `GeometryError` for an empty box or an array with too few axes.
    """
    lead = array.ndim - len(box.start)
    if lead < 0 or box.voxels == 0:
        raise GeometryError(f"expected a box with voxels inside {array.ndim} axes, found start {box.start} {box.size}")
    inner, places = _needed(box, tuple(array.shape[lead:]))
    return _copy(_spread(array[(slice(None),) * lead + inner.slices()], places))


def _needed(box: Box, shape: tuple[int, ...]) -> tuple[Box, list[NDArray[np.int64] | None]]:
    """The part of the volume that a box needs, and where its voxels are in it along each axis; None: in their order."""
    start, size, places = [], [], []
    for first, stop, length in zip(box.start, box.stop, shape, strict=True):
        wanted = np.arange(first, stop)
        folded = fold_index(wanted, length)
        low = int(folded.min())
        start.append(low)
        size.append(int(folded.max()) - low + 1)
        places.append(None if np.array_equal(folded, wanted) else folded - low)
    return Box(tuple(start), tuple(size)), places


def _spread(block: Array, places: list[NDArray[np.int64] | None]) -> Array:
    """Voxels at their places along the last axes, mirrored ones again."""
    for axis, index in enumerate(places, block.ndim - len(places)):
        if index is None:
            continue
        if isinstance(block, Tensor):
            block = block.index_select(axis, torch.from_numpy(index).to(block.device))
        else:
            block = block[(slice(None),) * axis + (index,)]
    return block


def _copy(array: Array) -> Array:
    if isinstance(array, Tensor):
        return array.clone(memory_format=torch.contiguous_format)
    return np.array(array, order="C")
