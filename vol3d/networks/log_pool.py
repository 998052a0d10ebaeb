"""A network and another source of class probabilities, combined in the logarithm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vol3d.errors import ModelError
from vol3d.networks.network import Network


class LogPool(nn.Module):
    """(N, C + K, *S) → logits (N, K, *S − margin): the logarithmic opinion pool of two sources (Genest & Zidek 1986).

    The first C channels are the image that `network` takes, the others the logarithms of K class probabilities that
    somebody else gives. logits = (1 − weight) · network + weight · logarithms. weight: from 0, the network alone, to 1,
    the other source alone. For prediction: what a network answers in training mode is not combined.
    """

    def __init__(self, network: Network, weight: float) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ModelError(f"expected a weight between 0 and 1, found {weight!r}")
        self.network = network
        self.weight = weight
        self.classes = network.classes
        self.in_channels = network.in_channels + network.classes

    @property
    def local(self) -> bool:
        """As the network's."""
        return self.network.local

    @property
    def dimensions(self) -> int:
        """As the network's."""
        return self.network.dimensions

    @property
    def margin(self) -> tuple[int, ...]:
        """As the network's."""
        return self.network.margin

    @property
    def total_stride(self) -> tuple[int, ...]:
        """As the network's."""
        return self.network.total_stride

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """As the network's."""
        return self.network.output_size(size)

    def input_size(self, output_at_least: Sequence[int]) -> tuple[int, ...]:
        """As the network's."""
        return self.network.input_size(output_at_least)

    def forward(self, image: Tensor) -> Tensor:
        """Combined logits, float32 or better."""
        own = self.network(image[:, : self.network.in_channels])
        if not isinstance(own, Tensor):
            raise ModelError("a network in training mode is not combined with anything; call eval() first")
        other = image[:, self.network.in_channels :]
        for axis, margin in enumerate(self.margin):
            other = other.narrow(2 + axis, margin // 2, own.shape[2 + axis])
        own = own if own.dtype == torch.float64 else own.float()
        return torch.lerp(own, other.to(own.dtype), self.weight)
