"""One function per command: options → a workflow → printed lines. Returns the exit code."""

from __future__ import annotations

import json
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vol3d.cli.console import ConsoleListener, write
from vol3d.cli.options import (
    drawn_labels,
    instances,
    meaning,
    network,
    reading,
    require_alone,
    require_drawn,
    require_files,
    require_only,
    without_own,
)
from vol3d.cli.tables import write_table


def train(options: Namespace) -> int:
    """`vol3d train`."""
    from vol3d.workflows.settings import parse_duration

    if options.resume and not options.labels:
        require_alone(options)
    require_files(options.images, options.labels, options.weights)
    nested: dict[str, Any] = {
        "task": options.task,
        "network": network(options),
        "labels": meaning(options),
        "data": reading(options),
        "sampling": {"workers": options.workers, "planes": options.planes},
        "training": {
            "time_budget_s": parse_duration(options.time_budget) if options.time_budget else None,
            "iterations": options.iterations,
            "device": options.device,
            "seed": options.seed,
            "refit": False if options.no_refit else None,
        },
    }
    from vol3d.workflows.estimate import plan_lines
    from vol3d.workflows.plan import Plan
    from vol3d.workflows.train import train

    with ConsoleListener() as listener:
        result = train(
            options.images,
            options.labels,
            weights=options.weights or (),
            config=options.config,
            output=options.output,
            options=nested,
            overrides=options.set,
            resume=options.resume,
            dry_run=options.dry_run,
            overwrite=options.overwrite,
            listener=listener,
        )
    if isinstance(result, Plan):
        for line in plan_lines(result):
            write(line)
        return 0
    if result.stopped:
        write(f"stopped; go on with: vol3d train --resume {result.run}")
        return 130
    if result.model is None:  # a process that followed another one
        return 0
    write(f"model: {result.model}")
    write(f"next: vol3d predict SCAN -m {result.run}")
    return 0


def predict(options: Namespace) -> int:
    """`vol3d predict`."""
    from vol3d import io
    from vol3d.workflows.models import find_model

    require_drawn(options)
    path = find_model(options.model)  # a wrong name is told before seconds of imports
    scans = without_own(io.find(options.scans), options.scans)

    from vol3d.bundle import ModelBundle
    from vol3d.config import DataConfig, LabelsConfig
    from vol3d.workflows.forecast import forecast
    from vol3d.workflows.large import predict_file
    from vol3d.workflows.outputs import PredictOptions, output_for, require_rooms
    from vol3d.workflows.partial import require_meant
    from vol3d.workflows.settings import parse_memory

    choice = PredictOptions(
        probabilities=options.probabilities,
        tta=options.tta,
        tile=tuple(options.tile) if options.tile else None,
        max_memory_gb=parse_memory(options.max_memory) if options.max_memory else None,
        device=options.device,
        precision=options.precision,
        overwrite=options.overwrite,
        preview=not options.no_preview,
        prune=options.prune,
        uncertainty=options.uncertainty,
        keep_drawn=options.keep_drawn is not None,
        provenance=options.provenance is not None,
        drawn_meaning=LabelsConfig(**found) if (found := meaning(options)) else None,
        run=path.parent,
        data=DataConfig(**reading(options)),
    )
    labels = drawn_labels(options)
    drawn = dict(io.pair(scans, io.find([labels]))) if labels else {}
    if drawn and choice.drawn_meaning is not None:
        require_meant(list(drawn.values()), choice.drawn_meaning)
    with ConsoleListener() as listener:
        if options.model is None:
            listener.note(f"model: {path} (the newest run; choose another with -m)")
        bundle = ModelBundle.load(path)
        outputs = [output_for(scan, options.output, len(scans), bundle) for scan in scans]
        if options.dry_run:
            starting = time.process_time()  # imports, the model: prediction begins with the same
            for scan, output in zip(scans, outputs, strict=True):
                write("\n".join(forecast(scan, bundle, output, choice, starting=starting).lines()))
                starting = 0.0
            return 0
        require_rooms(outputs, choice, scans, drawn)
        for scan, output in zip(scans, outputs, strict=True):
            own = replace(choice, drawn=drawn.get(scan))
            result = predict_file(scan, bundle, output, own, listener)
            write(f"wrote {result.path}" + (f", preview {result.preview}" if result.preview else ""))
    return 0


def evaluate(options: Namespace) -> int:
    """`vol3d evaluate`."""
    from vol3d.config import LabelsConfig
    from vol3d.workflows.case_evaluations import CaseEvaluations, result_lines
    from vol3d.workflows.evaluate import Scoring, evaluate_task
    from vol3d.workflows.evaluate_cases import case_names, evaluate_cases, is_several, require_room, write_scores

    scoring = Scoring(
        task=options.task,
        labels=LabelsConfig(**meaning(options)),
        surface=options.surface,
        tolerance_mm=options.tolerance,
        divisor=options.divisor,
        things=options.things,
        xform=options.xform,
    )
    require_room(options.csv, options.plot, options.overwrite)
    if is_several(options.prediction) or is_several(options.reference):
        left_out = None if options.leave_out is None else [options.leave_out]
        with ConsoleListener() as listener:
            result = evaluate_cases(
                [options.prediction], [options.reference], scoring, leave_out=left_out, listener=listener
            )
        shown, lines = result.to_json(), result_lines(result)
    else:
        case = evaluate_task(options.prediction, options.reference, scoring, leave_out=options.leave_out)
        result = CaseEvaluations(case_names([options.prediction]), (case,))
        shown, lines = case.to_json(), result_lines(case)
    write(json.dumps(shown, indent=2) if options.json else "\n".join(lines))
    for path in write_scores(result, options.csv, options.plot, overwrite=options.overwrite):
        if not options.json:
            write(f"wrote {path}")
    return 0


