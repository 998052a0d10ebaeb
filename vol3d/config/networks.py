"""The networks there are, as configuration: one class per kind, told apart by `kind`. Pure data, needs no torch.

Widths are channels; lists per level go from fine to coarse. kernels, pooling: sizes along X, Y, Z (X, Y in 2-D) per
level and between levels, for anisotropic voxels; left empty they are 3 and 2.
"""

from __future__ import annotations

import math
import typing
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from vol3d.config.section import Count, Section, Sizes

Dimensions = Literal[2, 3]
Normalization = Literal["none", "batch", "instance", "group"]
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]
NestedWidths = Annotated[tuple[Count, ...], Field(min_length=2, max_length=12)]  # every level meets all others
Repeats = Annotated[int, Field(ge=1, le=64)]


NetworkKind = Literal["unet", "fcn", "unet_plus_plus", "unet3plus", "deeplab_v3_plus", "encoder_unet"]


class _Levels(Section, ABC):
    """A network of levels, between which maps are pooled."""

    dimensions: Dimensions = 3
    kernels: tuple[Sizes, ...] = ()
    pooling: tuple[Sizes, ...] = ()
    normalization: Normalization = "batch"

    _POOLED_LEVELS: ClassVar[int] = 1  # how many levels more than poolings there are

    @property
    @abstractmethod
    def levels(self) -> int:
        """Number of levels."""

    @property
    def level_kernels(self) -> tuple[tuple[int, ...], ...]:
        """Kernel size of every level, fine to coarse; the default 3 filled in."""
        return self.kernels or ((3,) * self.dimensions,) * self.levels

    @property
    def level_pooling(self) -> tuple[tuple[int, ...], ...]:
        """Pooling size between the levels, fine to coarse; the default 2 filled in."""
        return self.pooling or ((2,) * self.dimensions,) * (self.levels - self._POOLED_LEVELS)

    @property
    def total_stride(self) -> tuple[int, ...]:
        """Product of the pooling sizes along every axis."""
        return tuple(math.prod(level[axis] for level in self.level_pooling) for axis in range(self.dimensions))

    @model_validator(mode="after")
    def _levels_agree(self) -> _Levels:
        between = self.levels - self._POOLED_LEVELS
        for name, entries, wanted in (("kernels", self.kernels, self.levels), ("pooling", self.pooling, between)):
            if entries and len(entries) != wanted:
                raise ValueError(f"`{name}` needs {wanted} entries for {self.levels} levels, found {len(entries)}")
            if any(len(entry) != self.dimensions for entry in entries):
                raise ValueError(f"every entry of `{name}` needs {self.dimensions} sizes, one per axis")
        if any(size % 2 == 0 for kernel in self.kernels for size in kernel):
            raise ValueError("kernel sizes must be odd")
        return self


class UNetConfig(_Levels):
    """U-Net and 3D U-Net.

    encoder: output channels of the convolutions of every level. `up_channels`: what an up-convolution does to the
    channels: keep (3D U-Net) or halve (U-Net). `bias`: of convolutions before a normalisation; others have one always.
    """

    kind: Literal["unet"] = "unet"
    encoder: Annotated[tuple[Widths, ...], Field(min_length=1)] = ((32, 64), (64, 128), (128, 256), (256, 512))
    padding: Literal["valid", "same"] = "same"
    up: Literal["transposed", "interpolate"] = "transposed"
    up_channels: Literal["keep", "halve"] = "keep"
    up_bias: bool = False
    bias: bool = True

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.encoder)


class FCNConfig(_Levels):
    """Fully convolutional network: a VGG trunk whose every level ends in a pooling, scores added up level by level.

    variant: the stride at which the scores begin to be up-sampled at once. convolutions: of every level. classifier:
    width of the two convolutions that were fully connected layers. classifier_kernel: size of the first of them, odd;
    left empty 7 in 2-D, as in the paper, and 3 in 3-D (27 positions for the paper's 49; 7 would be 343).
    """

    kind: Literal["fcn"] = "fcn"
    variant: Literal["32s", "16s", "8s"] = "8s"
    widths: Widths = (64, 128, 256, 512, 512)
    convolutions: Annotated[tuple[Repeats, ...], Field(min_length=1)] = (2, 2, 3, 3, 3)
    classifier: Count = 4096
    classifier_kernel: Count | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5

    _POOLED_LEVELS: ClassVar[int] = 0

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.widths)

    @property
    def fused(self) -> int:
        """How many levels' scores are added to the deepest ones."""
        return {"32s": 0, "16s": 1, "8s": 2}[self.variant]

    @property
    def classifier_sizes(self) -> tuple[int, ...]:
        """Size of the first classifier convolution along every axis; 1 where the deepest level's kernel is 1."""
        size = self.classifier_kernel or {2: 7, 3: 3}[self.dimensions]
        return tuple(size if kernel > 1 else 1 for kernel in self.level_kernels[-1])

    @model_validator(mode="after")
    def _levels_suffice(self) -> FCNConfig:
        if len(self.convolutions) != self.levels:
            raise ValueError(f"`convolutions` needs {self.levels} entries, found {len(self.convolutions)}")
        if self.levels <= self.fused:
            raise ValueError(f"variant {self.variant} needs at least {self.fused + 1} levels, found {self.levels}")
        if self.classifier_kernel is not None and self.classifier_kernel % 2 == 0:
            raise ValueError(f"`classifier_kernel` must be odd, found {self.classifier_kernel}")
        return self


