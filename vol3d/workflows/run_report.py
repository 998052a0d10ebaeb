"""A finished run → its report: what was learned from, how good it is on held-out labels, and how to go on."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vol3d import io
from vol3d.errors import ConfigError
from vol3d.io.formats import split_suffix
from vol3d.metrics import ClassScore, Contingency
from vol3d.report.run_facts import (
    Calibration,
    Earlier,
    MethodScores,
    RunReport,
    ScanFacts,
    Step,
    TrainingFacts,
)
from vol3d.report.run_report import write_run_report
from vol3d.sampling import HoldOut
from vol3d.sampling.holdout import slice_groups
from vol3d.version import __version__
from vol3d.workflows.baselines import BaselineScore, has_held_out, held_out_counts
from vol3d.workflows.case import Case
from vol3d.workflows.estimate import across
from vol3d.workflows.held_out_pictures import held_out_pictures
from vol3d.workflows.meaning import Meaning
from vol3d.workflows.scores import HeldOutScore, Score, ValueScore

if TYPE_CHECKING:
    from vol3d.workflows import calibration
    from vol3d.workflows.plan import Plan

_SAME = 1e-9
_HURRIED = "no labels were held out, since training had no time to look at them (or validations are 0)"
_MOSTLY = 0.5  # labels that cover more are no slices
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/:'\"]+/)+")


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a run ended.

    score: on held-out labels, None without any. answers: what the network that got this score predicted, class indices
    (X, Y, Z) per case on its prepared grid, right at least where held-out labels are; None where it was not kept, or
    nothing is held out. refitted: whether the held-out labels joined the training afterwards. earlier: the score of
    the run that this one went on from. seconds: of the whole run. hurried: whether all labels trained from the
    beginning, although some could have been held out.
    """

    score: Score | None
    answers: Sequence[NDArray[Any] | None]
    parameters: int
    iterations: int
    seconds: float
    refitted: bool = False
    baselines: Sequence[BaselineScore] = ()
    earlier: Score | None = None
    calibration: calibration.Calibration | None = None
    warnings: Sequence[str] = ()
    hurried: bool = False


def report_run(
    folder: Path, plan: Plan, cases: Sequence[Case], meaning: Meaning, splits: Sequence[HoldOut], outcome: Outcome
) -> Path:
    """Write `report.md` and pictures of the best and the worst held-out slice into the run folder; returns its path.

    cases, splits: in one order. `curves.png`, `preview.png` and `reliability.png` are shown where they lie in the
    folder. Nothing written holds a path, or a name of a file beyond its last part.
    """
    shorts = [short_name(case.name) for case in cases]
    known = {name for case in cases for name in (case.name, case.labels.name)}
    classes = () if meaning.spec.kind == "regression" else meaning.table.names
    answers = _answers(splits, outcome)
    training = plan.config.training
    shown = {name: name if (folder / name).is_file() else None for name in ("curves.png", "preview.png")}
    facts = RunReport(
        title=f"Training on {', '.join(shorts) if len(shorts) <= 3 else f'{len(shorts)} scans'}",
        classes=classes,
        scans=tuple(_scan(case, len(classes)) for case in cases),
        training=TrainingFacts(
            task=meaning.spec.kind,
            network=f"{plan.network.kind}, {plan.network.dimensions}-D{across(plan)}",
            parameters=outcome.parameters,
            patch=plan.patch,
            batch_size=plan.batch_size,
            iterations=outcome.iterations,
            seconds=outcome.seconds,
            device=plan.device.name,
            version=__version__,
            seed=training.seed,
        ),
        held_out=_HURRIED if outcome.hurried else "; ".join(dict.fromkeys(_shortened(s.said, known) for s in splits)),
        network=_network(outcome.score, answers, splits, meaning),
        baselines=tuple(_baseline(found) for found in outcome.baselines),
        values=_values(outcome.score),
        refitted=outcome.refitted,
        earlier=_earlier(outcome.earlier),
        calibration=_calibration(folder, outcome),
        slices=held_out_pictures(folder, cases, shorts, splits, answers, meaning.table) if answers else (),
        curves=shown["curves.png"],
        preview=shown["preview.png"],
        warnings=tuple(_shortened(text, known) for text in outcome.warnings),
        notes=_notes(meaning),
        steps=next_steps(folder, cases[0].name, others=len(cases) - 1, classes=bool(classes)),
    )
    return write_run_report(folder, facts)


def next_steps(folder: Path, scan: str, *, others: int = 0, classes: bool = True) -> tuple[Step, ...]:
    """How to go on from a run: commands, without the folders that its files lie in.

    others: how many more scans it learned from. classes: whether it learned any; of values no slices are suggested.
    """
    run = shlex.quote(str(folder) if not folder.is_absolute() and ".." not in folder.parts else folder.name)
    path, dataset = _parts(scan)
    name = "SCAN.nii.gz"
    if split_suffix(path)[1]:
        name = f"{path.name}:{dataset}" if dataset else path.name
    file, paint = shlex.quote(name), shlex.quote(io.default_output(name, "_paint"))
    predict = Step("Segment a scan", (f"vol3d predict {file} -m {run}",))
    if not classes:
        return (predict,)
    more = f" {' '.join(['OTHER_LABELS'] * others)}" if others else ""
    return (
        predict,
        Step(
            "Find the slices whose painting helps most, and mark them in a label file",
            (f"vol3d suggest {file} -m {run}",),
        ),
        Step(
            "Paint the marked slices in it, then go on from this run",
            (f"vol3d train --resume {run} -l {paint}{more}",),
        ),
    )


