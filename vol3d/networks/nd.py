"""The layer table: what a 2-D and a 3-D network are made of. Everything else in this room is written once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

Layer = Callable[..., nn.Module]


@dataclass(frozen=True)
class Layers:
    """Constructors of the layers for one number of dimensions; `interpolation` is torch's name of the linear mode.

    dilated: as `convolution`, of odd kernels padded to keep the size; for dilations that may exceed the map.
    """

    convolution: Layer
    dilated: Layer
    transposed_convolution: Layer
    max_pool: Layer
    batch_norm: Layer
    instance_norm: Layer
    interpolation: str


class Dilated2d(nn.Conv2d):
    """A convolution of an odd kernel, padded to keep the size, whose taps beyond a small map are left out.

    They would meet zeros alone. In bfloat16 oneDNN (torch 2.13, CPU) reads memory it should not where the dilation is
    several times the map, and answers NaN.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same size."""
        weight, padding, dilation = _within(self, maps)
        return functional.conv2d(maps, weight, self.bias, self.stride, padding, dilation, self.groups)


class Dilated3d(nn.Conv3d):
    """As `Dilated2d`, in 3-D."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same size."""
        weight, padding, dilation = _within(self, maps)
        return functional.conv3d(maps, weight, self.bias, self.stride, padding, dilation, self.groups)


def _within(layer: nn.Conv2d | nn.Conv3d, maps: Tensor) -> tuple[Tensor, list[int], list[int]]:
    """(weight, padding, dilation) without the taps that lie outside the map wherever the kernel's middle is."""
    weight, dilation = layer.weight, list(layer.dilation)
    for axis, n in enumerate(maps.shape[2:]):
        if dilation[axis] >= n:
            weight, dilation[axis] = weight.narrow(2 + axis, weight.shape[2 + axis] // 2, 1), 1
    padding = [k // 2 * d for k, d in zip(weight.shape[2:], dilation, strict=True)]
    return weight, padding, dilation


LAYERS = {
    2: Layers(nn.Conv2d, Dilated2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.BatchNorm2d, nn.InstanceNorm2d, "bilinear"),
    3: Layers(nn.Conv3d, Dilated3d, nn.ConvTranspose3d, nn.MaxPool3d, nn.BatchNorm3d, nn.InstanceNorm3d, "trilinear"),
}

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORMS = (*BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm)
