"""What will hurt training though the files fit: classes, planes and gaps of sparse labels. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vol3d.config import LabelsConfig
from vol3d.sampling.painting import Plane, across, farthest, off_crossings, runs, thin_planes
from vol3d.volume import Volume
from vol3d.workflows.coverage import Painting
from vol3d.workflows.finding import AXES, Finding, few, plane_name, plane_names, slices_option
from vol3d.workflows.plane_faults import image_faults, plane_faults

_FEW_VOXELS = 50
_LIKELY = 0.8
_FEW_SLICES_APART = 8


def diagnose(
    painting: Painting, drawn: Volume, scan: Volume | None, unlabeled: Sequence[int], config: LabelsConfig
) -> list[Finding]:
    """Warnings and notes about labels that `train` would take. scan: None where it is not on the labels' grid."""
    found = _few_planes(painting) + _few_voxels(painting) + _not_painted_at_all(painting, config)
    blank = _blank(painting) if config.annotated_slices else []
    if config.annotated_slices:
        found += _only_background(painting, blank, drawn, unlabeled) + _not_declared(painting, drawn, unlabeled)
    if scan is not None:
        found += plane_faults(painting, scan.array, blank) + image_faults(painting, scan.array)
    return found + _gaps(painting) + _side_by_side(painting)


def _few_planes(painting: Painting) -> list[Finding]:
    """Classes whose voxels all lie in one painted plane."""
    if len(painting.planes) == 1 and painting.shape[next(iter(painting.planes))[0]] > 1:
        return [
            Finding(
                "warning",
                "one_plane",
                "this is the only painted slice",
                plane_names(painting.planes),
                "Paint a few more, best across other axes too",
            )
        ]
    alone: dict[Plane, list[str]] = {}
    for index in range(painting.unknown):
        for axis in range(3):
            if painting.shape[axis] == 1 or not painting.voxels(index):
                continue
            first, last = painting.extent(index, axis)
            if first == last and (axis, first) in painting.planes:
                alone.setdefault((axis, first), []).append(_class(painting, index))
                break
    return [
        Finding(
            "warning",
            "one_plane",
            f"the only painted slice with {', '.join(few(classes))}",
            (plane_name(plane),),
            "Paint a second slice through it",
        )
        for plane, classes in sorted(alone.items())
    ]


def _few_voxels(painting: Painting) -> list[Finding]:
    scarce = [index for index in range(painting.unknown) if 0 < painting.voxels(index) < _FEW_VOXELS]
    if not scarce:
        return []
    where = [plane for plane in painting.planes if painting.counts[plane[0]][plane[1], scarce].any()]
    named = [f"{_class(painting, index)} {painting.voxels(index)}" for index in scarce]
    return [
        Finding(
            "warning",
            "few_voxels",
            f"classes with fewer than {_FEW_VOXELS} labeled voxels: {', '.join(few(named))}",
            plane_names(where),
            "Paint slices that hold more of them",
        )
    ]


def _not_painted_at_all(painting: Painting, config: LabelsConfig) -> list[Finding]:
    present = {code for index, code in enumerate(painting.codes) if painting.voxels(index)}
    absent = [f"{c.code} ({c.name})" for c in config.classes if c.code not in present]
    if not absent:
        return []
    what = f"the configuration names classes without any labeled voxel here: {', '.join(few(absent))}"
    return [Finding("warning", "class_missing", what, (), "Paint them in this or another label file")]


def _blank(painting: Painting) -> list[Plane]:
    """Planes that hold nothing but background, off the planes that cross them."""
    if painting.ground is None:
        return []
    planes = painting.planes
    return [plane for plane in planes if (off_crossings(painting.classes, plane, planes) == painting.ground).all()]


def _only_background(
    painting: Painting, blank: Sequence[Plane], drawn: Volume, unlabeled: Sequence[int]
) -> list[Finding]:
    """Declared slices in which nobody painted anything."""
    found = []
    for plane in blank:
        axis, index = plane
        beside = [
            (axis, near)
            for near in (index - 1, index + 1)
            if 0 <= near < painting.shape[axis] and (axis, near) not in painting.planes
        ]
        painted = [near for near in beside if _stands_out(drawn, near, unlabeled)]
        remedy = "If nobody painted it, leave it out of the annotated slices"
        if painted:
            remedy = f"Is {plane_name(painted[0])} meant? Slices count from 0, as in `vol3d info`"
        what = "declared annotated, but holds only background"
        found.append(Finding("warning", "only_background", what, (plane_name(plane),), remedy))
    return found


