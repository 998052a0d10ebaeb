"""Classes drawn over a gray plane: a light fill and a crisp outline. Arrays in, arrays out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Colors = NDArray[np.uint8]
_FILL = 0.30  # how much of the class colour covers the image
_FILL_THIN = 0.70  # the same where less than half of the plane is labeled: thin lines need a strong colour
_FADE = 0.72  # how far unlabeled voxels fade to white


def to_gray(plane: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Intensities → 0 … 1; NaN is black. A window without width shows everything at or below `low` black."""
    values = np.nan_to_num(plane.astype(np.float32), nan=low, posinf=high, neginf=low)
    scaled: NDArray[np.float32] = np.clip((values - low) / (high - low if high > low else 1.0), 0, 1)
    return scaled.astype(np.float32)


def zoom(plane: NDArray[Any], down: int, over: int) -> NDArray[Any]:
    """Every pixel of (rows, columns, …) repeated `down` times along rows and `over` times along columns."""
    return plane.repeat(down, axis=0).repeat(over, axis=1)


def paint_classes(
    picture: NDArray[np.float32],
    classes: NDArray[Any],
    labeled: NDArray[np.bool_] | None,
    colors: Colors,
    filled: NDArray[np.bool_],
    line: int = 1,
) -> NDArray[np.uint8]:
    """Fill and outline every class; fade what is unlabeled.

    picture: float32 (rows, columns, 3), 0 … 1. classes: class indices (rows, columns). labeled: bool, same, or None
    for everywhere. colors: uint8 (K, 3). filled: bool (K,), False for a class that is left as it is (background).
    line: outline's width in pixels, drawn inside the class. Returns uint8 (rows, columns, 3).
    """
    known = np.ones(classes.shape, dtype=bool) if labeled is None else labeled
    indices = np.where(known, classes, 0)
    tint = colors[indices].astype(np.float32) / 255
    drawn = filled[indices] & known
    fill = _FILL if known.mean() >= 0.5 else _FILL_THIN
    out = np.where(drawn[..., None], (1 - fill) * picture + fill * tint, picture)
    out = np.where(known[..., None], out, 1 - (1 - _FADE) * (1 - picture))
    edge = _edges(indices, known, line) & drawn
    out = np.where(edge[..., None], tint, out)
    rounded: NDArray[np.uint8] = np.rint(255 * out).astype(np.uint8)
    return rounded


def _edges(classes: NDArray[Any], known: NDArray[np.bool_], line: int) -> NDArray[np.bool_]:
    """Pixels within `line` of a pixel of another class, rows and columns alike; unlabeled pixels make no edge."""
    edge = np.zeros(classes.shape, dtype=bool)
    for axis in (0, 1):
        for shift in range(1, min(line, classes.shape[axis] - 1) + 1):
            ahead = tuple(slice(shift, None) if a == axis else slice(None) for a in (0, 1))
            behind = tuple(slice(None, -shift) if a == axis else slice(None) for a in (0, 1))
            other = (classes[ahead] != classes[behind]) & known[ahead] & known[behind]
            edge[ahead] |= other
            edge[behind] |= other
    return edge
