"""Networks and patches whose sizes follow from the voxels and from what a device can do in minutes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vol3d.config import (
    AnyNetworkConfig,
    DeepLabV3PlusConfig,
    EncoderUNetConfig,
    FCNConfig,
    NetworkKind,
    UNet3PlusConfig,
    UNetConfig,
    UNetPlusPlusConfig,
)
from vol3d.errors import ConfigError

PAPER_PATCH = {2: (572, 572), 3: (132, 132, 116)}
_CPU_VOXELS, _CPU_WIDTH = {2: 160**2, 3: 48**3}, 16
GPU_VOXELS, GPU_WIDTH = {2: 320**2, 3: 96**3}, 32
_LEVELS = {"unet": 4, "fcn": 5, "unet_plus_plus": 4, "unet3plus": 4}
_DEEPEST = 4
_COARSE = 2.0
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """The prepared grid of one scan: voxels and mm along X, Y, Z, or along the axes a 2-D network sees.

    order: which axis of the file each prepared axis was.
    """

    shape: Sizes
    spacing_mm: tuple[float, ...]
    order: Sizes = (0, 1, 2)


@dataclass(frozen=True)
class SizedNetwork:
    """A planned network whose dimensions are settled. plan: the kind. width: channels of the finest level, or None."""

    plan: NetworkKind
    dimensions: Literal[2, 3]
    width: int | None = None


def small_patch(grid: Grid, voxels: int | None = None) -> Sizes:
    """About `voxels` voxels, physically as cubic as the scan allows, never larger than the scan."""
    axes = range(len(grid.shape))
    size = [0.0 for _ in axes]
    open_axes, left = list(axes), float(voxels or _CPU_VOXELS[len(grid.shape)])
    while open_axes:
        volume_mm = left * math.prod(grid.spacing_mm[a] for a in open_axes)
        edge = volume_mm ** (1 / len(open_axes))
        full = [a for a in open_axes if grid.shape[a] <= edge / grid.spacing_mm[a]]
        for a in full or open_axes:
            size[a] = min(edge / grid.spacing_mm[a], float(grid.shape[a]))
        if not full:
            break
        left /= math.prod(size[a] for a in full)
        open_axes = [a for a in open_axes if a not in full]
    return tuple(max(1, round(n)) for n in size)


def small_network(wanted: SizedNetwork, patch: Sizes, spacing_mm: Sequence[float]) -> AnyNetworkConfig:
    """A same-padded network of the kind that is wanted, whose pooling and kernels follow the spacing.

    The finest level of a U-Net, which takes most of the time, has one convolution down and one up, and its
    up-convolutions halve the channels: a step costs six tenths of what it does with two and all channels.
    """
    width = wanted.width or _CPU_WIDTH
    dimensions = wanted.dimensions
    if wanted.plan in {"deeplab_v3_plus", "encoder_unet"}:
        flat = tuple(a for a in range(dimensions) if spacing_mm[a] >= _COARSE * min(spacing_mm))
        if wanted.plan == "encoder_unet":
            decoder = (8 * width, 4 * width, 2 * width, width, width)
            return EncoderUNetConfig(dimensions=dimensions, decoder=decoder, flat_axes=flat)
        low = max(4, 3 * width // 4)
        return DeepLabV3PlusConfig(
            dimensions=dimensions, encoder="resnet18", width=width, aspp=4 * width, low_level=low, flat_axes=flat
        )
    kernels, pooling = _levels(patch, spacing_mm, _LEVELS[wanted.plan])
    if wanted.plan == "fcn":
        return _small_fcn(dimensions, width, spacing_mm)
    widths = tuple(width * 2**level for level in range(len(kernels)))
    if wanted.plan in {"unet_plus_plus", "unet3plus"} and len(widths) < 2:
        raise ConfigError(
            f"{wanted.plan} needs two levels, for which a patch of {'×'.join(map(str, patch))} voxels is too small: "
            f"give a larger sampling.patch_size (from {2 * _DEEPEST} voxels on), or take --network unet"
        )
    if wanted.plan == "unet_plus_plus":
        return UNetPlusPlusConfig(dimensions=dimensions, widths=widths, kernels=kernels, pooling=pooling)
    if wanted.plan == "unet3plus":
        return UNet3PlusConfig(dimensions=dimensions, widths=widths, joined=width, kernels=kernels, pooling=pooling)
    encoder = tuple((w, w) if level else (w,) for level, w in enumerate(widths))
    return UNetConfig(
        dimensions=dimensions,
        encoder=encoder,
        kernels=kernels,
        pooling=pooling,
        padding="same",
        up_channels="halve",
        bias=False,
    )


def _small_fcn(dimensions: int, width: int, spacing_mm: Sequence[float]) -> FCNConfig:
    """The network keeps its five poolings whatever the patch: they are what its variants are named after."""
    kernels, pooling = _levels((2**20,) * dimensions, spacing_mm, 6)
    widths = tuple(min(width * 2**level, 8 * width) for level in range(5))
    return FCNConfig(
        dimensions=dimensions,
        widths=widths,
        kernels=kernels[:5],
        pooling=pooling[:5],
        classifier=16 * width,
        classifier_kernel=3,
    )


def _levels(patch: Sizes, spacing_mm: Sequence[float], levels: int) -> tuple[tuple[Sizes, ...], tuple[Sizes, ...]]:
    """Kernels per level and poolings between them.

    An axis is pooled, and convolved across, only once its voxels are less than twice as long as the shortest ones
    of those axes that can still be pooled.
    """
    axes = range(len(patch))
    spacing, size = list(spacing_mm), list(patch)
    kernels: list[Sizes] = []
    pooling: list[Sizes] = []
    for level in range(levels):
        long = [size[a] >= 2 * _DEEPEST for a in axes]
        finest = min((spacing[a] for a in axes if long[a]), default=max(spacing))
        fine = [spacing[a] < _COARSE * finest for a in axes]
        kernels.append(tuple(3 if fine[a] and size[a] > 1 else 1 for a in axes))
        halved = [fine[a] and long[a] for a in axes]
        if level == levels - 1 or not any(halved):
            break
        pooling.append(tuple(2 if h else 1 for h in halved))
        for a in axes:
            if halved[a]:
                spacing[a], size[a] = 2 * spacing[a], size[a] // 2
    return tuple(kernels), tuple(pooling)
