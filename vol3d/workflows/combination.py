"""How a model's logits are made of the network's: class weights taken back, and a pixel classifier beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.metrics import tempered

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_POOL_WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
_USUAL = (0.65, 0.5)  # weight and share that are taken where no other is better by as much as can be told
_AS_GOOD = 0.005  # a difference of IoU that means nothing, on however many voxels
GROUPS = 64  # of held-out voxels, each left out in turn


def combination(
    logits: NDArray[Any],
    other: NDArray[Any] | None,
    classes: NDArray[Any],
    class_weights: NDArray[np.float64] | None,
    groups: NDArray[np.int64],
    importance: NDArray[np.float64] | None = None,
) -> tuple[float, float]:
    """(how much `other` counts, share of the class weights to take back) for a high mean IoU on `classes`.

    Of a few steps from 0 to 1 those are looked at that are as good as the best one: whose IoU is less than half a
    percent below it, or by less than one standard error of that difference. A few scribbles tell little, a few slices
    more. Of these it is the nearest to what is right as a rule. logits: (M, K, N), of M members of one network. other:
    logarithms of a pixel classifier's probabilities, (K, N), or None. class_weights: None or equal ones, nothing to
    take back. groups: (N,), from 0 to `GROUPS` − 1, of voxels that are right or wrong together; the standard error is
    that of the jackknife that leaves out one of them at a time (Breiman et al. 1984, Tukey 1958). importance: (K,), how
    much a voxel of each class counts; None: all the same. Source of taking back all of the weights: logit adjustment
    (Menon et al. 2021).
    """
    keys = [
        (weight, share)
        for weight in (_POOL_WEIGHTS if other is not None else (0.0,))
        for share in (_SHARES if class_weights is not None and np.ptp(class_weights) > 0 else (0.0,))
    ]
    scores = []
    for weight, share in keys:
        winner = tempered(combined(logits, other, class_weights, weight, share), 1.0).argmax(axis=0)
        scores.append(_scores(winner, classes, groups, logits.shape[1], importance))
    best = max(scores, key=lambda found: found[0])
    good = [key for key, found in zip(keys, scores, strict=True) if best[0] - found[0] <= _tolerance(best, found)]
    return min(good, key=lambda key: (abs(key[0] - _USUAL[0]) + abs(key[1] - _USUAL[1]), key))


def _scores(
    winner: NDArray[Any],
    classes: NDArray[Any],
    groups: NDArray[np.int64],
    outputs: int,
    importance: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Mean IoU of all voxels, then of all but those of each group that there is; over the classes that are there."""
    at = (groups * outputs + classes) * outputs + winner
    tables = np.bincount(at, minlength=GROUPS * outputs**2).reshape(GROUPS, outputs, outputs).astype(np.float64)
    if importance is not None:
        tables *= importance[:, None]
    tables, total = tables[tables.any(axis=(1, 2))], tables.sum(axis=0)
    kept = total - np.concatenate([np.zeros_like(total)[None], tables])
    there, both = kept.sum(axis=2), np.diagonal(kept, axis1=1, axis2=2)
    union = there + kept.sum(axis=1) - both
    iou = np.divide(both, union, out=np.zeros_like(union), where=union > 0)
    found: NDArray[np.float64] = (iou * (there > 0)).sum(axis=1) / np.maximum((there > 0).sum(axis=1), 1)
    return found


def _tolerance(best: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """What a difference between two such scores may be by chance."""
    differences = (best - found)[1:]
    count = len(differences)
    if count < 2:
        return _AS_GOOD
    return max(_AS_GOOD, float(np.sqrt((count - 1) * differences.var())))


def combined(
    logits: NDArray[Any],
    other: NDArray[Any] | None,
    class_weights: NDArray[np.float64] | None,
    weight: float,
    share: float,
) -> NDArray[Any]:
    """What the model will answer, (M, K, N): as `LogPool` does, of logits that were shifted."""
    shifted = logits - share * _log(class_weights, logits)
    return shifted if other is None else (1 - weight) * shifted + weight * other[None]


def share_factors(class_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """What probabilities (K, …) are multiplied by to take back each share that is tried, (shares, K)."""
    return np.exp([offsets(class_weights, share) for share in _SHARES])


def offsets(class_weights: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """What to add to the logits of every class, (K,), to take back a share of the weights."""
    logs: NDArray[np.float64] = -share * np.log(np.where(class_weights > 0, class_weights, 1.0))
    return logs


def _log(class_weights: NDArray[np.float64] | None, logits: NDArray[Any]) -> NDArray[Any]:
    """Logarithms of the weights as (1, K, 1); zeros for none."""
    weights = np.ones(logits.shape[1]) if class_weights is None else class_weights
    return (-offsets(weights, 1.0)).astype(logits.dtype)[None, :, None]
