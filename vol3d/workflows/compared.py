"""What of a prediction and a reference is compared, and why some pairs are not compared at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vol3d.config import DataConfig, LabelsConfig
from vol3d.errors import LabelError
from vol3d.volume import Volume
from vol3d.workflows.finding import slices_option
from vol3d.workflows.labels import UNLABELED_NAMES, annotated_planes, code_counts, stored_names, unlabeled_codes
from vol3d.workflows.objects import class_names
from vol3d.workflows.partial import undecided
from vol3d.workflows.sources import Source, Spacing, label_volume
from vol3d.workflows.zero import looks_painted_by_slices


def compared(
    prediction: Source,
    reference: Source,
    config: LabelsConfig,
    data: DataConfig,
    leave_out: Source | None,
    spacing_mm: Spacing,
) -> tuple[Volume, Volume, NDArray[np.bool_]]:
    """Prediction and reference on one grid, and the voxels that count; bool (X, Y, Z), at least one.

    config: what the codes of the reference mean, or of what is left out. Raises as `evaluate` does.
    """
    predicted = label_volume(prediction, data, spacing_mm)
    truth = label_volume(reference, data, spacing_mm)
    truth, predicted = on_one_grid(truth, predicted)
    slices_of_other = LabelsConfig(unlabeled=config.unlabeled, dense=config.dense) if leave_out is not None else config
    if leave_out is None:
        _refuse_unsaid(truth, config)
    mask = _labeled(truth, slices_of_other)
    mask &= ~undecided(truth, mask, config, predicted)
    if leave_out is not None:
        drawn = label_volume(leave_out, data, spacing_mm)
        truth, drawn = on_one_grid(truth, drawn)
        if not (unlabeled_codes([drawn], config) or config.annotated_slices):
            raise LabelError(
                f"{drawn.name}: which voxels are painted there? Every one would be left out. Give --annotated-slices, "
                "or --unlabeled CODE."
            )
        mask &= ~_labeled(drawn, config)
    if not mask.any():
        raise LabelError(f"{truth.name}: no voxel is left to compare; mend --unlabeled or --annotated-slices")
    return predicted, truth, mask


def on_one_grid(truth: Volume, other: Volume) -> tuple[Volume, Volume]:
    """Both, with the size of voxels that the file of either may lack. Raises `GeometryError` for different grids."""
    if not truth.attributes.get("spacing_assumed"):
        return truth, truth.require_same_grid(other)
    found = other.require_same_grid(truth)
    known = {name: value for name, value in truth.attributes.items() if name != "spacing_assumed"}
    return (found if other.attributes.get("spacing_assumed") else replace(found, attributes=known)), other


def names_of(predicted: Volume, truth: Volume, divisor: int | None = None) -> dict[int, str]:
    """Names of the codes in both files. Raises `LabelError` where a name has one code here and another one there.

    divisor: of panoptic files, whose names are those of class codes.
    """
    here, there = (
        stored_names(one) if divisor is None else class_names(stored_names(one), divisor) for one in (predicted, truth)
    )
    numbers = {name.strip().casefold(): code for code, name in there.items()}
    for code, name in here.items():
        other = numbers.get(name.strip().casefold(), code)
        if other != code and there.get(code, "").strip().casefold() != name.strip().casefold():
            raise LabelError(
                f"{predicted.name} calls code {code} {name!r}, which is code {other} in {truth.name}: the two number "
                "their classes differently. Give the classes the same codes in both files."
            )
    return here | there


def refuse_answered(predicted: Volume, truth: Volume, mask: NDArray[np.bool_], config: LabelsConfig) -> None:
    """Raise `LabelError` where the prediction has a class whose code means unlabeled in the reference.

    All reference voxels of that class would be left out, and with them whatever is predicted there by mistake.
    """
    named = {code: name for code, name in stored_names(predicted).items() if name.lower() not in UNLABELED_NAMES}
    codes = code_counts(predicted, ~mask)
    answered = [code for code in unlabeled_codes([truth], config) if code in codes and code in named]
    if answered:
        code = answered[0]
        raise LabelError(
            f"{predicted.name} holds code {code} ({named[code]}), which means unlabeled in {truth.name}, so that it "
            f"cannot be told from this class there. If {code} is the class in both, leave --unlabeled {code} out and "
            "say which slices were painted with --annotated-slices; else give the class another code."
        )


def require_dense(truth: Volume, mask: NDArray[np.bool_], leave_out: Source | None, what: str, otherwise: str) -> None:
    """Raise where a part of the reference does not count: an object cut by unlabeled voxels has no known extent."""
    if leave_out is not None:
        raise LabelError(
            f"{truth.name}: {what}, so no voxels can be left out (--except). Score without --except, or {otherwise}."
        )
    missing = mask.size - int(np.count_nonzero(mask))
    if missing:
        raise LabelError(
            f"{truth.name}: {what}, which needs a dense reference, found {missing} unlabeled voxels of {mask.size}. "
            f"Give a reference where every voxel is labeled, or {otherwise}."
        )


def _refuse_unsaid(truth: Volume, config: LabelsConfig) -> None:
    """Raise `LabelError` for a reference that looks painted slice by slice where nobody said what its codes mean."""
    said = config.annotated_slices or config.dense or config.one_of or config.not_painted
    if said or unlabeled_codes([truth], config):
        return
    planes = looks_painted_by_slices(truth.array[0])
    if planes:
        raise LabelError(
            f"{truth.name}: nearly all codes but 0 lie in {len(planes)} slices, as if nobody had painted the rest, "
            f"which would count as background. Say --dense if every voxel was annotated; else --annotated-slices "
            f"{slices_option(planes)}, or --unlabeled CODE."
        )


def _labeled(volume: Volume, config: LabelsConfig) -> NDArray[np.bool_]:
    planes = annotated_planes(volume, config)
    mask = np.ones(volume.shape, dtype=bool) if planes is None else planes
    unlabeled = unlabeled_codes([volume], config)
    return mask & ~np.isin(volume.array[0], unlabeled) if unlabeled else mask
