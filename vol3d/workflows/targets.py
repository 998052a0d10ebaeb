"""What a file of values means: `task: regression`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vol3d.config import LabelsConfig, TaskSpec
from vol3d.errors import LabelError
from vol3d.volume import LabelTable, SparseLabels, Volume
from vol3d.workflows.labels import annotated_planes, say_coverage

_BINS = 8


@dataclass(frozen=True, eq=False)
class TargetMeaning:
    """As `LabelMeaning`: a network with one output learns (value − mean) / sd.

    edges: values between which voxels count as of one kind when patches are drawn, float64 (bins − 1,).
    """

    table: LabelTable
    config: LabelsConfig
    said: str
    spec: TaskSpec
    edges: NDArray[np.float64]

    def sparse(self, volume: Volume, weight: NDArray[np.float32] | None = None) -> SparseLabels:
        """Which voxels of (1, X, Y, Z) have a value; `classes` are ranges of values, from low to high."""
        values, labeled = volume.array[0], known(volume, self.config)
        kinds = np.where(labeled, np.searchsorted(self.edges, np.where(labeled, values, 0), side="right"), 0)
        return SparseLabels(kinds.astype(np.uint8), labeled, volume.affine, volume.name, weight)

    def target(self, volume: Volume) -> NDArray[np.float32]:
        """What the network should answer, float32 (X, Y, Z); 0 where no value is known."""
        scaled = (volume.array[0].astype(np.float64) - self.spec.mean) / self.spec.sd
        return np.where(known(volume, self.config), scaled, 0).astype(np.float32)


def known(volume: Volume, config: LabelsConfig) -> NDArray[np.bool_]:
    """Where a file of values has one: neither NaN nor an unlabeled code, and within the annotated slices."""
    values = volume.array[0]
    labeled = ~np.isnan(values)
    if config.unlabeled:
        labeled &= ~np.isin(values, np.array(config.unlabeled, dtype=values.dtype))
    mask = annotated_planes(volume, config)
    return labeled if mask is None else labeled & mask


def decide_targets(volumes: list[Volume], config: LabelsConfig) -> TargetMeaning:
    """Mean, spread and ranges of all known values. Raises `LabelError` where there are none, or all are the same."""
    parts = [volume.array[0][known(volume, config)] for volume in volumes]
    values = np.concatenate(parts).astype(np.float64)
    names = ", ".join(volume.name for volume in volumes)
    if not values.size:
        raise LabelError(f"{names}: expected known values, found none: every voxel is NaN or unlabeled. Give some.")
    if not np.isfinite(values).all():
        raise LabelError(f"{names}: expected finite values, NaN where unknown; found infinite ones. Replace them.")
    mean, sd = float(values.mean()), float(values.std())
    if not sd > 0:
        raise LabelError(f"{names}: expected values that differ, found {mean:.6g} in every labeled voxel.")
    edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
    said = (
        f"values from {values.min():.6g} to {values.max():.6g}, mean {mean:.6g}, sd {sd:.6g}; NaN is unlabeled; "
        f"{values.size} voxels with a value"
    )
    if config.annotated_slices or config.unlabeled:
        said += f"; {say_coverage(config, config.unlabeled)}"
    table = LabelTable.from_codes([0], names={0: "value"})
    return TargetMeaning(table, config, said, TaskSpec(kind="regression", mean=mean, sd=sd), edges)
