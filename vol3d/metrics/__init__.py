"""How good a segmentation is. Pure functions on arrays.

Imports numpy and `errors`; SciPy only when surfaces, instances, panoptic segments or a temperature are asked for.
"""

from typing import TYPE_CHECKING, Any

from vol3d.metrics.calibration import TEMPERATURES, Reliability, fit_temperature, tempered
from vol3d.metrics.contingency import ClassScore, Contingency
from vol3d.metrics.overlap import dice, iou, precision, recall, specificity, volume_similarity
from vol3d.metrics.regression import RegressionScores, mae, r2, regression_scores, rmse
from vol3d.metrics.surface import (
    SurfaceDistances,
    average_symmetric_surface_distance,
    hausdorff,
    hausdorff_percentile,
    surface_dice,
    surface_distances,
)

if TYPE_CHECKING:
    from vol3d.metrics.instances import InstanceScores, instance_scores
    from vol3d.metrics.panoptic import PanopticScore, panoptic_scores

__all__ = [
    "TEMPERATURES",
    "ClassScore",
    "Contingency",
    "InstanceScores",
    "PanopticScore",
    "RegressionScores",
    "Reliability",
    "SurfaceDistances",
    "average_symmetric_surface_distance",
    "dice",
    "fit_temperature",
    "hausdorff",
    "hausdorff_percentile",
    "instance_scores",
    "iou",
    "mae",
    "panoptic_scores",
    "precision",
    "r2",
    "recall",
    "regression_scores",
    "rmse",
    "specificity",
    "surface_dice",
    "surface_distances",
    "tempered",
    "volume_similarity",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  any attribute may be asked for
    if name in ("InstanceScores", "instance_scores"):
        from vol3d.metrics import instances

        return getattr(instances, name)
    if name in ("PanopticScore", "panoptic_scores"):
        from vol3d.metrics import panoptic

        return getattr(panoptic, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
