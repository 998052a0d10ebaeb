"""How far brightness alone gets: the best split of an image by two thresholds, found by trying them all."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEVELS = 128


def best_two_threshold_iou(
    image: NDArray[Any], classes: NDArray[Any], mask: NDArray[np.bool_] | None = None
) -> tuple[float, tuple[float, float]]:
    """Highest mean IoU that three brightness bands can reach, and the thresholds t1 ≤ t2 that reach it.

    image: (X, Y, Z), or (C, X, Y, Z) for the best single channel. classes: (X, Y, Z), any codes; the mean is over
    those that occur. mask: bool (X, Y, Z), voxels that count. Bands are image < t1, t1 ≤ image < t2 and t2 ≤ image;
    each may be given any class (two bands the same one, too). Thresholds: every level of an image of at most
    128 different values, else its 128 quantiles. Exhaustive; ties keep the lowest thresholds.
    Raises ValueError where no voxel counts.
    """
    channels = image if image.ndim == 4 else image[None]
    counted = np.ones(classes.shape, dtype=bool) if mask is None else mask
    truth, reference = np.unique(classes[counted], return_inverse=True)
    if not len(truth):
        raise ValueError("no voxel counts: the mask is empty")
    return max((_best(channel[counted], reference, len(truth)) for channel in channels), key=lambda found: found[0])


def _best(values: NDArray[Any], reference: NDArray[np.intp], classes: int) -> tuple[float, tuple[float, float]]:
    levels = np.unique(values)
    if len(levels) > _LEVELS:
        levels = np.unique(np.quantile(values, np.linspace(0, 1, _LEVELS), method="lower"))
    edges = np.append(levels, np.inf)
    below = np.zeros((classes, len(edges)), dtype=np.int64)  # voxels of a class below each threshold
    for index in range(classes):
        below[index] = np.searchsorted(np.sort(values[reference == index]), edges, side="left")
    total = np.bincount(reference, minlength=classes)
    low, high = np.triu_indices(len(edges))
    bands = np.stack([below[:, low], below[:, high] - below[:, low], total[:, None] - below[:, high]])
    sizes = bands.sum(axis=1)
    best, at = -1.0, 0
    for given in itertools.product(range(classes), repeat=3):
        ious = np.zeros(len(low))
        for index in set(given):
            mine = [band for band in range(3) if given[band] == index]
            hit = bands[mine, index].sum(axis=0)
            ious += hit / (total[index] + sizes[mine].sum(axis=0) - hit)
        pair = int(np.argmax(ious))
        if ious[pair] / classes > best:
            best, at = float(ious[pair]) / classes, pair
    return best, (float(edges[low[at]]), float(edges[high[at]]))
