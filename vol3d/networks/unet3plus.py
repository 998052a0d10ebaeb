"""UNet 3+ (Huang et al. 2020, arXiv 2004.08790)."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from vol3d.config import UNet3PlusConfig
from vol3d.errors import ModelError
from vol3d.networks.blocks import Concatenation, ConvBlock, interpolation
from vol3d.networks.nd import LAYERS
from vol3d.networks.network import Network, Outputs

_PRESENCE_DROPOUT = 0.5


class UNet3Plus(Network):
    """Full-scale skips: (N, C, *S) → logits (N, K, *S).

    Every decoder level joins one map of each level: finer ones and its own from the encoder, max-pooled, coarser ones
    from the decoder and the deepest of the encoder, linearly up-sampled; each is brought to `joined` channels by a
    convolution, and a last one goes over all joined × levels channels. A head is a convolution of its level's kernel
    and linear up-sampling. With deep supervision there is one for each level, and training mode answers them all, the
    finest first; evaluation answers the finest.

    classification_guided: dropout, a convolution of size 1 and the maximum over all voxels tell from the deepest map
    how likely each class is in the input at all. The paper trains this against the presence of the class in the full
    annotation and multiplies the outputs by a hard 0 or 1. Under sparse annotation a class that nobody marked may well
    be there, so no absence is ever taught: the logarithm of the presence's sigmoid is added to the logits, which scales
    the class's probability by it before they are normalised, and is learned through the same loss. As a maximum over
    the input, the gate belongs to the tile it was computed for. Raises `ModelError` with one class.

    Defaults, dimensions 2, no deep supervision, one class: the paper's 26.97 M parameters. Dropout draws from torch's
    global generator, in training mode only.
    """

    def __init__(self, config: UNet3PlusConfig, in_channels: int, classes: int) -> None:
        super().__init__(config, in_channels, classes)
        if config.classification_guided and classes == 1:
            raise ModelError(
                "classification_guided needs at least two classes, found one; set it to false for regression"
            )
        layers, levels, norm = LAYERS[config.dimensions], config.levels, config.normalization
        kernels = config.level_kernels
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.joins = nn.ModuleDict()  # of every decoder level and the level its map comes from
        channels = in_channels
        for width, kernel in zip(config.widths, kernels, strict=True):
            self.encoder.append(ConvBlock(channels, (width,) * config.convolutions, kernel, norm, padded=True))
            channels = width
        self.pools = nn.ModuleList(layers.max_pool(size) for size in config.level_pooling)
        self.concatenation = Concatenation()
        together = config.joined * levels
        for level in range(levels - 1):
            for source in range(levels):
                width = together if level < source < levels - 1 else config.widths[source]
                self.joins[f"{level}_{source}"] = nn.Sequential(
                    _resized(config, source, level),
                    ConvBlock(width, (config.joined,), kernels[level], norm, padded=True),
                )
            self.decoder.append(ConvBlock(together, (together,), kernels[level], norm, padded=True))
        self.scores = nn.ModuleList()
        for level in range(levels if config.deep_supervision else 1):
            width = together if level < levels - 1 else config.widths[-1]
            padding = tuple(size // 2 for size in kernels[level])
            self.scores.append(
                nn.Sequential(
                    layers.convolution(width, classes, kernels[level], padding=padding), _resized(config, level, 0)
                )
            )
        self.presence: nn.Module | None = None
        if config.classification_guided:
            convolution = layers.convolution(config.widths[-1], classes, 1)
            self.presence = nn.Sequential(nn.Dropout(_PRESENCE_DROPOUT), convolution)

    @property
    def heads(self) -> int:
        """How many logits `forward` answers in training mode."""
        return len(self.scores)

    @property
    def local(self) -> bool:
        """Whether an answer depends on its surroundings alone."""
        return self.config.normalization in {"none", "batch"} and not self.config.classification_guided

    def maps(self, image: Tensor) -> Outputs:
        """Logits of an image of a size the strides divide."""
        maps = [self.encoder[0](image)]
        for pool, block in zip(self.pools, list(self.encoder)[1:], strict=True):
            maps.append(block(pool(maps[-1])))
        for level in reversed(range(len(self.decoder))):  # maps[level] is the encoder's up to here, then the decoder's
            joined = (self.joins[f"{level}_{source}"](one) for source, one in enumerate(maps))
            maps[level] = self.decoder[level](self.concatenation(*joined))
        heads = self.heads if self.training else 1
        logits = [score(one) for score, one in zip(self.scores, maps[:heads], strict=False)]
        if self.presence is not None:
            gate = functional.logsigmoid(self.presence(maps[-1]).flatten(2).amax(2))
            gate = gate.reshape(*gate.shape, *(1,) * self.dimensions)
            logits = [one + gate for one in logits]
        return logits[0] if heads == 1 else tuple(logits)


def _resized(config: UNet3PlusConfig, source: int, target: int) -> nn.Module:
    """From the size of level `source` to that of `target`: max pooling, nothing, or linear interpolation."""
    between = config.level_pooling[min(source, target) : max(source, target)]
    factor = tuple(math.prod(level[axis] for level in between) for axis in range(config.dimensions))
    if source < target:
        return LAYERS[config.dimensions].max_pool(factor)
    return interpolation(factor)
