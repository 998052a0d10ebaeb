"""How long an iteration takes: what turns a time budget into a number of iterations."""

from __future__ import annotations

import copy
import time
from contextlib import closing
from typing import Any

import torch
from torch import nn

from vol3d.training.learner import Learner, fastest_convolutions
from vol3d.training.loader import PatchSource, Share, Span, load_batches, named_worker_faults
from vol3d.training.settings import FitSettings
from vol3d.training.step import Loss, sum_over_processes

_WARM_UP, _MOST = 2, 1000
_PREFETCHED = 2  # micro-batches that every worker of torch's DataLoader holds ready


def time_steps(  # noqa: PLR0913, PLR0917 RUF100  the parts of `fit`
    network: nn.Module,
    dataset: PatchSource,
    loss: Loss,
    settings: FitSettings,
    fabric: Any,  # noqa: ANN401  lightning_fabric.Fabric, untyped
    steps: int = 5,
    limit_seconds: float = 30.0,
    least_seconds: float = 0.0,
) -> float:
    """Seconds per iteration, cutting the patches included: the mean of `steps` after two to warm up.

    Where workers cut patches, those that are ready before count as warming up. A single process measures more until
    `least_seconds` have passed since the beginning (up to 1000), and fewer where `steps` would take longer than
    `limit_seconds` (at least one after one). Trains a deep copy; the network, its device, and the state of the gradient
    scaler stay as they were.
    """
    if steps < 1:
        raise ValueError(f"expected at least one step, found {steps}")
    precision = fabric.strategy.precision
    scaler = precision.state_dict()
    learner = Learner(copy.deepcopy(network), copy.deepcopy(loss), settings, fabric)
    share = Share(settings.batch_size, settings.accumulate, fabric.global_rank, fabric.world_size)
    warm_up = _WARM_UP + -(-_PREFETCHED * settings.workers // settings.accumulate)
    wanted = warm_up + steps
    alone = fabric.world_size == 1
    span = Span(share, 0, 1 + (max(_MOST, wanted) if alone and least_seconds else wanted))
    stream = load_batches(dataset, span, workers=settings.workers, pin=fabric.device.type == "cuda")
    with named_worker_faults(), closing(stream), fastest_convolutions(fabric.device):
        marks = [time.monotonic()]
        batches = learner.fetch(stream)
        while batches is not None:
            pending = learner.gradients(batches, len(marks) - 1)
            batches = learner.fetch(stream)
            pending.read()
            learner.update(len(marks) - 1, settings.learning_rate)
            marks.append(time.monotonic())
            passed = marks[-1] - marks[0]
            late = alone and len(marks) > 2 and passed > limit_seconds
            if late or (len(marks) > wanted and (passed >= least_seconds or not alone)):
                break
    if scaler:
        precision.load_state_dict(scaler)
    begin = min(warm_up, len(marks) - 2)
    seconds = (marks[-1] - marks[begin]) / (len(marks) - 1 - begin)
    return float(sum_over_processes(torch.tensor(seconds, device=fabric.device), fabric)) / fabric.world_size
