"""What trains and what validates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vol3d.sampling import HoldOut, hold_out
from vol3d.sampling.windows import judged_part
from vol3d.volume import SparseLabels
from vol3d.workflows.around import little_context, most_looked_at
from vol3d.workflows.case import Case
from vol3d.workflows.device import Device

_ENOUGH = 0.5  # of what may be looked at


def split_cases(cases: list[Case], every: int) -> list[HoldOut]:
    """What trains and what validates: whole volumes where there are at least three, else slices of each."""
    if every < 2 or len(cases) < 3:
        return [hold_out(case.labels, every, name=case.file_plane) for case in cases]
    away = _held_volumes(cases, every)
    if not away:
        said = "no volume can be held out without losing a class from training"
        return [HoldOut(case.labels, None, said) for case in cases]
    nothing = [_none_of(case.labels) for case in cases]
    names = ", ".join(cases[n].name for n in sorted(away))
    said = f"held out for validation: {len(away)} of {len(cases)} volumes ({names})"
    return [
        HoldOut(nothing[n], case.labels, said) if n in away else HoldOut(case.labels, None, said)
        for n, case in enumerate(cases)
    ]


def looked_at(
    splits: list[HoldOut], classes: int, planes: Sequence[int], dimensions: int, device: Device
) -> list[HoldOut]:
    """The same with as many held-out labels as can be looked at again and again; what is left out trains nothing.

    classes: how many there are; 0 for values. planes, dimensions: of the network, which runs on `device`.
    """
    halo, passes = little_context(planes, dimensions), max(1, len(planes))
    share = passes * sum(split.validation is not None for split in splits)
    found = []
    for split in splits:
        part = None
        if split.validation is not None and classes:
            most = most_looked_at(device) / share
            part = judged_part(split.validation, classes, halo, most=most, enough=_ENOUGH * most)
        found.append(split if part is None else replace(split, validation=part, said=f"{split.said}, a part of them"))
    return found


def _held_volumes(cases: list[Case], every: int) -> set[int]:
    """Numbers of the volumes that validate: every `every`-th, such that training keeps every class; else none."""
    present = [set(np.unique(case.labels.classes[case.labels.labeled]).tolist()) for case in cases]
    step = min(every, len(cases))
    for offset in [step // 2, *range(step)]:
        away = set(range(offset, len(cases), step))
        kept = [codes for n, codes in enumerate(present) if n not in away]
        if away and kept and set().union(*kept) == set().union(*present):
            return away
    return set()


def _none_of(labels: SparseLabels) -> SparseLabels:
    return SparseLabels(labels.classes, np.zeros_like(labels.labeled), labels.affine, labels.name, labels.weight)
