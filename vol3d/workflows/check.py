"""Do an image and its labels fit together, and what do the labels cover? Reads voxels, needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.config import Config, DataConfig, InstancesConfig, LabelsConfig, Task
from vol3d.errors import GeometryError, LabelError
from vol3d.sampling import painted_slices
from vol3d.volume import Volume
from vol3d.workflows.labels import annotated_planes, code_counts, decide, explained, stored_names, unlabeled_codes
from vol3d.workflows.meaning import find_meaning, read_truth
from vol3d.workflows.sources import Source, Spacing, image_volume

_AXES = "xyz"
_MOST = 0.5


@dataclass(frozen=True)
class CodeCoverage:
    """One code of the label file: its name, its voxels, its share of the volume, the slices per axis that hold it."""

    code: int
    name: str
    voxels: int
    share: float
    slices: tuple[int, int, int]


@dataclass(frozen=True)
class Check:
    """What `check` found. problems: things that `train` would refuse; empty where everything fits.

    codes, zero: of a class per voxel; of other tasks empty, and `meaning` tells what there is to learn.
    """

    image: dict[str, Any]
    labels: dict[str, Any]
    codes: tuple[CodeCoverage, ...]
    annotated_slices: dict[str, list[int]]
    labeled_share: float
    zero: str
    problems: tuple[str, ...]
    meaning: str = ""

    def lines(self) -> list[str]:
        """What a person reads, a line each."""
        lines = [f"{title}: {_phrase(facts)}" for title, facts in (("image", self.image), ("labels", self.labels))]
        lines.append(f"labeled: {100 * self.labeled_share:.2f} % of the voxels")
        for code in self.codes:
            across = ", ".join(f"{letter} {n}" for letter, n in zip(_AXES, code.slices, strict=True))
            lines.append(
                f"  code {code.code} ({code.name}): {code.voxels} voxels, {100 * code.share:.2f} %; "
                f"slices that hold it: {across}"
            )
        painted = [f"{axis}={','.join(map(str, found))}" for axis, found in self.annotated_slices.items() if found]
        lines.append(f"annotated slices: {' '.join(painted) or 'none (scribbles, blocks or dense labels)'}")
        lines += [f"zero: {self.zero}"] if self.zero else []
        lines += [f"meaning: {self.meaning}"] if self.meaning else []
        lines += [f"problem: {problem}" for problem in self.problems] or ["no problem found"]
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "image": self.image,
            "labels": self.labels,
            "codes": [vars(code) for code in self.codes],
            "annotated_slices": self.annotated_slices,
            "labeled_share": self.labeled_share,
            "zero": self.zero,
            "meaning": self.meaning,
            "problems": list(self.problems),
        }


def check(
    image: Source,
    labels: Source,
    *,
    config: LabelsConfig | None = None,
    data: DataConfig | None = None,
    task: Task = "semantic",
    instances: InstancesConfig | None = None,
    spacing_mm: Spacing = None,
) -> Check:
    """Read both files, compare their grids and count what is labeled. Raises only where a file cannot be read.

    What 0 means is never guessed into effect: the evidence is stated, and `train` asks. task, instances: what
    `train` would learn.
    """
    meaning, files = config or LabelsConfig(), data or DataConfig()
    whole = Config(task=task, data=files, labels=meaning, instances=instances or InstancesConfig())
    scan, drawn = image_volume(image, files, spacing_mm), read_truth(labels, whole, spacing_mm)
    problems: list[str] = []
    try:
        scan.require_same_grid(drawn)
    except GeometryError as error:
        problems.append(str(error))
    if task != "semantic":
        return _check_task(scan, drawn, whole, problems)
    planes = annotated_planes(drawn, meaning)
    counts = code_counts(drawn, planes)
    unlabeled = unlabeled_codes([drawn], meaning)
    try:
        decide([drawn], meaning).sparse(drawn)
    except LabelError as error:
        problems.append(str(error))
    labeled = _labeled_mask(drawn, planes, unlabeled)
    return Check(
        _facts(scan) | _values(scan),
        _facts(drawn),
        tuple(_coverage(drawn, code, unlabeled) for code in sorted(counts)),
        _painted(labeled),
        float(labeled.mean()),
        _what_zero_seems(drawn, counts, unlabeled, meaning),
        tuple(problems),
    )


def _check_task(scan: Volume, drawn: Volume, config: Config, problems: list[str]) -> Check:
    """What there is to learn where it is not a class per voxel."""
    said, labeled = "", np.zeros(drawn.shape, dtype=bool)
    try:
        meaning = find_meaning([drawn], config)
        said, labeled = meaning.said, meaning.sparse(drawn).labeled
    except LabelError as error:
        problems.append(str(error))
    return Check(
        _facts(scan) | _values(scan),
        _facts(drawn),
        (),
        _painted(labeled),
        float(labeled.mean()),
        "",
        tuple(problems),
        said,
    )


def _painted(labeled: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Annotated slices per axis; none where most of the volume is labeled."""
    painted: dict[str, list[int]] = {"x": [], "y": [], "z": []}
    if labeled.mean() < _MOST:
        for axis, index in painted_slices(labeled):
            painted[_AXES[axis]].append(index)
    return painted


