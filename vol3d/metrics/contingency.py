"""The table that every overlap metric is read from: how often class i was predicted as class j."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError, LabelError
from vol3d.metrics import overlap

_BLOCK_VOXELS = 1 << 22


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class; nan where undefined.

    dice: the same as F1. voxels, predicted_voxels: labeled voxels that are of this class in the reference, and in the
    prediction.
    """

    code: int
    name: str
    iou: float
    dice: float
    precision: float
    recall: float
    specificity: float
    volume_similarity: float
    voxels: int
    predicted_voxels: int

    @property
    def f1(self) -> float:
        """F1 score: another name of the Dice coefficient."""
        return self.dice

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, None for nan; Dice also under its other name, f1."""
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in (asdict(self) | {"f1": self.f1}).items()
        }


@dataclass(frozen=True, eq=False)
class Contingency:
    """Voxel counts, int64 (K, K): row = class in the reference, column = class in the prediction. Exact, additive."""

    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        counts = np.array(self.counts, dtype=np.int64)
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
            raise LabelError(f"expected a square table of counts, found shape {counts.shape}")
        counts.flags.writeable = False
        object.__setattr__(self, "counts", counts)

    @classmethod
    def empty(cls, classes: int) -> Contingency:
        """A table of `classes` classes before anything was counted."""
        return cls(np.zeros((classes, classes), dtype=np.int64))

    @classmethod
    def from_labels(
        cls, prediction: NDArray[Any], reference: NDArray[Any], mask: NDArray[np.bool_] | None, classes: int
    ) -> Contingency:
        """Count over the voxels where `mask` is True (None: everywhere).

        prediction, reference: class indices 0…classes−1, integer arrays of one shape; what they hold outside the mask
        has no influence. mask: bool, same shape. Raises `GeometryError` on different shapes, `LabelError` on indices
        that are no class.
        """
        if prediction.shape != reference.shape or (mask is not None and mask.shape != reference.shape):
            shapes = [prediction.shape, reference.shape, *([] if mask is None else [mask.shape])]
            raise GeometryError(f"expected prediction, reference and mask of one shape, found {shapes}")
        total = np.zeros(classes * classes, dtype=np.int64)
        planes = max(1, _BLOCK_VOXELS // max(1, math.prod(reference.shape[1:])))
        for start in range(0, len(reference), planes):
            block = slice(start, start + planes)
            chosen = ... if mask is None else mask[block].astype(bool, copy=False)
            rows = _indices(reference[block][chosen], classes, "reference")
            columns = _indices(prediction[block][chosen], classes, "prediction")
            total += np.bincount(rows * classes + columns, minlength=classes * classes)
        return cls(total.reshape(classes, classes))

    def __add__(self, other: Contingency) -> Contingency:
        if self.classes != other.classes:
            raise LabelError(f"tables of {self.classes} and of {other.classes} classes cannot be added")
        return Contingency(self.counts + other.counts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contingency) and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.counts)

    @property
    def voxels(self) -> int:
        """Number of voxels counted."""
        return int(self.counts.sum())

    def iou(self, k: int) -> float:
        """Intersection over union of class k; nan where neither side has it."""
        return overlap.iou(self._both(k), self._predicted(k), self._reference(k))

    def dice(self, k: int) -> float:
        """Dice coefficient of class k; nan where neither side has it."""
        return overlap.dice(self._both(k), self._predicted(k), self._reference(k))

    def precision(self, k: int) -> float:
        """Part of what was predicted as class k that is class k; nan where it was never predicted."""
        return overlap.precision(self._both(k), self._predicted(k))

    def recall(self, k: int) -> float:
        """Part of class k that was predicted as class k; nan where the reference has none."""
        return overlap.recall(self._both(k), self._reference(k))

    def specificity(self, k: int) -> float:
        """Part of what is not class k that was not predicted as class k; nan where everything is class k."""
        return overlap.specificity(self._both(k), self._predicted(k), self._reference(k), self.voxels)

    def volume_similarity(self, k: int) -> float:
        """How alike the voxel counts of class k are, 0 to 1; nan where neither side has it."""
        return overlap.volume_similarity(self._predicted(k), self._reference(k))

    def scores(self, names: Sequence[str], codes: Sequence[int] | None = None) -> list[ClassScore]:
        """All scores of every class. names, codes: K each; without codes a class's index stands for its code."""
        codes = range(self.classes) if codes is None else codes
        if len(names) != self.classes or len(codes) != self.classes:
            raise LabelError(f"expected {self.classes} class names and codes, found {len(names)} and {len(codes)}")
        return [
            ClassScore(
                code=int(code),
                name=name,
                iou=self.iou(k),
                dice=self.dice(k),
                precision=self.precision(k),
                recall=self.recall(k),
                specificity=self.specificity(k),
                volume_similarity=self.volume_similarity(k),
                voxels=self._reference(k),
                predicted_voxels=self._predicted(k),
            )
            for k, (name, code) in enumerate(zip(names, codes, strict=True))
        ]

    def mean_iou(self, without: int | None = None) -> float:
        """Mean IoU over the classes where it is defined, nan where it is for none. without: a class to leave out."""
        return self._mean(self.iou, without)

    def mean_dice(self, without: int | None = None) -> float:
        """Mean Dice over the classes where it is defined, nan where it is for none. without: a class to leave out."""
        return self._mean(self.dice, without)

    def _mean(self, score: Callable[[int], float], without: int | None) -> float:
        values = [score(k) for k in range(self.classes) if k != without]
        defined = [value for value in values if not math.isnan(value)]
        return math.fsum(defined) / len(defined) if defined else math.nan

    def _both(self, k: int) -> int:
        return int(self.counts[k, k])

    def _reference(self, k: int) -> int:
        return int(self.counts[k].sum())

    def _predicted(self, k: int) -> int:
        return int(self.counts[:, k].sum())


def _indices(values: NDArray[Any], classes: int, name: str) -> NDArray[np.int64]:
    """Flat int64 indices, checked."""
    if values.dtype.kind not in "biu":
        raise LabelError(f"expected class indices of an integer dtype as {name}, found {values.dtype}")
    if values.size and (values.min() < 0 or values.max() >= classes):
        worst = values.min() if values.min() < 0 else values.max()
        raise LabelError(f"expected class indices 0 to {classes - 1} in the {name}, found {worst}")
    return values.astype(np.int64).ravel()
