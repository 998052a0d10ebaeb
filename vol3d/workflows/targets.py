"""What a file of values means: `task: regression`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vol3d.config import LabelsConfig, TaskSpec
from vol3d.errors import LabelError
from vol3d.volume import LabelTable, SparseLabels, Volume
from vol3d.workflows.labels import annotated_planes, say_coverage

_BINS = 8
_MOST = 0.5


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
        values, labeled = volume.array[0], known_values(volume, self.config)
        kinds = np.where(labeled, np.searchsorted(self.edges, np.where(labeled, values, 0), side="right"), 0)
        return SparseLabels(kinds.astype(np.uint8), labeled, volume.affine, volume.name, weight)

    def prepared(self, labels: SparseLabels, spacing_mm: Sequence[float]) -> SparseLabels:  # noqa: ARG002
        """The labels as they are: ranges of values."""
        return labels

    def target(self, volume: Volume) -> NDArray[np.float32]:
        """What the network should answer, float32 (X, Y, Z); 0 where no value is known."""
        scaled = (volume.array[0].astype(np.float64) - self.spec.mean) / self.spec.sd
        return np.where(known_values(volume, self.config), scaled, 0).astype(np.float32)


def known_values(volume: Volume, config: LabelsConfig) -> NDArray[np.bool_]:
    """Where a file of values has one: neither NaN nor an unlabeled code, and within the annotated slices."""
    values = volume.array[0]
    labeled = ~np.isnan(values)
    if config.unlabeled:
        labeled &= ~np.isin(values, np.array(config.unlabeled, dtype=values.dtype))
    mask = annotated_planes(volume, config)
    return labeled if mask is None else labeled & mask


def _refuse_ambiguous_value(volume: Volume, config: LabelsConfig) -> None:
    """Raise `LabelError` where one value covers most of a file and nobody said whether it means unlabeled."""
    if config.dense or config.unlabeled or config.annotated_slices:
        return
    values, counts = np.unique(volume.array[0], return_counts=True)  # NaNs are one value
    value, share = float(values[counts.argmax()]), float(counts.max() / counts.sum())
    if share > _MOST and not np.isnan(volume.array[0]).any():
        code = f"--unlabeled {value:g} (nobody measured there), " if value >= 0 and value.is_integer() else ""
        raise LabelError(
            f"{volume.name}: value {value:g} covers {100 * share:.1f} % of the voxels; is it known there? Say {code}"
            "--annotated-slices z=10,20 (known in those slices alone) or --dense (known everywhere), or write NaN "
            "where it is not known."
        )


def decide_targets(volumes: list[Volume], config: LabelsConfig) -> TargetMeaning:
    """Mean, spread and ranges of all known values. Raises `LabelError` where there are none, or all are the same.

    A value that covers most of a file that has no NaN is not taken for one unasked: it may mean that nobody measured.
    """
    for volume in volumes:
        _refuse_ambiguous_value(volume, config)
    parts = [volume.array[0][known_values(volume, config)] for volume in volumes]
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
