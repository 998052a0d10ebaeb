"""How a model's logits are made of the network's: class weights taken back, and a pixel classifier beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.metrics import Contingency, tempered

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_POOL_WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
_USUAL, _AS_GOOD = (0.5, 0.5), 0.005  # weight and share that are taken where no other is better by half a percent


def combination(
    logits: NDArray[Any],
    other: NDArray[Any] | None,
    classes: NDArray[Any],
    class_weights: NDArray[np.float64] | None,
) -> tuple[float, float]:
    """(how much `other` counts, share of the class weights to take back) for a high mean IoU on `classes`.

    Of a few steps from 0 to 1 those are looked at that come within half a percent of the best IoU; a few slices tell no
    smaller difference. Of these it is the nearest to what is right as a rule: half of each. logits:
    (M, K, N), of M members of one network. other: logarithms of a pixel classifier's probabilities, (K, N), or None.
    class_weights: None or equal ones, nothing to take back. Source of taking back all of them: logit adjustment (Menon
    et al. 2021).
    """
    everywhere = np.ones(classes.shape, dtype=bool)
    found = {}
    for weight in _POOL_WEIGHTS if other is not None else (0.0,):
        for share in _SHARES if class_weights is not None and np.ptp(class_weights) > 0 else (0.0,):
            winner = tempered(combined(logits, other, class_weights, weight, share), 1.0).argmax(axis=0)
            found[weight, share] = Contingency.from_labels(winner, classes, everywhere, logits.shape[1]).mean_iou()
    good = [key for key, iou in found.items() if iou >= max(found.values()) - _AS_GOOD]
    return min(good, key=lambda key: (abs(key[0] - _USUAL[0]) + abs(key[1] - _USUAL[1]), key))


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
