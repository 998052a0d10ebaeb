"""Fully convolutional network (Long, Shelhamer, Darrell 2015, arXiv 1411.4038)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from vol3d.config import FCNConfig
from vol3d.networks.blocks import ConvBlock, LinearUp, interpolation
from vol3d.networks.nd import LAYERS
from vol3d.networks.network import Network


class FCN(Network):
    """FCN-32s, 16s or 8s: (N, C, *S) → logits (N, K, *S).

    A VGG trunk, every level of which ends in a pooling; two convolutions in place of VGG's fully connected layers, with
    dropout; a score per class. The scores are up-sampled level by level, as often as the variant says, and the scores
    of that level's pooled maps are added; the rest of the way is one interpolation. Up-sampling factors are the
    poolings', axis by axis.

    As in the paper the up-sampling between levels is a transposed convolution that starts as linear interpolation and
    is learned, and the last one is fixed. Unlike there every convolution is padded to keep its size (the paper pads the
    image by 100 pixels and crops), the trunk and the classifier may be normalised, and the last up-sampling repeats the
    border instead of fading to zero. Defaults, dimensions 2, normalization `none`: VGG-16.

    Dropout draws from torch's global generator, in training mode only.
    """

    def __init__(self, config: FCNConfig, in_channels: int, classes: int) -> None:
        super().__init__(config, in_channels, classes)
        layers, pooling, norm = LAYERS[config.dimensions], config.level_pooling, config.normalization
        channels = in_channels
        self.trunk = nn.ModuleList()
        for width, count, kernel in zip(config.widths, config.convolutions, config.level_kernels, strict=True):
            self.trunk.append(ConvBlock(channels, (width,) * count, kernel, norm, padded=True))
            channels = width
        self.pools = nn.ModuleList(layers.max_pool(size) for size in pooling)
        single = (1,) * config.dimensions
        self.classifier = nn.Sequential(
            ConvBlock(channels, (config.classifier,), config.classifier_sizes, norm, padded=True),
            nn.Dropout(config.dropout),
            ConvBlock(config.classifier, (config.classifier,), single, norm, padded=True),
            nn.Dropout(config.dropout),
        )
        self.score = layers.convolution(config.classifier, classes, 1)
        fused = range(config.levels - 2, config.levels - 2 - config.fused, -1)
        self.ups = nn.ModuleList(LinearUp(classes, pooling[level + 1]) for level in fused)
        self.level_scores = nn.ModuleList(layers.convolution(config.widths[level], classes, 1) for level in fused)
        rest = pooling[: config.levels - config.fused]
        self.up_to_full = interpolation(tuple(math.prod(level[axis] for level in rest) for axis in range(len(single))))

    @property
    def local(self) -> bool:
        """Whether an answer depends on its surroundings alone."""
        return self.config.normalization in {"none", "batch"}

    def maps(self, image: Tensor) -> Tensor:
        """Logits of an image of a size the strides divide."""
        maps = image
        pooled: list[Tensor] = []
        for block, pool in zip(self.trunk, self.pools, strict=True):
            maps = pool(block(maps))
            pooled.append(maps)
        scores = self.score(self.classifier(pooled.pop()))
        for up, level_score in zip(self.ups, self.level_scores, strict=True):
            scores = up(scores) + level_score(pooled.pop())
        logits: Tensor = self.up_to_full(scores)
        return logits
