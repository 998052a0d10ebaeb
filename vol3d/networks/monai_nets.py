"""MONAI's networks behind the face of ours, by name from the list in `monai_names`."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch
from monai.networks import nets
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vol3d.config import MonaiConfig
from vol3d.errors import ModelError
from vol3d.networks.monai_names import SET_BY_US, MonaiEntry, monai_entry, monai_heads, one_line, require_modest
from vol3d.networks.nd import LAYERS
from vol3d.networks.network import Network, Outputs

CONSTRUCTORS: dict[str, Callable[..., nn.Module]] = {
    "SegResNet": nets.SegResNet,
    "SegResNetDS": nets.SegResNetDS,
    "UNet": nets.UNet,
    "BasicUNet": nets.BasicUNet,
    "BasicUNetPlusPlus": nets.BasicUNetPlusPlus,
    "AttentionUnet": nets.AttentionUnet,
    "DynUNet": nets.DynUNet,
    "VNet": nets.VNet,
    "HighResNet": nets.HighResNet,
    "FlexibleUNet": nets.FlexibleUNet,
    "SwinUNETR": nets.SwinUNETR,
    "MedNeXt": nets.MedNeXt,
    "MedNeXtS": nets.MedNeXtS,
    "MedNeXtB": nets.MedNeXtB,
    "MedNeXtM": nets.MedNeXtM,
    "MedNeXtL": nets.MedNeXtL,
}


class MonaiNetwork(Network):
    """(N, C, *S) → logits (N, K, *S), any size.

    config.arguments: of MONAI's constructor, by name. What they leave open is as MONAI has it: its initial weights,
    its normalisation, and its dropout (VNet drops half of the channels in two of its levels). Several logits (deep
    supervision) are all brought to full size and given in training mode only.

    Raises `ModelError` on names and values that MONAI does not take.
    """

    def __init__(self, config: MonaiConfig, in_channels: int, classes: int) -> None:
        super().__init__(config, in_channels, classes)
        self.network = _constructed(config, monai_entry(config.monai), in_channels, classes)

    @property
    def heads(self) -> int:
        """How many logits `forward` answers in training mode."""
        return monai_heads(self.config)

    def maps(self, image: Tensor) -> Outputs:
        """Logits of an image of a size the strides divide."""
        parts = self._parts(self.network(image))
        if not self.training or len(parts) == 1:
            return parts[0]
        size, mode = parts[0].shape[2:], LAYERS[self.dimensions].interpolation
        full = [part if part.shape[2:] == size else functional.interpolate(part, size, mode=mode) for part in parts]
        return tuple(full)

    def _parts(self, answer: Any) -> list[Tensor]:  # noqa: ANN401  a tensor, a stack of them, a list or a tuple
        stacked = isinstance(answer, Tensor) and answer.ndim == self.dimensions + 3
        parts = list(answer.unbind(1)) if stacked else [answer] if isinstance(answer, Tensor) else list(answer)
        kept = getattr(self.network, "heads", None)
        if isinstance(kept, list):  # DynUNet holds its last answers, and with them all of the step's memory
            kept[:] = [torch.empty(0)] * len(kept)
        return parts[::-1] if monai_entry(self.config.monai).answers_last else parts


def require_answers(network: Network) -> None:
    """Run a `MonaiNetwork` that is on the meta device; raise `ModelError` where it does not answer (N, K, *S)."""
    name, size = network.config.monai, tuple(2 * stride for stride in network.total_stride)
    image = torch.empty((2, network.in_channels, *size), device="meta")
    try:
        with torch.device("meta"), torch.no_grad():
            answers = network.train().maps(image)
    except Exception as error:
        raise ModelError(f"MONAI's {name} cannot run with these arguments: {one_line(error)}") from error
    shapes = [tuple(part.shape) for part in ((answers,) if isinstance(answers, Tensor) else answers)]
    if shapes != [(2, network.classes, *size)] * network.heads:
        raise ModelError(
            f"MONAI's {name} answers {len(shapes)} × {shapes[0][1:]} for an image of {(network.in_channels, *size)}, "
            f"expected {network.heads} × {(network.classes, *size)}; give arguments with which it keeps the size"
        )


def draw_monai(config: MonaiConfig, in_channels: int, classes: int, generator: torch.Generator) -> MonaiNetwork:
    """The network on the CPU, MONAI's initial weights drawn from a seed that `generator` gives.

    torch's global generator is as before.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return MonaiNetwork(config, in_channels, classes)


class _RealLinspace(TorchFunctionMode):
    """Keeps `torch.linspace` off the meta device, where SwinUNETR could not read the rates that it lays out by it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Every function as it is but for one."""
        kwargs = dict(kwargs or {})
        return func(*args, **{**kwargs, "device": "cpu"} if func is torch.linspace else kwargs)


def _constructed(config: MonaiConfig, entry: MonaiEntry, in_channels: int, classes: int) -> nn.Module:
    require_modest(config)
    _require_known(config, entry)
    arguments = {**entry.given(config.dimensions), **{key: _tuples(value) for key, value in config.arguments.items()}}
    sizes = {"spatial_dims": config.dimensions, "in_channels": in_channels, "out_channels": classes}
    try:
        with _RealLinspace():
            network = CONSTRUCTORS[config.monai](**sizes, **arguments)
    except Exception as error:
        raise ModelError(f"MONAI's {config.monai} does not take these arguments: {one_line(error)}") from error
    for name in entry.idle(config.arguments):
        parent, _, leaf = name.rpartition(".")
        delattr(network.get_submodule(parent), leaf)
        setattr(network.get_submodule(parent), leaf, nn.Identity())
    return network


def _require_known(config: MonaiConfig, entry: MonaiEntry) -> None:
    """Raise `ModelError` on the first argument that is ours to set, not for configurations, or unknown to MONAI."""
    if entry.needs is not None and importlib.util.find_spec(entry.needs) is None:
        raise ModelError(
            f"MONAI's {config.monai} needs the package {entry.needs}; install it: pip install {entry.needs}"
        )
    names = entry.accepted or tuple(inspect.signature(CONSTRUCTORS[config.monai]).parameters)
    known = [name for name in names if name not in (*SET_BY_US, *entry.refused)]
    for name in config.arguments:
        if name in known:
            continue
        if name in SET_BY_US:
            raise ModelError(f"argument {name!r} of MONAI's {config.monai} follows from the data; remove it")
        if name in entry.refused:
            raise ModelError(f"argument {name!r} of MONAI's {config.monai} cannot be set here; remove it")
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" It takes {', '.join(known)}."
        raise ModelError(f"MONAI's {config.monai} has no argument {name[:60]!r}.{hint}")


def _tuples(value: Any) -> Any:  # noqa: ANN401  whatever JSON holds
    """JSON's lists as tuples, which MONAI tells apart from lists, everything copied."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
