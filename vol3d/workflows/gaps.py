"""The U-Net's border weights for a training case: gaps between objects count more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vol3d.config import LossConfig
from vol3d.errors import ConfigError
from vol3d.instances import InstanceScheme
from vol3d.losses import border_weights
from vol3d.sampling import painted_slices
from vol3d.workflows.case import Case
from vol3d.workflows.meaning import Meaning
from vol3d.workflows.objects import annotated


def with_border_weights(case: Case, meaning: Meaning, loss: LossConfig, across: Sequence[int] = ()) -> Case:
    """The case with its `border`: how much more a labeled voxel counts between objects; as it is where w0 is 0.

    Objects are the connected parts of the classes `loss.border_classes`; where objects are learned, their insides. A
    voxel that is only known to be of one of several classes belongs to no object, and weighs as before.
    across: of a 2-D network, the axes across which it goes: objects are then those of its planes.
    Raises `ConfigError` where that makes no sense.
    """
    if not loss.border:
        return case
    labels, known = case.labels, case.labels.known
    foreground = np.isin(labels.classes, _object_indices(meaning, loss)) & labels.labeled
    weights = border_weights(
        foreground,
        known,
        case.spacing_mm,
        planes=_planes(known, across),
        w0=loss.border,
        sigma_mm=loss.border_sigma_mm,
    )
    if labels.partial is not None:  # nobody knows whether such a voxel is a gap
        weights = np.where(labels.labeled, weights, known.astype(np.float32))
    return replace(case, border=weights)


def _planes(labeled: NDArray[np.bool_], across: Sequence[int]) -> list[tuple[int, int]]:
    """Planes within which distances are measured, (axis, index); none for the volume."""
    if not across:
        return annotated(labeled)
    painted = painted_slices(labeled)
    seen = [(axis, index) for axis, index in painted if axis in across]
    return seen or painted


def _object_indices(meaning: Meaning, loss: LossConfig) -> list[int]:
    """Which of the network's answers are objects."""
    table = meaning.table
    if meaning.spec.kind == "regression":
        raise ConfigError("loss.border is for classes; leave it out of a regression")
    if meaning.spec.scheme is not None:
        outputs = InstanceScheme.from_json(meaning.spec.scheme).outputs
        return [index for index, output in enumerate(outputs) if output.part == "inside"]
    codes = table.codes.tolist()
    if loss.border_classes is None:
        between = table.background or 0
        return [index for index in range(len(table)) if index != between]
    strange = sorted(set(loss.border_classes) - set(codes))
    if strange:
        raise ConfigError(f"loss.border_classes: expected codes among {codes}, found {strange[0]}")
    return [codes.index(code) for code in loss.border_classes]
