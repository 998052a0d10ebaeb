"""What a run will cost, before it starts: parameters, memory, time. Estimates, and labeled so."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from vol3d.config import AnyNetworkConfig, MonaiConfig, UNetConfig
from vol3d.networks import activation_values, build, flops, paper_parameter_count, parameter_count
from vol3d.workflows.budget import CLOSING_SECONDS

if TYPE_CHECKING:
    from vol3d.workflows.device import Device
    from vol3d.workflows.plan import Plan

_TRAINING_SHARE = 0.75  # of what is left of a time; the rest is for validations and previews
_BACKWARD = 3.0  # a training step costs about three forward passes
_COPIES = {"adamw": 4, "sgd": 3}  # weights, gradients and what the optimiser keeps


def plan_lines(plan: Plan) -> list[str]:
    """The plan in words, a line each."""
    network = build(plan.network, plan.channels, plan.outputs)
    training, found = plan.config.training, plan.forecast
    seconds = step_seconds(plan) if found is None else found.seconds
    geometry = plan.geometry
    around = CLOSING_SECONDS + (0.0 if found is None else found.seconds_before)
    if training.iterations is not None:
        whole = around + training.iterations * seconds / _TRAINING_SHARE
        length = f"{training.iterations} iterations, about {_clock(whole)}"
    else:
        budget = training.time_budget_s or 0.0
        count = max(1, int(_TRAINING_SHARE * (budget - around) / seconds))
        length = f"{_clock(budget)} time budget, about {count} iterations"
    margin = "" if geometry.padded else f"; valid input sizes {', '.join(_rules(plan))}"
    return [
        f"network: {describe(plan.network)}{across(plan)}",
        f"channels in: {plan.channels}; outputs: {plan.outputs}",
        f"pixel classifier beside the network: {'yes' if plan.classifier else 'no'}",
        f"parameters: {parameter_count(network):,} in all; {paper_parameter_count(network):,} "
        f"without normalization layers, as the paper counts",
        f"margin: {_times(geometry.margin)}; total stride: {_times(geometry.total_stride)}{margin}",
        f"patch in → out: {_times(plan.patch)} → {_times(plan.output)}, batch of {plan.batch_size}",
        f"arithmetic: {flops(network, plan.patch) / 1e9:.1f} GFLOP forward per patch",
        f"memory: {_memory(plan)}",
        f"time: {length} ({seconds:.2g} s per iteration, "
        + ("estimated from this device's speed)" if found is None else "measured)"),
    ]


def _memory(plan: Plan) -> str:
    if plan.forecast is None:
        return f"about {training_bytes(plan) / 1e9:.1f} GB on {plan.device.name}, {plan.device.precision}"
    told = f"about {plan.forecast.bytes / 1e9:.2g} GB"
    if plan.forecast.device_bytes is None:
        return f"{told}, {plan.device.precision}"
    return f"{told}, and {plan.forecast.device_bytes / 1e9:.2g} GB on {plan.device.name}, {plan.device.precision}"


def describe(network: AnyNetworkConfig) -> str:
    """A network in words: its kind, dimensions and whatever else was chosen."""
    if isinstance(network, UNetConfig):
        levels = " ".join(f"({', '.join(map(str, level))})" for level in network.encoder)
        return (
            f"{network.kind}, {network.dimensions}-D, {len(network.encoder)} levels {levels}, "
            f"{network.padding} padding, normalization {network.normalization}"
        )
    if isinstance(network, MonaiConfig):
        return f"MONAI's {network.monai}, {network.dimensions}-D, {network.arguments or 'default arguments'}"
    facts = network.model_dump(exclude={"kind", "dimensions", "kernels", "pooling"}, exclude_none=True)
    told = ", ".join(f"{name} {' '.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in facts.items())
    return f"{network.kind}, {network.dimensions}-D, {told}"


def across(plan: Plan) -> str:
    """How a 2-D network goes through a volume, in words that can follow others; empty for a 3-D one."""
    if not plan.planes:
        return ""
    letters = ", ".join(plan.config.sampling.planes or [f"axis {axis + 1} in closest RAS" for axis in plan.planes])
    return f", slice by slice across {letters}" + (" (probabilities averaged)" if len(plan.planes) > 1 else "")


def training_bytes(plan: Plan) -> float:
    """Bytes of weights, gradients, optimiser and the activations of one micro-batch."""
    network = build(plan.network, plan.channels, plan.outputs)
    width = 4 if plan.device.precision == "float32" else 2
    copies = _COPIES[plan.config.training.optimizer] + 1  # and the averaged weights
    stored = activation_values(network, plan.patch) * plan.batch_size
    return 4.0 * copies * parameter_count(network) + width * stored * 1.5  # 1.5: gradients of the largest layers


def step_seconds(plan: Plan) -> float:
    """Estimated seconds of one iteration, from the arithmetic and a short measurement of the device."""
    network = build(plan.network, plan.channels, plan.outputs)
    work = _BACKWARD * flops(network, plan.patch) * plan.batch_size * plan.config.training.accumulate
    return work / device_rate(plan.device)


def device_rate(device: Device) -> float:
    """FLOP per second of a 3-D convolution on `device`, measured within about half a second."""
    layout = torch.channels_last_3d
    convolution = torch.nn.Conv3d(32, 32, 3, padding=1).to(device.name, memory_format=layout)  # type: ignore[call-overload]
    image = torch.zeros(1, 32, 48, 48, 24, device=device.name).contiguous(memory_format=layout)
    work = 2.0 * 27 * 32 * 32 * image[0, 0].numel()
    best = float("inf")
    kind = torch.float16 if device.precision == "fp16" else torch.bfloat16
    family = "cuda" if device.is_gpu else "cpu"
    with torch.inference_mode(), torch.autocast(family, kind, enabled=device.precision != "float32"):
        for _ in range(4):
            begin = time.perf_counter()
            convolution(image)
            if device.is_gpu:
                torch.cuda.synchronize(device.name)
            best = min(best, time.perf_counter() - begin)
    return work / best


def _rules(plan: Plan) -> list[str]:
    rules = [plan.geometry.rule(axis) for axis in range(plan.geometry.dimensions)]
    return list(dict.fromkeys(rules))


def _times(sizes: tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
