"""What `evaluate` finds where objects are told apart: instances and panoptic segments, as in `evaluations`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vol3d.report.scores import Metric, ScoreRow
from vol3d.workflows.evaluations import COUNT, mean, number

if TYPE_CHECKING:
    from vol3d.metrics.instances import InstanceScores
    from vol3d.metrics.panoptic import PanopticScore

_PANOPTIC = (
    Metric("pq", "PQ"),
    Metric("sq", "SQ"),
    Metric("rq", "RQ"),
    Metric("true_positives", "TP", COUNT),
    Metric("false_positives", "FP", COUNT),
    Metric("false_negatives", "FN", COUNT),
)


@dataclass(frozen=True)
class InstanceEvaluation:
    """How well single objects were found; see `vol3d.metrics.instances`. voxels: how many were compared."""

    scores: InstanceScores
    voxels: int

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Columns of a CSV file."""
        curves = (
            Metric(f"{key}_{threshold:.2f}", f"{name} {threshold:.2f}")
            for key, name in (("ap", "AP"), ("f1", "F1"), ("precision", "precision"), ("recall", "recall"))
            for threshold in self.scores.ap
        )
        return (*_OBJECTS, *curves)

    @property
    def shown(self) -> tuple[Metric, ...]:
        """Columns of a table."""
        chosen = ("objects", "predicted_objects", "ap_0.50", "f1_0.50", "mean_ap", "sbd", "voi_split", "voi_merge")
        known = {m.key: m for m in self.metrics}
        return tuple(known[key] for key in (*chosen, "adapted_rand_error") if key in known)

    @property
    def plotted(self) -> tuple[str, ...]:
        """Keys of the metrics in a box plot."""
        return tuple(m.key for m in self.metrics if m.key in ("mean_ap", "f1_0.50", "sbd"))

    def rows(self, case: str) -> list[ScoreRow]:
        """One row."""
        values: dict[str, float] = {m.key: getattr(self.scores, m.key) for m in _OBJECTS}
        for key in ("ap", "f1", "precision", "recall"):
            by_threshold: Mapping[float, float] = getattr(self.scores, key)
            values |= {f"{key}_{threshold:.2f}": value for threshold, value in by_threshold.items()}
        return [ScoreRow(case, None, "", values)]

    def summary(self) -> dict[str, float]:
        """Nothing: there are no classes to take a mean over."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; undefined scores are null."""
        return {**self.scores.to_json(), "voxels": self.voxels}


_OBJECTS = (
    Metric("objects", "objects", COUNT),
    Metric("predicted_objects", "predicted", COUNT),
    Metric("mean_ap", "mean AP"),
    Metric("sbd", "SBD"),
    Metric("voi_split", "VOI split"),
    Metric("voi_merge", "VOI merge"),
    Metric("voi", "VOI"),
    Metric("adapted_rand_error", "Rand error"),
)


@dataclass(frozen=True)
class PanopticEvaluation:
    """Panoptic quality per class code; see `vol3d.metrics.panoptic`.

    names: of the classes, by code. things: codes whose instances count one by one; the other classes are stuff, one
    segment each. voxels: how many were compared.
    """

    scores: Mapping[int, PanopticScore]
    names: Mapping[int, str]
    things: tuple[int, ...]
    voxels: int

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Columns of a CSV file."""
        return _PANOPTIC

    @property
    def shown(self) -> tuple[Metric, ...]:
        """Columns of a table."""
        return _PANOPTIC

    @property
    def plotted(self) -> tuple[str, ...]:
        """Keys of the metrics in a box plot."""
        return ("pq", "sq", "rq")

    def rows(self, case: str) -> list[ScoreRow]:
        """A row per class."""
        return [
            ScoreRow(case, code, self.names[code], {m.key: getattr(score, m.key) for m in _PANOPTIC})
            for code, score in self.scores.items()
        ]

    def summary(self) -> dict[str, float]:
        """Mean PQ over all classes, over all but class 0, over things and over stuff, where it is defined."""
        stuff = [code for code in self.scores if code not in self.things]
        return {
            "mean_pq": mean([score.pq for score in self.scores.values()]),
            "mean_pq_without_background": mean([s.pq for code, s in self.scores.items() if code != 0]),
            "mean_pq_things": mean([self.scores[code].pq for code in self.things if code in self.scores]),
            "mean_pq_stuff": mean([self.scores[code].pq for code in stuff]),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; undefined scores are null."""
        return {
            "classes": [
                {"code": code, "name": self.names[code], "kind": "thing" if code in self.things else "stuff"}
                | score.to_json()
                for code, score in self.scores.items()
            ],
            **{name: number(value) for name, value in self.summary().items()},
            "voxels": self.voxels,
        }
