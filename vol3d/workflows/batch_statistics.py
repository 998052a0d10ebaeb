"""When BatchNorm's statistics are frozen, or measured again, in a run."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vol3d.config import TrainingConfig
from vol3d.training import PatchSource
from vol3d.workflows.plan import Plan

_MOST_BATCHES, _FEWEST_BATCHES, _SHARE = 40, 10, 4  # they are measured on; of a short run a fourth of its iterations
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


def batches(iterations: int) -> int:
    """On how many batches they are measured after so many iterations: of a short run on few, which leaves it time."""
    return max(1, min(_MOST_BATCHES, max(_FEWEST_BATCHES, iterations // _SHARE), iterations))


def first_inputs(dataset: PatchSource, plan: Plan, iterations: int) -> Iterator[torch.Tensor]:
    """Batches of inputs to measure them on: the first samples of what a run of so many iterations learned from."""
    size, device = plan.batch_size, plan.device.name
    return (
        torch.stack([dataset[number]["image"] for number in range(batch * size, (batch + 1) * size)]).to(device)
        for batch in range(batches(iterations))
    )
