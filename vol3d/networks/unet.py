"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597) and 3D U-Net (Çiçek et al. 2016, arXiv 1606.06650)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import ValidationError
from torch import Tensor, nn

from vol3d.config import UNetConfig
from vol3d.errors import ModelError
from vol3d.networks.blocks import ConvBlock, InterpolatedUp, Normalization, join, pad_end, transposed_up
from vol3d.networks.geometry import level_kernels, level_pooling, network_geometry
from vol3d.networks.nd import LAYERS


class UNet(nn.Module):
    """Both papers' network in one: (N, C, *S) → logits (N, K, *S − margin), one value per class before the softmax.

    encoder: widths of the convolutions of every level, fine to coarse; the decoder has as many convolutions per
    level, all of the level's last width. kernels, pooling: sizes along X, Y, Z per level and between levels, for
    anisotropic voxels (empty: 3 and 2). padding `valid`: no padding, skips are cropped to their centre, margin > 0;
    `same`: zero padding, any input size, margin 0. up: transposed convolution, or linear interpolation and a
    convolution of size 1; up_channels: whether it keeps or halves the channels; up_bias: whether it has a bias.

    3D U-Net: the default widths, `valid`. U-Net: dimensions 2, widths 64, 64 … 1024, 1024, normalization `none`,
    up_channels `halve`, up_bias.

    Raises `ModelError` on parts that do not fit each other and on inputs of a size the network cannot take.
    """

    def __init__(  # noqa: PLR0913  the choices that make up the papers' networks, each by its name
        self,
        in_channels: int,
        classes: int,
        *,
        dimensions: Literal[2, 3] = 3,
        encoder: Sequence[Sequence[int]] = ((32, 64), (64, 128), (128, 256), (256, 512)),
        kernels: Sequence[Sequence[int]] = (),
        pooling: Sequence[Sequence[int]] = (),
        padding: Literal["valid", "same"] = "same",
        normalization: Normalization = "batch",
        up: Literal["transposed", "interpolate"] = "transposed",
        up_channels: Literal["keep", "halve"] = "keep",
        up_bias: bool = False,
    ) -> None:
        super().__init__()
        if in_channels < 1 or classes < 1:
            raise ModelError(f"expected at least one channel and one class, found {in_channels} and {classes}")
        try:
            self.config = UNetConfig(
                dimensions=dimensions,
                encoder=_tuples(encoder),
                kernels=_tuples(kernels),
                pooling=_tuples(pooling),
                padding=padding,
                normalization=normalization,
                up=up,
                up_channels=up_channels,
                up_bias=up_bias,
            )
        except ValidationError as error:
            faults = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
            raise ModelError(f"these parts do not make a U-Net: {faults}") from error
        self.in_channels = in_channels
        self.classes = classes
        self.geometry = network_geometry(self.config)
        self._add_layers()

    def _add_layers(self) -> None:
        config, layers = self.config, LAYERS[self.config.dimensions]
        kernels, padded = level_kernels(config), config.padding == "same"
        channels = self.in_channels
        self.encoder = nn.ModuleList()
        for widths, kernel in zip(config.encoder, kernels, strict=True):
            self.encoder.append(ConvBlock(channels, widths, kernel, config.normalization, padded=padded))
            channels = widths[-1]
        self.pools = nn.ModuleList(layers.max_pool(size) for size in level_pooling(config))
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(config.encoder) - 1)):
            width = channels if config.up_channels == "keep" else max(1, channels // 2)
            factor = level_pooling(config)[level]
            if config.up == "transposed":
                self.ups.append(transposed_up(channels, width, factor, bias=config.up_bias))
            else:
                self.ups.append(InterpolatedUp(channels, width, factor, bias=config.up_bias, trimmed=not padded))
            widths = config.encoder[level]
            channels = widths[-1]
            joined = channels + width
            block = ConvBlock(joined, (channels,) * len(widths), kernels[level], config.normalization, padded=padded)
            self.decoder.append(block)
        self.head = layers.convolution(channels, self.classes, 1)

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return self.config.dimensions

    @property
    def margin(self) -> tuple[int, ...]:
        """Input − output, voxels along every axis; even; 0 for same padding."""
        return self.geometry.margin

    @property
    def total_stride(self) -> tuple[int, ...]:
        """Product of the pooling sizes along every axis; tiles of a valid network start at its multiples."""
        return self.geometry.total_stride

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Output size of an input of `size`. Raises `ModelError` naming the nearest valid sizes."""
        return self.geometry.output_size(size)

    def input_size(self, output_at_least: Sequence[int]) -> tuple[int, ...]:
        """The smallest valid input whose output has at least this size."""
        return self.geometry.input_size(output_at_least)

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, C, *S), floating point → logits (N, K, *S − margin)."""
        size = self._checked_size(image)
        maps = pad_end(image, self.geometry.padded_size(size))
        skips: list[Tensor] = []
        for block, pool in zip(self.encoder, self.pools, strict=False):  # the deepest level has no pooling
            skips.append(block(maps))
            maps = pool(skips[-1])
        maps = self.encoder[-1](maps)
        for up, block in zip(self.ups, self.decoder, strict=True):
            maps = block(join(skips.pop(), up(maps)))
        logits: Tensor = self.head(maps)
        if self.geometry.padded:
            for axis, n in enumerate(size):
                logits = logits.narrow(2 + axis, 0, n)
        return logits

    def _checked_size(self, image: Tensor) -> tuple[int, ...]:
        if image.ndim != self.dimensions + 2 or image.shape[1] != self.in_channels:
            raise ModelError(
                f"the network takes arrays of {self.dimensions + 2} axes (batch, {self.in_channels} channels, "
                f"{self.dimensions} spatial axes), found shape {tuple(image.shape)}"
            )
        size = tuple(image.shape[2:])
        self.geometry.output_size(size)
        return size


def _tuples(levels: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(level) for level in levels)
