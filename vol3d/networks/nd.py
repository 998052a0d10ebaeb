"""The layer table: what a 2-D and a 3-D network are made of. Everything else in this room is written once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

Layer = Callable[..., nn.Module]


@dataclass(frozen=True)
class Layers:
    """Constructors of the layers for one number of dimensions; `interpolation` is torch's name of the linear mode."""

    convolution: Layer
    transposed_convolution: Layer
    max_pool: Layer
    batch_norm: Layer
    instance_norm: Layer
    interpolation: str


LAYERS = {
    2: Layers(nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.BatchNorm2d, nn.InstanceNorm2d, "bilinear"),
    3: Layers(nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d, nn.BatchNorm3d, nn.InstanceNorm3d, "trilinear"),
}

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORMS = (*BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm)
