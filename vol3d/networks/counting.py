"""How large a network is: parameters and arithmetic."""

from __future__ import annotations

import math
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
    with FlopCounterMode(display=False) as counter:
        _shapes_only(network, size)
    return math.floor(counter.get_total_flops())


def activation_values(network: UNet, size: Sequence[int]) -> int:
    """How many values the layers give in one forward pass over one input of `size`: what training has to keep.

    Counted like `flops`, without computing. Raises `ModelError` on a size the network cannot take.
    """
    total = 0

    def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:  # noqa: ARG001  the shape of a hook
        nonlocal total
        total += output.numel()

    leaves = [module for module in network.modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        _shapes_only(network, size)
    finally:
        for handle in handles:
            handle.remove()
    return total


def _shapes_only(network: UNet, size: Sequence[int]) -> None:
    """One forward pass on the meta device."""
    network.geometry.output_size(size)
    state = {
        name: torch.empty_like(value, device="meta")
        for name, value in (*network.named_parameters(), *network.named_buffers())
    }
    image = torch.empty((1, network.in_channels, *size), dtype=next(network.parameters()).dtype, device="meta")
    with torch.no_grad():
        functional_call(network, state, (image,))
