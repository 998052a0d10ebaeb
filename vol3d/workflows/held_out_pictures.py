"""Pictures of the best and the worst held-out slice of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.metrics import Contingency
from vol3d.report.run_facts import SlicePicture
from vol3d.report.slices import slice_png
from vol3d.sampling import HoldOut, painted_slices
from vol3d.volume import Box, LabelTable
from vol3d.workflows.baselines import has_held_out
from vol3d.workflows.case import Case
from vol3d.workflows.channels import read_part
from vol3d.workflows.scores import HeldOutScore

_FULL = 0.5  # of the fullest held-out plane: emptier ones are not looked at
Answers = Sequence[NDArray[Any] | None]


def held_out_pictures(
    folder: Path,
    cases: Sequence[Case],
    names: Sequence[str],
    splits: Sequence[HoldOut],
    answers: Answers,
    table: LabelTable,
) -> tuple[SlicePicture, ...]:
    """Draw the best and the worst held-out slice into `folder`; where any has foreground, only among those with some.

    cases, names, splits, answers: in one order; answers: class indices (X, Y, Z), None where nothing is held out.
    """
    ranked, with_foreground = _ranked(splits, answers, table)
    if not ranked:
        return ()
    chosen = {"best": ranked[-1], "worst": ranked[0]} if len(ranked) > 1 else {"only": ranked[0]}
    pictures = []
    for which, (iou, number, plane) in chosen.items():
        case, held, answer = cases[number], splits[number].validation, answers[number]
        if held is None or answer is None:
            raise AssertionError("a slice with a score has labels and an answer")
        name = f"{names[number]}, slice {case.file_plane(*plane)}"
        file = f"held_out_{which}.png"
        mean = "mean IoU of foreground" if with_foreground else "mean IoU"
        title = f"{name}: {mean} {iou:.3f}"
        axis, index = plane
        start, size = [0, 0, 0], list(case.shape)
        start[axis], size[axis] = index, 1
        box = Box(tuple(start), tuple(size))
        drawn, known, predicted = (array[box.slices()] for array in (held.classes, held.labeled, answer))
        image, affine = read_part(case.image, box), held.affine.shifted(box.start)
        slice_png(folder / file, image, affine, (axis, 0), drawn, known, predicted, table, title=title)
        pictures.append(SlicePicture(file, name, iou, which, mean))
    return tuple(pictures)


def held_out_planes(labeled: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Planes to look at, (axis, index) each: painted slices; where there are none, those with most voxels of all.

    A volume of a single slice gives that slice; where more axes have one voxel only there is nothing to look at.
    """
    if not labeled.any():
        return []
    single = [axis for axis in range(3) if labeled.shape[axis] == 1]
    if single:
        return [(single[0], 0)] if len(single) == 1 else []
    found = painted_slices(labeled)
    if found:
        return found
    counts = [labeled.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    least = _FULL * max(one.max() for one in counts)
    return [(axis, int(i)) for axis, one in enumerate(counts) for i in np.flatnonzero(one >= least)]


def _ranked(
    splits: Sequence[HoldOut], answers: Answers, table: LabelTable
) -> tuple[list[tuple[float, int, tuple[int, int]]], bool]:
    """(mean IoU, case, plane) of every held-out slice, ascending; and whether that is the mean without background.

    It is, unless no slice has anything else.
    """
    found = []
    for number, (split, answer) in enumerate(zip(splits, answers, strict=True)):
        held = split.validation
        if held is None or answer is None or not has_held_out(split):
            continue
        for axis, index in held_out_planes(held.labeled):
            at = (slice(None),) * axis + (index,)
            counts = Contingency.from_labels(answer[at], held.classes[at], held.labeled[at], len(table))
            score = HeldOutScore.from_counts(counts, table)
            found.append((math.isnan(score.mean_iou_without_background), (score.value, number, (axis, index))))
    bare = all(empty for empty, _ in found)
    named = table.background is not None
    return sorted(entry for empty, entry in found if bare or not empty), named and not bare
