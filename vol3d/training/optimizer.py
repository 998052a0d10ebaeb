"""Optimizers, and their state as named tensors + JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from vol3d.errors import ModelError

OptimizerName = Literal["adamw", "sgd"]
_FIRST_MOMENTS = ("exp_avg", "momentum_buffer")


def make_optimizer(
    network: nn.Module,
    name: OptimizerName,
    *,
    learning_rate: float,
    momentum: float = 0.99,
    weight_decay: float = 0.0,
    fused: bool = False,
) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or SGD with momentum, over all parameters that want a gradient.

    Parameters of one axis (biases, normalisations) are not decayed. momentum: of SGD only. fused: AdamW in one kernel.
    """
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in wanted if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in wanted if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match name:
        case "adamw":
            return AdamW(groups, lr=learning_rate, fused=fused or None)
        case "sgd":
            return SGD(groups, lr=learning_rate, momentum=momentum)
    raise ValueError(f"expected optimizer 'adamw' or 'sgd', found {name!r}")


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """One learning rate for every parameter."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@dataclass(frozen=True, eq=False)
class OptimizerState:
    """What an optimizer remembers.

    tensors: `INDEX.NAME` → CPU tensor, INDEX counting the parameters in the optimizer's order.
    structure: JSON values: `kind`, the optimizer's class, `groups`, the parameter groups, and `values`, what
    `INDEX.NAME` holds if no tensor.
    """

    tensors: dict[str, Tensor]
    structure: dict[str, Any]


def optimizer_state(optimizer: Optimizer) -> OptimizerState:
    """A copy of the optimizer's state, on the CPU."""
    stored = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entries in stored["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = cpu_copy(value)
            else:
                values[f"{index}.{key}"] = value
    groups = [
        {key: list(value) if isinstance(value, tuple) else value for key, value in group.items()}
        for group in stored["param_groups"]
    ]
    return OptimizerState(tensors, {"kind": type(optimizer).__name__, "groups": groups, "values": values})


def restore_optimizer(optimizer: Optimizer, state: OptimizerState) -> None:
    """Put a saved state back; tensors take on the device and memory layout of their parameters.

    Raises `ModelError` where the state belongs to other parameters.
    """
    try:
        optimizer.load_state_dict(_as_torch_keeps_it(optimizer, state))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"the checkpoint's optimizer state does not fit this network and optimizer ({_one_line(error)}). "
            "Resume with the configuration that the run was started with."
        ) from error


def forget_direction(optimizer: Optimizer) -> None:
    """Zero the first moments (momentum): they were gathered at other weights. Second moments and counts stay."""
    for entries in optimizer.state.values():
        for key in _FIRST_MOMENTS:
            if isinstance(entries.get(key), Tensor):
                entries[key].zero_()


def cpu_copy(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares nothing."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def _as_torch_keeps_it(optimizer: Optimizer, state: OptimizerState) -> dict[str, Any]:
    if state.structure["kind"] != type(optimizer).__name__:
        raise ValueError(f"it is of {state.structure['kind']}, not of {type(optimizer).__name__}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Any]] = {}
    for name, value in state.structure["values"].items():
        index, _, key = name.partition(".")
        entries.setdefault(int(index), {})[key] = value
    for name, tensor in state.tensors.items():
        index, _, key = name.partition(".")
        entries.setdefault(int(index), {})[key] = _laid_out(tensor, parameters[int(index)])
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in group.items()}
        for group in state.structure["groups"]
    ]
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        if "fused" in own:  # as this device wants it, not the one it was saved on
            group["fused"] = own["fused"]
    return {"state": entries, "param_groups": groups}


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()
    if value.ndim == 0:
        return value.clone()
    raise ValueError(f"expected a tensor of shape {tuple(parameter.shape)}, found {tuple(value.shape)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
