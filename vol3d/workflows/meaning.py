"""What label files mean, by the task at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vol3d.config import Config, TaskSpec
from vol3d.volume import LabelTable, SparseLabels, Volume
from vol3d.workflows.labels import decide
from vol3d.workflows.objects import decide_objects
from vol3d.workflows.sources import Source, Spacing, label_volume, target_volume
from vol3d.workflows.targets import decide_targets


class Meaning(Protocol):
    """What a task's label files mean: `LabelMeaning`, `ObjectMeaning` or `TargetMeaning`."""

    @property
    def table(self) -> LabelTable:
        """What the network answers."""
        ...

    @property
    def said(self) -> str:
        """One line for the user."""
        ...

    @property
    def spec(self) -> TaskSpec:
        """What becomes of the answers."""
        ...

    def sparse(self, volume: Volume, weight: NDArray[np.float32] | None = None) -> SparseLabels:
        """What a file says, on its own grid, and where somebody annotated."""
        ...

    def prepared(self, labels: SparseLabels, spacing_mm: Sequence[float]) -> SparseLabels:
        """What the network should answer, from what `sparse` gave, brought to the prepared grid."""
        ...

    def target(self, volume: Volume) -> NDArray[Any] | None:
        """Values to regress, (X, Y, Z); None where classes are learned."""
        ...


def read_truth(source: Source, config: Config, spacing_mm: Spacing) -> Volume:
    """A label file as the task has it: codes, or float32 values."""
    read = target_volume if config.task == "regression" else label_volume
    return read(source, config.data, spacing_mm)


def find_meaning(volumes: list[Volume], config: Config) -> Meaning:
    """Find out what label files mean, or refuse with the choices where only the user can know."""
    if config.task == "regression":
        return decide_targets(volumes, config.labels)
    if config.task == "semantic":
        return decide(volumes, config.labels)
    return decide_objects(volumes, config.labels, config.instances, panoptic=config.task == "panoptic")
