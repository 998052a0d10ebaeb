"""Classification networks as encoders: ResNet, ResNeXt, EfficientNet, DenseNet, in 2-D and 3-D, from MONAI's parts.

He et al. 2016 (arXiv 1512.03385), Xie et al. 2017 (1611.05431), Tan & Le 2019 (1905.11946), Huang et al. 2017
(1608.06993). Classifiers are taken off. Where they differ from the classifiers that are well known:

- ResNets have the standard stem (convolution of size 7, stride 2; maximum of 3, stride 2) in 3-D too, and shortcuts
  by convolutions without bias: parameters and names are those of torchvision.
- ResNeXt is 32×4d, built here on MONAI's ResNet, since MONAI has it with squeeze-and-excitation only.
- EfficientNet has no last convolution (it feeds the classifier), and its blocks are never dropped at random: with one
  or two patches a step that would silence whole blocks. Statistics follow with momentum 0.1, not 0.01, so that they
  are current after a few hundred steps.
- DenseNet's maps are taken behind the normalisation and ReLU of the next transition, its last ones behind `norm5`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from monai.networks.nets import DenseNet, EfficientNetBN, ResNet
from monai.networks.nets.efficientnet import MBConvBlock
from torch import Tensor, nn

from vol3d.errors import ModelError
from vol3d.networks.blocks import Normalization, norm_layers
from vol3d.networks.nd import BATCH_NORMS, CONVOLUTIONS, LAYERS

Sizes = tuple[int, ...]
Trunk = tuple[nn.Module, tuple[tuple[str, ...], ...], Sizes]

_RESNET_STAGES = (("conv1", "bn1", "act"), ("maxpool", "layer1"), ("layer2",), ("layer3",), ("layer4",))
_EFFICIENT_STAGES = (
    ("_conv_stem_padding", "_conv_stem", "_bn0", "_swish", "_blocks.0"),
    ("_blocks.1",),
    ("_blocks.2",),
    ("_blocks.3", "_blocks.4"),
    ("_blocks.5", "_blocks.6"),
)
_GROUPS = 32  # ResNeXt-50 and -101 32×4d: as many groups, and twice the channels of a ResNet within a block


class Encoder(nn.Module):
    """(N, C, *S) → five maps at strides 2, 4, 8, 16 and 32 of S, fine to coarse; S divisible by the last stride.

    trunk: the classification network, which gives the names of the weights. stages: names of the parts of `trunk` that
    are run after each other for every map. widths: channels of the maps. Flat axes keep their size; with an output
    stride of 8 or 16 the strides stop there.
    """

    def __init__(self, trunk: nn.Module, stages: tuple[tuple[str, ...], ...], widths: Sizes) -> None:
        super().__init__()
        self.trunk = trunk
        self.stages = stages
        self.widths = widths

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps, fine to coarse."""
        maps, found = image, []
        for stage in self.stages:
            for name in stage:
                maps = self.trunk.get_submodule(name)(maps)
            found.append(maps)
        return found


def encoder(
    name: str,
    dimensions: int,
    in_channels: int,
    normalization: Normalization = "batch",
    flat_axes: Sequence[int] = (),
) -> Encoder:
    """The encoder of a name.

    normalization: takes the place of BatchNorm everywhere. flat_axes: along them nothing is strided, and the stem's
    kernels are 1. Raises `ModelError` on an unknown name.
    """
    if name not in _TRUNKS:
        raise ModelError(f"unknown encoder {name!r}; there are {', '.join(_TRUNKS)}")
    trunk, stages, widths = _TRUNKS[name](dimensions, in_channels)
    return _finish(Encoder(trunk, stages, widths), normalization, flat_axes)


def resnet_encoder(
    name: str,
    dimensions: int,
    in_channels: int,
    normalization: Normalization = "batch",
    flat_axes: Sequence[int] = (),
    *,
    width: int = 64,
    output_stride: int = 32,
) -> Encoder:
    """A ResNet whose stages have `width` times 1, 2, 4 and 8 channels (four times as many in bottlenecks).

    output_stride: 32, or 16 or 8, where the last stage or the last two are dilated instead of strided: their maps are
    those of stride 32 (16), computed at every voxel, and every 2nd (4th) of them is the strided network's.
    """
    encoder = Encoder(*_resnet(name, dimensions, in_channels, width))
    if output_stride < 32:
        _dilate([encoder.trunk.get_submodule(f"layer{i}") for i in ((3, 4) if output_stride == 8 else (4,))], flat_axes)
    return _finish(encoder, normalization, flat_axes)


