"""Two label maps → scores per class, on labeled voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vol3d.config import DataConfig, LabelsConfig
from vol3d.errors import LabelError
from vol3d.metrics import ClassScore, Contingency
from vol3d.volume import LabelTable, Volume
from vol3d.workflows.labels import annotated_planes, code_counts, stored_names, unlabeled_codes
from vol3d.workflows.sources import Source, Spacing, label_volume


@dataclass(frozen=True)
class Evaluation:
    """Scores per class and their means over the classes that occur. voxels: how many were compared."""

    scores: tuple[ClassScore, ...]
    mean_iou: float
    mean_iou_without_background: float
    mean_dice: float
    mean_dice_without_background: float
    voxels: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; undefined scores are null."""
        return {
            "classes": [
                {
                    "code": s.code,
                    "name": s.name,
                    "voxels": s.voxels,
                    **{k: _number(getattr(s, k)) for k in ("iou", "dice", "precision", "recall")},
                }
                for s in self.scores
            ],
            "mean_iou": _number(self.mean_iou),
            "mean_iou_without_background": _number(self.mean_iou_without_background),
            "mean_dice": _number(self.mean_dice),
            "mean_dice_without_background": _number(self.mean_dice_without_background),
            "voxels": self.voxels,
        }


def evaluate(
    prediction: Source,
    reference: Source,
    *,
    labels: LabelsConfig | None = None,
    leave_out: Source | None = None,
    spacing_mm: Spacing = None,
    xform: Literal["sform", "qform"] | None = None,
) -> Evaluation:
    """Score a prediction against a reference on the reference's labeled voxels.

    prediction, reference: label maps (files, arrays (X, Y, Z) or Volumes) on one grid. labels: which codes of the
    reference mean unlabeled, or which slices are annotated; without it every voxel counts, except codes that the
    reference file itself names unlabeled. leave_out: sparse labels whose labeled voxels do not count, such as those
    the model was trained on; annotated slices then speak of this file. xform: which to trust where a NIfTI's two
    geometries disagree.
    Raises `GeometryError` where the grids differ, `LabelError` where nothing is left to compare.
    """
    data = DataConfig(xform=xform)
    predicted = label_volume(prediction, data, spacing_mm)
    truth = label_volume(reference, data, spacing_mm)
    truth.require_same_grid(predicted)
    config = labels or LabelsConfig()
    slices_of_other = LabelsConfig(unlabeled=config.unlabeled, dense=config.dense) if leave_out is not None else config
    mask = _labeled(truth, slices_of_other)
    if leave_out is not None:
        drawn = label_volume(leave_out, data, spacing_mm)
        truth.require_same_grid(drawn)
        if not (unlabeled_codes([drawn], config) or config.annotated_slices):
            raise LabelError(
                f"{drawn.name}: which code means unlabeled there? Every voxel would be left out. Give --unlabeled CODE."
            )
        mask &= ~_labeled(drawn, config)
    if not mask.any():
        raise LabelError(f"{truth.name}: no voxel is left to compare; mend --unlabeled or --annotated-slices")
    return _score(predicted, truth, mask)


def _labeled(volume: Volume, config: LabelsConfig) -> NDArray[np.bool_]:
    planes = annotated_planes(volume, config)
    mask = np.ones(volume.shape, dtype=bool) if planes is None else planes
    unlabeled = unlabeled_codes([volume], config)
    return mask & ~np.isin(volume.array[0], unlabeled) if unlabeled else mask


def _score(predicted: Volume, truth: Volume, mask: NDArray[np.bool_]) -> Evaluation:
    codes = sorted(code_counts(predicted, mask).keys() | code_counts(truth, mask).keys())
    table = LabelTable.from_codes(codes, (), stored_names(predicted) | stored_names(truth))
    chosen = [volume.array[0][mask] for volume in (predicted, truth)]
    indices = [np.searchsorted(table.codes, values) for values in chosen]
    counts = Contingency.from_labels(indices[0], indices[1], None, len(table))
    background = [i for i, c in enumerate(table.classes) if c.name == "background"]
    skip = background[0] if background else None
    return Evaluation(
        tuple(counts.scores(table.names, table.codes.tolist())),
        counts.mean_iou(),
        counts.mean_iou(without=skip),
        counts.mean_dice(),
        counts.mean_dice(without=skip),
        int(mask.sum()),
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
