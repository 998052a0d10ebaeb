"""Scores on held-out labels while a network trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vol3d import inference
from vol3d.config import InferenceConfig
from vol3d.metrics import Contingency
from vol3d.networks import current_statistics
from vol3d.volume import LabelTable, SparseLabels
from vol3d.workflows.cases import Case
from vol3d.workflows.device import Device
from vol3d.workflows.tiling import tile_plan


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

        def number(found: float | None) -> float:
            return float("nan") if found is None else float(found)

        means = ("mean_iou", "mean_iou_without_background", "mean_dice", "mean_dice_without_background")
        return cls({k: number(v) for k, v in value["iou"].items()}, *(number(value[name]) for name in means))

    @property
    def value(self) -> float:
        """What the best weights are chosen by: the mean IoU without background, or with it if there is nothing else."""
        alone = self.mean_iou_without_background
        return self.mean_iou if np.isnan(alone) else alone


class HeldOut:
    """Predicts the held-out labels' surroundings and scores them. cases and labels in one order; None: nothing held."""

    def __init__(
        self,
        cases: list[Case],
        labels: list[SparseLabels | None],
        table: LabelTable,
        device: Device,
        tiling: InferenceConfig,
        *,
        current: bool,
    ) -> None:
        self._pairs = [(c, s) for c, s in zip(cases, labels, strict=True) if s is not None and s.labeled.any()]
        self._table = table
        self._device = device
        self._tiling = tiling
        self._current = current
        self.scores: list[HeldOutScore] = []

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def __call__(self, network: Any) -> float:  # noqa: ANN401  any module that states its margin and stride
        """Score `network` as it is; keeps the whole score in `scores` and returns its `value`."""
        self.scores.append(self.score(network))
        return self.scores[-1].value

    def score(self, network: Any) -> HeldOutScore:  # noqa: ANN401  as above
        """IoU and Dice of `network` on the held-out voxels."""
        counts = Contingency.empty(len(self._table))
        for case, labels in self._pairs:
            plan = tile_plan(network, case.shape, self._device, self._tiling)
            if self._current:
                with current_statistics(network):
                    counts += self._compare(network, case, labels, plan)
            else:
                counts += self._compare(network, case, labels, plan)
        background = [i for i, name in enumerate(self._table.names) if name == "background"]
        skip = background[0] if background else None
        return HeldOutScore(
            {name: counts.iou(k) for k, name in enumerate(self._table.names)},
            counts.mean_iou(),
            counts.mean_iou(without=skip),
            counts.mean_dice(),
            counts.mean_dice(without=skip),
        )

    def _compare(self, network: Any, case: Case, labels: SparseLabels, plan: Any) -> Contingency:  # noqa: ANN401
        counts = Contingency.empty(len(self._table))
        for slab in inference.predict_slabs(
            network,
            case.image,
            plan,
            device=self._device.name,
            precision=self._device.precision,
            needed=labels.labeled,
        ):
            here = slice(slab.start, slab.stop)
            counts += Contingency.from_labels(
                slab.values.argmax(axis=0), labels.classes[here], labels.labeled[here], len(self._table)
            )
        return counts
