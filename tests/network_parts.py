"""Small networks of every kind for tests that all of them must pass. A new kind adds its line to SMALL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vol3d.config import (
    AnyNetworkConfig,
    DeepLabV3PlusConfig,
    EncoderUNetConfig,
    FCNConfig,
    UNet3PlusConfig,
    UNetConfig,
    UNetPlusPlusConfig,
)
from vol3d.networks import build
from vol3d.networks.network import Network, Outputs


def _anisotropic(dimensions: int, levels: int, poolings: int) -> dict[str, Any]:
    """Kernels and poolings that leave the last axis alone at the finest level; one pooling by 3."""
    flat, cube = (*(3,) * (dimensions - 1), 1), (3,) * dimensions
    pooling = [(2,) * dimensions] * poolings
    pooling[0] = (*(2,) * (dimensions - 1), 1)
    pooling[-1] = (3, *pooling[-1][1:])
    return {"dimensions": dimensions, "kernels": (flat, *(cube,) * (levels - 1)), "pooling": tuple(pooling)}


def _fcn(**parts: Any) -> FCNConfig:
    small = {"widths": (4, 5, 6), "convolutions": (1, 2, 1), "classifier": 8, "classifier_kernel": 3}
    return FCNConfig(**{**small, **parts})


def _plus_plus(**parts: Any) -> UNetPlusPlusConfig:
    return UNetPlusPlusConfig(**{"widths": (3, 4, 5), **parts})


def _three_plus(**parts: Any) -> UNet3PlusConfig:
    return UNet3PlusConfig(**{"widths": (3, 4, 5), "joined": 3, **parts})


def _encoder_unet(**parts: Any) -> EncoderUNetConfig:
    return EncoderUNetConfig(**{"encoder": "efficientnet-b0", "decoder": (6, 5, 4, 3, 3), **parts})


def _deeplab(**parts: Any) -> DeepLabV3PlusConfig:
    return DeepLabV3PlusConfig(**{"encoder": "resnet18", "width": 4, "aspp": 6, "low_level": 3, **parts})


_LEVELS = ((3, 4), (4, 4), (4, 5))

SMALL: dict[str, Callable[[int], AnyNetworkConfig]] = {
    "unet": lambda d: UNetConfig(dimensions=d, encoder=_LEVELS),
    "unet valid": lambda d: UNetConfig(dimensions=d, encoder=_LEVELS[:2], padding="valid", normalization="none"),
    "unet anisotropic": lambda d: UNetConfig(encoder=_LEVELS, **_anisotropic(d, 3, 2)),
    "fcn 8s": lambda d: _fcn(dimensions=d),
    "fcn 16s": lambda d: _fcn(dimensions=d, variant="16s", normalization="group"),
    "fcn 32s": lambda d: _fcn(dimensions=d, variant="32s", normalization="none"),
    "fcn anisotropic": lambda d: _fcn(normalization="instance", **_anisotropic(d, 3, 3)),
    "unet++": lambda d: _plus_plus(dimensions=d),
    "unet++ fast": lambda d: _plus_plus(dimensions=d, mode="fast", up="interpolate", normalization="group"),
    "unet++ one head": lambda d: _plus_plus(dimensions=d, deep_supervision=False, normalization="instance"),
    "unet++ pruned": lambda d: _plus_plus(dimensions=d, prune=1, convolutions=1, normalization="none"),
    "unet++ anisotropic": lambda d: _plus_plus(up="interpolate", **_anisotropic(d, 3, 2)),
    "unet3+": lambda d: _three_plus(dimensions=d),
    "unet3+ guided": lambda d: _three_plus(dimensions=d, classification_guided=True, normalization="group"),
    "unet3+ one head": lambda d: _three_plus(dimensions=d, deep_supervision=False, normalization="none"),
    "unet3+ anisotropic": lambda d: _three_plus(classification_guided=True, **_anisotropic(d, 3, 2)),
    "encoder unet": lambda d: _encoder_unet(dimensions=d),
    "encoder unet flat": lambda d: _encoder_unet(dimensions=d, flat_axes=(1,), up="transposed", normalization="group"),
    "deeplab": lambda d: _deeplab(dimensions=d),
    "deeplab stride 8": lambda d: _deeplab(dimensions=d, output_stride=8),
    "deeplab flat": lambda d: _deeplab(dimensions=d, flat_axes=(0,)),
}


def small_network(name: str, dimensions: int, seed: int = 0, classes: int = 3) -> Network:
    """The small network of a name, with 2 input channels, in training mode."""
    return build(SMALL[name](dimensions), 2, classes, generator=torch.Generator().manual_seed(seed))


def random_image(network: Network, size: tuple[int, ...], samples: int = 2, seed: int = 1) -> torch.Tensor:
    """Images (samples, C, *size) of the network's precision, the same for the same seed."""
    dtype = next(network.parameters()).dtype
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, network.in_channels, *size, generator=generator, dtype=dtype)


def outputs(answer: Outputs) -> tuple[torch.Tensor, ...]:
    """What a network answers as a tuple, however many logits it are."""
    return (answer,) if isinstance(answer, torch.Tensor) else answer
