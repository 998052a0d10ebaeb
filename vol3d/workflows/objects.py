"""What label files mean when objects are told apart: `task: instances` and `task: panoptic`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.config import InstancesConfig, LabelsConfig, ObjectRules, TaskSpec
from vol3d.errors import LabelError
from vol3d.instances import InstanceScheme, SemanticClass, encode
from vol3d.sampling import painted_slices
from vol3d.volume import LabelTable, SparseLabels, Volume
from vol3d.workflows.labels import annotated_planes, code_counts, labeled_counts, say_coverage, stored_names

_DENSE = 0.5


@dataclass(frozen=True)
class ObjectMeaning:
    """As `LabelMeaning`: the network learns stuff, inside and border; objects are made of these afterwards."""

    table: LabelTable
    config: LabelsConfig
    said: str
    spec: TaskSpec
    scheme: InstanceScheme
    unlabeled: tuple[int, ...]
    border_mm: float | None

    def sparse(self, volume: Volume, weight: NDArray[np.float32] | None = None) -> SparseLabels:
        """The labels of one file: (1, X, Y, Z) → object numbers as the file has them, and mask."""
        values = volume.array[0]
        labeled = ~np.isin(values, self.unlabeled)
        mask = annotated_planes(volume, self.config)
        labeled = labeled if mask is None else labeled & mask
        return SparseLabels(values, labeled, volume.affine, volume.name, weight)

    def prepared(self, labels: SparseLabels, spacing_mm: Sequence[float]) -> SparseLabels:
        """Stuff, inside and border: found on the prepared grid, where a thin border would not survive a resampling."""
        planes = annotated(labels.labeled)
        classes = encode(labels.classes, labels.labeled, planes, spacing_mm, self.scheme, self.border_mm)
        return replace(labels, classes=classes)

    def target(self, volume: Volume) -> None:
        """Nothing: classes are all there is to learn."""


def annotated(labeled: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Annotated planes as (axis, index); none where the labels are dense, and distances are those of the volume."""
    return [] if labeled.mean() >= _DENSE else painted_slices(labeled)


def decide_objects(
    volumes: list[Volume], labels: LabelsConfig, instances: InstancesConfig, *, panoptic: bool
) -> ObjectMeaning:
    """Find out which classes and objects there are, or refuse with the choices where only the user can know.

    volumes: label files (1, X, Y, Z): object numbers, 0 is background; of `panoptic`, class code × divisor + number.
    """
    totals, unlabeled = labeled_counts(volumes, labels)
    present = np.array(sorted(totals), dtype=np.int64)
    scheme = _scheme(present, volumes, labels, instances) if panoptic else InstanceScheme.for_instances()
    _, numbers = scheme.meaning(present, volumes[0].name)
    if len(present) < 2:
        raise LabelError(
            f"{volumes[0].name}: expected several objects, or objects and background, among labeled voxels, found only "
            f"{'one object' if numbers.any() else 'background'}. Paint more, or mend --unlabeled."
        )
    rules = ObjectRules(**{name: getattr(instances, name) for name in ObjectRules.model_fields})
    spec = TaskSpec(kind="panoptic" if panoptic else "instances", scheme=scheme.to_json(), rules=rules)
    said = f"{_count(volumes, labels, scheme, unlabeled)} in {', '.join(c.name for c in scheme.classes)}"
    said += f"; {say_coverage(labels, unlabeled)}"
    return ObjectMeaning(scheme.output_table(), labels, said, spec, scheme, unlabeled, instances.border_mm)


def class_names(stored: dict[int, str], divisor: int) -> dict[int, str]:
    """Names that a panoptic file keeps, code → name: under class code × divisor, as predictions have them, or the code.

    Where every name stands under a multiple of the divisor, those are class codes × divisor.
    """
    if stored and all(code % divisor == 0 for code in stored):
        return {code // divisor: name for code, name in stored.items()}
    return stored


def _count(volumes: list[Volume], labels: LabelsConfig, scheme: InstanceScheme, unlabeled: tuple[int, ...]) -> str:
    """How many labeled objects there are in all files, in words; a number of one file is not that of another."""
    count = 0
    for volume in volumes:
        present = [code for code in code_counts(volume, annotated_planes(volume, labels)) if code not in unlabeled]
        count += int((scheme.meaning(np.array(present, dtype=np.int64), volume.name)[1] > 0).sum())
    return f"{count} object{'s'[: count != 1]}"


def _scheme(
    present: NDArray[np.int64], volumes: list[Volume], labels: LabelsConfig, instances: InstancesConfig
) -> InstanceScheme:
    """The classes of panoptic labels: as configured, else all that occur; those with numbered objects are things."""
    codes, numbers = np.divmod(present, instances.divisor)
    names: dict[int, Any] = {0: "background"}
    for volume in volumes:
        names |= class_names(stored_names(volume), instances.divisor)
    names |= {c.code: c.name for c in labels.classes}
    things = set(codes[numbers > 0].tolist()) if instances.things is None else set(instances.things)
    known = sorted(set(codes.tolist()) | {c.code for c in labels.classes})
    return InstanceScheme(
        tuple(SemanticClass(code, str(names.get(code, f"class {code}")), code in things) for code in known),
        divisor=instances.divisor,
    )
