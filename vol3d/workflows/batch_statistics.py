"""When BatchNorm's statistics are frozen, or measured again, in a run."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vol3d.config import TrainingConfig
from vol3d.training import PatchSource
from vol3d.workflows.plan import Plan

REESTIMATION_BATCHES = 40
_FROZEN_FROM, _ENOUGH = 0.5, 100  # part of a run after which statistics are frozen; iterations, if it has so many


def freeze_at(training: TrainingConfig, iterations: int) -> int | None:
    """The iteration (0-based) from which they are frozen; None: never, also in a run too short to know them by then."""
    if training.batch_statistics != "frozen" or iterations < _ENOUGH:
        return None
    return round(_FROZEN_FROM * iterations)


def reestimates(training: TrainingConfig, iterations: int) -> bool:
    """Whether they are measured again after so many iterations."""
    wanted = training.batch_statistics
    return wanted == "reestimate" or (wanted == "frozen" and freeze_at(training, iterations) is None)


def first_inputs(dataset: PatchSource, plan: Plan, iterations: int) -> Iterator[torch.Tensor]:
    """Batches of inputs to measure them on: the first samples of what a stage of so many iterations learned from."""
    size, device = plan.batch_size, plan.device.name
    return (
        torch.stack([dataset[number]["image"] for number in range(batch * size, (batch + 1) * size)]).to(device)
        for batch in range(min(REESTIMATION_BATCHES, max(1, iterations)))
    )
