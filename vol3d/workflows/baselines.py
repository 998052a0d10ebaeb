"""Classical peers scored on the held-out labels, as the network is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vol3d.metrics import ClassScore, Contingency
from vol3d.sampling import HoldOut
from vol3d.workflows.case import Case
from vol3d.workflows.meaning import Meaning
from vol3d.workflows.scores import HeldOutScore

_MOST_VOXELS = 2**27  # of a scan that is interpolated: more would take minutes, and gigabytes
_SECONDS_PER_VALUE = 2e-8  # of interpolation, for every voxel and class; measured on two cores of an EPYC


class Baseline(Protocol):
    """A method that answers for a whole scan from the labels that train. One that learns has done so before."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    def __call__(self, case: Case, split: HoldOut) -> NDArray[Any] | None:
        """Class indices (X, Y, Z) on the prepared grid; None where the method has nothing to go by.

        Only answers at held-out labels are looked at; elsewhere there may be anything.
        """
        ...


@dataclass(frozen=True)
class Interpolation:
    """The painted slices alone, interpolated; blind to the image. classes: K."""

    classes: int
    name: str = "interpolation"

    def __call__(self, case: Case, split: HoldOut) -> NDArray[Any] | None:
        """None for a scan that has no labels in training, and for one that is too large."""
        from vol3d.baselines.interpolation import interpolate

        if math.prod(case.shape) > _MOST_VOXELS:
            return None
        training = split.training
        return interpolate(training, case.spacing_mm, self.classes) if training.labeled.any() else None


def interpolation_seconds(shape: Sequence[int], classes: int) -> float:
    """What interpolating a scan of that shape takes, about."""
    voxels = math.prod(shape)
    return 0.0 if voxels > _MOST_VOXELS else _SECONDS_PER_VALUE * voxels * classes


@dataclass(frozen=True)
class BaselineScore:
    """How a baseline does on the held-out labels.

    score: as the network's. classes: the same in full. left_out: names of scans with held-out labels for which it had
    no answer; the score is over the others only.
    """

    name: str
    score: HeldOutScore
    classes: tuple[ClassScore, ...]
    left_out: tuple[str, ...] = ()


def score_baseline(
    baseline: Baseline, cases: Sequence[Case], splits: Sequence[HoldOut], meaning: Meaning
) -> BaselineScore | None:
    """Ask `baseline` for every scan with held-out labels, from the labels that train, and score its answers.

    cases, splits: in one order. None in a regression, without held-out labels, and where there is no answer at all.
    """
    if meaning.spec.kind == "regression":
        return None
    counts, left_out = Contingency.empty(len(meaning.table)), []
    for case, split in zip(cases, splits, strict=True):
        if not has_held_out(split):
            continue
        answer = baseline(case, split)
        if answer is None:
            left_out.append(case.name)
        else:
            counts += held_out_counts(answer, split, len(meaning.table))
    if not counts.voxels:
        return None
    table = meaning.table
    classes = tuple(counts.scores(table.names, table.codes.tolist()))
    return BaselineScore(baseline.name, HeldOutScore.from_counts(counts, table), classes, tuple(left_out))


def score_interpolation(cases: Sequence[Case], splits: Sequence[HoldOut], meaning: Meaning) -> BaselineScore | None:
    """What the painted slices alone would have given on the held-out labels; see `score_baseline`."""
    return score_baseline(Interpolation(len(meaning.table)), cases, splits, meaning)


def has_held_out(split: HoldOut) -> bool:
    """Whether anything of a scan validates."""
    return split.validation is not None and bool(np.any(split.validation.labeled))


def held_out_counts(answer: NDArray[Any], split: HoldOut, classes: int) -> Contingency:
    """How often class i was answered as class j on the held-out labels. answer: class indices (X, Y, Z)."""
    if split.validation is None:
        return Contingency.empty(classes)
    return Contingency.from_labels(answer, split.validation.classes, split.validation.labeled, classes)
