"""How to fit: the numbers that the loop needs, and nothing about data, networks or files."""

from __future__ import annotations

from dataclasses import dataclass

from vol3d.training.optimizer import OptimizerName


@dataclass(frozen=True)
class FitSettings:
    """One run of the loop.

    iterations: optimiser steps of the whole schedule. batch_size: patches of a micro-batch; accumulate: micro-batches
    of a step, on every process. workers: data processes, 0 cuts patches in this one. gradient_clip: largest norm of
    the gradient or None. ema_decay: averaged weights or None. channels_last: memory layout of the convolutions.
    compile: through `torch.compile`. checkpoint_seconds: time between two checkpoints.
    freeze_at: iteration (0-based) from which BatchNorm's statistics are frozen, or None; see `freeze_statistics`.
    seed: of what a network draws at random while it learns.
    """

    iterations: int
    batch_size: int = 1
    accumulate: int = 1
    workers: int = 0
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 2e-3
    momentum: float = 0.99
    weight_decay: float = 1e-2
    warmup_fraction: float = 0.05
    decay_power: float = 0.9
    gradient_clip: float | None = 5.0
    ema_decay: float | None = None
    channels_last: bool = False
    compile: bool = False
    checkpoint_seconds: float = 300.0
    freeze_at: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.iterations, self.batch_size, self.accumulate) < 1 or self.workers < 0:
            raise ValueError(f"expected at least one iteration, patch and micro-batch, found {self}")
