"""What every network of this room is: sizes it states, inputs it checks, padding it adds and takes away again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vol3d.config import AnyNetworkConfig
from vol3d.errors import ModelError
from vol3d.networks.blocks import pad_end
from vol3d.networks.geometry import network_geometry

Outputs = Tensor | tuple[Tensor, ...]


class Network(nn.Module, ABC):
    """(N, C, *S) → logits (N, K, *S − margin). A kind of network adds its layers and says in `maps` what they do.

    config: the kind's own section. A network with deep supervision answers, in training mode, a tuple of logits of one
    shape, the final ones first; in evaluation mode always one tensor.
    """

    def __init__(self, config: AnyNetworkConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        if in_channels < 1 or classes < 1:
            raise ModelError(f"expected at least one channel and one class, found {in_channels} and {classes}")
        self.config: Any = config
        self.in_channels = in_channels
        self.classes = classes
        self.geometry = network_geometry(config)

    @abstractmethod
    def maps(self, image: Tensor) -> Outputs:
        """Logits of an image of a size that `geometry.padded_size` gave; at least as large as the answer."""

    @property
    def heads(self) -> int:
        """How many logits `forward` answers in training mode."""
        return 1

    @property
    def local(self) -> bool:
        """Whether an answer depends on its surroundings alone, not on all of the input, as by a mean over it.

        Other networks are right for inputs like those they learned from, and are given tiles of that size.
        """
        return False

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return self.geometry.dimensions

    @property
    def margin(self) -> tuple[int, ...]:
        """Input − output, voxels along every axis; even; 0 for same padding."""
        return self.geometry.margin

    @property
    def total_stride(self) -> tuple[int, ...]:
        """By how much the deepest maps are coarser along every axis; tiles start at its multiples."""
        return self.geometry.total_stride

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Output size of an input of `size`. Raises `ModelError` naming the nearest valid sizes."""
        return self.geometry.output_size(size)

    def input_size(self, output_at_least: Sequence[int]) -> tuple[int, ...]:
        """The smallest valid input whose output has at least this size."""
        return self.geometry.input_size(output_at_least)

    def shift_logits(self, offsets: Tensor) -> bool:
        """Add a number to the logits of every class from now on, (K,); False where the last layer is none that can."""
        head = getattr(self, "head", None)
        bias = getattr(head, "bias", None)
        if not isinstance(bias, Tensor) or bias.shape != offsets.shape:
            return False
        with torch.no_grad():
            bias += offsets.to(bias)
        return True

    def forward(self, image: Tensor) -> Outputs:
        """Image (N, C, *S), floating point → logits (N, K, *S − margin); several in training with deep supervision.

        Same-padded networks take any size: the image is continued to the next one their strides divide, by repeating
        its last voxels, and the answer is cut back.
        """
        size = self._checked_size(image)
        answer = self.maps(pad_end(image, self.geometry.padded_size(size)))
        if not self.geometry.padded:
            return answer
        if isinstance(answer, Tensor):
            return cut_end(answer, size)
        return tuple(cut_end(part, size) for part in answer)

    def _checked_size(self, image: Tensor) -> tuple[int, ...]:
        if image.ndim != self.dimensions + 2 or image.shape[1] != self.in_channels:
            raise ModelError(
                f"the network takes arrays of {self.dimensions + 2} axes (batch, {self.in_channels} channels, "
                f"{self.dimensions} spatial axes), found shape {tuple(image.shape)}"
            )
        size = tuple(image.shape[2:])
        self.geometry.output_size(size)
        return size


def cut_end(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The first `size` voxels of (N, C, *S) along every axis; a view."""
    for axis, n in enumerate(size):
        maps = maps.narrow(2 + axis, 0, n)
    return maps
