"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597) and 3D U-Net (Çiçek et al. 2016, arXiv 1606.06650)."""

from __future__ import annotations

from torch import Tensor, nn

from vol3d.config import UNetConfig
from vol3d.networks.blocks import ConvBlock, InterpolatedUp, join, transposed_up
from vol3d.networks.nd import LAYERS
from vol3d.networks.network import Network


class UNet(Network):
    """Both papers' network in one: (N, C, *S) → logits (N, K, *S − margin), one value per class before the softmax.

    config.encoder: widths of the convolutions of every level, fine to coarse; the decoder has as many convolutions per
    level, all of the level's last width. padding `valid`: no padding, skips are cropped to their centre, margin > 0;
    `same`: zero padding, any input size, margin 0. up: transposed convolution, or linear interpolation and a
    convolution of size 1; up_channels: whether it keeps or halves the channels; up_bias: whether it has a bias. bias:
    whether convolutions have one before a normalisation.

    3D U-Net: the default widths, `valid`. U-Net: dimensions 2, widths 64, 64 … 1024, 1024, normalization `none`,
    up_channels `halve`, up_bias.

    Raises `ModelError` on inputs of a size the network cannot take.
    """

    def __init__(self, config: UNetConfig, in_channels: int, classes: int) -> None:
        super().__init__(config, in_channels, classes)
        layers, kernels, padded = LAYERS[config.dimensions], config.level_kernels, config.padding == "same"
        channels, norm = in_channels, config.normalization
        self.encoder = nn.ModuleList()
        for widths, kernel in zip(config.encoder, kernels, strict=True):
            self.encoder.append(ConvBlock(channels, widths, kernel, norm, padded=padded, bias=config.bias))
            channels = widths[-1]
        self.pools = nn.ModuleList(layers.max_pool(size) for size in config.level_pooling)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(config.encoder) - 1)):
            width = channels if config.up_channels == "keep" else max(1, channels // 2)
            factor = config.level_pooling[level]
            if config.up == "transposed":
                self.ups.append(transposed_up(channels, width, factor, bias=config.up_bias))
            else:
                self.ups.append(InterpolatedUp(channels, width, factor, bias=config.up_bias, trimmed=not padded))
            widths = config.encoder[level]
            channels = widths[-1]
            joined = channels + width
            widths = (channels,) * len(widths)
            self.decoder.append(ConvBlock(joined, widths, kernels[level], norm, padded=padded, bias=config.bias))
        self.head = layers.convolution(channels, classes, 1)

    @property
    def local(self) -> bool:
        """Whether an answer depends on its surroundings alone."""
        return self.config.normalization in {"none", "batch"}

    def maps(self, image: Tensor) -> Tensor:
        """Logits of an image of a size the strides divide."""
        maps = image
        skips: list[Tensor] = []
        for block, pool in zip(self.encoder, self.pools, strict=False):  # the deepest level has no pooling
            skips.append(block(maps))
            maps = pool(skips[-1])
        maps = self.encoder[-1](maps)
        for up, block in zip(self.ups, self.decoder, strict=True):
            maps = block(join(skips.pop(), up(maps)))
        logits: Tensor = self.head(maps)
        return logits
