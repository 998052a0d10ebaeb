"""Cuts a moved patch out of arrays on a CPU without a sampling grid; see `warp_kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.errors import GeometryError
from vol3d.transforms.fields import Placement, Size
from vol3d.volume import Box

Array = NDArray[Any] | Tensor
Memory = NDArray[Any]
Parts = tuple[Memory, Memory, Memory, Memory, Memory, Memory, Memory]
_KINDS = frozenset("biuf")  # of dtypes that are read
_LONGEST_PLANE = 2**31  # X · Y of a volume, voxels
_HALF = np.dtype(np.float16)


def can_warp(*arrays: Array) -> bool:
    """Whether all of these are in a CPU's memory as compiled code reads it: contiguous, native, ordinary numbers."""
    return all(_is_plain(array) for array in arrays)


def _is_plain(array: Array) -> bool:
    if isinstance(array, Tensor):
        if array.device.type != "cpu" or array.requires_grad or array.dtype in {torch.bfloat16, torch.float16}:
            return False
        contiguous, real = array.is_contiguous(), not array.is_complex()
        return contiguous and real and array.ndim >= 3 and array.shape[-3] * array.shape[-2] < _LONGEST_PLANE
    kind = array.dtype
    ordinary = kind.kind in _KINDS and kind.isnative and kind != _HALF and kind.itemsize <= 8
    whole = array.flags.c_contiguous and array.flags.aligned
    return ordinary and whole and array.ndim >= 3 and array.shape[-3] * array.shape[-2] < _LONGEST_PLANE


def warp_labeled(
    image: Array, classes: Array, weight: Array, placement: Placement, inner: Box
) -> tuple[Tensor, Tensor, Tensor]:
    """Image float32 (C, *size), linear; classes (int64; float32 where they are floating point) and weight float32.

    image: (C, X, Y, Z). classes, weight: (X, Y, Z), read in the box `inner` of the patch only, nearest; classes are 0
    where the weight is. All must be `can_warp`. Raises `GeometryError` where they are not on one grid, or it is empty.
    """
    from vol3d.transforms.warp_kernels import warp_patch

    _require_one_grid(image, classes, weight)
    values, codes, trust = _memory(image), _memory(classes), _memory(weight)
    patch = torch.empty((values.shape[0], *placement.size), dtype=torch.float32)
    kind = torch.float32 if codes.dtype.kind == "f" else torch.int64
    found, known = torch.empty(tuple(inner.size), dtype=kind), torch.empty(tuple(inner.size), dtype=torch.float32)
    warp_patch(
        values, codes, trust, _parts(placement), _triple(inner.start), patch.numpy(), found.numpy(), known.numpy()
    )
    return patch, found, known


def warp_linear(image: Array, placement: Placement) -> Tensor:
    """Image float32 (C, *size), linear. image: (C, X, Y, Z), must be `can_warp`; `GeometryError` for an empty one."""
    from vol3d.transforms.warp_kernels import warp_patch

    _require_one_grid(image)
    values = _memory(image)
    patch = torch.empty((values.shape[0], *placement.size), dtype=torch.float32)
    none, nothing = np.empty((0, 0, 0), dtype=np.uint8), np.empty((0, 0, 0), dtype=np.float32)
    empty = np.empty((0, 0, 0), dtype=np.int64)
    warp_patch(values, none, nothing, _parts(placement), (0, 0, 0), patch.numpy(), empty, nothing)
    return patch


def warp_nearest(codes: Array, placement: Placement, inner: Box) -> Tensor:
    """Codes (C, *inner.size) of their own dtype, nearest, in the box `inner` of the patch; (C, X, Y, Z), `can_warp`."""
    from vol3d.transforms import warp_kernels

    _require_one_grid(codes)
    values = _memory(codes)
    found = np.empty((values.shape[0], *inner.size), dtype=values.dtype)
    warp_kernels.warp_nearest(values, _parts(placement), _triple(inner.start), found)
    return torch.from_numpy(found)


def warp_pair(image: Array, codes: Array, placement: Placement, inner: Box) -> tuple[Tensor, Tensor]:
    """`warp_linear` of an image and `warp_nearest` of codes on its grid, in one pass. Raises what these raise."""
    from vol3d.transforms import warp_kernels

    _require_one_grid(image)
    _require_one_grid(codes)
    values, labels = _memory(image), _memory(codes)
    _require_one_grid(values, labels[0])
    patch = torch.empty((values.shape[0], *placement.size), dtype=torch.float32)
    found = np.empty((labels.shape[0], *inner.size), dtype=labels.dtype)
    warp_kernels.warp_pair(values, labels, _parts(placement), _triple(inner.start), patch.numpy(), found)
    return patch, torch.from_numpy(found)


def _require_one_grid(image: Array, *labels: Array) -> None:
    """Compiled code does not look where arrays end."""
    shape = tuple(image.shape)
    if len(shape) != 4 or 0 in shape or any(tuple(one.shape) != shape[1:] for one in labels):
        found = ", ".join(str(tuple(one.shape)) for one in (image, *labels))
        raise GeometryError(f"expected arrays (channels, x, y, z), (x, y, z) … on one grid with voxels, found {found}")


def _memory(array: Array) -> NDArray[Any]:
    """The array itself as NumPy has it, without a copy."""
    return array.as_subclass(Tensor).numpy() if isinstance(array, Tensor) else np.asarray(array)


def _triple(values: Sequence[int]) -> Size:
    x, y, z = (int(value) for value in values)
    return (x, y, z)


def _parts(placement: Placement) -> Parts:
    """As the kernels take it."""
    x, y, z = (np.asarray(shares, dtype=np.float32) for shares in placement.shares)
    vectors = np.ascontiguousarray(placement.vectors, dtype=np.float32)
    return (
        placement.matrix,
        placement.anchor,
        placement.target,
        vectors,
        np.ascontiguousarray(x),
        np.ascontiguousarray(y),
        np.ascontiguousarray(z.T),
    )
