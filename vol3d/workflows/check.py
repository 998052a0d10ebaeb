"""Do an image and its labels fit together, and what do the labels cover? Reads voxels, needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.config import Config, DataConfig, InstancesConfig, LabelsConfig, Task
from vol3d.errors import GeometryError, LabelError
from vol3d.sampling import painted_slices
from vol3d.sampling.painting import Reach, farthest
from vol3d.volume import Volume, value_counts
from vol3d.workflows.coverage import CodeCoverage, Painting, find_painting, unlabeled_coverage
from vol3d.workflows.doctor import diagnose
from vol3d.workflows.finding import AXES, SEVERITIES, Finding, Severity, percent
from vol3d.workflows.labels import annotated_planes, decide, explained, marks, stored_names, unlabeled_codes
from vol3d.workflows.meaning import find_meaning, read_truth
from vol3d.workflows.partial import Codes, choices, refuse_choices, require_meant, say_choice
from vol3d.workflows.sources import Source, Spacing, image_volume
from vol3d.workflows.zero import ZeroEvidence, zero_evidence, zero_findings

_MOST = 0.5


@dataclass(frozen=True)
class Check:
    """What `check` found. problems: things that `train` would refuse; empty where everything fits.

    findings: the problems, then warnings and notes about labels that `train` takes, worst first. codes, painted,
    farthest, zero, evidence: of a class per voxel; of other tasks empty, and `meaning` tells what there is to learn.
    painted: every painted slice with the part of it that is labeled and its voxels per code, as JSON values.
    farthest: the longest way from a voxel to a painted slice.
    """

    image: dict[str, Any]
    labels: dict[str, Any]
    codes: tuple[CodeCoverage, ...]
    annotated_slices: dict[str, list[int]]
    labeled_share: float
    zero: str
    problems: tuple[str, ...]
    meaning: str = ""
    findings: tuple[Finding, ...] = ()
    painted: tuple[dict[str, Any], ...] = ()
    farthest: Reach | None = None
    evidence: ZeroEvidence | None = None

    @property
    def counts(self) -> dict[Severity, int]:
        """How many findings there are of every severity."""
        return {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES}

    def exit_code(self, *, strict: bool = False) -> int:
        """2 where `train` would refuse, 1 for warnings if `strict`, else 0."""
        return 2 if self.problems else int(strict and self.counts["warning"] > 0)

    def lines(self, *, coverage: bool = True) -> list[str]:
        """What a person reads, a line each. coverage: with a line per code."""
        lines = [f"{title}: {_phrase(facts)}" for title, facts in (("image", self.image), ("labels", self.labels))]
        lines.append(f"labeled: {percent(self.labeled_share)} of the voxels")
        lines += [self._code_line(code) for code in self.codes] if coverage else []
        painted = [f"{axis}={','.join(map(str, found))}" for axis, found in self.annotated_slices.items() if found]
        lines.append(f"annotated slices: {' '.join(painted) or 'none (scribbles, blocks or dense labels)'}")
        if self.farthest is not None:
            far = self.farthest
            away = f"{far.slices} slices across {AXES[far.axis]} ({far.mm:.4g} mm)"
            lines.append(f"farthest from a painted slice: {away}, at {AXES[far.axis]}={far.index}")
        lines += [f"zero: {self.zero}"] if self.zero else []
        lines += [f"meaning: {self.meaning}"] if self.meaning else []
        lines += [finding.line() for finding in self.findings]
        if not self.problems:
            more = [f"{n} {severity}{'s' * (n > 1)}" for severity, n in self.counts.items() if n]
            lines.append(", ".join(["no problem found", *more]))
        return lines

    def table(self) -> list[list[str]]:
        """A heading and a line per code: voxels, share, and per axis the slices that hold it; for a terminal."""
        across = [f"slices {axis}" for axis in AXES]
        lines = [["code", "name", "voxels", "% of labeled", *across]]
        for code in self.codes:
            share = "" if code.labeled_share is None else percent(code.labeled_share).removesuffix(" %")
            slices = [self._slices(code, axis) for axis in range(3)]
            lines.append([str(code.code), code.name, f"{code.voxels:,}", share, *slices])
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "image": self.image,
            "labels": self.labels,
            "codes": [vars(code) for code in self.codes],
            "annotated_slices": self.annotated_slices,
            "painted_slices": list(self.painted),
            "farthest": None if self.farthest is None else vars(self.farthest) | {"axis": AXES[self.farthest.axis]},
            "labeled_share": self.labeled_share,
            "zero": self.zero,
            "zero_evidence": None if self.evidence is None else self.evidence.to_json(),
            "meaning": self.meaning,
            "problems": list(self.problems),
            "findings": [finding.to_json() for finding in self.findings],
            "counts": dict(self.counts),
            "exit_code": self.exit_code(),
            "exit_code_strict": self.exit_code(strict=True),
        }

    def _code_line(self, code: CodeCoverage) -> str:
        shares = percent(code.share)
        if code.labeled_share is not None:
            shares += f", {percent(code.labeled_share)} of the labeled"
        across = ", ".join(f"{axis} {self._slices(code, number)}" for number, axis in enumerate(AXES))
        return f"  code {code.code} ({code.name}): {code.voxels} voxels, {shares}; slices that hold it: {across}"

    def _slices(self, code: CodeCoverage, axis: int) -> str:
        """Painted slices that hold a code, of how many, and its extent; of all slices where none are painted."""
        letter = AXES[axis]
        painted = sum(facts["slice"].startswith(letter) for facts in self.painted)
        if code.painted_slices is None:
            return str(code.slices[axis])
        first, last = code.extent[axis]
        count = f"{code.painted_slices[axis]} of {painted}" if self.painted else str(code.slices[axis])
        return f"{count} ({first} to {last})"


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
    """Read both files, compare their grids, count what is labeled and look for faults.

    Raises only where a file cannot be read. What 0 means is never guessed into effect: the evidence is stated, and
    `train` asks. task, instances: what `train` would learn.
    """
    meaning, files = config or LabelsConfig(), data or DataConfig()
    whole = Config(task=task, data=files, labels=meaning, instances=instances or InstancesConfig())
    scan, drawn = image_volume(image, files, spacing_mm), read_truth(labels, whole, spacing_mm)
    problems: list[str] = []
    try:
        drawn = scan.require_same_grid(drawn)
    except GeometryError as error:
        problems.append(str(error))
    if task != "semantic":
        return _check_task(scan, drawn, whole, problems)
    return _check_classes(scan, drawn, meaning, problems)


def _check_classes(scan: Volume, drawn: Volume, config: LabelsConfig, problems: list[str]) -> Check:
    """Labels of a class per voxel."""
    fits, planes = not problems, None
    codes, voxels = value_counts(drawn.array[0])
    everywhere = dict(zip(codes.tolist(), voxels.tolist(), strict=True))
    unlabeled = unlabeled_codes([drawn], config)
    names = _names(drawn, sorted(everywhere), unlabeled, config)
    try:
        planes = annotated_planes(drawn, config)
    except LabelError as error:
        problems.append(str(error))
    painting = find_painting(drawn, sorted(everywhere), unlabeled, planes, names, config)
    counts = {code: painting.voxels(index) for index, code in enumerate(painting.codes)}
    if planes is not None or not config.annotated_slices:
        problems += _refusals(drawn, [code for code in everywhere if counts.get(code, 1)], config)
    several = _open(drawn, counts, config)
    painting = replace(painting, names=names | {code: f"one of {say_choice(several[code])}" for code in several})
    if 0 in several:
        evidence = ZeroEvidence(f"0 is {say_choice(several[0])}, as stated")
    else:
        said = tuple(code for code in unlabeled if code not in marks([drawn]))  # marks say nothing of other codes
        stated = explained(everywhere, said, config)
        evidence = zero_evidence(drawn.array[0], painting, unlabeled, stated=stated)
    found = [Finding("problem", "refused", problem) for problem in problems]
    found += diagnose(painting, drawn, scan if fits else None, unlabeled, config)
    found += zero_findings(evidence, unlabeled, config)
    certain = sum(count for code, count in counts.items() if code not in several)
    return Check(
        _facts(scan) | _values(scan),
        _facts(drawn),
        tuple(_coverage(drawn, painting, unlabeled)),
        _painted(painting.classes != painting.unknown),
        certain / painting.classes.size,
        evidence.said,
        tuple(problems),
        "",
        tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))),
        tuple(painting.planes_json()),
        farthest(painting.shape, painting.planes, painting.spacing_mm),
        evidence,
    )


def _refusals(drawn: Volume, codes: list[int], config: LabelsConfig) -> list[str]:
    """Why `train` would refuse these labels. codes: all that occur where somebody annotated, and unlabeled ones."""
    try:
        require_meant([drawn.name], config)
        meaning = decide([drawn], config)
        if config.not_painted:
            meaning.sparse(drawn)  # names the voxels that it counts
        else:  # strange codes show in a volume of one voxel per code
            few = Volume(np.array(codes, drawn.array.dtype).reshape(1, -1, 1, 1), drawn.affine, drawn.name)
            replace(meaning, config=config.model_copy(update={"annotated_slices": None})).sparse(few)
    except LabelError as error:
        return [str(error)]
    return []


def _open(drawn: Volume, counts: dict[int, int], config: LabelsConfig) -> dict[int, Codes]:
    """Codes that leave a choice, as `open_codes` finds them; none where the option itself is refused."""
    if not (config.one_of or config.not_painted):
        return {}
    classes = {c.code for c in config.classes} or {code for code, n in counts.items() if n} - config.one_of.keys()
    try:
        found = choices(drawn.name, config, min(classes, default=0))
    except LabelError:
        return {}
    return {code: members for code, members in found.items() if code in counts}


def _names(volume: Volume, codes: list[int], unlabeled: tuple[int, ...], config: LabelsConfig) -> dict[int, str]:
    known = {0: "background"} | stored_names(volume) | {c.code: c.name for c in config.classes}
    return {code: "unlabeled" if code in unlabeled else known.get(code, f"class {code}") for code in codes}


def _coverage(drawn: Volume, painting: Painting, unlabeled: tuple[int, ...]) -> list[CodeCoverage]:
    """Every code that occurs where somebody annotated, and every unlabeled one that occurs; ascending."""
    labeled = [painting.coverage(index) for index in range(painting.unknown) if painting.voxels(index)]
    rest = [unlabeled_coverage(drawn, code) for code in unlabeled]
    return sorted((code for code in labeled + rest if code.voxels), key=lambda code: code.code)


def _check_task(scan: Volume, drawn: Volume, config: Config, problems: list[str]) -> Check:
    """What there is to learn where it is not a class per voxel."""
    said, labeled = "", np.zeros(drawn.shape, dtype=bool)
    try:
        refuse_choices(config.labels, config.task)
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
        tuple(Finding("problem", "refused", problem) for problem in problems),
    )


def _painted(labeled: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Annotated slices per axis; none where most of the volume is labeled."""
    painted: dict[str, list[int]] = {"x": [], "y": [], "z": []}
    if labeled.mean() < _MOST:
        for axis, index in painted_slices(labeled):
            painted[AXES[axis]].append(index)
    return painted


