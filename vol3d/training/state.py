"""Everything a run is at one iteration: enough to go on from there bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from vol3d.training.optimizer import OptimizerState

_COLUMNS = 8


@dataclass(frozen=True)
class LogRow:
    """One iteration, counted from 1.

    loss: over the batch of all processes. gradient_norm: before clipping (infinite where fp16 skipped the step).
    seconds: of training since the very start, interruptions not counted. validation: the score, None where nobody
    validated.
    """

    iteration: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    samples_per_second: float
    validation: float | None = None


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A run after `iteration` steps; every tensor is a contiguous CPU copy.

    model: weights and buffers. averaged: their moving average, or None. best: the best validated weights of the stage
    under way, or None. best_score: the last stage's best score that any validation gave, or None. scaler: the
    gradient scaler of fp16, or None.
    """

    iteration: int
    model: dict[str, Tensor]
    optimizer: OptimizerState
    averaged: dict[str, Tensor] | None = None
    best_score: float | None = None
    best: dict[str, Tensor] | None = None
    scaler: dict[str, Any] | None = None
    history: tuple[LogRow, ...] = ()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under one set of names; with `facts` the whole state."""
        groups = {
            "model": self.model,
            "optimizer": self.optimizer.tensors,
            "averaged": self.averaged or {},
            "best": self.best or {},
        }
        named = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
        rows = [[*astuple(row)[:-1], row.validation is not None, row.validation or 0.0] for row in self.history]
        named["history"] = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), _COLUMNS)
        return named

    def facts(self) -> dict[str, Any]:
        """Everything else, as JSON values."""
        return {
            "iteration": self.iteration,
            "optimizer": self.optimizer.structure,
            "averaged": self.averaged is not None,
            "best": self.best is not None,
            "best_score": self.best_score,
            "scaler": self.scaler,
        }

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> TrainingState:
        """The inverse of `tensors` and `facts`. Raises KeyError, TypeError or ValueError on anything else."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "averaged": {}, "best": {}}
        for full, value in tensors.items():
            group, _, name = full.partition(".")
            if full != "history":
                groups[group][name] = value
        score = facts["best_score"]
        return cls(
            iteration=int(facts["iteration"]),
            model=groups["model"],
            optimizer=OptimizerState(groups["optimizer"], facts["optimizer"]),
            averaged=groups["averaged"] if facts["averaged"] else None,
            best_score=None if score is None else float(score),
            best=groups["best"] if facts["best"] else None,
            scaler=facts["scaler"],
            history=tuple(_row(values) for values in tensors["history"].tolist()),
        )

    def same_as(self, other: TrainingState) -> bool:
        """Whether both states are equal bit for bit; NaN equals itself."""
        mine, theirs = self.tensors(), other.tensors()
        return (
            self.facts() == other.facts()
            and mine.keys() == theirs.keys()
            and all(_same_bits(mine[name], theirs[name]) for name in mine)
        )


def _row(values: list[float]) -> LogRow:
    if len(values) != _COLUMNS:
        raise ValueError(f"expected {_COLUMNS} numbers for an iteration, found {len(values)}")
    iteration, loss, rate, norm, seconds, speed, validated, score = values
    return LogRow(int(iteration), loss, rate, norm, seconds, speed, score if validated else None)


def _same_bits(left: Tensor, right: Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if math.prod(left.shape) == 0:
        return True
    return torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))
