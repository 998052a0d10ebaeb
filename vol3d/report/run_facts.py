"""What a run report tells, as plain values: filled in by a workflow, written by `write_run_report`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vol3d.metrics import ClassScore
from vol3d.volume import is_background


@dataclass(frozen=True)
class ScanFacts:
    """One scan and what of it is labeled.

    shape: voxels along the file's x, y, z. spacing_mm: the same. labeled: part of the voxels, 0 … 1. slices: painted
    slices per axis of the file, such as {"x": 5}; empty where nothing is painted slice by slice, None where everything
    is labeled. voxels: labeled ones of every class on the prepared grid, in the order of `RunReport.classes`.
    """

    name: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    labeled: float
    slices: Mapping[str, int] | None
    voxels: tuple[int, ...]


@dataclass(frozen=True)
class TrainingFacts:
    """What learned, and for how long. patch: the network's input, voxels. seconds: of the whole run."""

    task: str
    network: str
    parameters: int
    patch: tuple[int, ...]
    batch_size: int
    iterations: int
    seconds: float
    device: str
    version: str
    seed: int


@dataclass(frozen=True)
class MethodScores:
    """How a method does on the held-out labels, class by class. note: what must be known to compare it, or empty."""

    name: str
    classes: tuple[ClassScore, ...]
    note: str = ""

    def mean(self, metric: str, *, background: bool = True) -> float:
        """Mean of a metric (a field of `ClassScore`) over the classes where it is defined, nan where nowhere."""
        values = [float(vars(score)[metric]) for score in self.classes if background or not is_background(score.name)]
        defined = [value for value in values if not math.isnan(value)]
        return math.fsum(defined) / len(defined) if defined else math.nan

    @property
    def value(self) -> float:
        """Mean IoU without background, or with it if there is nothing else."""
        alone = self.mean("iou", background=False)
        return self.mean("iou") if math.isnan(alone) else alone


@dataclass(frozen=True)
class Earlier:
    """The score of the run that this one went on from. iou: per class name; nan where undefined."""

    iou: Mapping[str, float]
    mean_iou: float


@dataclass(frozen=True)
class Calibration:
    """Expected calibration errors on the held-out labels, 0 … 1; after: None where nothing was calibrated.

    picture: a file in the run folder, or None. pool_weight: how much a pixel classifier counts beside the network,
    0 … 1.
    """

    before: float
    after: float | None = None
    picture: str | None = None
    pool_weight: float = 0.0


@dataclass(frozen=True)
class SlicePicture:
    """A held-out slice. file: in the run folder. name: scan and slice in the file's own axes. iou: a mean over classes.

    which: `best`, `worst` or `only`. mean: what the mean is called, with or without background.
    """

    file: str
    name: str
    iou: float
    which: str
    mean: str = "mean IoU"


@dataclass(frozen=True)
class Step:
    """How to go on: what for, and the commands."""

    what: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class RunReport:
    """Everything in a run report. All texts are plain, none is Markdown.

    classes: names of what the network answers. held_out: in words, what was held out or why nothing was. network:
    scores on it, None without any. baselines: on the same voxels. values: scores of a regression by name. refitted:
    whether the held-out labels joined the training after they were scored. curves, preview: files in the run folder.
    """

    title: str
    classes: tuple[str, ...]
    scans: tuple[ScanFacts, ...]
    training: TrainingFacts
    held_out: str
    network: MethodScores | None = None
    baselines: tuple[MethodScores, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    refitted: bool = False
    earlier: Earlier | None = None
    calibration: Calibration | None = None
    slices: tuple[SlicePicture, ...] = ()
    curves: str | None = None
    preview: str | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
