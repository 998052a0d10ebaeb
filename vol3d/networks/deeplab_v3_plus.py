"""DeepLab v3+ (Chen et al. 2018, arXiv 1802.02611) on ResNets, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vol3d.config import DeepLabV3PlusConfig
from vol3d.networks.blocks import Concatenation, ConvBlock, Normalization, interpolation, norm_layers
from vol3d.networks.encoders import resnet_encoder
from vol3d.networks.nd import LAYERS
from vol3d.networks.network import Network

_LOW_STRIDE = 4  # of the encoder's maps that the decoder joins


class DeepLabV3Plus(Network):
    """(N, C, *S) → logits (N, K, *S), any size.

    Encoder: a ResNet whose last stage (output stride 16), or last two (8), are dilated instead of strided. Its maps
    go through a convolution of size 1, three dilated ones of size 3 and their mean over the whole input, side by side
    (`Pyramid`). Decoder: that, up-sampled to stride 4, beside the encoder's maps of stride 4 reduced to few channels,
    two convolutions of size 3, the classes, up-sampled to full size; all up-sampling is linear.

    As in the paper but for: ResNets' plain convolutions throughout, no random dropping of values. Flat axes are
    neither strided nor dilated nor up-sampled; the pyramid's kernels are 1 along them.
    """

    def __init__(self, config: DeepLabV3PlusConfig, in_channels: int, classes: int) -> None:
        super().__init__(config, in_channels, classes)
        dimensions, normalization, flat = config.dimensions, config.normalization, config.flat_axes
        self.encoder = resnet_encoder(
            config.encoder,
            dimensions,
            in_channels,
            normalization,
            flat,
            width=config.width,
            output_stride=config.output_stride,
        )
        rates = [rate * 16 // config.output_stride for rate in config.rates]
        self.pyramid = Pyramid(self.encoder.widths[-1], config.aspp, dimensions, rates, normalization, flat)
        pointwise, kernel = (1,) * dimensions, (3,) * dimensions
        self.reduce = ConvBlock(self.encoder.widths[1], (config.low_level,), pointwise, normalization, padded=True)
        self.join = Concatenation()
        widths = (config.aspp, config.aspp)
        self.decoder = ConvBlock(config.aspp + config.low_level, widths, kernel, normalization, padded=True)
        self.head = LAYERS[dimensions].convolution(config.aspp, classes, 1)
        step, last = config.output_stride // _LOW_STRIDE, _LOW_STRIDE
        self.up = interpolation(tuple(1 if axis in flat else step for axis in range(dimensions)))
        self.last_up = interpolation(tuple(1 if axis in flat else last for axis in range(dimensions)))

    def maps(self, image: Tensor) -> Tensor:
        """Logits of an image of a size the strides divide."""
        _, low, _, _, deep = self.encoder(image)
        maps = self.decoder(self.join(self.reduce(low), self.up(self.pyramid(deep))))
        logits: Tensor = self.last_up(self.head(maps))
        return logits


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: (N, C, *S) → (N, width, *S), seen at several scales at once.

    Branches of `width` channels: a convolution of size 1, one of size 3 for every rate, dilated by it (also where it
    reaches beyond the map, which counts as zeros), and the mean over S. All but the last are normalised; the mean is a
    single value per channel, which a batch of one cannot be normalised by. A convolution of size 1 joins them.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        dimensions: int,
        rates: Sequence[int],
        normalization: Normalization,
        flat_axes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        convolution = LAYERS[dimensions].convolution

        def normalised(module: nn.Module) -> nn.Module:
            return nn.Sequential(module, *norm_layers(normalization, width, dimensions), nn.ReLU(inplace=True))

        kernel = tuple(1 if axis in flat_axes else 3 for axis in range(dimensions))
        self.branches = nn.ModuleList([normalised(convolution(channels, width, 1, bias=False))])
        for rate in rates:
            dilation = tuple(1 if axis in flat_axes else rate for axis in range(dimensions))
            padding = tuple(0 if axis in flat_axes else rate for axis in range(dimensions))
            dilated = LAYERS[dimensions].dilated(
                channels, width, kernel, padding=padding, dilation=dilation, bias=False
            )
            self.branches.append(normalised(dilated))
        self.mean = nn.Sequential(convolution(channels, width, 1), nn.ReLU(inplace=True))
        self.join = Concatenation()
        self.project = normalised(convolution((2 + len(rates)) * width, width, 1, bias=False))

    def forward(self, maps: Tensor) -> Tensor:
        """All branches joined."""
        axes = tuple(range(2, maps.ndim))
        mean = self.mean(maps.mean(dim=axes, keepdim=True)).expand(-1, -1, *maps.shape[2:])
        joined: Tensor = self.project(self.join(*(branch(maps) for branch in self.branches), mean))
        return joined
