"""What the networks are built of: convolution blocks and up-sampling, for any number of dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vol3d.networks.nd import LAYERS

Normalization = Literal["none", "batch", "instance", "group"]
_MOST_GROUPS = 8


class ConvBlock(nn.Sequential):
    """Convolution → normalisation → ReLU, once for each entry of `widths`; (N, C, *S) → (N, widths[-1], *S').

    padded: S' is S, filled with zeros at the border; otherwise every convolution takes kernel − 1 voxels away. bias:
    whether convolutions have one also before a normalisation, as in the 3D U-Net; batch normalisation takes it away
    again, and on a GPU it costs passes over the map of its own.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        kernel: tuple[int, ...],
        normalization: Normalization,
        *,
        padded: bool,
        bias: bool = True,
    ) -> None:
        parts: list[nn.Module] = []
        padding = tuple(k // 2 if padded else 0 for k in kernel)
        for width in widths:
            biased = bias or normalization == "none"
            parts.append(LAYERS[len(kernel)].convolution(channels, width, kernel, padding=padding, bias=biased))
            parts.extend(norm_layers(normalization, width, len(kernel)))
            parts.append(nn.ReLU(inplace=True))
            channels = width
        super().__init__(*parts)


def norm_layers(kind: Normalization, channels: int, dimensions: int) -> list[nn.Module]:
    """A normalisation of so many channels with learned scale and shift; nothing for `none`."""
    if kind == "none":
        return []
    if kind == "group":
        groups = max(n for n in range(1, _MOST_GROUPS + 1) if channels % n == 0)
        return [nn.GroupNorm(groups, channels)]
    layers = LAYERS[dimensions]
    return [layers.batch_norm(channels) if kind == "batch" else layers.instance_norm(channels, affine=True)]


class InterpolatedUp(nn.Module):
    """Linear interpolation by `factor` and a convolution of size 1; (N, C, *S) → (N, width, *factor·S).

    The convolution comes first: the two commute, and the coarse grid has fewer voxels. trimmed: the factor // 2 outer
    voxels, where interpolation would repeat the border, are cut off, so that an output depends on its own surroundings
    only and not on where the input ends.
    """

    def __init__(self, channels: int, width: int, factor: tuple[int, ...], *, bias: bool, trimmed: bool) -> None:
        super().__init__()
        layers = LAYERS[len(factor)]
        self.convolution = layers.convolution(channels, width, 1, bias=bias)
        self.factor = factor
        self.mode = layers.interpolation
        self.trimmed = trimmed

    def forward(self, coarse: Tensor) -> Tensor:
        """Up-sampled map."""
        size = [n * factor for n, factor in zip(coarse.shape[2:], self.factor, strict=True)]
        fine = functional.interpolate(self.convolution(coarse), size=size, mode=self.mode, align_corners=False)
        if not self.trimmed:
            return fine
        return centre_crop(fine, [n - 2 * (factor // 2) for n, factor in zip(size, self.factor, strict=True)])


def transposed_up(channels: int, width: int, factor: tuple[int, ...], *, bias: bool) -> nn.Module:
    """Transposed convolution whose kernel and stride are `factor`; (N, C, *S) → (N, width, *factor·S)."""
    return LAYERS[len(factor)].transposed_convolution(channels, width, factor, stride=factor, bias=bias)


class LinearUp(nn.Module):
    """Transposed convolution that starts as linear interpolation by `factor`; (N, C, *S) → (N, C, *factor·S).

    Kernel 2·factor (2·factor − 1 along an axis whose factor is odd), every channel at first to itself alone, no bias
    (Long et al. 2015, section 3.3). Beyond the border it sees zeros.
    """

    def __init__(self, channels: int, factor: tuple[int, ...]) -> None:
        super().__init__()
        self.convolution = LAYERS[len(factor)].transposed_convolution(
            channels,
            channels,
            tuple(2 * f - f % 2 for f in factor),
            stride=factor,
            padding=tuple(f // 2 for f in factor),
            bias=False,
        )
        self.factor = factor
        self.reset_parameters_linear()

    def reset_parameters_linear(self) -> None:
        """Set the weights to linear interpolation, in place; nothing is drawn."""
        weight = self.convolution.weight
        assert isinstance(weight, Tensor)
        kernel = torch.ones((), dtype=torch.float64)
        for f in self.factor:
            size = 2 * f - f % 2
            away = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2).abs()
            kernel = kernel[..., None] * (1 - away / f)
        with torch.no_grad():
            weight.zero_()
            for channel in range(len(weight)):
                weight[channel, channel] = kernel.to(weight)

    def forward(self, coarse: Tensor) -> Tensor:
        """Up-sampled map."""
        fine: Tensor = self.convolution(coarse)
        return fine


class Concatenation(nn.Module):
    """Maps beside each other along the channels; a module, so that `activation_values` counts what it gives."""

    def forward(self, *maps: Tensor) -> Tensor:
        """Several (N, C, *S) → (N, ΣC, *S)."""
        return torch.cat(maps, dim=1)


def interpolation(factor: tuple[int, ...]) -> nn.Module:
    """Linear interpolation by `factor` that repeats the border; (N, C, *S) → (N, C, *factor·S). Nothing is learned."""
    if all(f == 1 for f in factor):
        return nn.Identity()
    return nn.Upsample(scale_factor=tuple(map(float, factor)), mode=LAYERS[len(factor)].interpolation)


def centre_crop(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of (N, C, *S); a view. Every axis loses the same number of voxels on both sides."""
    for axis, n in enumerate(size):
        surplus = maps.shape[2 + axis] - n
        maps = maps.narrow(2 + axis, surplus // 2, n)
    return maps


def pad_end(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, *S) continued to `size` by repeating its last voxels along every axis; works for axes of one voxel."""
    amounts: list[int] = []
    for have, want in zip(reversed(maps.shape[2:]), reversed(list(size)), strict=True):
        amounts += [0, want - have]
    return functional.pad(maps, amounts, mode="replicate") if any(amounts) else maps


def join(skip: Tensor, up: Tensor) -> Tensor:
    """The centre of `skip` and `up` beside each other along the channels."""
    return torch.cat((centre_crop(skip, up.shape[2:]), up), dim=1)
