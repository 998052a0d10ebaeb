"""Panoptic quality (Kirillov et al. 2019): how well segments of stuff and of things were found, class by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError, LabelError
from vol3d.metrics.instances import Pairs


@dataclass(frozen=True)
class PanopticScore:
    """One class. A predicted segment is right (TP) where its IoU with a reference segment of the class is above 0.5.

    sq: mean IoU of the right ones, nan where there is none. rq: TP / (TP + FP / 2 + FN / 2). pq: sum of their IoU
    over the same divisor, 0 where none is right. One segment's IoU > 0.5 makes its partner unique.
    """

    pq: float
    sq: float
    rq: float
    true_positives: int
    false_positives: int
    false_negatives: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, None for nan."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}


def panoptic_scores(
    prediction_classes: NDArray[Any],
    prediction_instances: NDArray[Any],
    reference_classes: NDArray[Any],
    reference_instances: NDArray[Any],
    things: Sequence[int],
    labeled: NDArray[np.bool_] | None = None,
) -> dict[int, PanopticScore]:
    """Score of every class code that occurs in the reference or the prediction, in ascending order.

    All maps: integers ≥ 0 of one shape. things: codes of the classes whose segments are told apart by their instance
    number; a voxel of a thing with number 0 belongs to no segment. Any other class is stuff: one segment, its instance
    numbers have no influence. labeled: bool, the same shape; voxels where it is False do not exist, on either side.
    Raises `GeometryError` on different shapes, `LabelError` on other values.
    """
    maps = (prediction_classes, prediction_instances, reference_classes, reference_instances)
    shapes = {m.shape for m in maps} | ({labeled.shape} if labeled is not None else set())
    if len(shapes) > 1:
        raise GeometryError(f"expected class and instance maps of one shape, found {sorted(shapes)}")
    if labeled is not None:
        maps = (maps[0][labeled], maps[1][labeled], maps[2][labeled], maps[3][labeled])
    predicted, predicted_step = _segments(maps[0], maps[1], things, "prediction")
    reference, reference_step = _segments(maps[2], maps[3], things, "reference")
    pairs = Pairs.count(predicted, reference)
    one, other = (pairs.reference_values - 1) // reference_step, (pairs.predicted_values - 1) // predicted_step
    union = pairs.reference_sizes[pairs.reference] + pairs.predicted_sizes[pairs.predicted] - pairs.voxels
    overlap = pairs.voxels / union
    codes_met = one[pairs.reference]
    right = (codes_met == other[pairs.predicted]) & (codes_met >= 0) & (overlap > 0.5)
    return {
        code: _score(overlap[right & (codes_met == code)], int(np.sum(other == code)), int(np.sum(one == code)))
        for code in sorted({*one.tolist(), *other.tolist()} - {-1})
    }


def _segments(
    classes: NDArray[Any], instances: NDArray[Any], things: Sequence[int], name: str
) -> tuple[NDArray[np.int64], int]:
    """(segment of every voxel: 1 + class code × step + instance number, 0 where of none; step), int64 (X, Y, Z).

    So (segment − 1) // step is the class code, −1 for none.
    """
    for values in (classes, instances):
        if values.dtype.kind not in "biu" or (values.size and values.min() < 0):
            raise LabelError(f"expected class codes and instance numbers, integers from 0 up, in the {name}")
    codes, step = classes.astype(np.int64), int(instances.max(initial=0)) + 1
    if (int(classes.max(initial=0)) + 1) * step >= 2**63:
        raise LabelError(f"class codes and instance numbers in the {name} are too large to be told apart")
    thing = np.isin(codes, np.asarray(things, dtype=np.int64))
    segments = 1 + codes * step + np.where(thing, instances, 0).astype(np.int64)
    segments[thing & (instances == 0)] = 0
    return segments, step


def _score(overlaps: NDArray[np.float64], predicted: int, reference: int) -> PanopticScore:
    right, total = len(overlaps), float(np.sum(overlaps))
    divisor = (predicted + reference) / 2  # = TP + FP / 2 + FN / 2
    return PanopticScore(
        pq=total / divisor,
        sq=total / right if right else math.nan,
        rq=right / divisor,
        true_positives=right,
        false_positives=predicted - right,
        false_negatives=reference - right,
    )
