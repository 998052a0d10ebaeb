"""The picture at the end of a training run: scan, painted labels, prediction, in three planes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vol3d.report import preview_png
from vol3d.volume import Box, LabelTable
from vol3d.workflows.around import Looking, answers_around
from vol3d.workflows.channels import read_part
from vol3d.workflows.tiling import trained_patch

if TYPE_CHECKING:
    from vol3d.bundle import ModelBundle
    from vol3d.config import InferenceConfig
    from vol3d.workflows.case import Case
    from vol3d.workflows.device import Device

_MOST_VOXELS, _EDGE = 2**24, 160  # of a scan that is shown as a whole; of the part that is shown of a larger one
_MOST_VALUES = 2**27  # voxels times classes of a scan that is predicted for the picture
_PAINTED = 0.5
_BINS = 8
Voxel = tuple[int, int, int]


def training_preview(
    path: Path,
    bundle: ModelBundle,
    case: Case,
    device: Device,
    settings: InferenceConfig,
    indices: NDArray[Any] | None = None,
) -> None:
    """Draw three planes near the middle of `case` that nobody painted, in closest RAS; of a large scan a part of them.

    indices: what the model predicts, class indices (X, Y, Z); None: only these planes are predicted, now. Where objects
    are learned, insides and borders are shown; values are shown as ranges.
    """
    middle, bounds = _middle(case), _bounds(case)
    title = "" if case.as_stored else "planes are counted along R, A and S, not along the axes of the file"
    if math.prod(case.shape) > (_most_predicted(len(bundle.labels)) if indices is None else _MOST_VOXELS):
        box = _around(middle, case.shape)
        case, middle = case.part(box), _minus(middle, box.start)
        indices = None if indices is None else indices[box.slices()]
        begin = ", ".join(f"{letter}={n}" for letter, n in zip("RAS", box.start, strict=True))
        title = f"a part of the scan, counted from {begin}"
    known, table = _known(case, bundle, bounds)
    predicted = _predicted(bundle, case, device, settings, middle, bounds) if indices is None else indices
    painted = np.where(case.labels.labeled, known, -1)
    layers = [("scan", None), ("painted", painted), ("prediction", predicted)]
    image = read_part(case.image, Box.whole(case.shape))
    preview_png(path, image, case.labels.affine, layers, table, through=middle, title=title)


def predicted_voxels(shape: Voxel, classes: int) -> int:
    """Of how many voxels the picture is a part, whose planes are predicted for it."""
    voxels = math.prod(shape)
    return voxels if voxels <= _most_predicted(classes) else math.prod(min(n, _EDGE) for n in shape)


def _most_predicted(classes: int) -> int:
    return min(_MOST_VOXELS, _MOST_VALUES // max(1, classes))


def _around(middle: Voxel, shape: Voxel) -> Box:
    """A cube with a voxel in its middle, as far as the volume allows."""
    size = [min(n, _EDGE) for n in shape]
    start = [min(max(m - k // 2, 0), n - k) for m, k, n in zip(middle, size, shape, strict=True)]
    return Box(tuple(start), tuple(size))


def _minus(voxel: Voxel, start: Sequence[int]) -> Voxel:
    x, y, z = (a - b for a, b in zip(voxel, start, strict=True))
    return (x, y, z)


def _predicted(
    bundle: ModelBundle,
    case: Case,
    device: Device,
    settings: InferenceConfig,
    middle: Voxel,
    bounds: NDArray[Any] | None,
) -> NDArray[Any]:
    """What the model answers in three planes, as indices (X, Y, Z); 0 elsewhere."""
    network = bundle.build(device.name)
    needed = np.zeros(case.shape, dtype=bool)
    for axis, index in enumerate(middle):
        needed[(slice(None),) * axis + (index,)] = True
    predicted = np.zeros(case.shape, dtype=np.int32)
    looking = Looking(device, settings, bundle.task.planes, trained_patch(bundle))
    for part in answers_around(network, case, needed, looking, logits=bounds is not None):
        answer = part.values.argmax(axis=0) if bounds is None else _ranges(part.values[0], bounds)
        predicted[part.box.slices()][part.asked] = answer[part.asked]
    return predicted


def _known(case: Case, bundle: ModelBundle, bounds: NDArray[Any] | None) -> tuple[NDArray[np.int32], LabelTable]:
    """(what was painted, as indices; what they are)."""
    if case.target is None or bounds is None:
        return case.labels.classes.astype(np.int32), bundle.labels
    ends = bounds * bundle.task.sd + bundle.task.mean
    names = {k: f"{low:.3g} to {high:.3g}" for k, (low, high) in enumerate(itertools.pairwise(ends))}
    return _ranges(case.target, bounds).astype(np.int32), LabelTable.from_codes(list(names), names=names)


def _bounds(case: Case) -> NDArray[Any] | None:
    """Values between which the picture's ranges lie, from the 1st to the 99th percentile of what is known."""
    if case.target is None:
        return None
    low, high = np.percentile(case.target[case.labels.labeled], (1, 99))
    return np.linspace(low, high, _BINS + 1)


def _ranges(values: NDArray[Any], bounds: NDArray[Any]) -> NDArray[Any]:
    return np.searchsorted(bounds[1:-1], values)


def _middle(case: Case) -> Voxel:
    """On every axis the plane nearest to the centre of all labels that is hardly painted, if there is one."""
    centre = np.argwhere(case.labels.labeled).mean(axis=0)
    chosen = []
    for axis in range(3):
        share = case.labels.labeled.mean(axis=tuple(a for a in range(3) if a != axis))
        distance = np.abs(np.arange(len(share)) - centre[axis])
        chosen.append(int(np.where(share < _PAINTED, distance, distance + len(share)).argmin()))
    return (chosen[0], chosen[1], chosen[2])