def _resnet(name: str, dimensions: int, in_channels: int, width: int = 64) -> Trunk:
    block, layers = {
        "resnet18": ("basic", [2, 2, 2, 2]),
        "resnet34": ("basic", [3, 4, 6, 3]),
        "resnet50": ("bottleneck", [3, 4, 6, 3]),
        "resnet101": ("bottleneck", [3, 4, 23, 3]),
    }[name]
    trunk = ResNet(
        block=block,
        layers=layers,
        block_inplanes=[width, 2 * width, 4 * width, 8 * width],
        spatial_dims=dimensions,
        n_input_channels=in_channels,
        conv1_t_stride=2,
        shortcut_type="B",
        bias_downsample=False,
        feed_forward=False,
    )
    wide = 4 if block == "bottleneck" else 1
    return trunk, _RESNET_STAGES, (width, *(wide * factor * width for factor in (1, 2, 4, 8)))


def _resnext(name: str, dimensions: int, in_channels: int) -> Trunk:
    trunk, stages, widths = _resnet(name, dimensions, in_channels)
    layers = LAYERS[dimensions]
    convolution, norm = partial(layers.convolution, bias=False), layers.batch_norm
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for block in _sequence(trunk.get_submodule(stage)):
            wide, strided = 2 * block.conv1.out_channels, block.conv2.stride
            block.conv1, block.bn1 = convolution(block.conv1.in_channels, wide, 1), norm(wide)
            block.conv2, block.bn2 = convolution(wide, wide, 3, strided, 1, groups=_GROUPS), norm(wide)
            block.conv3 = convolution(wide, block.conv3.out_channels, 1)
    return trunk, stages, widths


def _efficientnet(name: str, dimensions: int, in_channels: int) -> Trunk:
    norm = ("batch", {"eps": 1e-3, "momentum": 0.1})
    trunk = EfficientNetBN(name, pretrained=False, spatial_dims=dimensions, in_channels=in_channels, norm=norm)
    del trunk._conv_head, trunk._conv_head_padding, trunk._bn1, trunk._avg_pooling, trunk._dropout, trunk._fc
    for module in trunk.modules():
        if isinstance(module, MBConvBlock):
            module.drop_connect_rate = 0.0
    last = [list(_sequence(trunk.get_submodule(stage[-1])))[-1] for stage in _EFFICIENT_STAGES]
    return trunk, _EFFICIENT_STAGES, tuple(block.out_channels for block in last)


def _densenet(blocks: tuple[int, ...], dimensions: int, in_channels: int) -> Trunk:
    trunk = DenseNet(spatial_dims=dimensions, in_channels=in_channels, out_channels=1, block_config=blocks)
    del trunk.class_layers
    maps: list[tuple[str, ...]] = [("conv0", "norm0", "relu0")]
    before: tuple[str, ...] = ("pool0",)
    for i in range(1, len(blocks)):
        transition = f"transition{i}"
        maps.append((*before, f"denseblock{i}", f"{transition}.norm", f"{transition}.relu"))
        before = (f"{transition}.conv", f"{transition}.pool")
    maps.append((*before, f"denseblock{len(blocks)}", "norm5", "relu0"))
    stages = tuple(tuple(f"features.{name}" for name in stage) for stage in maps)
    return trunk, stages, tuple(trunk.get_submodule(stage[-2]).num_features for stage in stages)


_TRUNKS: dict[str, Callable[[int, int], Trunk]] = {
    **{name: partial(_resnet, name) for name in ("resnet18", "resnet34", "resnet50", "resnet101")},
    "resnext50": partial(_resnext, "resnet50"),
    "resnext101": partial(_resnext, "resnet101"),
    **{f"efficientnet-b{i}": partial(_efficientnet, f"efficientnet-b{i}") for i in range(5)},
    "densenet121": partial(_densenet, (6, 12, 24, 16)),
    "densenet169": partial(_densenet, (6, 12, 32, 32)),
    "densenet201": partial(_densenet, (6, 12, 48, 32)),
}


