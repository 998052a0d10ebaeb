"""A prediction and a reference → scores: of classes, single objects, both at once, or values per voxel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vol3d.config import DataConfig, LabelsConfig, Task
from vol3d.errors import ConfigError, GeometryError, LabelError
from vol3d.metrics import Contingency, regression_scores, surface_distances
from vol3d.volume import LabelTable, Volume, is_background
from vol3d.workflows.compared import compared, names_of, on_one_grid, refuse_answered, require_dense
from vol3d.workflows.evaluations import Evaluation, RegressionEvaluation, SurfaceScore
from vol3d.workflows.labels import code_counts
from vol3d.workflows.object_evaluations import InstanceEvaluation, PanopticEvaluation
from vol3d.workflows.partial import refuse_choices, require_meant
from vol3d.workflows.sources import Source, Spacing, source_name, target_volume
from vol3d.workflows.targets import known_values

__all__ = ["Evaluation", "Scoring", "evaluate", "evaluate_task"]

AnyEvaluation = Evaluation | InstanceEvaluation | PanopticEvaluation | RegressionEvaluation
_DIVISOR = 1000
_BACKGROUND = "background"
_SQUARE = 1e-3  # largest cosine between two axes of a grid that still counts as a right angle


@dataclass(frozen=True)
class Scoring:
    """What is scored, and how.

    task: `semantic`: codes are classes. `instances`: codes are objects, 0 is background. `panoptic`: a code is class ×
    divisor + instance number. `regression`: values, NaN in the reference means unlabeled.
    labels: which codes of the reference mean unlabeled, which slices are annotated, or that it is dense; also names of
    classes. surface: distances between the surfaces of each class, too; tolerance_mm: of the surface Dice, default the
    longest edge of a voxel. divisor: default 1000. things: class codes whose instances count one by one; default: every
    class with an instance number other than 0. xform: which to trust where a NIfTI's two geometries disagree.
    Raises `ConfigError` for an option that the task has no use for.
    """

    task: Task = "semantic"
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    surface: bool = False
    tolerance_mm: float | None = None
    divisor: int | None = None
    things: tuple[int, ...] | None = None
    xform: Literal["sform", "qform"] | None = None

    def __post_init__(self) -> None:
        if self.task not in ("semantic", "instances", "panoptic", "regression"):
            raise ConfigError(f"task is semantic, instances, panoptic or regression, found {self.task!r}")
        if self.surface and self.task != "semantic":
            raise ConfigError(f"surface distances are of classes: they need the task semantic, found {self.task}")
        if self.tolerance_mm is not None and not (self.surface and 0 <= self.tolerance_mm < float("inf")):
            raise ConfigError(
                f"a tolerance goes with surface distances (--surface) and is 0 mm or more, found {self.tolerance_mm}"
            )
        if (self.divisor is not None or self.things is not None) and self.task != "panoptic":
            raise ConfigError(f"a divisor and things go with the task panoptic, found {self.task}")
        if self.divisor is not None and self.divisor < 2:
            raise ConfigError(f"expected a divisor of 2 or more, found {self.divisor}")
        refuse_choices(self.labels, self.task)


def evaluate(
    prediction: Source,
    reference: Source,
    *,
    labels: LabelsConfig | None = None,
    leave_out: Source | None = None,
    spacing_mm: Spacing = None,
    xform: Literal["sform", "qform"] | None = None,
    surface: bool = False,
    tolerance_mm: float | None = None,
) -> Evaluation:
    """Score predicted classes against a reference on the reference's labeled voxels.

    prediction, reference: label maps (files, arrays (X, Y, Z) or Volumes) on one grid. labels: which codes of the
    reference mean unlabeled, or which slices are annotated; without it every voxel counts, except codes that the
    reference file itself names unlabeled, and a reference that looks painted slice by slice is refused. leave_out:
    sparse labels whose labeled voxels do not count, such as those the model was trained on; annotated slices then speak
    of this file. xform: which to trust where a NIfTI's two geometries disagree. surface, tolerance_mm: see `Scoring`.
    Raises `GeometryError` where the grids differ and where distances are asked for of a file that lacks the size of its
    voxels; `LabelError` where nothing is left to compare, where the two files number their classes differently, and
    where surfaces are to be measured although the reference has unlabeled voxels.
    """
    config = labels or LabelsConfig()
    scoring = Scoring(labels=config, surface=surface, tolerance_mm=tolerance_mm, xform=xform)
    return _semantic(prediction, reference, scoring, leave_out, spacing_mm)


def evaluate_task(
    prediction: Source,
    reference: Source,
    scoring: Scoring,
    *,
    leave_out: Source | None = None,
    spacing_mm: Spacing = None,
) -> AnyEvaluation:
    """Score one prediction as `scoring` says. Raises as `evaluate` does; see there for the arguments."""
    require_meant([source_name(source) for source in (reference, leave_out) if source is not None], scoring.labels)
    return scored(prediction, reference, scoring, leave_out=leave_out, spacing_mm=spacing_mm)


def scored(
    prediction: Source,
    reference: Source,
    scoring: Scoring,
    *,
    leave_out: Source | None = None,
    spacing_mm: Spacing = None,
) -> AnyEvaluation:
    """As `evaluate_task`, one case of several: `scoring.labels` may speak of the files of other cases."""
    if scoring.task == "semantic":
        return _semantic(prediction, reference, scoring, leave_out, spacing_mm)
    if scoring.task == "regression":
        return _regression(prediction, reference, scoring, leave_out, spacing_mm)
    predicted, truth, mask = compared(
        prediction, reference, scoring.labels, DataConfig(xform=scoring.xform), leave_out, spacing_mm
    )
    what = "objects are compared as a whole" if scoring.task == "instances" else "segments are compared as a whole"
    require_dense(truth, mask, leave_out, what, "score classes (--task semantic)")
    return _instances(predicted, truth) if scoring.task == "instances" else _panoptic(predicted, truth, scoring)


def _semantic(
    prediction: Source, reference: Source, scoring: Scoring, leave_out: Source | None, spacing_mm: Spacing
) -> Evaluation:
    predicted, truth, mask = compared(
        prediction, reference, scoring.labels, DataConfig(xform=scoring.xform), leave_out, spacing_mm
    )
    if scoring.surface:
        require_dense(truth, mask, leave_out, "surfaces are measured everywhere", "leave --surface out")
    refuse_answered(predicted, truth, mask, scoring.labels)
    codes = sorted(code_counts(predicted, mask).keys() | code_counts(truth, mask).keys())
    table = LabelTable.from_codes(
        codes, (), names_of(predicted, truth) | {c.code: c.name for c in scoring.labels.classes}
    )
    chosen = [volume.array[0][mask] for volume in (predicted, truth)]
    indices = [np.searchsorted(table.codes, values) for values in chosen]
    counts = Contingency.from_labels(indices[0], indices[1], None, len(table))
    skip = table.background
    return Evaluation(
        tuple(counts.scores(table.names, table.codes.tolist())),
        counts.mean_iou(),
        counts.mean_iou(without=skip),
        counts.mean_dice(),
        counts.mean_dice(without=skip),
        int(mask.sum()),
        _surfaces(predicted, truth, table, scoring.tolerance_mm) if scoring.surface else None,
    )


def _surfaces(
    predicted: Volume, truth: Volume, table: LabelTable, tolerance_mm: float | None
) -> dict[int, SurfaceScore]:
    if truth.attributes.get("spacing_assumed"):
        raise GeometryError(
            f"{truth.name}: distances in mm need the size of the voxels, which both files lack. Write it into one of "
            "them (HDF5: the attribute element_size_um, z, y, x; TIFF: in Fiji, Image ▸ Properties), or leave "
            "--surface out."
        )
    directions = truth.affine.matrix[:3, :3] / truth.affine.spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > _SQUARE:
        raise GeometryError(
            f"{truth.name}: surface distances need axes at right angles, found a sheared grid. Resample both files."
        )
    spacing = truth.spacing_mm
    edges = [edge for edge, size in zip(spacing, truth.shape, strict=True) if size > 1]
    tolerance = max(edges or spacing) if tolerance_mm is None else tolerance_mm
    found = {}
    for one in table.classes:
        if is_background(one.name):
            continue
        distances = surface_distances(predicted.array[0] == one.code, truth.array[0] == one.code, spacing)
        found[one.code] = SurfaceScore(
            hausdorff_mm=distances.hausdorff(),
            hausdorff_95_mm=distances.percentile(95.0),
            assd_mm=distances.average(),
            surface_dice=distances.dice(tolerance),
            tolerance_mm=tolerance,
        )
    return found


def _instances(predicted: Volume, truth: Volume) -> InstanceEvaluation:
    from vol3d.metrics.instances import instance_scores

    return InstanceEvaluation(instance_scores(predicted.array[0], truth.array[0]), truth.array[0].size)


def _panoptic(predicted: Volume, truth: Volume, scoring: Scoring) -> PanopticEvaluation:
    from vol3d.instances import split
    from vol3d.metrics.panoptic import panoptic_scores

    divisor = _DIVISOR if scoring.divisor is None else scoring.divisor
    classes, instances = [], []
    numbered: set[int] = set()
    for volume in (predicted, truth):
        kinds, numbers = split(volume.array[0], divisor)
        classes.append(kinds)
        instances.append(numbers)
        numbered |= {code // divisor for code in code_counts(volume) if code % divisor}
    things = tuple(sorted(numbered)) if scoring.things is None else scoring.things
    unnumbered = np.isin(classes[1], things) & (instances[1] == 0) & (classes[1] != 0)  # code 0 is no object
    if unnumbered.any():
        code = int(classes[1][unnumbered][0])
        raise LabelError(
            f"{truth.name}: {int(np.count_nonzero(unnumbered))} voxels are of class {code}, whose objects count one by "
            f"one (in one of the two files they are numbered), and have no object number (code {code * divisor}). "
            "Number them from 1 up, or say with --things which classes are things."
        )
    scores = panoptic_scores(classes[0], instances[0], classes[1], instances[1], things)
    stored = names_of(predicted, truth, divisor)
    names = {code: stored.get(code, _BACKGROUND if code == 0 else f"class {code}") for code in scores}
    return PanopticEvaluation(scores, names, things, truth.array[0].size)


def _regression(
    prediction: Source, reference: Source, scoring: Scoring, leave_out: Source | None, spacing_mm: Spacing
) -> RegressionEvaluation:
    data = DataConfig(xform=scoring.xform)
    predicted = target_volume(prediction, data, spacing_mm)
    truth = target_volume(reference, data, spacing_mm)
    truth, predicted = on_one_grid(truth, predicted)
    config = scoring.labels
    slices_of_other = LabelsConfig(unlabeled=config.unlabeled) if leave_out is not None else config
    mask = known_values(truth, slices_of_other)
    if leave_out is not None:
        drawn = target_volume(leave_out, data, spacing_mm)
        truth, drawn = on_one_grid(truth, drawn)
        mask &= ~known_values(drawn, config)
    if not mask.any():
        raise LabelError(f"{truth.name}: no voxel is left to compare; every one is NaN, unlabeled or left out")
    strange = int(np.count_nonzero(~np.isfinite(predicted.array[0][mask])))
    if strange:
        raise LabelError(
            f"{predicted.name} has {strange} voxel(s) that are NaN where {truth.name} has a value; a prediction must "
            f"have one there too. Predict again, or set NaN in the reference."
        )
    return RegressionEvaluation(regression_scores(predicted.array[0], truth.array[0], mask))
