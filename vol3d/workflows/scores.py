"""How well a network does on held-out labels, as it is shown and written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.metrics import Contingency
from vol3d.metrics.regression import regression_scores
from vol3d.volume import LabelTable


@dataclass(frozen=True)
class HeldOutScore:
    """IoU per class name (nan where a class does not occur) and the means over classes that occur."""

    iou: dict[str, float]
    mean_iou: float
    mean_iou_without_background: float
    mean_dice: float
    mean_dice_without_background: float

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> HeldOutScore:
        """From what `vars` gave and JSON kept; null is nan again."""
        means = ("mean_iou", "mean_iou_without_background", "mean_dice", "mean_dice_without_background")
        return cls({k: _number(v) for k, v in value["iou"].items()}, *(_number(value[name]) for name in means))

    @classmethod
    def from_counts(cls, counts: Contingency, table: LabelTable) -> HeldOutScore:
        """From how often class i was predicted as class j."""
        skip = table.background
        return cls(
            {name: counts.iou(k) for k, name in enumerate(table.names)},
            counts.mean_iou(),
            counts.mean_iou(without=skip),
            counts.mean_dice(),
            counts.mean_dice(without=skip),
        )

    @property
    def said(self) -> str:
        """In words."""
        return f"mean IoU {self.mean_iou:.3f}, mean Dice {self.mean_dice:.3f}"

    @property
    def value(self) -> float:
        """What the best weights are chosen by: the mean IoU without background, or with it if there is nothing else."""
        alone = self.mean_iou_without_background
        return self.mean_iou if np.isnan(alone) else alone


@dataclass(frozen=True)
class ValueScore:
    """Errors of regressed values, in their own unit; r2 is 1 for perfect ones and 0 for their mean."""

    mae: float
    rmse: float
    r2: float

    @classmethod
    def of(cls, predicted: NDArray[Any], truth: NDArray[Any], sd: float) -> ValueScore:
        """From standardised values, (N,) both."""
        found = regression_scores(predicted, truth)
        return cls(sd * found.mae, sd * found.rmse, found.r2)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ValueScore:
        """From what `vars` gave and JSON kept; null is nan again."""
        return cls(*(_number(value[name]) for name in ("mae", "rmse", "r2")))

    @property
    def said(self) -> str:
        """In words."""
        return f"MAE {self.mae:.4g}, RMSE {self.rmse:.4g}, R² {self.r2:.3f}"

    @property
    def value(self) -> float:
        """What the best weights are chosen by."""
        return -self.rmse


Score = HeldOutScore | ValueScore


def _number(found: float | None) -> float:
    return float("nan") if found is None else float(found)
