"""How far predicted values lie from measured ones, over the voxels that have a measurement. Sums run in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError, LabelError

_BLOCK_VOXELS = 1 << 22
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RegressionScores:
    """Errors in the unit of the values, over `voxels` labeled voxels.

    mae: mean absolute error. rmse: root of the mean squared error. r2: coefficient of determination, at most 1,
    0 for the mean of the reference, nan where the reference is constant.
    """

    mae: float
    rmse: float
    r2: float
    voxels: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, None for nan."""
        return {key: None if math.isnan(value) else value for key, value in asdict(self).items()}


def regression_scores(
    prediction: NDArray[Any], reference: NDArray[Any], mask: NDArray[np.bool_] | None = None
) -> RegressionScores:
    """MAE, RMSE and R² where `mask` is True (None: everywhere) and the reference is finite.

    prediction, reference: real arrays of one shape; mask: bool, same shape. What stands at other voxels has no
    influence. Raises `GeometryError` on different shapes; `LabelError` where no voxel is left, or where the prediction
    is NaN or infinite at a voxel that counts: a missing prediction is not a good one.
    """
    if prediction.shape != reference.shape or (mask is not None and mask.shape != reference.shape):
        shapes = [prediction.shape, reference.shape, *([] if mask is None else [mask.shape])]
        raise GeometryError(f"expected prediction, reference and mask of one shape, found {shapes}")
    count, absolute, squared, total = 0, 0.0, 0.0, 0.0
    for found, wanted in _pairs(prediction, reference, mask):
        error = found - wanted
        count += error.size
        absolute += float(np.abs(error).sum())
        squared += float(np.square(error).sum())
        total += float(wanted.sum())
    if not count:
        raise LabelError("expected labeled voxels with a finite reference, found none; mend the reference or the mask")
    mean, lowest, highest, spread = total / count, math.inf, -math.inf, 0.0
    for _, wanted in _pairs(prediction, reference, mask):
        spread += float(np.square(wanted - mean).sum())
        lowest, highest = min(lowest, float(wanted.min())), max(highest, float(wanted.max()))
    r2 = 1 - squared / spread if highest > lowest and spread > 0 else math.nan
    return RegressionScores(absolute / count, math.sqrt(squared / count), r2, count)


def mae(prediction: NDArray[Any], reference: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> float:
    """Mean absolute error in the unit of the values; see `regression_scores`."""
    return regression_scores(prediction, reference, mask).mae


def rmse(prediction: NDArray[Any], reference: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> float:
    """Root of the mean squared error in the unit of the values; see `regression_scores`."""
    return regression_scores(prediction, reference, mask).rmse


def r2(prediction: NDArray[Any], reference: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> float:
    """Coefficient of determination, nan for a constant reference; see `regression_scores`."""
    return regression_scores(prediction, reference, mask).r2


def _pairs(
    prediction: NDArray[Any], reference: NDArray[Any], mask: NDArray[np.bool_] | None
) -> Iterator[tuple[_Floats, _Floats]]:
    """Prediction and reference at the voxels that count, block by block, flat float64."""
    planes = max(1, _BLOCK_VOXELS // max(1, math.prod(reference.shape[1:])))
    for start in range(0, len(reference), planes):
        block = slice(start, start + planes)
        chosen = np.isfinite(reference[block])
        if mask is not None:
            chosen &= mask[block]
        found, wanted = prediction[block][chosen].astype(np.float64), reference[block][chosen].astype(np.float64)
        strange = found.size - int(np.count_nonzero(np.isfinite(found)))
        if strange:
            raise LabelError(
                f"expected finite predictions wherever the reference has a value, found {strange} voxel(s) that are "
                f"NaN or infinite; predict again, or fill them"
            )
        if found.size:
            yield found, wanted
