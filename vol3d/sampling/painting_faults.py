"""What goes wrong where people paint planes: planes that contradict each other, copies, and ends that are no ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.sampling.painting import Plane, across, off_crossings, others

_FEWEST_LINES = 10
_LEAST_CONTENT = 25
_RUN = 8
_AFTER = 3
_FEWEST_CUT = 10


@dataclass(frozen=True)
class Crossing:
    """Two painted planes that disagree where they cross.

    voxels: of the line between them, how many differ from the voxels on both sides in `first`, where those two agree.
    usual: the most on any other line of that plane.
    """

    first: Plane
    second: Plane
    voxels: int
    usual: int


def contradictions(classes: NDArray[Any], unknown: int, image: NDArray[Any], planes: Sequence[Plane]) -> list[Crossing]:
    """Crossings of painted planes whose codes stand out as a line in one of the two, worst first.

    classes: (X, Y, Z), `unknown` where nobody painted. image: (C, X, Y, Z), same grid. A voxel holds one code: where
    two planes disagree, the one painted last shows as a line through the other. Such a line has at least four voxels
    that differ from both sides, and half as many again as any line that no plane crosses. A line that the image has
    too (the gap between the two halves of a brain) is anatomy.
    """
    found: dict[tuple[Plane, Plane], Crossing] = {}
    for plane in planes:
        for turned, other in enumerate(others(plane[0])):
            lines = [index for axis, index in planes if axis == other]
            codes = _turned(classes[across(*plane)], turned)
            usual = _most_elsewhere(_lone(codes, unknown).sum(axis=1), lines)
            for index in lines:
                if usual is None or not 0 < index < len(codes) - 1:
                    continue
                lone = _lone(codes[index - 1 : index + 2], unknown)[1]
                voxels = int(lone.sum())
                if voxels <= 1.5 * usual + 3 or _image_has_it(codes, image, plane, turned, index, lone):
                    continue
                both = (min(plane, (other, index)), max(plane, (other, index)))
                if both not in found or voxels > found[both].voxels:
                    found[both] = Crossing(plane, (other, index), voxels, usual)
    return sorted(found.values(), key=lambda crossing: -crossing.voxels)


def copies(classes: NDArray[Any], unknown: int, planes: Sequence[Plane]) -> list[tuple[Plane, Plane]]:
    """Pairs of parallel painted planes that hold exactly the same, off the planes that cross them.

    Compared where either is labeled; at least 25 voxels must differ from the most frequent code of the plane.
    """
    found: list[tuple[Plane, Plane]] = []
    for axis in range(3):
        seen: dict[bytes, Plane] = {}
        for plane in (p for p in planes if p[0] == axis):
            codes = off_crossings(classes, plane, planes)
            counts = np.unique(codes[codes != unknown], return_counts=True)[1]
            if len(counts) < 2 or counts.sum() - counts.max() < _LEAST_CONTENT:
                continue
            first = seen.setdefault(codes.tobytes(), plane)
            if first != plane:
                found.append((first, plane))
    return found


def same_slices(image: NDArray[Any]) -> list[tuple[Plane, Plane]]:
    """Pairs of parallel slices of an image (C, X, Y, Z) that hold the same values, not all of them one value.

    Of several that are the same, each is named with the next one. An axis of one or two voxels is passed over.
    """
    found: list[tuple[Plane, Plane]] = []
    exact = np.int64 if image.dtype.kind in "iub" else np.float64
    for axis, extent in enumerate(image.shape[1:]):
        if extent < 3:
            continue
        sums = image.sum(axis=(0, *(a + 1 for a in others(axis))), dtype=exact)
        order = np.argsort(sums, kind="stable")
        for one, two in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
            if abs(sums[one] - sums[two]) > 1e-9 * abs(sums[one]):
                continue
            here, there = (image[(slice(None), *across(axis, index))] for index in (one, two))
            if np.array_equal(here, there) and here.min() != here.max():
                found.append(((axis, min(one, two)), (axis, max(one, two))))
    return sorted(found)


@dataclass(frozen=True)
class Cut:
    """A painted plane whose content ends at a line for no reason in the image: the last line with content."""

    plane: Plane
    axis: int
    index: int


def cut_short(classes: NDArray[Any], ground: int, image: NDArray[Any], planes: Sequence[Plane]) -> list[Cut]:
    """Painted planes in which everything but the class `ground` stops at one straight line.

    classes: (X, Y, Z). image: (C, X, Y, Z), same grid. A thing tapers off; the edge of what somebody painted before
    they stopped does not, has no edge in the image, and in most other planes across the axis content goes on beyond.
    """
    found: list[Cut] = []
    for axis in range(3):
        ends = {plane: _ends(classes, ground, image, plane, planes) for plane in planes if plane[0] == axis}
        for plane, cuts in ends.items():
            for cut, side in cuts:
                beyond = [_goes_beyond(classes, ground, other, cut, side, planes) for other in ends if other != plane]
                if beyond and 2 * sum(beyond) >= len(beyond):
                    found.append(cut)
    return found


def _turned(plane: NDArray[Any], turned: int) -> NDArray[Any]:
    """The plane with the other of its axes first."""
    return plane.T if turned else plane


def _lone(codes: NDArray[Any], unknown: int) -> NDArray[np.bool_]:
    """Voxels of a plane (N, M) that differ from the two beside them along the first axis, which agree; same shape."""
    lone = np.zeros(codes.shape, dtype=bool)
    before, here, after = codes[:-2], codes[1:-1], codes[2:]
    lone[1:-1] = (before == after) & (here != before) & (here != unknown) & (before != unknown)
    return lone


def _most_elsewhere(counts: NDArray[np.intp], lines: Iterable[int]) -> int | None:
    """The largest count of all lines that are neither a crossing nor beside one; None where those are too few."""
    elsewhere = np.ones(len(counts), dtype=bool)
    for index in lines:
        elsewhere[max(index - 1, 0) : index + 2] = False
    return int(counts[elsewhere].max()) if np.count_nonzero(elsewhere) >= _FEWEST_LINES else None


def _image_has_it(
    codes: NDArray[Any], image: NDArray[Any], plane: Plane, turned: int, index: int, lone: NDArray[np.bool_]
) -> bool:
    """Whether the gray values of the lone voxels depart from both sides as those of their classes do.

    Least-squares slope of the departure over the difference of the class medians: 1 for a sharp image, 0 for a
    line that is in the labels only. It is there from a quarter on, at four standard errors.
    """
    for channel in image:
        gray = _turned(channel[across(*plane)], turned).astype(np.float64)
        present, which = np.unique(codes[index - 1 : index + 1, lone], return_inverse=True)
        medians = np.array([np.median(gray[codes == code]) for code in present])
        beside, here = medians[which.reshape(2, -1)]
        expected = here - beside
        departure = (gray[index] - (gray[index - 1] + gray[index + 1]) / 2)[lone]
        power = float((expected**2).sum())
        if power == 0:
            continue
        slope = float((expected * departure).sum()) / power
        rest = float(((departure - slope * expected) ** 2).sum()) / max(len(expected) - 1, 1)
        if slope > 0.25 and slope > 4 * np.sqrt(rest / power):
            return True
    return False


def _ends(
    classes: NDArray[Any], ground: int, image: NDArray[Any], plane: Plane, planes: Sequence[Plane]
) -> list[tuple[Cut, int]]:
    """The straight ends of a plane's content, each with the direction (1 or −1) in which nothing follows."""
    found: list[tuple[Cut, int]] = []
    content = off_crossings(classes, plane, planes) != ground
    gray = [off_crossings(channel, plane, planes) for channel in image]
    for turned, axis in enumerate(others(plane[0])):
        extent = classes.shape[axis]
        rows = np.delete(np.arange(extent), [i for a, i in planes if a == axis])
        for side in (1, -1):
            order = slice(None, None, side)
            last = _straight_end(_turned(content, turned)[order], [_turned(channel, turned)[order] for channel in gray])
            if last is not None and rows[order][last + 1] == rows[order][last] + side:
                found.append((Cut(plane, axis, int(rows[order][last])), side))
    return found


