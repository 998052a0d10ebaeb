"""Configuration → network, with reproducible first weights. torch is imported when the first network is built."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from vol3d.config import (
    AnyNetworkConfig,
    DeepLabV3PlusConfig,
    EncoderUNetConfig,
    FCNConfig,
    MonaiConfig,
    UNet3PlusConfig,
    UNetConfig,
    UNetPlusPlusConfig,
)
from vol3d.errors import ModelError
from vol3d.networks.geometry import network_geometry

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vol3d.networks.network import Network

_MOST_VALUES = 1 << 31  # weights of a network; 8 GiB


def build(
    config: AnyNetworkConfig,
    in_channels: int,
    classes: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Network:
    """The network of `config` on `device`, weights drawn by `initialise` (generator None: from seed 0).

    MONAI's networks begin with MONAI's initial weights, drawn from a seed that `generator` gives. torch's global
    generator is neither read nor advanced. Raises `ModelError` on a network that cannot be built.
    """
    import torch

    generator = generator or torch.Generator().manual_seed(0)
    network = _shapes(config, in_channels, classes)
    if isinstance(config, MonaiConfig):
        from vol3d.networks.monai_nets import draw_monai

        return draw_monai(config, in_channels, classes, generator).to(device)
    network.to_empty(device=device)
    initialise(network, generator)
    return network


def expected_tensors(
    config: AnyNetworkConfig, in_channels: int, classes: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → (dtype as torch prints it, shape) of all weights and buffers of a network; allocates none of them.

    Raises `ModelError` on a network that cannot be built, and on one too large for any machine.
    """
    state = _shapes(config, in_channels, classes).state_dict()
    return {name: (str(value.dtype), tuple(value.shape)) for name, value in state.items()}


def _shapes(config: AnyNetworkConfig, in_channels: int, classes: int) -> Network:
    """The network on the meta device, where nothing is allocated."""
    import torch

    try:
        with torch.device("meta"):
            network = construct(config, in_channels, classes)
        if isinstance(config, MonaiConfig):
            from vol3d.networks.monai_nets import require_answers

            require_answers(network)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"a network {config.kind} cannot be built: {' '.join(str(error).split())[:200]}") from error
    values = sum(tensor.numel() for tensor in network.state_dict().values())
    if values > _MOST_VALUES:
        raise ModelError(f"a network {config.kind} of {values} weights is too large; expected at most {_MOST_VALUES}")
    return network


def construct(config: AnyNetworkConfig, in_channels: int, classes: int) -> Network:
    """The network of `config`, its weights as the layers' constructors leave them."""
    if isinstance(config, EncoderUNetConfig | DeepLabV3PlusConfig | MonaiConfig):  # these need MONAI: imported late
        return _on_monai(config, in_channels, classes)
    from vol3d.networks.fcn import FCN
    from vol3d.networks.unet import UNet
    from vol3d.networks.unet3plus import UNet3Plus
    from vol3d.networks.unet_plus_plus import UNetPlusPlus

    kinds: dict[type, Callable[..., Network]] = {
        UNetConfig: UNet,
        FCNConfig: FCN,
        UNetPlusPlusConfig: UNetPlusPlus,
        UNet3PlusConfig: UNet3Plus,
    }
    if type(config) in kinds:
        return kinds[type(config)](config, in_channels, classes)
    raise AssertionError(f"no network of kind {config.kind}")


def _on_monai(config: EncoderUNetConfig | DeepLabV3PlusConfig | MonaiConfig, in_channels: int, classes: int) -> Network:
    network_geometry(config)  # what it refuses needs no import of MONAI
    if isinstance(config, MonaiConfig):
        from vol3d.networks.monai_nets import MonaiNetwork

        return MonaiNetwork(config, in_channels, classes)
    if isinstance(config, DeepLabV3PlusConfig):
        from vol3d.networks.deeplab_v3_plus import DeepLabV3Plus

        return DeepLabV3Plus(config, in_channels, classes)
    from vol3d.networks.encoder_unet import EncoderUNet

    return EncoderUNet(config, in_channels, classes)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew, in place: a function of the generator's state and the architecture alone.

    Convolutions: normal with variance 2 / n, where n values go into each output (He et al. 2015, as in the U-Net);
    biases 0. Normalisations: scale 1, shift 0, running statistics reset. Learned interpolations: linear.
    """
    import torch

    from vol3d.networks.blocks import LinearUp
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
    for module in network.modules():
        if isinstance(module, LinearUp):
            module.reset_parameters_linear()
