"""Cuts one training patch: image, classes and weights by one grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.errors import ConfigError
from vol3d.transforms.crop import crop
from vol3d.transforms.fields import Size, place
from vol3d.transforms.params import SpatialParams
from vol3d.transforms.resample import resample
from vol3d.transforms.warp import can_warp, warp_labeled
from vol3d.volume import Box

Array = NDArray[Any] | Tensor


def output_box(size: Sequence[int], margin: Sequence[int]) -> Box:
    """The part of a patch that a network with `margin` (input − output per axis) answers for, in patch voxels.

    The margin is split evenly; of an odd one the smaller half comes first. Raises `ConfigError` if nothing is left.
    """
    inner = tuple(n - m for n, m in zip(size, margin, strict=True))
    if min(margin) < 0 or min(inner) < 1:
        raise ConfigError(f"a margin of {tuple(margin)} leaves nothing of a patch of {tuple(size)}; enlarge the patch")
    return Box(tuple(m // 2 for m in margin), inner)


def cut_patch(  # noqa: PLR0913, PLR0917  three arrays, what was drawn, and where
    image: Array,
    classes: Array,
    labeled_weight: Array,
    params: SpatialParams | None,
    spacing_mm: Sequence[float],
    size: Size,
    margin: Size,
    anchor_patch: Sequence[int],
    anchor_volume: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """One patch around the voxel `anchor_volume`, which comes to lie at `anchor_patch` (voxels of the input patch).

    image: (C, X, Y, Z). classes: class indices (X, Y, Z), or values to regress, floating point. labeled_weight:
    (X, Y, Z), 0 where unlabeled, else the voxel's weight (bool or float). size: input patch; margin: input − output per
    axis. params None: an exact crop.
    Returns image float32 (C, *size), read linearly; classes int64 (values: float32) and weight float32 (*output),
    nearest. Classes and values are 0 where the weight is 0, so what is under unlabeled voxels never leaves the volume.
    """
    inner = output_box(size, margin)
    if params is None or params.is_identity:
        start = tuple(int(v) - int(t) for v, t in zip(anchor_volume, anchor_patch, strict=True))
        box = Box(start, tuple(size))
        answer = Box(inner.start, inner.size).shift(start)
        patch, codes, weight = _crop(image, box), _crop(classes, answer), _crop(labeled_weight, answer)
    else:
        placement = place(params, size, spacing_mm, anchor_patch, anchor_volume)
        if can_warp(image, classes, labeled_weight):
            return warp_labeled(image, classes, labeled_weight, placement, inner)
        grid = placement.grid(image.device if isinstance(image, Tensor) else None)
        patch = resample(image, grid, "linear")
        answers = grid[(slice(None), *inner.slices())]
        codes = resample(classes[None], answers, "nearest")[0]
        weight = resample(labeled_weight[None], answers, "nearest")[0]
    weight = weight.to(torch.float32)
    kind = torch.float32 if codes.is_floating_point() else torch.int64
    return patch.to(torch.float32), codes.to(kind, copy=True).masked_fill_(weight == 0, 0), weight


def source_box(
    params: SpatialParams | None,
    spacing_mm: Sequence[float],
    size: Size,
    anchor_patch: Sequence[int],
    anchor_volume: Sequence[int],
) -> Box:
    """The part of a volume that `cut_patch` with these arguments reads; it may reach outside, where it is mirrored."""
    if params is None or params.is_identity:
        return Box(tuple(int(v) - int(t) for v, t in zip(anchor_volume, anchor_patch, strict=True)), tuple(size))
    return place(params, size, spacing_mm, anchor_patch, anchor_volume).bounds


def _crop(array: Array, box: Box) -> Tensor:
    if isinstance(array, Tensor):
        return crop(array, box).as_subclass(Tensor)
    return torch.from_numpy(np.asarray(crop(array, box), dtype=array.dtype.newbyteorder("=")))
