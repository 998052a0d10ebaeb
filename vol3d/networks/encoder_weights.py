"""Weights of a trained classification network → the encoder of a network, by the names of its own file."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vol3d.errors import ModelError
from vol3d.networks.encoders import Encoder

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_CLASSIFIERS = ("fc.", "classifier.", "class_layers.", "_fc.", "_conv_head.", "_bn1.")
_STEMS = ("conv1.weight", "_conv_stem.weight", "features.conv0.weight")
_DENSE = re.compile(r"(denselayer\d+)\.(norm|relu|conv)")
_EFFICIENT_BLOCK = re.compile(r"^_blocks\.\d+\.(\d+)\.")


def load_encoder_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Copy weights into the encoder of `network`, in place; returns in one line what was done.

    tensors: name → tensor; names are those of the encoder's `trunk`, of torchvision's ResNet, ResNeXt and DenseNet or
    of lukemelas' EfficientNet. Classifiers are passed over, as are stored statistics where the encoder keeps none.
    Where the first convolution has another number of input channels it gets the mean over the file's, scaled so that
    an image of equal channels has the response it had.

    Raises `ModelError`, with nothing copied, on a network without such an encoder, on a missing, unknown, not finite
    or differently shaped tensor.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise ModelError(
            f"encoder_weights are for networks whose encoder is a classification network (encoder_unet, "
            f"deeplab_v3_plus), found {type(network).__name__}; leave them out"
        )
    wanted = encoder.trunk.state_dict()
    found = _named_like(wanted, tensors)
    adapted = _adapt_stem(wanted, found)
    _require_same(wanted, found)
    with torch.no_grad():
        for name, value in found.items():
            wanted[name].copy_(value)
    values = sum(value.numel() for value in found.values())
    note = f", its first convolution adapted from {adapted} channels" if adapted else ""
    return f"encoder begins with {len(found)} tensors ({values:,} values) of the file{note}"


def _named_like(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` under the encoder's names, without classifiers and statistics it does not keep."""
    flat = {_EFFICIENT_BLOCK.sub(r"_blocks.\1.", name): name for name in wanted}
    found = {}
    for given, value in tensors.items():
        name = given if given in wanted else _DENSE.sub(r"\1.layers.\2", given)
        name = name if name in wanted else flat.get(name, name)
        unused = name.startswith(_CLASSIFIERS) or name.endswith(_STATISTICS)
        if name in wanted or not unused:
            found[name] = value
    return found


def _adapt_stem(wanted: Mapping[str, Tensor], found: dict[str, Tensor]) -> int:
    """Give the first convolution its number of input channels, in place; returns how many it had, 0 if the same."""
    for name in _STEMS:
        if name not in wanted or name not in found:
            continue
        weight, shape = found[name], wanted[name].shape
        if weight.ndim == len(shape) and weight.shape[1] != shape[1]:
            had = weight.shape[1]
            mean = weight.float().mean(dim=1, keepdim=True) * (had / shape[1])
            found[name] = mean.expand(-1, shape[1], *weight.shape[2:])
            return int(had)
    return 0


def _require_same(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, value in wanted.items():
        given = found.get(name)
        if given is None:
            if name.endswith("num_batches_tracked"):
                continue
            raise ModelError(f"the encoder's weights lack {name!r} {tuple(value.shape)}: they are of another network")
        if given.shape != value.shape:
            raise ModelError(
                f"the encoder's weights do not fit: {name!r} should be {tuple(value.shape)}, is {tuple(given.shape)}"
            )
        if given.is_floating_point() != value.is_floating_point() or not bool(given.isfinite().all()):
            raise ModelError(f"the encoder's weights {name!r} should be finite {value.dtype}, found {given.dtype}")
    unknown = next((name for name in found if name not in wanted), None)
    if unknown is not None:
        raise ModelError(
            f"the encoder has no tensor {unknown[:100]!r} {tuple(found[unknown].shape)}: they are of another network"
        )
