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

from vol3d.cli.console import ConsoleListener, write
from vol3d.cli.learning import experiment, train
from vol3d.cli.options import drawn_labels, instances, meaning, reading, require_drawn, require_files
from vol3d.cli.tables import write_table


def predict(options: Namespace) -> int:
    """`vol3d predict`."""
    from vol3d import io
    from vol3d.workflows.models import find_model
    from vol3d.workflows.results import without_results

    require_drawn(options)
    path = find_model(options.model)  # a wrong name is told before seconds of imports
    scans = without_results(io.find(options.scans), options.scans)

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
    from vol3d.workflows.label_options import parse_annotated_slices
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
        scan = "" if result.learned_with is not None else f" -i {shlex.quote(options.scan)}"
        every = " ".join([labels, *map(shlex.quote, result.learned_with or ())])
        every += "".join(f" --unlabeled {code}" for code in result.other_unlabeled)
        write(f"vol3d train --resume {shlex.quote(str(run))}{scan} -l {every} {codes}    (a minute, from this model)")
    more = "" if result.task == "semantic" else f" --task {result.task}"
    more += "".join(f" --{name} {value}" for name, value in reading(options).items() if value is not None)
    write(f"vol3d train -i {shlex.quote(options.scan)} -l {labels} {codes}{more}    (a new model)")
    return 0


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "train": train,
    "predict": predict,
    "evaluate": evaluate,
    "check": check,
    "info": info,
    "suggest": suggest,
    "experiment": experiment,
}
