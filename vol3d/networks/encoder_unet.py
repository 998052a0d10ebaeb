"""U-Net whose encoder is a classification network: ResNet, ResNeXt, EfficientNet or DenseNet."""

from __future__ import annotations

from torch import Tensor, nn

from vol3d.config import EncoderUNetConfig
from vol3d.networks.blocks import ConvBlock, InterpolatedUp, join, transposed_up
from vol3d.networks.encoders import encoder
from vol3d.networks.nd import LAYERS
from vol3d.networks.network import Network


class EncoderUNet(Network):
    """(N, C, *S) → logits (N, K, *S), any size.

    Five steps up by 2, each: linear interpolation and a convolution of size 1 (or a transposed convolution) to the
    step's width, beside the encoder's maps of that size, then two convolutions of size 3, normalised. The encoders'
    finest maps have half the resolution; in the last step one convolution of size 3 of the image itself takes their
    place, without which structures one or two voxels thin would blur. Flat axes are neither strided nor up-sampled.
    """

    def __init__(self, config: EncoderUNetConfig, in_channels: int, classes: int) -> None:
        super().__init__(config, in_channels, classes)
        dimensions, normalization = config.dimensions, config.normalization
        kernel = (3,) * dimensions
        factor = tuple(1 if axis in config.flat_axes else 2 for axis in range(dimensions))
        self.encoder = encoder(config.encoder, dimensions, in_channels, normalization, config.flat_axes)
        self.image = ConvBlock(in_channels, config.decoder[-1:], kernel, normalization, padded=True)
        *skips, channels = (config.decoder[-1], *self.encoder.widths)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for width in config.decoder:
            if config.up == "transposed":
                self.ups.append(transposed_up(channels, width, factor, bias=False))
            else:
                self.ups.append(InterpolatedUp(channels, width, factor, bias=False, trimmed=False))
            self.decoder.append(ConvBlock(skips.pop() + width, (width, width), kernel, normalization, padded=True))
            channels = width
        self.head = LAYERS[dimensions].convolution(channels, classes, 1)

    @property
    def local(self) -> bool:
        """Whether an answer depends on its surroundings alone."""
        return self.config.normalization == "batch" and not self.config.encoder.startswith("efficientnet")

    def maps(self, image: Tensor) -> Tensor:
        """Logits of an image of a size the strides divide."""
        skips: list[Tensor] = [self.image(image), *self.encoder(image)]
        maps = skips.pop()
        for up, block in zip(self.ups, self.decoder, strict=True):
            maps = block(join(skips.pop(), up(maps)))
        logits: Tensor = self.head(maps)
        return logits
