"""BatchNorm as part of the convolution before it, for prediction."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from vol3d.networks.blocks import ConvBlock
from vol3d.networks.nd import BATCH_NORMS, CONVOLUTIONS


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> int:
    """Scale the convolutions of every `ConvBlock` by the BatchNorm after them, which then does nothing; in place.

    For evaluation mode alone; answers change by rounding. BatchNorms without stored statistics stay. Returns how many
    were folded.
    """
    count = 0
    for block in [module for module in network.modules() if isinstance(module, ConvBlock)]:
        for number, (layer, norm) in enumerate(itertools.pairwise(list(block))):
            if isinstance(layer, CONVOLUTIONS) and isinstance(norm, BATCH_NORMS) and _fold(layer, norm):
                block[number + 1] = nn.Identity()
                count += 1
    return count


def _fold(layer: Any, norm: Any) -> bool:  # noqa: ANN401  a convolution and a BatchNorm
    parts = (layer.weight, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    if not all(isinstance(part, torch.Tensor) for part in parts):
        return False
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(norm.bias))
    weight, mean, variance, scale, shift = (part.double() for part in parts)
    factor = scale / (variance + norm.eps).sqrt()
    layer.weight.copy_(weight * factor.view(-1, *[1] * (weight.ndim - 1)))
    layer.bias.copy_((layer.bias.double() - mean) * factor + shift)
    return True
