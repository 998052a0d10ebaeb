"""Painted slices that are unfinished, copied, or contradict each other; slices of the image that repeat."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.sampling.painting import WHOLE, Plane, across, off_crossings, others
from vol3d.sampling.painting_faults import Crossing, contradictions, copies, cut_short, same_slices
from vol3d.workflows.coverage import Painting
from vol3d.workflows.finding import AXES, Finding, plane_name, plane_names

_FULL = 0.98
_FEWEST_MIRRORED = 3


def plane_faults(painting: Painting, image: NDArray[Any], explained: Collection[Plane] = ()) -> list[Finding]:
    """Faults of painted slices. image: (C, X, Y, Z) on the grid of the labels.

    explained: planes whose fault is known already, and which need not be said to contradict others.
    """
    planes, known = list(painting.planes), set(explained)
    found = _half_painted(painting)
    if painting.ground is not None:
        for cut in cut_short(painting.classes, painting.ground, image, planes):
            known.add(cut.plane)
            line = f"{AXES[cut.axis]}={cut.index}"
            what = (
                f"everything but background ends at the straight line {line}, where the image has no edge and other "
                f"slices go on"
            )
            found.append(Finding("warning", "cut_short", what, (plane_name(cut.plane),), "Paint the rest of it"))
    crossings = contradictions(painting.classes, painting.unknown, image, planes)
    found += _disagreements([c for c in crossings if not known & {c.first, c.second}], planes)
    for first, second in copies(painting.classes, painting.unknown, planes):
        if np.array_equal(image[(slice(None), *across(*first))], image[(slice(None), *across(*second))]):
            continue
        what = "these slices hold exactly the same labels, while their images differ"
        remedy = "Was one copied? Paint it anew, or mark it unlabeled"
        found.append(Finding("warning", "copied_labels", what, plane_names((first, second)), remedy))
    return found


def image_faults(painting: Painting, image: NDArray[Any]) -> list[Finding]:
    """Slices of an image (C, X, Y, Z) that occur twice."""
    found: list[Finding] = []
    pairs = same_slices(image)
    for axis in range(3):
        here = [pair for pair in pairs if pair[0][0] == axis]
        middles = {first[1] + second[1] for first, second in here}
        names = plane_names(dict.fromkeys(plane for pair in here for plane in pair))
        if len(here) >= _FEWEST_MIRRORED and len(middles) == 1:
            middle = f"{AXES[axis]}={middles.pop() / 2:g}"
            what = f"the image is its own mirror image about this slice: {len(here)} pairs of slices are the same"
            found.append(
                Finding("note", "mirrored_image", what, (middle,), "Labels on one side say all there is to say")
            )
        elif here:
            painted = any(plane in painting.planes for pair in here for plane in pair)
            shown = "; ".join(f"{plane_name(first)} and {plane_name(second)}" for first, second in here[:4])
            what = f"the image holds the same slice more than once: {shown}{'; …' if len(here) > 4 else ''}"
            remedy = "Was the scan put together wrongly? A slice that was filled in should stay unlabeled"
            found.append(Finding("warning" if painted else "note", "copied_image", what, names, remedy))
    return found


def _half_painted(painting: Painting) -> list[Finding]:
    found = []
    for plane, part in painting.planes.items():
        beside = [p for other, p in painting.planes.items() if other[0] == plane[0] and other != plane]
        if part < WHOLE and any(p >= _FULL for p in beside):
            what = (
                f"{100 * part:.0f} % of this slice is labeled{_boundary(painting, plane)}; other slices across "
                f"{AXES[plane[0]]} are labeled whole"
            )
            remedy = "Paint the rest, background too; what stays unlabeled teaches nothing"
            found.append(Finding("warning", "half_painted", what, (plane_name(plane),), remedy))
    return found


def _boundary(painting: Painting, plane: Plane) -> str:
    """Where the labeled part of a slice ends, if that is a straight line; off the planes that cross it."""
    known = off_crossings(painting.classes, plane, painting.planes) != painting.unknown
    for at, axis in enumerate(others(plane[0])):
        rows = np.delete(np.arange(painting.shape[axis]), painting.painted(axis))
        full = known.mean(axis=1 - at)
        inside = np.flatnonzero(full > 0.5)
        if not len(inside) or ((full > 1 - _FULL) & (full < _FULL)).any() or len(inside) != np.ptp(inside) + 1:
            continue
        first, last = rows[inside[[0, -1]]].tolist()
        ends = ([first] if inside[0] else []) + ([last] if inside[-1] < len(full) - 1 else [])
        return " and ends at the straight line " + " and ".join(f"{AXES[axis]}={end}" for end in ends)
    return ", with a ragged end"


def _disagreements(crossings: Sequence[Crossing], planes: Sequence[Plane]) -> list[Finding]:
    """One finding per plane that disagrees with others: the plane with the most crossings at fault comes first."""
    left, found = list(crossings), []
    while left:
        ends = [plane for crossing in left for plane in (crossing.first, crossing.second)]
        worst = max(dict.fromkeys(ends), key=lambda plane: (ends.count(plane), -planes.index(plane)))
        at_fault = [c for c in left if worst in {c.first, c.second}]
        left = [c for c in left if c not in at_fault]
        against = [c.second if c.first == worst else c.first for c in at_fault]
        sample = at_fault[0]
        what = (
            f"{'these two contradict each other' if len(against) == 1 else 'the first contradicts the others'} where "
            f"they cross: {sample.voxels} voxels of the line "
            f"between {plane_name(sample.first)} and {plane_name(sample.second)} differ from both sides in "
            f"{plane_name(sample.first)}, at most {sample.usual} on its other lines"
        )
        remedy = "One of them is shifted, mirrored or painted for another slice: look at both"
        found.append(Finding("warning", "contradiction", what, (plane_name(worst), *plane_names(against)), remedy))
    return found
