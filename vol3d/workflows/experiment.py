"""The experiments of Çiçek et al. 2016 on the user's own data: scans with labels → a table, row by row."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from vol3d import io
from vol3d.config import Config
from vol3d.errors import ConfigError, LabelError, TrainingError
from vol3d.inference.forward import too_large
from vol3d.io.formats import split_suffix
from vol3d.report.experiment_rows import ExperimentRow, RowsFile
from vol3d.volume import LabelTable, SparseLabels, Volume
from vol3d.workflows.cases import TrainingFiles
from vol3d.workflows.experiment_kinds import Choices, PlannedExperiment, PlannedRow, Subject, plan_rows
from vol3d.workflows.experiment_request import RESULTS, AnyConfig, Request, experiment_folder, listed, open_rows
from vol3d.workflows.experiment_run import (
    Material,
    RowListener,
    base_variant,
    require_normalization,
    row_config,
    row_hash,
    run_row,
)
from vol3d.workflows.experiment_summary import Arm, arms, draw, summary_json
from vol3d.workflows.labels import LabelMeaning
from vol3d.workflows.listener import Listener, Quiet
from vol3d.workflows.meaning import find_meaning, read_truth
from vol3d.workflows.partial import require_meant, unseen_classes
from vol3d.workflows.run import RememberedInterrupt
from vol3d.workflows.settings import Options, given_options
from vol3d.workflows.sources import Source, Spacing, image_volume

SUMMARY = "summary.json"
_RUNS = "runs"


@dataclass(frozen=True)
class Experiment:
    """What `run_experiment` returns.

    folder: where results.csv, summary.json and the pictures are; None for a dry run. planned: every row that was asked
    for. rows: those that are done. failed: keys of rows whose training failed. stopped: interrupted before the end; go
    on with resume. said: what there is to know about the plan, a line each.
    """

    folder: Path | None
    planned: tuple[PlannedRow, ...]
    rows: tuple[ExperimentRow, ...]
    table: LabelTable
    failed: tuple[str, ...] = ()
    stopped: bool = False
    said: tuple[str, ...] = ()
    pictures: tuple[Path, ...] = ()

    @property
    def written(self) -> tuple[Path, ...]:
        """The tables on disk."""
        return () if self.folder is None else (self.folder / RESULTS, self.folder / SUMMARY)

    @property
    def arms(self) -> list[Arm]:
        """The rows grouped by what is compared."""
        return arms(self.planned, self.rows)


def run_experiment(  # noqa: PLR0913  the verb's arguments
    choices: Choices | None = None,
    images: Source | Sequence[Source] = (),
    labels: Source | Sequence[Source] = (),
    *,
    weights: Source | Sequence[Source] = (),
    config: AnyConfig = None,
    options: Options | None = None,
    overrides: Sequence[str] = (),
    spacing_mm: Spacing = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    keep_runs: bool = False,
    listener: Listener | None = None,
) -> Experiment:
    """Train and score every row of an experiment and write FOLDER/results.csv, summary.json and pictures.

    images, labels, weights, config, options, overrides: as for `train`; without a length every row trains for five
    minutes. output: the folder, by default experiments/DATE-KIND. resume: a folder to go on with, whose rows are
    kept; without `choices` it is the same experiment, with them it may have more rows. keep_runs: keep the run folders
    of all rows under FOLDER/runs. Rows whose training fails are told and left out.
    Raises `ConfigError`, `LabelError` and the like before anything is written.
    """
    tell = listener or Quiet()
    if choices is None:
        if resume is None:
            raise ConfigError("say which experiment: folds, slices, batchnorm, dimensions, volumes or paper")
        others = given_options(
            options or {}, images=images, labels=labels, weights=weights, config=config, set=overrides
        )
        if others:
            raise ConfigError(
                f"{resume}: goes on as it was planned; say which experiment, or leave out {', '.join(others)}"
            )
        request = Request.read(Path(resume))
    else:
        files = TrainingFiles(listed(images), listed(labels), listed(weights))
        request = Request.of(choices, files, config, options or {}, overrides)
    _require_scorable(request.config)
    material = _load(request, spacing_mm, tell)
    plan = plan_rows(request.choices, material.subjects, base_variant(request.config), request.config.training.seed)
    for variant in dict.fromkeys(row.variant for row in plan.rows):
        require_normalization(request.config, variant.batchnorm)
    hashes = {row.key: row_hash(row_config(request.config, row, material), row) for row in plan.rows}
    said = (*plan.said, *_own_patches(request, plan), *_missing_classes(plan, material), *_cost(request, plan))
    if dry_run:
        return Experiment(None, plan.rows, (), material.table, said=said)
    folder = experiment_folder(request, output, resume, overwrite=overwrite)
    file = open_rows(folder, request, material, hashes, fresh=resume is None)
    for line in said:
        tell.note(line)
    return _go(request, plan, material, folder, file, tell, keep_runs=keep_runs, said=said)


def _go(
    request: Request,
    plan: PlannedExperiment,
    material: Material,
    folder: Path,
    file: RowsFile,
    tell: Listener,
    *,
    keep_runs: bool,
    said: tuple[str, ...],
) -> Experiment:
    done = {row.key for row in file.rows}
    todo = [(number, row) for number, row in enumerate(plan.rows, start=1) if row.key not in done]
    if len(todo) < len(plan.rows):
        tell.note(f"{len(plan.rows) - len(todo)} of {len(plan.rows)} rows are done already")
    failed: list[str] = []
    stopped = False
    runs = folder / _RUNS
    began = time.monotonic()
    inner = RowListener(tell)
    try:
        with RememberedInterrupt() as interrupt:
            for count, (number, row) in enumerate(todo, start=1):
                if interrupt.asked():
                    stopped = True
                    break
                inner.name = f"row {number}/{len(plan.rows)}"
                tell.note(f"{inner.name}: {row.key}")
                try:
                    found = run_row(row, request.config, material, runs / _folder_name(row), inner, keep=keep_runs)
                except (TrainingError, MemoryError, RuntimeError) as error:
                    if isinstance(error, RuntimeError) and not too_large(error):
                        raise
                    failed.append(row.key)
                    tell.warn(f"{inner.name} failed and is left out: {error}")
                    continue
                if found is None:
                    stopped = True
                    break
                file.add(found)
                left = (time.monotonic() - began) / count * (len(todo) - count)
                about = f"; about {clock(left)} left" if left else ""
                tell.note(f"{inner.name}: {_told(found, material.table)}{about}")
    except KeyboardInterrupt:
        stopped = True
    with contextlib.suppress(OSError):  # it may hold runs that were to be kept
        runs.rmdir()
    keys = {row.key for row in plan.rows}
    rows = tuple(row for row in file.rows if row.key in keys)
    result = Experiment(folder, plan.rows, rows, material.table, tuple(failed), stopped, said)
    return replace(result, pictures=_write_summary(result))


def _folder_name(row: PlannedRow) -> str:
    """A name for a row's run folder, which no other row has."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", row.key).strip("-").lower()[:80]
    return f"{words}-{hashlib.sha256(row.key.encode()).hexdigest()[:6]}"