def _stands_out(drawn: Volume, plane: Plane, unlabeled: Sequence[int]) -> bool:
    """Whether a slice of the file was painted, and the ones beside it were not: they hold far less."""
    axis, index = plane

    def painted(at: int) -> int:
        held = drawn.array[0][across(axis, at)] if 0 <= at < drawn.shape[axis] else np.zeros(1)
        return int(np.count_nonzero((held != 0) & ~np.isin(held, unlabeled)))

    return painted(index) > 4 * max(painted(index - 1), painted(index + 1), 1)


def _not_declared(painting: Painting, drawn: Volume, unlabeled: Sequence[int]) -> list[Finding]:
    """Planes that look painted and are not among the declared ones; none where the file is dense."""
    filled = np.ascontiguousarray(drawn.array[0] != 0)
    for code in unlabeled:
        filled &= drawn.array[0] != code
    planes, inside = thin_planes(filled)
    left_out = [plane for plane in planes if plane not in painting.planes]
    if not left_out or inside < _LIKELY:
        return []
    return [
        Finding(
            "warning",
            "not_declared",
            "holds codes other than 0, but is not among the annotated slices and counts as unlabeled",
            plane_names(left_out),
            f"If painted, say --annotated-slices {slices_option([*painting.planes, *left_out])}",
        )
    ]


def _gaps(painting: Painting) -> list[Finding]:
    """Where the painted slices leave far more room than elsewhere: between two of them, or at an end."""
    reach = farthest(painting.shape, painting.planes, painting.spacing_mm)
    if reach is None or reach.slices < _FEW_SLICES_APART:
        return []
    axis, painted = reach.axis, sorted(painting.painted(reach.axis))
    if len(painted) < 2:
        return []
    usual = (painted[-1] - painted[0]) / (len(painted) - 1)
    end = not painted[0] < reach.index < painted[-1]
    nearest = min(painted, key=lambda index: abs(index - reach.index))
    if end:
        content = {index: _content(painting, (axis, index)) for index in painted}
        if reach.slices <= 2 * usual or 2 * content[nearest] <= max(content.values()):
            return []  # near enough, or things come to an end there
        low, high = (0, painted[0] - 1) if reach.index < painted[0] else (painted[-1] + 1, painting.shape[axis] - 1)
    else:
        others = sorted(np.diff(painted).tolist())[:-1]
        if not others or 2 * reach.slices <= 3 * float(np.median(others)):
            return []
        low = max(index for index in painted if index < reach.index) + 1
        high = min(index for index in painted if index > reach.index) - 1
    return [
        Finding(
            "warning",
            "gap",
            f"{AXES[axis]}={low} to {high} is unpainted: up to {reach.slices} slices ({reach.mm:.4g} mm) to the next "
            f"painted slice",
            (f"{AXES[axis]}={reach.index}",),
            f"Paint a slice near {AXES[axis]}={reach.index}",
        )
    ]


def _content(painting: Painting, plane: Plane) -> int:
    """Labeled voxels of a plane that are no background; all but the most frequent code where none is called so."""
    held = painting.counts[plane[0]][plane[1], : painting.unknown]
    ground = int(np.argmax(painting.totals)) if painting.ground is None else painting.ground
    return int(held.sum() - held[ground])


def _side_by_side(painting: Painting) -> list[Finding]:
    found = []
    for axis in range(3):
        for first, last in runs(painting.painted(axis)):
            if first < last:
                where = plane_names((axis, index) for index in range(first, last + 1))
                what = f"{last - first + 1} painted slices lie side by side"
                remedy = "Neighbours look alike: slices farther apart teach more for the same work"
                found.append(Finding("note", "side_by_side", what, where, remedy))
    return found


def _class(painting: Painting, index: int) -> str:
    return f"{painting.codes[index]} ({painting.names[painting.codes[index]]})"