def _facts(volume: Volume) -> dict[str, Any]:
    return {
        "name": volume.name,
        "shape": list(volume.shape),
        "channels": volume.channels,
        "dtype": str(volume.array.dtype),
        "spacing_mm": [round(v, 9) for v in volume.spacing_mm],
        "orientation": volume.affine.codes,
        "spacing_assumed": bool(volume.attributes.get("spacing_assumed")),
    }


def _phrase(facts: dict[str, Any]) -> str:
    shape = "×".join(map(str, facts["shape"]))
    spacing = "×".join(f"{v:.6g}" for v in facts["spacing_mm"])
    unknown = " (not in the file)" if facts["spacing_assumed"] else ""
    text = (
        f"{facts['name']}, {shape} voxels (x, y, z) of {spacing} mm{unknown}, {facts['orientation']}, {facts['dtype']}"
    )
    if facts["channels"] > 1:
        text += f", {facts['channels']} channels"
    if "minimum" in facts:
        text += f", values {facts['minimum']:.6g} to {facts['maximum']:.6g}, median {facts['median']:.6g}"
    return text


def _values(volume: Volume) -> dict[str, Any]:
    array = volume.array
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        values, counts = value_counts(array)
        middle = np.searchsorted(np.cumsum(counts), [(array.size + 1) // 2, array.size // 2 + 1])
        low, median, high = values[0], values[middle].mean(), values[-1]
    else:
        low, median, high = np.percentile(array, (0, 50, 100))
    return {"minimum": float(low), "median": float(median), "maximum": float(high)}
