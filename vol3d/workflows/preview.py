"""The picture at the end of a training run: scan, painted labels, prediction, in three planes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vol3d import inference
from vol3d.report import preview_png
from vol3d.workflows.tiling import tile_plan

if TYPE_CHECKING:
    from vol3d.bundle import ModelBundle
    from vol3d.config import InferenceConfig
    from vol3d.workflows.cases import Case
    from vol3d.workflows.device import Device

_PAINTED = 0.5


def training_preview(path: Path, bundle: ModelBundle, case: Case, device: Device, settings: InferenceConfig) -> None:
    """Predict three planes near the middle of `case` that nobody painted, and draw them, in closest RAS."""
    network = bundle.build(device.name)
    middle = _middle(case)
    needed = np.zeros(case.shape, dtype=bool)
    for axis, index in enumerate(middle):
        needed[(slice(None),) * axis + (index,)] = True
    plan = tile_plan(network, case.shape, device, settings)
    predicted = np.zeros(case.shape, dtype=case.labels.classes.dtype)
    slabs = inference.predict_slabs(
        network, case.image, plan, device=device.name, precision=device.precision, needed=needed
    )
    for slab in slabs:
        predicted[slab.start : slab.stop] = slab.values.argmax(axis=0)
    painted = np.where(case.labels.labeled, case.labels.classes.astype(np.int32), -1)
    layers = [("scan", None), ("painted", painted), ("prediction", predicted)]
    preview_png(path, case.image.numpy(), case.labels.affine, layers, bundle.labels, through=middle)


def _middle(case: Case) -> tuple[int, int, int]:
    """On every axis the plane nearest to the centre of all labels that is hardly painted, if there is one."""
    centre = np.argwhere(case.labels.labeled).mean(axis=0)
    chosen = []
    for axis in range(3):
        share = case.labels.labeled.mean(axis=tuple(a for a in range(3) if a != axis))
        distance = np.abs(np.arange(len(share)) - centre[axis])
        chosen.append(int(np.where(share < _PAINTED, distance, distance + len(share)).argmin()))
    return (chosen[0], chosen[1], chosen[2])
