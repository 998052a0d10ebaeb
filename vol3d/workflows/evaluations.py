"""What `evaluate` finds in one case: classes or values, as rows of a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from vol3d.metrics import ClassScore, RegressionScores
from vol3d.report.scores import Metric, ScoreRow

COUNT = ",.0f"
_SHORT = ".4g"
_COUNTS = (Metric("voxels", "voxels", COUNT), Metric("predicted_voxels", "predicted", COUNT))
_OVERLAP = (
    Metric("iou", "IoU"),
    Metric("dice", "Dice = F1"),
    Metric("precision", "precision"),
    Metric("recall", "recall"),
    Metric("specificity", "specificity"),
    Metric("volume_similarity", "vol. sim."),
)
_SURFACE = (
    Metric("hausdorff_mm", "HD mm", _SHORT),
    Metric("hausdorff_95_mm", "HD95 mm", _SHORT),
    Metric("assd_mm", "ASSD mm", _SHORT),
    Metric("surface_dice", "surf. Dice"),
    Metric("tolerance_mm", "tolerance mm", _SHORT),
)
_REGRESSION = (
    Metric("voxels", "voxels", COUNT),
    Metric("mae", "MAE", _SHORT),
    Metric("rmse", "RMSE", _SHORT),
    Metric("r2", "R²", _SHORT),
)


class CaseScores(Protocol):
    """The scores of one case, whatever the task."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Every metric there is: the columns of a CSV file."""

    @property
    def shown(self) -> tuple[Metric, ...]:
        """Those that a table shows."""

    @property
    def plotted(self) -> tuple[str, ...]:
        """Keys of those that a box plot shows."""

    @property
    def voxels(self) -> int:
        """How many voxels were compared."""

    def rows(self, case: str) -> list[ScoreRow]:
        """A row per class, or one row where the task has no classes."""

    def summary(self) -> dict[str, float]:
        """Means over the classes, by name."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; undefined and infinite scores are null."""


@dataclass(frozen=True)
class SurfaceScore:
    """How far apart the surfaces of one class lie; see `vol3d.metrics.surface`.

    hausdorff_mm, hausdorff_95_mm, assd_mm: inf where the class is missing on one side. surface_dice: within
    `tolerance_mm`.
    """

    hausdorff_mm: float
    hausdorff_95_mm: float
    assd_mm: float
    surface_dice: float
    tolerance_mm: float


@dataclass(frozen=True)
class Evaluation:
    """Scores per class and their means over the classes that occur. voxels: how many were compared.

    surface: by class code, for every class but background; empty where it was not asked for.
    """

    scores: tuple[ClassScore, ...]
    mean_iou: float
    mean_iou_without_background: float
    mean_dice: float
    mean_dice_without_background: float
    voxels: int
    surface: Mapping[int, SurfaceScore] | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Columns of a CSV file."""
        return (*_COUNTS, *_OVERLAP, *(_SURFACE if self.surface is not None else ()))

    @property
    def shown(self) -> tuple[Metric, ...]:
        """Columns of a table."""
        return (_COUNTS[0], *_OVERLAP, *(_SURFACE[:-1] if self.surface is not None else ()))

    @property
    def plotted(self) -> tuple[str, ...]:
        """Keys of the metrics in a box plot."""
        return ("iou", "dice", *(("hausdorff_95_mm",) if self.surface is not None else ()))

    def rows(self, case: str) -> list[ScoreRow]:
        """A row per class."""
        return [
            ScoreRow(
                case,
                s.code,
                s.name,
                {m.key: getattr(s, m.key) for m in (*_COUNTS, *_OVERLAP)} | self._distances(s.code),
            )
            for s in self.scores
        ]

    def summary(self) -> dict[str, float]:
        """The means over the classes."""
        names = ("mean_iou", "mean_iou_without_background", "mean_dice", "mean_dice_without_background")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; undefined and infinite scores are null. f1 is another name of dice."""
        return {
            "classes": [
                {"code": s.code, "name": s.name, "f1": number(s.f1)}
                | {m.key: number(getattr(s, m.key)) for m in (*_COUNTS, *_OVERLAP)}
                | {key: number(value) for key, value in self._distances(s.code).items()}
                for s in self.scores
            ],
            **{name: number(value) for name, value in self.summary().items()},
            "voxels": self.voxels,
        }

    def _distances(self, code: int) -> dict[str, float]:
        return asdict(self.surface[code]) if self.surface is not None and code in self.surface else {}


@dataclass(frozen=True)
class RegressionEvaluation:
    """Errors of predicted values; see `vol3d.metrics.regression`."""

    scores: RegressionScores

    @property
    def voxels(self) -> int:
        """How many voxels were compared."""
        return self.scores.voxels

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Columns of a CSV file."""
        return _REGRESSION

    @property
    def shown(self) -> tuple[Metric, ...]:
        """Columns of a table."""
        return _REGRESSION

    @property
    def plotted(self) -> tuple[str, ...]:
        """Keys of the metrics in a box plot."""
        return ("mae", "rmse", "r2")

    def rows(self, case: str) -> list[ScoreRow]:
        """One row."""
        return [ScoreRow(case, None, "", asdict(self.scores))]

    def summary(self) -> dict[str, float]:
        """Nothing: there are no classes to take a mean over."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an undefined R² is null."""
        return self.scores.to_json()


def number(value: float) -> float | None:
    """A JSON number, None for nan and inf."""
    return value if math.isfinite(value) else None


def mean(values: Sequence[float]) -> float:
    """Mean of the values that are defined; nan where none is."""
    return mean_and_sd(values)[0]


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of the values that are not nan; nan where there are too few."""
    known = [float(value) for value in values if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    if not all(map(math.isfinite, known)):
        return float(np.mean(known)), math.nan
    return math.fsum(known) / len(known), float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
