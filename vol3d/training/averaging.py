"""Averaged weights: what the network is at test time, smoother than what it is while it learns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class AveragedWeights:
    """Exponential moving average of all weights and buffers of a network (Polyak & Juditsky 1992; EMA form).

    Floating-point entries are averaged, BatchNorm's running statistics among them; integer ones are copied. The
    decay warms up, min(decay, (1 + t) / (10 + t)) at update t, so that the first weights are soon forgotten.
    values: name → tensor, on the network's device and in its memory layout. decay: 0…1, 0 copies.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"expected a decay of at least 0 and below 1, found {decay}")
        self.decay = decay
        self.values: dict[str, Tensor] = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, iteration: int) -> None:
        """Take in the network's weights. iteration: how many updates came before (0-based)."""
        share = 1 - min(self.decay, (1 + iteration) / (10 + iteration))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, share)
            else:
                self.values[name].copy_(value)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the averages by `weights`: same names and shapes, any device."""
        for name, value in self.values.items():
            value.copy_(weights[name])
