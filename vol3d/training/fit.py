"""The training loop: plain, by iterations. Receives callables; prints nothing and writes no files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vol3d.errors import TrainingError
from vol3d.training.learner import Learner, fastest_convolutions
from vol3d.training.loader import Batch, PatchSource, Share, Span, load_batches, named_worker_faults
from vol3d.training.schedule import Schedule
from vol3d.training.settings import FitSettings
from vol3d.training.state import LogRow, TrainingState
from vol3d.training.step import Loss, sum_over_processes

_SMALLEST_LOSS_SCALE = 2.0**-10


@dataclass(frozen=True)
class Stage:
    """A part of the run that learns from one data set.

    dataset: see `PatchSource`; iteration t of the whole run takes the same indices in any stage. until: iterations of
    the whole run after which the stage ends. validate_at: after how many iterations to validate, each ≤ until.
    """

    dataset: PatchSource
    until: int
    validate_at: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a run ended with.

    state: go on from here. weights: what to predict with (CPU; averaged if there are averages, the last stage's best
    if it validated). best_score: the best score of the last stage that validated. stopped: before its end.
    """

    state: TrainingState
    weights: dict[str, Tensor]
    best_score: float | None
    stopped: bool
    history: tuple[LogRow, ...]


def fit(  # noqa: PLR0913  what to fit, how, and five hooks by name
    network: nn.Module,
    stages: Sequence[Stage],
    loss: Loss,
    settings: FitSettings,
    *,
    fabric: Any,  # noqa: ANN401  lightning_fabric.Fabric, untyped
    start: TrainingState | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    on_log: Callable[[LogRow], object] = lambda _row: None,
    on_checkpoint: Callable[[TrainingState], object] = lambda _state: None,
    on_validated_stage: Callable[[nn.Module], object] = lambda _network: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Train `network` in place, stage by stage, from `start` or from the weights it has.

    On a CPU the losses are a function of (network, stages, loss, settings): not of the number of workers, of where
    the run was interrupted, or of what the hooks do. What a network draws at random depends on (seed, iteration) alone.

    validate: gets a copy of the network with the weights to judge, returns a score, higher is better; NaN is never
    best. When a stage that validated ends, the network goes back to its best weights. on_log: after every iteration.
    on_checkpoint: every `checkpoint_seconds`, and when the run ends or stops. on_validated_stage: when a stage that
    validated has ended, with a copy of the network that has its best weights. should_stop: asked before every
    iteration. Hooks are called on the first process only, except should_stop; a stop on one process stops all.

    Raises `TrainingError` where the loss or its gradient is not a finite number (no checkpoint is made of that
    iteration), or where data workers die; `ModelError` where `start` does not fit.
    """
    _require_order(stages, settings)
    learner = Learner(network, loss, settings, fabric)
    if start is not None:
        learner.restore(start)
    run = _Run(learner, settings, start, validate, on_log, on_checkpoint, on_validated_stage)
    stopped = False
    with named_worker_faults(), fastest_convolutions(fabric.device):
        for stage in stages:
            if run.iteration < stage.until and not stopped:
                stopped = run.through(stage, should_stop)
    state = run.checkpoint()
    return FitResult(state, learner.weights_copy(), run.best_score, stopped, state.history)


class _Run:
    """Where a run stands, and how it goes through a stage."""

    def __init__(  # noqa: PLR0913, PLR0917 RUF100  the parts of `fit`
        self,
        learner: Learner,
        settings: FitSettings,
        start: TrainingState | None,
        validate: Callable[[nn.Module], float] | None,
        on_log: Callable[[LogRow], object],
        on_checkpoint: Callable[[TrainingState], object],
        on_validated_stage: Callable[[nn.Module], object],
    ) -> None:
        self.learner, self.settings, self.fabric = learner, settings, learner.fabric
        self.validate, self.on_log, self.on_checkpoint = validate, on_log, on_checkpoint
        self.on_validated_stage = on_validated_stage
        self.schedule = Schedule(settings.iterations, settings.warmup_fraction, settings.decay_power)
        fabric = learner.fabric
        self.share = Share(settings.batch_size, settings.accumulate, fabric.global_rank, fabric.world_size)
        self.iteration = 0 if start is None else start.iteration
        self.best_score = None if start is None else start.best_score
        self.best = None if start is None else start.best
        self.history: list[LogRow] = [] if start is None else list(start.history)
        self.began = time.monotonic() - (self.history[-1].seconds if self.history else 0.0)
        self.saved = time.monotonic()
        if settings.freeze_at is not None and self.iteration > settings.freeze_at:
            learner.freeze(anew=False)

    def through(self, stage: Stage, should_stop: Callable[[], bool]) -> bool:
        """Run to the stage's end; True if stopped before."""
        stream = load_batches(
            stage.dataset,
            Span(self.share, self.iteration, stage.until),
            workers=self.settings.workers,
            pin=self.fabric.device.type == "cuda",
        )
        with closing(stream):
            waiting = self.learner.fetch(stream)
            while waiting is not None:
                if self._agreed(should_stop()):
                    return True
                waiting = self._iterate(stage, waiting, stream)
        return False

    def checkpoint(self) -> TrainingState:
        """Hand the state to `on_checkpoint`."""
        state = self.learner.state(self.iteration, self.best_score, self.best, self.history)
        if self.fabric.is_global_zero:
            self.on_checkpoint(state)
        self.saved = time.monotonic()
        return state

    def _iterate(self, stage: Stage, batches: list[Batch], stream: Iterator[list[Batch]]) -> list[Batch] | None:
        """One whole iteration; returns the next one's batches, fetched while the device computes."""
        started = time.monotonic()
        if self.iteration == self.settings.freeze_at:
            self.learner.freeze(anew=True)
        pending = self.learner.gradients(batches, self.iteration)
        following = self.learner.fetch(stream)
        value, norm = pending.read()
        self._require_finite(value, norm)
        rate = self.settings.learning_rate * self.schedule.factor(self.iteration)
        self.learner.update(self.iteration, rate)
        self.iteration += 1
        now = time.monotonic()
        speed = self.share.samples / max(now - started, 1e-9)
        score = self._validated() if self.validate is not None and self.iteration in stage.validate_at else None
        if self.iteration == stage.until and self.best is not None:
            self.learner.go_back(self.best)
            self.best = None
            if self.fabric.is_global_zero:
                self.on_validated_stage(self.learner.validation_copy())
        row = LogRow(self.iteration, value, rate, norm, now - self.began, speed, score)
        self.history.append(row)
        if self.fabric.is_global_zero:
            self.on_log(row)
            if time.monotonic() - self.saved >= self.settings.checkpoint_seconds:
                self.checkpoint()
        return following

    def _validated(self) -> float:
        """The score of the weights as they are; keeps the best, where a number that is not one never is."""
        score = math.nan
        if self.fabric.is_global_zero and self.validate is not None:
            score = float(self.validate(self.learner.validation_copy()))
        if self.fabric.world_size > 1:
            own = torch.tensor(score if self.fabric.is_global_zero else 0.0, device=self.fabric.device)
            score = float(sum_over_processes(own, self.fabric))
        if math.isfinite(score) and (self.best is None or self.best_score is None or score > self.best_score):
            self.best_score, self.best = score, self.learner.weights_copy()
        return score

    def _agreed(self, stop: bool) -> bool:
        if self.fabric.world_size == 1:
            return stop
        return bool(sum_over_processes(torch.tensor(float(stop), device=self.fabric.device), self.fabric) > 0)

    def _require_finite(self, value: float, norm: float) -> None:
        scale = self.learner.loss_scale
        if not math.isfinite(value):
            what = f"the loss is {value}"
        elif scale is None and not math.isfinite(norm):
            what = f"the gradient of the loss is {norm}"
        elif scale is not None and scale < _SMALLEST_LOSS_SCALE:
            what = f"fp16 finds no scale at which the gradients are finite (now {scale:g})"
        else:
            return
        raise TrainingError(
            f"{what} in iteration {self.iteration + 1}; the last checkpoint is from before. Lower the rate with --set "
            "training.learning_rate=…, or train with --set training.precision=float32."
        )


def _require_order(stages: Sequence[Stage], settings: FitSettings) -> None:
    ends = [stage.until for stage in stages]
    if not ends or sorted(set(ends)) != ends or ends[0] < 1 or ends[-1] != settings.iterations:
        raise ValueError(
            f"expected stages that end in ascending order, the last at {settings.iterations}, found {ends}"
        )
    for begin, stage in zip([0, *ends], stages, strict=False):
        if any(not begin < at <= stage.until for at in stage.validate_at):
            raise ValueError(f"expected validations after {begin} and up to {stage.until}, found {stage.validate_at}")