class UNetPlusPlusConfig(_Levels):
    """U-Net++: nested dense skips.

    deep_supervision: a head on every X[0, j]. mode: with deep supervision, average all heads (accurate) or take the
    last (fast). prune: keep only what X[0, prune] needs and answer with its head.
    """

    kind: Literal["unet_plus_plus"] = "unet_plus_plus"
    widths: NestedWidths = (32, 64, 128, 256, 512)
    convolutions: Repeats = 2
    up: Literal["transposed", "interpolate"] = "transposed"
    deep_supervision: bool = True
    mode: Literal["accurate", "fast"] = "accurate"
    prune: Count | None = None

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.widths)

    @model_validator(mode="after")
    def _pruned_within(self) -> UNetPlusPlusConfig:
        if self.prune is not None and (self.prune >= self.levels or not self.deep_supervision):
            raise ValueError(f"`prune` must be 1 to {self.levels - 1} and needs deep_supervision, found {self.prune}")
        return self


class UNet3PlusConfig(_Levels):
    """UNet 3+: every decoder level joins maps of all levels, each brought to `joined` channels.

    deep_supervision: a head on every decoder level. classification_guided: gate the classes by whether they are
    present in the input at all.
    """

    kind: Literal["unet3plus"] = "unet3plus"
    widths: NestedWidths = (64, 128, 256, 512, 1024)
    convolutions: Repeats = 2
    joined: Count = 64
    deep_supervision: bool = True
    classification_guided: bool = False

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.widths)


ResNetName = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
EncoderName = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnext50", "resnext101", "efficientnet-b0", "efficientnet-b1",
    "efficientnet-b2", "efficientnet-b3", "efficientnet-b4", "densenet121", "densenet169", "densenet201",
]  # fmt: skip


class _Encoded(Section):
    """A network whose encoder was made for classification.

    encoder_weights: file to begin training from; no part of a model. normalization: of the whole network. flat_axes:
    axes that are never strided or dilated, for voxels that are long along them.
    """

    dimensions: Dimensions = 3
    encoder_weights: str | None = Field(None, description="safetensors file with weights of the encoder")
    normalization: Literal["batch", "instance", "group"] = "batch"
    flat_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()

    @model_validator(mode="after")
    def _some_axis_is_strided(self) -> _Encoded:
        axes = set(self.flat_axes)
        if len(axes) < len(self.flat_axes) or len(axes) >= self.dimensions or max(axes, default=0) >= self.dimensions:
            raise ValueError(
                f"`flat_axes` must be some of 0 to {self.dimensions - 1}, each once, not all; found {self.flat_axes}"
            )
        return self

    def _strides(self, stride: int) -> tuple[int, ...]:
        return tuple(1 if axis in self.flat_axes else stride for axis in range(self.dimensions))


class DeepLabV3PlusConfig(_Encoded):
    """DeepLab v3+: an encoder whose last block is dilated, parallel dilated convolutions, a light decoder.

    width: channels of the encoder's first block (64 in the paper's ResNets). rates: dilations of the parallel
    convolutions at output stride 16; doubled at 8. aspp: channels of each branch. low_level: what the encoder's
    stride-4 maps are reduced to.
    """

    kind: Literal["deeplab_v3_plus"] = "deeplab_v3_plus"
    encoder: ResNetName = "resnet50"
    width: Count = 64
    output_stride: Literal[8, 16] = 16
    rates: Widths = (6, 12, 18)
    aspp: Count = 256
    low_level: Count = 48

    @property
    def total_stride(self) -> tuple[int, ...]:
        """The output stride along every axis, 1 along flat ones."""
        return self._strides(self.output_stride)


class EncoderUNetConfig(_Encoded):
    """U-Net whose encoder is a classification network. decoder: widths of the decoder, coarse to fine."""

    kind: Literal["encoder_unet"] = "encoder_unet"
    encoder: EncoderName = "resnet18"
    decoder: Annotated[tuple[Count, ...], Field(min_length=5, max_length=5)] = (256, 128, 64, 32, 16)
    up: Literal["transposed", "interpolate"] = "interpolate"

    @property
    def total_stride(self) -> tuple[int, ...]:
        """32 along every axis, 1 along flat ones."""
        return self._strides(32)


class MonaiConfig(Section):
    """A network of MONAI by its class name, with its constructor's arguments (without dimensions and channels)."""

    kind: Literal["monai"] = "monai"
    monai: str
    dimensions: Dimensions = 3
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class PlannedNetwork(Section):
    """A network whose sizes are planned from the data and the device. width: channels of the finest level.

    dimensions: null is planned too, from what is painted and the device.
    """

    kind: Literal["planned"] = "planned"
    plan: NetworkKind = "unet"
    dimensions: Dimensions | None = None
    width: Count | None = None


AnyNetworkConfig = (
    UNetConfig
    | FCNConfig
    | UNetPlusPlusConfig
    | UNet3PlusConfig
    | DeepLabV3PlusConfig
    | EncoderUNetConfig
    | MonaiConfig
)
NETWORKS: dict[str, type[Section]] = {
    kind.model_fields["kind"].default: kind for kind in (*typing.get_args(AnyNetworkConfig), PlannedNetwork)
}
NetworkConfig = Annotated[AnyNetworkConfig, Field(discriminator="kind")]
NetworkChoice = Annotated[AnyNetworkConfig | PlannedNetwork, Field(discriminator="kind")]


def read_network(value: Any) -> Any:  # noqa: ANN401  whatever stands in a file
    """What may be written for a network → what is validated.

    A kind alone (`fcn`) is a planned network; a mapping without `kind` is planned if it has `plan`, one of MONAI's if
    it has `monai`, and a U-Net otherwise.
    """
    if isinstance(value, str):
        return {"kind": "planned", "plan": value}
    if isinstance(value, dict) and "kind" not in value:
        named = {"plan": "planned", "monai": "monai"}
        return {**value, "kind": next((kind for key, kind in named.items() if key in value), "unet")}
    return value
