"""The gradient of one iteration: over micro-batches and processes, divided by the weight that they have together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vol3d.training.loader import Batch


class Loss(Protocol):
    """A loss over labeled voxels.

    `weights` → float (N, *out), what each voxel weighs. Calling it → scalar, Σ weight · loss / total; total None
    stands for the batch's own weight. Over micro-batches with one total the values add up.
    """

    def weights(self, classes: Tensor, weight: Tensor, /) -> Tensor:
        """Weight of every voxel."""
        ...

    def __call__(self, logits: Any, classes: Tensor, weight: Tensor, total: Tensor | None, /) -> Tensor:  # noqa: ANN401
        """The loss. logits: what the network answers: a tensor, or several of them with deep supervision."""
        ...


@dataclass(frozen=True)
class Gradients:
    """What one backward pass found, still on the device: scalars. The norm is the one before clipping."""

    loss: Tensor
    norm: Tensor

    def read(self) -> tuple[float, float]:
        """(loss, norm) as numbers; waits for the device."""
        loss, norm = torch.stack([self.loss.float(), self.norm.float()]).tolist()
        return loss, norm


def accumulate_gradients(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batches: Sequence[Batch],
    *,
    fabric: Any,  # noqa: ANN401  lightning_fabric.Fabric, untyped
    clip: float | None = None,
) -> Gradients:
    """Leave in `module` the gradient of the loss over all batches of all processes; clipped to the norm `clip`.

    module, optimizer: as set up by `fabric`, whose precision the forward pass runs in; logits reach the loss in
    float32. batches: on the device. The total weight is known before the first backward pass, so that the result
    does not depend on how an iteration is cut into micro-batches and processes (BatchNorm apart).
    """
    total = total_weight(loss, batches, fabric)
    optimizer.zero_grad(set_to_none=True)
    value = torch.zeros((), device=total.device)
    for position, batch in enumerate(batches):
        with fabric.no_backward_sync(module, enabled=position + 1 < len(batches)):
            part = loss(module(batch.image), batch.classes, batch.weight, total)
            fabric.backward(part * fabric.world_size if fabric.world_size > 1 else part)  # DDP averages, we sum
        value += part.detach()
    norm = fabric.clip_gradients(
        module, optimizer, max_norm=math.inf if clip is None else clip, error_if_nonfinite=False
    )
    return Gradients(sum_over_processes(value, fabric), norm)


def total_weight(loss: Loss, batches: Sequence[Batch], fabric: Any) -> Tensor:  # noqa: ANN401
    """Weight of all labeled voxels of an iteration, over micro-batches and processes; float32 scalar."""
    total = torch.stack([loss.weights(batch.classes, batch.weight).sum() for batch in batches]).sum()
    return sum_over_processes(total, fabric)


def sum_over_processes(value: Tensor, fabric: Any) -> Tensor:  # noqa: ANN401
    """The sum of `value` over all processes, on each of them."""
    return fabric.all_reduce(value, reduce_op="sum") if fabric.world_size > 1 else value
