"""How large a network is: parameters and arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from vol3d.networks.nd import NORMS
from vol3d.networks.network import Network


def parameter_count(network: nn.Module) -> int:
    """Number of learned values."""
    return sum(parameter.numel() for parameter in network.parameters())


def paper_parameter_count(network: nn.Module) -> int:
    """Number of learned values without those of normalisation layers, as the 3D U-Net paper counts."""
    of_norms = sum(parameter_count(module) for module in network.modules() if isinstance(module, NORMS))
    return parameter_count(network) - of_norms


def flops(network: Network, size: Sequence[int]) -> int:
    """Floating point operations of one forward pass over one input of `size`: 2 × multiply-adds of convolutions.

    In evaluation mode, whichever the network is in. Nothing is computed or allocated: only shapes pass through. Raises
    `ModelError` on a size the network cannot take.
    """
    with FlopCounterMode(display=False) as counter:
        _shapes_only(network, size, training=False)
    return math.floor(counter.get_total_flops())


def activation_values(network: Network, size: Sequence[int]) -> int:
    """How many values the layers give in one forward pass over one input of `size`: what training has to keep.

    In training mode, whichever the network is in: with all heads of deep supervision. Counted like `flops`, without
    computing. Raises `ModelError` on a size the network cannot take.
    """
    total = 0

    def count(module: nn.Module, inputs: object, output: object) -> None:  # noqa: ARG001  the shape of a hook
        nonlocal total
        parts = output if isinstance(output, (tuple, list)) else (output,)
        total += sum(part.numel() for part in parts if isinstance(part, torch.Tensor))

    leaves = [module for module in network.modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        _shapes_only(network, size, training=True)
    finally:
        for handle in handles:
            handle.remove()
    return total


def _shapes_only(network: Network, size: Sequence[int], *, training: bool) -> None:
    """One forward pass on the meta device."""
    network.geometry.output_size(size)
    state = {
        name: torch.empty_like(value, device="meta")
        for name, value in (*network.named_parameters(), *network.named_buffers())
    }
    image = torch.empty((1, network.in_channels, *size), dtype=next(network.parameters()).dtype, device="meta")
    with torch.no_grad(), _mode(network, training=training):
        functional_call(network, state, (image,))


@contextmanager
def _mode(network: Network, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode for the length of a `with` block.

    Normalisations stay in evaluation mode: their shapes are the same, and one voxel then has statistics too.
    """
    before = {module: module.training for module in network.modules()}
    try:
        for module in before:
            module.training = training and not isinstance(module, NORMS)
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
