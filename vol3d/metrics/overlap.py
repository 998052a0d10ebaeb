"""Overlap of two sets of voxels, from counts: `both` in either set, `predicted` and `reference` the sets' sizes.

Every function returns nan where it is undefined: nothing to divide by.
"""

from __future__ import annotations

import math


def iou(both: int, predicted: int, reference: int) -> float:
    """Intersection over union (Jaccard 1901); nan where both sets are empty."""
    return _ratio(both, predicted + reference - both)


def dice(both: int, predicted: int, reference: int) -> float:
    """Dice coefficient (Dice 1945), the same as F1; nan where both sets are empty."""
    return _ratio(2 * both, predicted + reference)


def precision(both: int, predicted: int) -> float:
    """Part of the predicted voxels that are right; nan where nothing was predicted."""
    return _ratio(both, predicted)


def recall(both: int, reference: int) -> float:
    """Part of the reference's voxels that were found; nan where the reference has none."""
    return _ratio(both, reference)


def specificity(both: int, predicted: int, reference: int, voxels: int) -> float:
    """Part of the voxels outside the reference that were left out of the prediction too; nan where there are none.

    voxels: how many were compared in all.
    """
    return _ratio(voxels - predicted - reference + both, voxels - reference)


def volume_similarity(predicted: int, reference: int) -> float:
    """1 − |P − R| / (P + R) for sets of P and R voxels, wherever they lie; nan where both are empty.

    1 for sets of one size, 0 where exactly one is empty. Source: Taha & Hanbury 2015.
    """
    return 1 - _ratio(abs(predicted - reference), predicted + reference)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