def _labeled_mask(volume: Volume, planes: NDArray[np.bool_] | None, unlabeled: tuple[int, ...]) -> NDArray[np.bool_]:
    labeled = ~np.isin(volume.array[0], unlabeled)
    return labeled if planes is None else labeled & planes


def _facts(volume: Volume) -> dict[str, Any]:
    return {
        "name": volume.name,
        "shape": list(volume.shape),
        "channels": volume.channels,
        "dtype": str(volume.array.dtype),
        "spacing_mm": [round(v, 9) for v in volume.spacing_mm],
        "orientation": volume.affine.codes,
    }


def _phrase(facts: dict[str, Any]) -> str:
    shape = "×".join(map(str, facts["shape"]))
    spacing = "×".join(f"{v:.6g}" for v in facts["spacing_mm"])
    text = f"{facts['name']}, {shape} voxels (x, y, z) of {spacing} mm, {facts['orientation']}, {facts['dtype']}"
    if facts["channels"] > 1:
        text += f", {facts['channels']} channels"
    if "minimum" in facts:
        text += f", values {facts['minimum']:.6g} to {facts['maximum']:.6g}, median {facts['median']:.6g}"
    return text


def _values(volume: Volume) -> dict[str, Any]:
    low, median, high = np.percentile(volume.array, (0, 50, 100))
    return {"minimum": float(low), "median": float(median), "maximum": float(high)}


def _coverage(volume: Volume, code: int, unlabeled: tuple[int, ...]) -> CodeCoverage:
    here = volume.array[0] == code
    slices = tuple(int(here.any(axis=tuple(a for a in range(3) if a != axis)).sum()) for axis in range(3))
    name = stored_names(volume).get(code, "background" if code == 0 else f"class {code}")
    voxels = int(here.sum())
    return CodeCoverage(
        code, "unlabeled" if code in unlabeled else name, voxels, voxels / here.size, (slices[0], slices[1], slices[2])
    )


def _what_zero_seems(volume: Volume, counts: dict[int, int], unlabeled: tuple[int, ...], config: LabelsConfig) -> str:
    total = sum(counts.values())
    share = counts.get(0, 0) / total
    if 0 in unlabeled:
        return "0 is unlabeled, as stated"
    if explained(counts, unlabeled, config):
        return "0 is a class (background), as stated" if 0 in counts else "0 does not occur"
    if 0 not in counts:
        return "0 does not occur"
    planes, inside = _full_planes(volume.array[0] != 0)
    if share > _MOST and planes and inside > 0.8:
        return (
            f"0 covers {100 * share:.1f} %, and {100 * inside:.0f} % of all other voxels lie in {planes} planes: "
            f"those look like annotated slices, so that 0 is unlabeled elsewhere; only you know"
        )
    if share > _MOST:
        return f"0 covers {100 * share:.1f} %, and other codes are spread over the volume: 0 looks like background"
    return f"0 covers {100 * share:.1f} %: it looks like a class of its own"


def _full_planes(painted: NDArray[np.bool_]) -> tuple[int, float]:
    """How many planes hold far more than the others across their axis, and the share of all voxels inside them."""
    inside = np.zeros(painted.shape, dtype=bool)
    planes = 0
    for axis in range(3):
        counts = painted.sum(axis=tuple(a for a in range(3) if a != axis))
        full = np.flatnonzero(counts > max(4 * np.median(counts), 1))
        planes += len(full)
        inside[(slice(None),) * axis + (full,)] = True
    return planes, float((painted & inside).sum() / max(painted.sum(), 1))
