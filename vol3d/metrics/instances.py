"""How well objects were told apart: two maps of instance numbers, every voxel of both known, 0 = background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import maximum_bipartite_matching

from vol3d.errors import ConfigError, GeometryError, LabelError

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_LARGEST_TABLE = 1 << 24  # cells of a full table of pairs, and values of a lookup table


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which values meet where, the full table of pairs without its zeros.

    reference_values, predicted_values: what occurs, ascending. reference, predicted: for every pair that meets, the
    positions of its two values there; voxels: how many voxels it has in common. All int64, (pairs,).
    """

    reference_values: NDArray[np.int64]
    predicted_values: NDArray[np.int64]
    reference: NDArray[np.int64]
    predicted: NDArray[np.int64]
    voxels: NDArray[np.int64]

    @classmethod
    def count(cls, prediction: NDArray[Any], reference: NDArray[Any]) -> Pairs:
        """Count two integer maps ≥ 0 of one shape. Raises `GeometryError` on other shapes, `LabelError` on values."""
        if prediction.shape != reference.shape:
            raise GeometryError(f"expected two maps of one shape, found {prediction.shape} and {reference.shape}")
        rows, row = _numbered(reference, "reference")
        columns, column = _numbered(prediction, "prediction")
        key = row * np.int64(len(columns)) + column
        if len(rows) * len(columns) <= _LARGEST_TABLE:
            counts = np.bincount(key)
            met = np.flatnonzero(counts)
            counts = counts[met]
        else:
            met, counts = np.unique(key, return_counts=True)
        first, second = np.divmod(met, max(1, len(columns)))
        return cls(rows, columns, first, second, counts.astype(np.int64))

    @property
    def reference_sizes(self) -> NDArray[np.int64]:
        """Voxels of every reference value; int64."""
        return _sums(self.reference, self.voxels, len(self.reference_values))

    @property
    def predicted_sizes(self) -> NDArray[np.int64]:
        """Voxels of every predicted value; int64."""
        return _sums(self.predicted, self.voxels, len(self.predicted_values))


@dataclass(frozen=True)
class InstanceScores:
    """Scores of one instance map; nan where undefined: nothing to divide by.

    ap, f1, precision, recall: by IoU threshold. An object is found (TP) where it is paired with a predicted one of an
    IoU above the threshold, one to one, as many pairs as possible; FP and FN are the objects left over.
    ap: TP / (TP + FP + FN), which the nuclei segmentation field calls average precision (Caicedo et al. 2019, Data
    Science Bowl 2018); there is no ranking by confidence as in COCO. mean_ap: its mean over the thresholds.
    sbd: symmetric best Dice (Scharr et al. 2016): the smaller of two means, over reference objects of the best Dice
    with any predicted one, and the other way round; 0 where one side alone is empty.
    voi_split, voi_merge: H(prediction | reference) and H(reference | prediction) in bits over all voxels, background
    being one more segment (Meilă 2007; `skimage.metrics.variation_of_information`); voi: their sum.
    adapted_rand_error: 1 − F of the Rand index over the voxels that are not background in the reference, where
    predicted background is one more segment (Arganda-Carreras et al. 2015; `skimage.metrics.adapted_rand_error`).
    objects, predicted_objects: how many the maps hold.
    """

    ap: dict[float, float]
    f1: dict[float, float]
    precision: dict[float, float]
    recall: dict[float, float]
    mean_ap: float
    sbd: float
    voi_split: float
    voi_merge: float
    voi: float
    adapted_rand_error: float
    objects: int
    predicted_objects: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, None for nan; thresholds as text, such as "0.5"."""
        return {
            key: {f"{threshold:g}": _plain(score) for threshold, score in value.items()}
            if isinstance(value, dict)
            else _plain(value)
            for key, value in vars(self).items()
        }


def instance_scores(
    prediction: NDArray[Any], reference: NDArray[Any], thresholds: Sequence[float] = THRESHOLDS
) -> InstanceScores:
    """Compare two maps of instance numbers, 0 = background, every voxel of both known.

    prediction, reference: integers ≥ 0 of one shape, any number of axes; numbers need not be consecutive and carry no
    meaning. thresholds: IoU from 0 to below 1. Raises `GeometryError` on different shapes, `LabelError` on other
    values, `ConfigError` on other thresholds.
    """
    if not thresholds or not all(0 <= threshold < 1 for threshold in thresholds):
        raise ConfigError(f"expected IoU thresholds from 0 to below 1, found {list(thresholds)}")
    pairs = Pairs.count(prediction, reference)
    objects = int(np.count_nonzero(pairs.reference_values))
    found = int(np.count_nonzero(pairs.predicted_values))
    first, second, both, one, other = _meetings(pairs)
    overlap = both / (one + other - both)
    hits = {float(t): _matches(first, second, overlap, float(t)) for t in thresholds}
    ap = {t: _ratio(n, objects + found - n) for t, n in hits.items()}
    split, merge = _variation(pairs)
    return InstanceScores(
        ap=ap,
        f1={t: _ratio(2 * n, objects + found) for t, n in hits.items()},
        precision={t: _ratio(n, found) for t, n in hits.items()},
        recall={t: _ratio(n, objects) for t, n in hits.items()},
        mean_ap=math.fsum(ap.values()) / len(ap),
        sbd=_best_dice(first, second, 2 * both / (one + other), objects, found),
        voi_split=split,
        voi_merge=merge,
        voi=split + merge,
        adapted_rand_error=_rand_error(pairs),
        objects=objects,
        predicted_objects=found,
    )


def _numbered(values: NDArray[Any], name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the values that occur, ascending; the position of each voxel's value there, flat), both int64."""
    if values.dtype.kind not in "biu":
        raise LabelError(f"expected instance numbers of an integer dtype in the {name}, found {values.dtype}")
    flat = values.ravel()
    if flat.size and flat.min() < 0:
        raise LabelError(f"expected instance numbers from 0 up in the {name}, found {flat.min()}")
    if flat.size and flat.max() >= _LARGEST_TABLE:
        present, inverse = np.unique(flat, return_inverse=True)
        return present.astype(np.int64), inverse.astype(np.int64)
    present = np.flatnonzero(np.bincount(flat))
    position = np.zeros(int(present[-1]) + 1 if len(present) else 1, dtype=np.int64)
    position[present] = np.arange(len(present))
    return present, position[flat]