def _straight_end(content: NDArray[np.bool_], gray: list[NDArray[Any]]) -> int | None:
    """The last row with content, where content ends there at full width and no channel has an edge; else None."""
    counts = content.sum(axis=1)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return None
    last = int(filled[-1])
    before = slice(last - _RUN, last)
    if last < _RUN or last >= len(counts) - max(_AFTER + 1, len(counts) // 10) or counts[last] < _FEWEST_CUT:
        return None
    same = float((content[last] & content[last - 1]).sum()) / max(float(content[last - 1].sum()), 1.0)
    if counts[last] < 0.75 * counts[before].mean() or same < 0.75:
        return None
    for channel in gray:
        rows = channel[last - _RUN : last + 1 + _AFTER, content[last]].astype(np.float64)
        steps = np.abs(np.diff(rows, axis=0)).mean(axis=1)
        if steps[_RUN:].max() > 1.25 * steps[:_RUN].max():
            return None
    return last


def _goes_beyond(
    classes: NDArray[Any], ground: int, plane: Plane, cut: Cut, side: int, planes: Sequence[Plane]
) -> bool:
    """Whether a tenth of a plane's content lies beyond a cut of a parallel plane."""
    content = off_crossings(classes, plane, planes) != ground
    axis = cut.axis
    rows = np.delete(np.arange(classes.shape[axis]), [i for a, i in planes if a == axis])
    counts = content.sum(axis=1 - others(plane[0]).index(axis))
    beyond = int(counts[side * rows > side * cut.index].sum())
    return beyond > 0.1 * max(int(counts.sum()), 1)
