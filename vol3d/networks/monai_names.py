"""MONAI's networks that may be named in a configuration, and what must be known of them without importing them.

Left out: UNETR and others that are built for one input size; DiNTS, VISTA3D, SegResNetVAE and whatever else takes or
gives more than images and logits.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vol3d.config import MonaiConfig
from vol3d.errors import ModelError

Arguments = Mapping[str, Any]
Sizes = tuple[int, ...]

SET_BY_US = ("spatial_dims", "in_channels", "out_channels")
_LARGEST_NUMBER = 1 << 16
_MOST_VALUES = 256
_MOST_LAYERS = 64  # of one entry that counts layers; all of them together: twice as many
_LARGEST_STRIDE = 1024
_UNSAFE = {"device", "dtype"}  # of a layer: would reach past what is checked before anything is allocated


@dataclass(frozen=True)
class MonaiEntry:
    """What is to be known of one network.

    stride: (dimensions, arguments) → by what input sizes must be divisible along every axis. heads: arguments → how
    many logits it answers in training mode. refused: arguments that are not for configurations. counts: arguments
    that say how many layers there are. answers_last: of several logits the final ones come last. accepted: names of
    its arguments where its signature does not tell. given: (dimensions) → arguments that MONAI's defaults get wrong.
    idle: (arguments) → its parts that no answer depends on, or that it holds elsewhere too; they are taken out.
    needs: a package that MONAI imports.
    """

    stride: Callable[[int, Arguments], Sizes]
    heads: Callable[[Arguments], int] = lambda _: 1
    refused: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    answers_last: bool = False
    accepted: tuple[str, ...] | None = None
    given: Callable[[int], dict[str, Any]] = lambda _: {}
    idle: Callable[[Arguments], tuple[str, ...]] = lambda _: ()
    needs: str | None = None


def monai_entry(name: str) -> MonaiEntry:
    """What is known of a network. Raises `ModelError` on a name that is not on the list."""
    if name not in MONAI:
        near = difflib.get_close_matches(name, MONAI, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ModelError(f"unknown MONAI network {name[:60]!r}; there are {', '.join(MONAI)}.{hint}")
    return MONAI[name]


def monai_stride(config: MonaiConfig) -> Sizes:
    """By what the sizes of its inputs must be divisible, along every axis.

    Raises `ModelError` on an unknown name, and on arguments that are too large or from which it does not follow.
    """
    entry = monai_entry(config.monai)
    require_modest(config)
    try:
        stride = entry.stride(config.dimensions, config.arguments)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, ArithmeticError) as error:
        raise ModelError(
            f"MONAI's {config.monai} cannot be planned from these arguments: {one_line(error)}. "
            "Give channels, strides and blocks as lists of numbers."
        ) from error
    if len(stride) != config.dimensions or not all(1 <= step <= _LARGEST_STRIDE for step in stride):
        raise ModelError(
            f"MONAI's {config.monai} has strides {'×'.join(map(str, stride))}; expected {config.dimensions}, "
            f"from 1 to {_LARGEST_STRIDE}"
        )
    return stride


def monai_heads(config: MonaiConfig) -> int:
    """How many logits it answers in training mode."""
    try:
        return monai_entry(config.monai).heads(config.arguments)
    except (TypeError, ValueError) as error:
        raise ModelError(f"MONAI's {config.monai} cannot be built: {one_line(error)}") from error


def require_modest(config: MonaiConfig) -> None:
    """Refuse arguments that no machine could build, or that name devices. Raises `ModelError`."""
    entry = monai_entry(config.monai)
    values = list(_leaves(config.arguments))
    numbers = [value for _, value in values if isinstance(value, int | float)]
    too_large = [value for value in numbers if not abs(value) <= _LARGEST_NUMBER]
    layers = [value for key, value in values if key in entry.counts and isinstance(value, int)]
    if (
        too_large
        or len(values) > _MOST_VALUES
        or max(layers, default=0) > _MOST_LAYERS
        or sum(layers) > 2 * _MOST_LAYERS
    ):
        found = f"{too_large[0]:.6g}" if too_large else f"{len(values)} values, {sum(layers)} layers"
        raise ModelError(f"arguments of MONAI's {config.monai} are beyond what can be built: found {found}")
    unsafe = sorted({key for key, _ in values} & _UNSAFE)
    if unsafe:
        raise ModelError(f"arguments of MONAI's {config.monai} must not set {unsafe[0]!r}; remove it")


def one_line(error: Exception) -> str:
    """The message of an error, short and in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _leaves(arguments: Arguments) -> Iterable[tuple[str, Any]]:
    """All values with the name they stand under; lists and mappings as None, and what is in them."""
    left: list[tuple[str, Any]] = list(arguments.items())
    while left:
        key, value = left.pop()
        if isinstance(value, Mapping):
            left += value.items()
        elif isinstance(value, list | tuple):
            left += [(key, item) for item in value]
        yield key, None if isinstance(value, Mapping | list | tuple) else value


def _fixed(stride: int) -> Callable[[int, Arguments], Sizes]:
    return lambda dimensions, _: (stride,) * dimensions


