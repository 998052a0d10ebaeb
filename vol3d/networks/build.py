"""Configuration → network, with reproducible first weights. torch is imported when the first network is built."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vol3d.config import UNetConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vol3d.networks.unet import UNet


def build(
    config: UNetConfig,
    in_channels: int,
    classes: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> UNet:
    """The network of `config` on `device`, weights drawn by `initialise` (generator None: from seed 0).

    torch's global generator is neither read nor advanced.
    """
    import torch

    from vol3d.networks.unet import UNet

    with torch.device("meta"):
        network = UNet(
            in_channels,
            classes,
            dimensions=config.dimensions,
            encoder=config.encoder,
            kernels=config.kernels,
            pooling=config.pooling,
            padding=config.padding,
            normalization=config.normalization,
            up=config.up,
            up_channels=config.up_channels,
            up_bias=config.up_bias,
        )
    network.to_empty(device=device)
    initialise(network, generator or torch.Generator().manual_seed(0))
    return network


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew, in place: a function of the generator's state and the architecture alone.

    Convolutions: normal with variance 2 / n, where n values go into each output (He et al. 2015, as in the U-Net);
    biases 0. Normalisations: scale 1, shift 0, running statistics reset.
    """
    import torch

    from vol3d.networks.nd import CONVOLUTIONS, NORMS, TRANSPOSED_CONVOLUTIONS

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, NORMS):
                module.reset_parameters()
            elif isinstance(module, (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)):
                summed = module.in_channels * math.prod(module.kernel_size) / module.groups
                if isinstance(module, TRANSPOSED_CONVOLUTIONS):
                    summed /= math.prod(module.stride)
                drawn = torch.empty(module.weight.shape, device=generator.device)
                module.weight.copy_(drawn.normal_(0, math.sqrt(2 / summed), generator=generator))
                if module.bias is not None:
                    module.bias.zero_()
