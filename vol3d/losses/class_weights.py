"""How much a voxel of each class counts, from the number of labeled voxels of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vol3d.errors import LabelError


def class_weights(counts: ArrayLike, kind: Literal["none", "sqrt", "inverse"]) -> NDArray[np.float64]:
    """Weight of every class; float64 (K,), scaled so that the mean weight over all labeled voxels is 1.

    counts: labeled voxels of every class, (K,), never counting unlabeled ones. none: 1 for every class. inverse:
    proportional to 1 / count, so that all classes together weigh the same. sqrt: proportional to 1 / √count, half-way.
    With sqrt and inverse a class without a labeled voxel gets 0, for nothing is known about it.
    Raises `LabelError` where no voxel is labeled.
    """
    voxels = np.asarray(counts, dtype=np.float64)
    if voxels.ndim != 1 or not (voxels >= 0).all() or not voxels.any():
        raise LabelError(f"expected the labeled voxels of every class, at least one in all, found {voxels.tolist()}")
    if kind == "none":
        return np.ones_like(voxels)
    present = voxels > 0
    weights = np.zeros_like(voxels)
    weights[present] = voxels[present] ** (-0.5 if kind == "sqrt" else -1.0)
    return weights * (voxels.sum() / (voxels @ weights))


def set_weights(weights: ArrayLike, counts: ArrayLike, sets: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Weight of a voxel that is only known to be of one of several classes; float64 (S,), one per set.

    It is the mean weight of all labeled voxels of the set's classes, 1 where there is none. weights, counts: of every
    class, (K,). sets: class indices of each set.
    """
    of_class, voxels = np.asarray(weights, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    found = np.ones(len(sets))
    for number, members in enumerate(sets):
        chosen = list(members)
        if voxels[chosen].any():
            found[number] = np.average(of_class[chosen], weights=voxels[chosen])
    return found