def _halvings(name: str, default: int, less: int) -> Callable[[int, Arguments], Sizes]:
    """Halved once per entry of an argument, but for `less` of them."""
    return lambda dimensions, arguments: (
        (2 ** max(0, len(arguments[name]) - less if name in arguments else default),) * dimensions
    )


def _strides(dimensions: int, arguments: Arguments, *, used: int | None = None) -> Sizes:
    """Product of the entries of `strides`, each one number or one per axis."""
    steps = [(s,) * dimensions if isinstance(s, int) else tuple(s) for s in arguments["strides"][:used]]
    if any(len(step) != dimensions or not all(isinstance(n, int) and n > 0 for n in step) for step in steps):
        raise ValueError(f"expected `strides` of 1 or more, each a number or {dimensions} of them")
    return tuple(math.prod(step[axis] for step in steps) for axis in range(dimensions))


def _unet_strides(dimensions: int, arguments: Arguments) -> Sizes:
    return _strides(dimensions, arguments, used=len(arguments["channels"]) - 1)


def _segresnet_ds_stride(dimensions: int, arguments: Arguments) -> Sizes:
    """With a `resolution` (voxel sizes) it halves only short axes until the voxels are about cubic."""
    levels = len(arguments.get("blocks_down", (1, 2, 2, 4))) - 1
    resolution = arguments.get("resolution")
    if not resolution:
        return (2**levels,) * dimensions
    ahead = [math.floor(math.log2(max(resolution) / size)) for size in resolution]
    return tuple(2 ** sum(level < steps or level >= max(ahead) for level in range(levels)) for steps in ahead)


def _plus_plus_idle(arguments: Arguments) -> tuple[str, ...]:
    return () if arguments.get("deep_supervision") else tuple(f"final_conv_0_{i}" for i in (1, 2, 3))


def _dynunet_idle(arguments: Arguments) -> tuple[str, ...]:
    """It holds its blocks twice, in these lists and in the nested ones that it runs."""
    twice = ("input_block", "downsamples", "bottleneck", "upsamples")
    return (*twice, "deep_supervision_heads") if arguments.get("deep_supervision") else twice


def _flexible_idle(arguments: Arguments) -> tuple[str, ...]:
    efficient = str(arguments.get("backbone")).startswith("efficientnet")
    return ("encoder._conv_head", "encoder._bn1", "encoder._fc") if efficient else ()


_HYENA = (
    "use_hyena", "hyena_stages", "hyena_kernel_size", "hyena_kernel_mlp_dim", "hyena_kernel_layers",
    "hyena_mask_max_attenuation", "hyena_fft_padding", "hyena_grid_type", "hyena_use_chunked_fft",
    "hyena_use_fft_short_conv", "hyena_omega_0", "hyena_l_cache", "hyena_short_conv_fft_chunks",
)  # fmt: skip

_MEDNEXT = MonaiEntry(
    _fixed(16),
    lambda arguments: 5 if arguments.get("deep_supervision") else 1,
    accepted=("kernel_size", "deep_supervision"),
)

MONAI: dict[str, MonaiEntry] = {
    "SegResNet": MonaiEntry(_halvings("blocks_down", 3, 1), counts=("blocks_down", "blocks_up")),
    "SegResNetDS": MonaiEntry(
        _segresnet_ds_stride,
        lambda arguments: max(1, min(arguments.get("dsdepth", 1), len(arguments.get("blocks_down", (1, 2, 2, 4))) - 1)),
        refused=("preprocess",),
        counts=("blocks_down", "blocks_up"),
    ),
    "UNet": MonaiEntry(_unet_strides, counts=("num_res_units",)),
    "BasicUNet": MonaiEntry(_fixed(16)),
    "BasicUNetPlusPlus": MonaiEntry(
        _fixed(16),
        lambda arguments: 4 if arguments.get("deep_supervision") else 1,
        answers_last=True,
        idle=_plus_plus_idle,
    ),
    "AttentionUnet": MonaiEntry(_unet_strides),
    "DynUNet": MonaiEntry(
        _strides,
        lambda arguments: 1 + arguments.get("deep_supr_num", 1) if arguments.get("deep_supervision") else 1,
        counts=("deep_supr_num",),
        idle=_dynunet_idle,
    ),
    "VNet": MonaiEntry(_fixed(16), given=lambda dimensions: {"dropout_dim": dimensions}),
    "HighResNet": MonaiEntry(_fixed(1), counts=("repeat",)),
    "FlexibleUNet": MonaiEntry(_fixed(32), refused=("pretrained",), idle=_flexible_idle),
    "SwinUNETR": MonaiEntry(
        lambda dimensions, arguments: (arguments.get("patch_size", 2) ** 5,) * dimensions,
        refused=("norm_layer", *_HYENA),
        counts=("depths",),
        needs="einops",
    ),
    "MedNeXt": MonaiEntry(
        _halvings("blocks_down", 4, 0),
        lambda arguments: 1 + len(arguments.get("blocks_up", (2,) * 4)) if arguments.get("deep_supervision") else 1,
        counts=("blocks_down", "blocks_up", "blocks_bottleneck"),
    ),
    **dict.fromkeys(("MedNeXtS", "MedNeXtB", "MedNeXtM", "MedNeXtL"), _MEDNEXT),
}