def check(options: Namespace) -> int:
    """`vol3d check`. Exit code 2 where `train` would refuse, 1 for warnings if --strict."""
    from vol3d.config import DataConfig, LabelsConfig
    from vol3d.workflows.check import check

    result = check(
        options.image,
        options.labels,
        config=LabelsConfig(**meaning(options)),
        data=DataConfig(**reading(options)),
        task=options.task,
        instances=instances(options),
    )
    drawn = sys.stdout.isatty() and bool(result.codes) and not options.json
    write(json.dumps(result.to_json(), indent=2) if options.json else "\n".join(result.lines(coverage=not drawn)))
    if drawn:
        write_table("coverage", result.table())
    return result.exit_code(strict=options.strict)


def info(options: Namespace) -> int:
    """`vol3d info`."""
    from vol3d.workflows.info import info, info_lines

    facts = info(Path(options.file) if Path(options.file).exists() else options.file)
    write(json.dumps(facts, indent=2) if options.json else "\n".join(info_lines(facts)))
    return 0


def suggest(options: Namespace) -> int:
    """`vol3d suggest`."""
    from vol3d.workflows.models import find_model

    find_model(options.model)  # a wrong name is told before seconds of imports
    require_files([options.scan])

    from vol3d.config import DataConfig, LabelsConfig
    from vol3d.workflows.labels import parse_annotated_slices
    from vol3d.workflows.settings import parse_memory
    from vol3d.workflows.suggest import SuggestOptions, suggest

    meaning = None
    if options.unlabeled or options.annotated_slices:
        slices = parse_annotated_slices(options.annotated_slices) if options.annotated_slices else None
        meaning = LabelsConfig(unlabeled=tuple(options.unlabeled or ()), annotated_slices=slices)
    choice = SuggestOptions(
        axes=tuple(options.axes or "xyz"),
        reach_mm=options.reach,
        per_voxel=options.per_voxel,
        tta=options.tta,
        max_memory_gb=parse_memory(options.max_memory) if options.max_memory else None,
        device=options.device,
        overwrite=options.overwrite,
        preview=not options.no_preview,
        data=DataConfig(**reading(options)),
        meaning=meaning,
    )
    with ConsoleListener() as listener:
        result = suggest(
            options.scan,
            options.model,
            options.labels,
            options.slices,
            options.output,
            options=choice,
            listener=listener,
        )
    for line in result.lines():
        write(line)
    pictures = [str(plane.picture) for plane in result.planes if plane.picture is not None]
    write(f"wrote {result.path}" + (f", pictures {', '.join(pictures)}" if pictures else ""))
    write(f"next: paint over code {result.to_paint} in {result.path}, then")
    codes = f"--unlabeled {result.unlabeled} --unlabeled {result.to_paint}"
    run, labels = find_model(options.model).parent, shlex.quote(str(result.path))
    if (run / "run.json").is_file():
        write(f"vol3d train --resume {shlex.quote(str(run))} -l {labels} {codes}    (a minute, from this model)")
    write(f"vol3d train -i {shlex.quote(options.scan)} -l {labels} {codes}    (a new model)")
    return 0


def experiment(options: Namespace) -> int:
    """`vol3d experiment`. Exit code 1 where a row failed, 130 where it was interrupted; what is done is kept."""
    from vol3d.workflows.settings import parse_duration

    require_files(options.images, options.labels, options.weights)

    from vol3d.workflows.experiment import run_experiment
    from vol3d.workflows.experiment_kinds import Choices
    from vol3d.workflows.experiment_splits import parse_counts
    from vol3d.workflows.experiment_summary import TITLES, table_cells

    choices = None
    if options.kind is None:
        require_only(options, "resume", "keep_runs", "dry_run")
    else:
        choices = Choices(
            options.kind,
            folds=options.folds,
            slices=tuple(parse_counts(text) for text in options.slices or ()),
            seeds=3 if options.seeds is None else options.seeds,
            batchnorm=options.batchnorm,
            dimensions=options.dimensions,
        )
    nested: dict[str, Any] = {
        "network": network(options),
        "labels": meaning(options),
        "data": reading(options),
        "sampling": {"workers": options.workers, "planes": options.planes},
        "training": {
            "time_budget_s": parse_duration(options.time_budget) if options.time_budget else None,
            "iterations": options.iterations,
            "device": options.device,
            "seed": options.seed,
        },
    }
    with ConsoleListener() as listener:
        result = run_experiment(
            choices,
            options.images or (),
            options.labels or (),
            weights=options.weights or (),
            config=options.config,
            options=nested,
            overrides=options.set,
            output=options.output,
            resume=options.resume,
            dry_run=options.dry_run,
            overwrite=options.overwrite,
            keep_runs=options.keep_runs,
            listener=listener,
        )
    if result.folder is None:
        write("\n".join([*(row.key for row in result.planned), *result.said]))
        return 0
    for table, title in TITLES.items():
        found = [arm for arm in result.arms if arm.table == table]
        if found:
            write_table(title, table_cells(found, result.table))
    write(f"wrote {', '.join(str(path) for path in (*result.written, *result.pictures))}")
    if result.stopped:
        write(f"stopped; go on with: vol3d experiment --resume {result.folder}")
        return 130
    if result.failed:
        write(f"{len(result.failed)} rows failed; try them again with: vol3d experiment --resume {result.folder}")
    return 1 if result.failed else 0


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "train": train,
    "predict": predict,
    "evaluate": evaluate,
    "check": check,
    "info": info,
    "suggest": suggest,
    "experiment": experiment,
}