def short_name(name: str) -> str:
    """A file's name without its folders; the dataset stays."""
    path, dataset = _parts(name)
    short = path.name or name
    return f"{short}:{dataset}" if dataset else short


def _parts(name: str) -> tuple[Path, str | None]:
    try:
        return io.split_name(name)
    except ConfigError:  # an array may be called anything
        return Path(name), None


def _shortened(text: str, names: Iterable[str]) -> str:
    """A message without folders."""
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, short_name(name))
    return _FOLDERS.sub("", text)


def _scan(case: Case, classes: int) -> ScanFacts:
    order, labels = case.scan["order"], case.labels
    spacing = [0.0, 0.0, 0.0]
    for axis, stored in enumerate(order):
        spacing[stored] = float(case.scan["spacing_mm"][axis])
    mostly = labels.known.mean() > _MOSTLY
    axes = [] if mostly else [order[planes[0][0]] for planes in slice_groups(labels.known, case.file_plane)]
    counts = {letter: axes.count(k) for k, letter in enumerate("xyz")}
    return ScanFacts(
        short_name(case.name),
        tuple(case.scan["shape"]),
        tuple(spacing),
        float(labels.labeled.mean()),
        None if mostly else counts,
        tuple(labels.counts(classes).tolist()) if classes else (),
    )


def _answers(splits: Sequence[HoldOut], outcome: Outcome) -> list[NDArray[Any] | None] | None:
    """The answers, where there is one for every scan with held-out labels; else None."""
    if not isinstance(outcome.score, HeldOutScore) or len(outcome.answers) != len(splits):
        return None
    held = [has_held_out(split) for split in splits]
    found = [answer for answer, wanted in zip(outcome.answers, held, strict=True) if wanted]
    if not found or any(answer is None for answer in found):
        return None
    return list(outcome.answers)


def _network(
    score: Score | None, answers: list[NDArray[Any] | None] | None, splits: Sequence[HoldOut], meaning: Meaning
) -> MethodScores | None:
    """All scores from the answers; without them what the score says, and what follows from it."""
    if not isinstance(score, HeldOutScore):
        return None
    table = meaning.table
    if answers is None:
        voxels = sum(s.validation.counts(len(table)) for s in splits if s.validation is not None)
        counted = np.broadcast_to(voxels, len(table)).tolist()
        rows = zip(table.classes, counted, strict=True)
        return MethodScores("network", tuple(_from_iou(c.code, c.name, score.iou[c.name], n) for c, n in rows))
    counts = Contingency.empty(len(table))
    for answer, split in zip(answers, splits, strict=True):
        if answer is not None:
            counts += held_out_counts(answer, split, len(table))
    classes = tuple(counts.scores(table.names, table.codes.tolist()))
    for found in classes:
        stated = score.iou[found.name]
        if math.isnan(found.iou) != math.isnan(stated) or abs(found.iou - stated) > _SAME:
            raise AssertionError(f"the answers are not those that were scored: IoU {found.iou} of {stated}")
    return MethodScores("network", classes)


def _from_iou(code: int, name: str, iou: float, voxels: int) -> ClassScore:
    nan = math.nan
    return ClassScore(code, name, iou, 2 * iou / (1 + iou), nan, nan, nan, nan, voxels, 0)


def _baseline(found: BaselineScore) -> MethodScores:
    note = f"no answer for {', '.join(map(short_name, found.left_out))}, so over fewer voxels" if found.left_out else ""
    return MethodScores(found.name, found.classes, note)


def _earlier(score: Score | None) -> Earlier | None:
    return Earlier(score.iou, score.mean_iou) if isinstance(score, HeldOutScore) else None


def _values(score: Score | None) -> dict[str, float]:
    return {"MAE": score.mae, "RMSE": score.rmse, "R²": score.r2} if isinstance(score, ValueScore) else {}


def _calibration(folder: Path, outcome: Outcome) -> Calibration | None:
    found = outcome.calibration
    if found is None:
        return None
    picture = "reliability.png" if (folder / "reliability.png").is_file() else None
    after = float(found.final.expected_calibration_error) if found.changes else None
    return Calibration(float(found.before.expected_calibration_error), after, picture, found.pool_weight)


def _notes(meaning: Meaning) -> tuple[str, ...]:
    if meaning.spec.kind in {"instances", "panoptic"}:
        return ("Scores are of what the network answers per voxel, not of whole objects: see vol3d evaluate --task.",)
    return ()
