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


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