def _finish(encoder: Encoder, normalization: Normalization, flat_axes: Sequence[int]) -> Encoder:
    if flat_axes:
        _flatten(encoder.trunk, encoder.stages[0], flat_axes)
    if normalization != "batch":
        for name, module in list(encoder.trunk.named_modules()):
            if isinstance(module, BATCH_NORMS):
                dimensions = 3 if isinstance(module, nn.BatchNorm3d) else 2
                _replace(encoder.trunk, name, *norm_layers(normalization, module.num_features, dimensions))
    return encoder


def _flatten(trunk: nn.Module, stem: Sequence[str], axes: Sequence[int]) -> None:
    """Take out all strides along `axes`, and the extent of the stem's and the poolings' kernels, in place."""
    for name, module in list(trunk.named_modules()):
        if isinstance(module, CONVOLUTIONS):
            stride = _with(module.stride, axes, 1)
            if name in stem:
                _replace(trunk, name, _convolution_like(module, _with(module.kernel_size, axes, 1), stride))
            module.stride = stride
        elif isinstance(module, (nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)):
            for key, value in (("kernel_size", 1), ("stride", 1), ("padding", 0)):
                setattr(module, key, _with(_per_axis(getattr(module, key), trunk), axes, value))
    for convolution, padding in _padded_apart(trunk):
        pairs = list(padding.padding)  # of the last axis first
        for axis in axes:
            i = 2 * (len(convolution.kernel_size) - 1 - axis)
            pairs[i : i + 2] = [(convolution.kernel_size[axis] - 1) // 2] * 2
        padding.padding = tuple(pairs)


def _dilate(stages: Sequence[nn.Module], flat_axes: Sequence[int]) -> None:
    """Take out the strides of `stages` and dilate what comes after each instead (à trous), in place."""
    rate = 1
    for stage in stages:
        strided = rate
        for module in stage.modules():
            if not isinstance(module, CONVOLUTIONS):
                continue
            dilation = tuple(1 if axis in flat_axes else strided for axis in range(len(module.kernel_size)))
            if max(module.kernel_size) > 1:
                module.dilation = dilation
                module.padding = tuple(k // 2 * d for k, d in zip(module.kernel_size, dilation, strict=True))
                if max(module.stride) > 1:
                    strided = 2 * rate
            module.stride = (1,) * len(module.stride)
        rate = strided


def _padded_apart(trunk: nn.Module) -> Iterator[tuple[Any, Any]]:
    """The convolutions of an EfficientNet that a module of its own pads, and these modules."""
    names = dict(trunk.named_modules())
    for name, module in names.items():
        padding = names.get(f"{name}_padding")
        if padding is not None and not isinstance(padding, nn.Identity):
            yield module, padding


def _convolution_like(module: nn.Conv2d | nn.Conv3d, kernel: Sizes, stride: Sizes) -> nn.Module:
    padding = tuple(p if k > 1 else 0 for p, k in zip(_sizes(module.padding), kernel, strict=True))
    convolution = LAYERS[len(kernel)].convolution
    return convolution(module.in_channels, module.out_channels, kernel, stride, padding, bias=module.bias is not None)


def _replace(trunk: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(trunk.get_submodule(parent), leaf, module)


def _sequence(module: nn.Module) -> Iterator[Any]:
    return iter(module.children())


def _with(sizes: Sequence[int], axes: Sequence[int], value: int) -> Sizes:
    return tuple(value if axis in axes else size for axis, size in enumerate(sizes))


def _per_axis(size: int | Sizes, trunk: nn.Module) -> Sizes:
    if not isinstance(size, int):
        return tuple(size)
    dimensions = next(len(m.kernel_size) for m in trunk.modules() if isinstance(m, CONVOLUTIONS))
    return (size,) * dimensions


def _sizes(padding: str | Sizes) -> Sizes:
    assert not isinstance(padding, str)
    return tuple(padding)
