"""A quicker precision than float32, used where it gives the same labels on a part of the very scan."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vol3d.errors import ConfigError
from vol3d.inference import TilePlan
from vol3d.inference.forward import Image, read_batch
from vol3d.inference.int8 import in_int8
from vol3d.volume import Box
from vol3d.workflows.device import Device, PredictPrecision
from vol3d.workflows.listener import Listener

LEAST_AGREEMENT = 0.999
_SIDE, _PLANES = 64, 4  # voxels of a block's answer along an axis; planes of a block that a 2-D network sees
_BF16 = torch.bfloat16


@dataclass(frozen=True)
class Trial:
    """How a precision did against float32. wanted: the precision. agreement: share of voxels with the same label."""

    wanted: PredictPrecision
    agreement: float

    @property
    def passed(self) -> bool:
        """Whether it is used."""
        return self.agreement >= LEAST_AGREEMENT

    @property
    def said(self) -> str:
        """For people."""
        told = f"{self.wanted}: {100 * self.agreement:.3f} % of the labels in parts of this scan are those of float32"
        return told if self.passed else f"{told}, fewer than {100 * LEAST_AGREEMENT:g} %: predicting in float32"


def require_precision(precision: str, device: Device) -> None:
    """Raise `ConfigError` where a device does not compute in this precision."""
    if precision == "int8" and device.is_gpu:
        raise ConfigError("precision int8 is for CPUs; leave --precision out, or take bf16")


def tried(
    network: Any,  # noqa: ANN401  any module that states its margin, stride and input sizes
    image: Image,
    plans: Sequence[TilePlan],
    wanted: PredictPrecision,
    device: Device,
    name: str,
    tell: Listener,
) -> tuple[Any, str, Trial | None]:
    """The network and the precision to predict with: those that are wanted, if they prove themselves on this image.

    Eight blocks lie in the eight octants of the volume. Of four the ranges for int8 are taken, on the other four the
    labels are compared with those of float32; below `LEAST_AGREEMENT` float32 is used. image, plans: as
    `predict_axes` takes them. name: of the scan. Raises `ConfigError`, `ModelError` where int8 is not to be had.
    """
    require_precision(wanted, device)
    if wanted == "float32":
        return network, device.precision, None
    examples, asked = _batches(network, image, plans, device)
    if wanted == "bf16":
        quicker, precision = network, "bf16"
    else:
        quicker, precision = in_int8(network, examples), "float32"
    trial = Trial(wanted, agreement(network, quicker, asked, autocast=precision == "bf16"))
    tell.note(f"{name}: {trial.said}")
    return (quicker, precision, trial) if trial.passed else (network, device.precision, trial)


@torch.inference_mode()
def agreement(network: Any, quicker: Any, batches: Sequence[Tensor], *, autocast: bool) -> float:  # noqa: ANN401  modules
    """Share of voxels that get the same class from both. batches: (N, C, *S); autocast: `quicker` computes in bf16."""
    same = total = 0
    for batch in batches:
        exact = network(batch).argmax(1)
        with torch.autocast(batch.device.type, dtype=_BF16, enabled=autocast):
            found = quicker(batch).argmax(1)
        same += int((found == exact).sum())
        total += exact.numel()
    return same / total


def _batches(
    network: Any,  # noqa: ANN401  as in `tried`
    image: Image,
    plans: Sequence[TilePlan],
    device: Device,
) -> tuple[list[Tensor], list[Tensor]]:
    """Blocks of the image as a network takes them, (N, C, *S): for taking ranges, and for comparing labels."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for plan in plans:
        seen = network.input_size([min(plan.shape[axis], _SIDE) for axis in plan.seen])
        size = [min(n, _PLANES) for n in plan.shape]
        for axis, n in zip(plan.seen, seen, strict=True):
            size[axis] = min(n, plan.size[axis])
        for octant in itertools.product((0, 1), repeat=3):
            middle = [(1 + 2 * half) * n // 4 for half, n in zip(octant, plan.shape, strict=True)]
            x, y, z = (m - n // 2 for m, n in zip(middle, size, strict=True))
            batch = read_batch(image, Box((x, y, z), (size[0], size[1], size[2])), plan.seen)
            found[sum(octant) % 2].append(batch.to(device.name))
    return found
