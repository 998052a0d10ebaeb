"""The commands that learn: options → a workflow → printed lines. Each returns the exit code."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from vol3d.cli.console import ConsoleListener, write
from vol3d.cli.options import meaning, network, reading, require_alone, require_files, require_only
from vol3d.cli.tables import write_table


def train(options: Namespace) -> int:
    """`vol3d train`."""
    if options.resume and not options.labels:
        require_alone(options)
    require_files(options.images, options.labels, options.weights)
    nested = _nested(options)
    nested["task"] = options.task
    nested["training"]["refit"] = False if options.no_refit else None

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


def experiment(options: Namespace) -> int:
    """`vol3d experiment`. Exit code 1 where a row failed, 130 where it was interrupted; what is done is kept."""
    nested = _nested(options)
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


def _nested(options: Namespace) -> dict[str, Any]:
    """What options of both commands say, nested as in the configuration; None: nothing."""
    from vol3d.workflows.settings import parse_duration

    return {
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