def _meetings(pairs: Pairs) -> tuple[NDArray[np.int64], ...]:
    """Where two objects meet: positions in the reference and the prediction, voxels in common, voxels of each."""
    real = (pairs.reference_values[pairs.reference] > 0) & (pairs.predicted_values[pairs.predicted] > 0)
    first, second = pairs.reference[real], pairs.predicted[real]
    return first, second, pairs.voxels[real], pairs.reference_sizes[first], pairs.predicted_sizes[second]


def _matches(
    first: NDArray[np.int64], second: NDArray[np.int64], overlap: NDArray[np.float64], threshold: float
) -> int:
    """The largest number of one-to-one pairs with an IoU above the threshold.

    Above 0.5 an object has one partner at most, so every such pair counts; below, Hopcroft and Karp's matching.
    """
    good = overlap > threshold
    if threshold >= 0.5 or not good.any():
        return int(np.count_nonzero(good))
    shape = (int(first.max()) + 1, int(second.max()) + 1)
    graph = sparse.csr_array((np.ones(int(good.sum()), dtype=np.int8), (first[good], second[good])), shape=shape)
    return int(np.count_nonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0))


def _best_dice(
    first: NDArray[np.int64], second: NDArray[np.int64], dice: NDArray[np.float64], objects: int, found: int
) -> float:
    if not objects and not found:
        return math.nan
    if not len(dice):
        return 0.0
    means = []
    for position, count in ((first, objects), (second, found)):
        best = np.zeros(int(position.max()) + 1)
        np.maximum.at(best, position, dice)
        means.append(float(best.sum()) / count)
    return min(means)


def _variation(pairs: Pairs) -> tuple[float, float]:
    """(split, merge): the entropy of each map given the other, in bits; nan without a voxel."""
    total = int(pairs.voxels.sum())
    if not total:
        return math.nan, math.nan

    def conditional(sizes: NDArray[np.int64]) -> float:
        return float(np.sum(pairs.voxels / total * np.log2(sizes / pairs.voxels)))

    return (
        conditional(pairs.reference_sizes[pairs.reference]),
        conditional(pairs.predicted_sizes[pairs.predicted]),
    )


def _rand_error(pairs: Pairs) -> float:
    kept = pairs.reference_values[pairs.reference] > 0
    voxels = pairs.voxels[kept].astype(np.float64)
    same_reference = _sums(pairs.reference[kept], pairs.voxels[kept], len(pairs.reference_values)).astype(np.float64)
    same_predicted = _sums(pairs.predicted[kept], pairs.voxels[kept], len(pairs.predicted_values)).astype(np.float64)
    together, either = (
        np.sum(voxels * (voxels - 1)),
        (np.sum(same_reference * (same_reference - 1)) + np.sum(same_predicted * (same_predicted - 1))) / 2,
    )
    return 1 - float(together / either) if either else math.nan


def _sums(position: NDArray[np.int64], voxels: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    sums = np.zeros(length, dtype=np.int64)
    np.add.at(sums, position, voxels)
    return sums


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _plain(value: float) -> float | None:
    return None if isinstance(value, float) and math.isnan(value) else value
