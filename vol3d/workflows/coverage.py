"""What labels cover: every code and every painted plane, counted once for all that `check` has to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.config import LabelsConfig
from vol3d.sampling.painting import Plane, across, find_planes, others
from vol3d.volume import Volume, is_background
from vol3d.workflows.finding import AXES, plane_name

_MOST = 0.5
_SHORT = 2**16


@dataclass(frozen=True)
class CodeCoverage:
    """One code of the label file.

    voxels: those that count as labeled; of an unlabeled code, all. share: of the volume. labeled_share: of all labeled
    voxels. slices: per axis, how many slices hold it. painted_slices: how many painted slices do. extent: per axis,
    the first and the last slice. An unlabeled code has no labeled share, no painted slices and no extent.
    """

    code: int
    name: str
    voxels: int
    share: float
    slices: tuple[int, int, int]
    labeled_share: float | None = None
    painted_slices: tuple[int, int, int] | None = None
    extent: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Painting:
    """Labels by index, and how often each occurs where.

    classes: index into `codes`, `unknown` where nobody annotated; unsigned, C order (X, Y, Z). planes: the painted
    planes with the part of each that is labeled; empty where labels are dense or no planes. counts: per axis, voxels
    of every slice and index; int (slices, codes + 1), Fortran order.
    """

    classes: NDArray[Any]
    codes: tuple[int, ...]
    names: Mapping[int, str]
    planes: Mapping[Plane, float]
    counts: tuple[NDArray[np.int64], ...]
    spacing_mm: tuple[float, ...]

    @property
    def unknown(self) -> int:
        """The index of voxels that nobody annotated."""
        return len(self.codes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Grid size (X, Y, Z)."""
        return self.classes.shape

    @cached_property
    def totals(self) -> list[int]:
        """Labeled voxels of every code."""
        return self.counts[0][:, : self.unknown].sum(axis=0).tolist()

    @cached_property
    def labeled(self) -> int:
        """Labeled voxels."""
        return sum(self.totals)

    @property
    def ground(self) -> int | None:
        """Index of the code that is called background, if labeled."""
        found = [i for i, code in enumerate(self.codes) if is_background(self.names[code]) and self.voxels(i)]
        return found[0] if found else None

    def voxels(self, index: int) -> int:
        """Labeled voxels of one code."""
        return self.totals[index]

    def painted(self, axis: int) -> list[int]:
        """Painted planes across one axis."""
        return [index for a, index in self.planes if a == axis]

    def extent(self, index: int, axis: int) -> tuple[int, int]:
        """First and last slice that hold a code that occurs."""
        filled = np.flatnonzero(self.counts[axis][:, index])
        return int(filled[0]), int(filled[-1])

    def held(self, plane: Plane) -> dict[int, int]:
        """Voxels of every code that a plane holds."""
        counts = self.counts[plane[0]][plane[1], : self.unknown]
        return {self.codes[i]: int(counts[i]) for i in np.flatnonzero(counts)}

    def coverage(self, index: int) -> CodeCoverage:
        """One code, in numbers."""
        voxels = self.voxels(index)
        slices = [int(np.count_nonzero(self.counts[axis][:, index])) for axis in range(3)]
        painted = [int(np.count_nonzero(self.counts[axis][self.painted(axis), index])) for axis in range(3)]
        return CodeCoverage(
            self.codes[index],
            self.names[self.codes[index]],
            voxels,
            voxels / self.classes.size,
            (slices[0], slices[1], slices[2]),
            voxels / self.labeled,
            (painted[0], painted[1], painted[2]),
            tuple(self.extent(index, axis) for axis in range(3)),
        )

    def planes_json(self) -> list[dict[str, Any]]:
        """Every painted plane: its name, the part that is labeled, voxels of every code."""
        return [
            {
                "slice": plane_name(plane),
                "labeled": part,
                "codes": {str(code): count for code, count in self.held(plane).items()},
            }
            for plane, part in self.planes.items()
        ]


def find_painting(
    volume: Volume,
    present: Sequence[int],
    unlabeled: Sequence[int],
    declared: NDArray[np.bool_] | None,
    names: Mapping[int, str],
    config: LabelsConfig,
) -> Painting:
    """Count a label file (1, X, Y, Z) of codes once.

    present: all codes that occur, ascending. declared: mask of the slices that were declared annotated, None for all.
    Takes one or two bytes a voxel beyond the file's.
    """
    codes = [code for code in present if code not in unlabeled]
    index = {code: i for i, code in enumerate(codes)}
    dtype = np.min_scalar_type(len(codes))
    classes = np.empty(volume.shape, dtype)
    if present[-1] < _SHORT:
        table = np.full(present[-1] + 1, len(codes), dtype)
        table[codes] = range(len(codes))
        for x, plane in enumerate(volume.array[0]):
            classes[x] = table[plane]
    else:
        table = np.array([index.get(code, len(codes)) for code in present], dtype)
        for x, plane in enumerate(volume.array[0]):
            classes[x] = table[np.searchsorted(present, plane)]
    if declared is not None:
        classes[~declared] = len(codes)
    planes: dict[Plane, float] = {}
    if declared is not None and config.annotated_slices:
        given = sorted({(AXES.index(a), i) for a, indices in config.annotated_slices.items() for i in indices})
        planes = {plane: float((classes[across(*plane)] != len(codes)).mean()) for plane in given}
    else:
        known = classes != len(codes)
        planes = find_planes(known) if known.mean() < _MOST else {}
    counts = tuple(_slice_counts(classes, axis, len(codes) + 1) for axis in range(3))
    return Painting(classes, tuple(codes), names, planes, counts, tuple(volume.spacing_mm))


def unlabeled_coverage(volume: Volume, code: int) -> CodeCoverage:
    """How much of a label file (1, X, Y, Z) holds a code that means unlabeled."""
    here = volume.array[0] == code
    slices = [int(here.any(axis=others(axis)).sum()) for axis in range(3)]
    voxels = int(np.count_nonzero(here))
    return CodeCoverage(code, "unlabeled", voxels, voxels / here.size, (slices[0], slices[1], slices[2]))


def _slice_counts(classes: NDArray[Any], axis: int, length: int) -> NDArray[np.int64]:
    slices = np.moveaxis(classes, axis, 0)
    counts = np.empty((len(slices), length), dtype=np.int64, order="F")  # to be read code by code
    for index, plane in enumerate(slices):
        counts[index] = np.bincount(plane.ravel(), minlength=length)
    return counts
