"""Scores on held-out labels while a network trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.config import InferenceConfig
from vol3d.metrics import Contingency
from vol3d.networks import current_statistics
from vol3d.volume import SparseLabels
from vol3d.workflows.around import Answer, Looking, answers_around
from vol3d.workflows.calibration import Calibration, calibrate
from vol3d.workflows.case import Case
from vol3d.workflows.device import Device
from vol3d.workflows.meaning import Meaning
from vol3d.workflows.scores import HeldOutScore, Score, ValueScore


class HeldOut:
    """Predicts the held-out labels' surroundings and scores them. cases and labels in one order; None: nothing held.

    meaning: of the labels; planes: of a 2-D network, the axes across which it goes slice by slice. patch: the
    network's input in training. factors: (S, K), by each of which class probabilities are multiplied before the most
    probable class is taken; what scores best counts (class weights will be taken back from the network after training).
    """

    def __init__(
        self,
        cases: list[Case],
        labels: list[SparseLabels | None],
        meaning: Meaning,
        device: Device,
        tiling: InferenceConfig,
        *,
        planes: Sequence[int] = (),
        patch: Sequence[int] | None = None,
        current: bool = False,
    ) -> None:
        self._pairs = [(c, s) for c, s in zip(cases, labels, strict=True) if s is not None and s.labeled.any()]
        held = [s is not None and bool(s.labeled.any()) for s in labels]
        self._count, self._numbers = len(cases), [number for number, one in enumerate(held) if one]
        self._table, self._spec = meaning.table, meaning.spec
        self._looking = Looking(device, tiling, tuple(planes), None if patch is None else tuple(patch))
        self._current = current
        self.scores: list[Score] = []
        self.factors = np.ones((1, len(self._table)))

    def __bool__(self) -> bool:
        return bool(self._pairs)

    @property
    def quantity(self) -> str:
        """What is to become high."""
        return "−RMSE" if self._spec.kind == "regression" else "IoU"

    def __call__(self, network: Any) -> float:  # noqa: ANN401  any module that states its margin and stride
        """Score `network` as it is; keeps the whole score in `scores` and returns its `value`."""
        self.scores.append(self.score(network))
        return self.scores[-1].value

    def score(self, network: Any) -> Score:  # noqa: ANN401  as above
        """How well `network` does on the held-out voxels."""
        with current_statistics(network) if self._current else nullcontext():
            if self._spec.kind == "regression":
                return self._values(network)
            return self._classes(network)

    def calibrate(
        self,
        network: Any,  # noqa: ANN401  as above
        class_weights: NDArray[np.float64] | None,
        importance: NDArray[np.float64] | None = None,
    ) -> Calibration:
        """How sure `network` may be of the held-out voxels; see `calibration.calibrate`."""
        return calibrate(
            network,
            [case for case, _ in self._pairs],
            [labels for _, labels in self._pairs],
            self._looking,
            current=self._current,
            class_weights=class_weights,
            importance=importance,
        )

    def score_of(self, answers: list[NDArray[Any] | None]) -> HeldOutScore:
        """The score that `answers` stand for."""
        counts = Contingency.empty(len(self._table))
        for number, (_, labels) in zip(self._numbers, self._pairs, strict=True):
            answer = answers[number]
            if answer is not None:
                counts += Contingency.from_labels(answer, labels.classes, labels.labeled, len(self._table))
        return HeldOutScore.from_counts(counts, self._table)

    def no_answers(self) -> list[NDArray[Any] | None]:
        """None for every case."""
        return [None] * self._count

    def answers(self, network: Any) -> list[NDArray[Any] | None]:  # noqa: ANN401  as above
        """What `network` predicts around held-out labels: class indices (X, Y, Z) per case, or None."""
        found = self.no_answers()
        with current_statistics(network) if self._current else nullcontext():
            for number, (case, labels) in zip(self._numbers, self._pairs, strict=True):
                answer = np.zeros(case.shape, dtype=np.uint8 if len(self._table) <= 256 else np.uint16)
                settled = np.zeros(case.shape, dtype=bool)
                for part in self._parts(network, case, labels, logits=False):
                    at = part.box.slices()
                    answer[at] = np.where(settled[at], answer[at], part.values.argmax(axis=0))
                    settled[at] |= part.asked
                found[number] = answer
        return found

    def read(self, value: dict[str, Any]) -> Score:
        """A score as it was written down."""
        return ValueScore.from_json(value) if self._spec.kind == "regression" else HeldOutScore.from_json(value)

    def _classes(self, network: Any) -> HeldOutScore:  # noqa: ANN401  as above
        classes = len(self._table)
        counts = [Contingency.empty(classes) for _ in self.factors]
        for case, labels in self._pairs:
            for part in self._parts(network, case, labels, logits=False):
                truth, said = labels.classes[part.box.slices()][part.asked], part.values[:, part.asked]
                for number, factors in enumerate(self.factors):
                    winner = (said * factors[:, None]).argmax(axis=0)
                    counts[number] += Contingency.from_labels(winner, truth, np.ones_like(truth, dtype=bool), classes)
        best = max(counts, key=lambda one: one.mean_iou() if one.voxels else 0.0)
        return HeldOutScore.from_counts(best, self._table)

    def _values(self, network: Any) -> ValueScore:  # noqa: ANN401  as above
        predicted, truth = [], []
        for case, labels in self._pairs:
            if case.target is None:
                raise AssertionError("a regression has targets")
            for part in self._parts(network, case, labels, logits=True):
                predicted.append(part.values[0][part.asked])
                truth.append(case.target[part.box.slices()][part.asked])
        return ValueScore.of(np.concatenate(predicted), np.concatenate(truth), self._spec.sd)

    def _parts(self, network: Any, case: Case, labels: SparseLabels, *, logits: bool) -> Iterator[Answer]:  # noqa: ANN401
        return answers_around(network, case, labels.labeled, self._looking, logits=logits)