def _write_summary(result: Experiment) -> tuple[Path, ...]:
    if result.folder is None:
        raise AssertionError("a dry run writes nothing")
    value = {
        "rows": len(result.rows),
        "planned": len(result.planned),
        "failed": list(result.failed),
        "arms": summary_json(result.arms, result.table),
    }
    with io.atomic.replace(result.folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return tuple(draw(result.folder, result.planned, result.arms, result.table))


def _require_scorable(config: Config) -> None:
    if config.task != "semantic":
        raise ConfigError(f"experiments score classes: they need the task semantic, found {config.task}")
    if config.training.devices > 1:
        raise ConfigError(f"experiments train on one device, found training.devices {config.training.devices}")


def _load(request: Request, spacing_mm: Spacing, tell: Listener) -> Material:
    """Read every volume and its labels on the file's own grid. Raises where they do not fit together."""
    config, files = request.config, request.files
    truths = [read_truth(source, config, spacing_mm) for source in files.labels]
    meaning = cast(LabelMeaning, find_meaning(truths, config))  # of the task semantic
    require_meant([truth.name for truth in truths], config.labels)
    names = _names(files.images)
    images: list[Volume] = []
    drawn: list[SparseLabels] = []
    for source, truth in zip(files.images, truths, strict=True):
        image = image_volume(source, config.data, spacing_mm)
        image.require_same_grid(truth)
        sparse = meaning.sparse(truth)
        if not sparse.labeled.any():
            raise LabelError(f"{truth.name} has no labeled voxel. Paint some, or leave the volume out.")
        images.append(image)
        drawn.append(sparse)
    unseen = unseen_classes(drawn, config.labels, meaning.table)
    if unseen is not None:
        tell.warn(unseen)
    skip = meaning.table.background
    subjects = tuple(
        Subject(name, one.indices, one.labeled, one.known, skip) for name, one in zip(names, drawn, strict=True)
    )
    return Material(tuple(images), subjects, meaning.table, files.weights, meaning.sets)


def _names(images: Sequence[Source]) -> list[str]:
    """A short name for every volume, none twice."""
    names = []
    for number, source in enumerate(images, start=1):
        if isinstance(source, (str, Path)):
            file, dataset = io.split_name(str(source))
            names.append(split_suffix(file)[0] + (f":{dataset}" if dataset else ""))
        else:
            names.append(source.name if isinstance(source, Volume) else f"volume {number}")
    return [name if names.count(name) == 1 else f"{name} ({n})" for n, name in enumerate(names, start=1)]


def _own_patches(request: Request, plan: PlannedExperiment) -> list[str]:
    """What becomes of a configured patch where networks of both dimensions are compared."""
    patch = request.config.sampling.patch_size
    if patch is None or all(row.variant.dimensions == len(patch) for row in plan.rows):
        return []
    return [f"sampling.patch_size is for {len(patch)}-D networks; patches of the others are planned from the data"]


def _missing_classes(plan: PlannedExperiment, material: Material) -> list[str]:
    """Which rows have classes to be scored that they never see."""
    said: list[str] = []
    for row in {(row.table, row.part): row for row in plan.rows}.values():
        seen: set[int] = set()
        scored: set[int] = set()
        for number, split in zip(row.volumes, row.splits, strict=True):
            one = material.subjects[number]
            for found, mask in zip((seen, scored), one.divided(split), strict=True):
                found |= set(np.unique(one.classes[mask]).tolist())
        missing = [name for index, name in enumerate(material.table.names) if index in scored - seen]
        if missing:
            said.append(f"{row.part}: scored on {', '.join(missing)}, of which no label trains")
    return said


def _cost(request: Request, plan: PlannedExperiment) -> list[str]:
    training, rows = request.config.training, len(plan.rows)
    if training.time_budget_s is not None:
        total = clock(rows * training.time_budget_s)
        return [f"{rows} rows of {clock(training.time_budget_s)}: about {total} in all, and the time to predict"]
    return [f"{rows} rows of {training.iterations} iterations; the first one tells how long that takes"]


def _told(row: ExperimentRow, table: LabelTable) -> str:
    each = ", ".join(f"{one.name} {row.iou[one.code]:.3f}" for one in table.classes[:6])
    return f"mean IoU {row.mean_iou:.3f} ({each}), {row.iterations} iterations, {clock(row.row_s)}"


def clock(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
