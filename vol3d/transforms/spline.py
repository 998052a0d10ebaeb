"""Interpolating cubic B-splines along one axis, as matrices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vol3d.transforms.mirror import fold_index


def interpolation_weights(positions: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """Weights (n, points) that turn values at control points 0 … points − 1 into values at `positions` (n,).

    The spline runs through the values (the coefficients are solved for, not taken for the values) and continues
    mirrored about the first and the last control point, so its slope is zero there. Rows sum to 1.
    Source: Unser, Aldroubi, Eden 1993, B-spline signal processing.
    """
    collocation = _basis(np.arange(points, dtype=np.float64), points)
    weights = np.linalg.solve(collocation.T, _basis(positions, points).T).T
    return np.asarray(weights, dtype=np.float64)


def _basis(positions: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    first = np.floor(positions).astype(np.int64)
    rows = np.arange(len(positions))
    weights = np.zeros((len(positions), points))
    for offset in (-1, 0, 1, 2):
        knots = first + offset
        np.add.at(weights, (rows, fold_index(knots, points)), _cubic(positions - knots))
    return weights


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The centred cubic B-spline: 2/3 at 0, 1/6 at ±1, 0 from ±2 on."""
    far = np.abs(distance)
    near = 2 / 3 - far**2 * (1 - far / 2)
    return np.where(far < 1, near, np.clip(2 - far, 0, None) ** 3 / 6)
