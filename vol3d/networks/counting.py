"""How large a network is: parameters and arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from vol3d.networks.nd import NORMS
from vol3d.networks.unet import UNet


def parameter_count(network: nn.Module) -> int:
    """Number of learned values."""
    return sum(parameter.numel() for parameter in network.parameters())


def paper_parameter_count(network: nn.Module) -> int:
    """Number of learned values without those of normalisation layers, as the 3D U-Net paper counts."""
    of_norms = sum(parameter_count(module) for module in network.modules() if isinstance(module, NORMS))
    return parameter_count(network) - of_norms


def flops(network: UNet, size: Sequence[int]) -> int:
    """Floating point operations of one forward pass over one input of `size`: 2 × multiply-adds of convolutions.

    Nothing is computed or allocated: only shapes pass through. Raises `ModelError` on a size the network cannot take.
    """
    network.geometry.output_size(size)
    state = {
        name: torch.empty_like(value, device="meta")
        for name, value in (*network.named_parameters(), *network.named_buffers())
    }
    dtype = next(network.parameters()).dtype
    image = torch.empty((1, network.in_channels, *size), dtype=dtype, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(network, state, (image,))
    return int(counter.get_total_flops())
