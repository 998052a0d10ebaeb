"""Scans with sparse labels → a run folder with a model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vol3d.config import Config
from vol3d.errors import ConfigError
from vol3d.sampling.painting import find_planes
from vol3d.transforms import Preprocessing
from vol3d.workflows.allocator import freed_memory_kept
from vol3d.workflows.budget import Budget
from vol3d.workflows.case import Case
from vol3d.workflows.cases import TrainingFiles, chosen, load
from vol3d.workflows.continuing import SECONDS, Earlier, read_earlier, read_start
from vol3d.workflows.demo import demo_config
from vol3d.workflows.device import pick_device
from vol3d.workflows.gaps import with_border_weights
from vol3d.workflows.listener import Listener, Quiet
from vol3d.workflows.plan import Grid, Plan, make_plan
from vol3d.workflows.processes import leads
from vol3d.workflows.run import Run, data_hashes, open_run, resume_run
from vol3d.workflows.settings import Options, given_options, settle
from vol3d.workflows.sources import Source, Spacing
from vol3d.workflows.train_forecast import forecast_training
from vol3d.workflows.training_run import TrainingRun, TrainResult

_DENSE = 0.5  # above it labels are no slices
_GENTLER = 0.25  # of the learning rate, where a run begins with weights that have learned already
DEFAULT_CONFIG = Path("vol3d.yaml")


@freed_memory_kept()
def train(  # noqa: PLR0913  the verb that everything hangs on
    images: Source | Sequence[Source] | None = None,
    labels: Source | Sequence[Source] | None = None,
    *,
    weights: Source | Sequence[Source] = (),
    config: Config | str | Path | dict[str, Any] | None = None,
    output: str | Path | None = None,
    options: Options | None = None,
    overrides: Sequence[str] = (),
    spacing_mm: Spacing = None,
    resume: str | Path | None = None,
    dry_run: bool | Literal["plan"] = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> TrainResult | Plan:
    """Train a network on sparsely labeled scans and write a run folder.

    images, labels, weights: one or several files, folders, globs, `Volume`s or arrays (X, Y, Z) or (C, X, Y, Z) with
    `spacing_mm`. config: a YAML file, a mapping or a `Config`; options: nested keys that win over it; overrides:
    `a.b=value` strings that win over both. output: the run folder, by default runs/DATE-NAME. resume: a run folder to
    go on with; with labels, a finished run whose weights a new run begins with, for a minute by default. dry_run:
    return the `Plan`, with what a few iterations took (unless they are long, or it is "plan"), and make no run folder.
    Raises `ConfigError`, `LabelError`, `GeometryError` or `FileFormatError` on bad input, before anything is written.
    """
    started = time.monotonic()
    tell = listener if listener is not None and leads() else Quiet()
    given = TrainingFiles(tuple(_listed(images)), tuple(_listed(labels)), tuple(_listed(weights)))
    run, earlier = None, None
    if resume is None:
        settled = _settle(config, given, options or {}, overrides, tell)
        files = chosen(given, settled)
        settled = _with_files(settled, files)
    elif config is not None:
        raise ConfigError(f"{resume}: a run goes on with its own configuration; leave the other one out")
    elif given.labels:
        earlier, settled, files = _go_on(Path(resume), given, options or {}, overrides)
    else:
        others = given_options(options or {}, images=images, weights=weights, output=output, overwrite=overwrite)
        run, earlier, settled, files = _take_up(Path(resume), [*others, *overrides])
    device = pick_device(settled.training.device, settled.training.precision)
    preprocessing = Preprocessing(**settled.preprocess.model_dump())
    cases, meaning = load(files, settled, preprocessing, tell, spacing_mm)
    if earlier is not None:
        cases, meaning = earlier.in_its_terms(cases, meaning)
    grids = [Grid(case.shape, case.spacing_mm, case.scan["order"]) for case in cases]
    plan = make_plan(settled, grids, cases[0].channels, meaning.table.names, device, _painted_axes(cases))
    if earlier is not None:
        earlier.require_same_network(plan)
    cases = [with_border_weights(case, meaning, settled.loss, plan.planes) for case in cases]
    if dry_run == "plan":
        return plan
    if dry_run:
        return replace(plan, forecast=forecast_training(plan, cases, meaning))
    tell.note(meaning.said)
    resuming = run is not None
    if run is None:
        run = open_run(output, plan.config, cases, overwrite=overwrite, leads=leads())
    else:
        run.require_same_data(data_hashes(cases))
    budget = Budget(plan, started, [case.shape for case in cases])
    return TrainingRun(plan, cases, meaning, preprocessing, run, tell, budget, earlier).go(resuming)


def _painted_axes(cases: Sequence[Case]) -> set[int]:
    """The prepared axes across which a few slices are painted; none of scans that are labeled for the most part."""
    known = [case.labels.known for case in cases]
    return {axis for mask in known if mask.mean() < _DENSE for axis, _ in find_planes(mask)}


def _as_it_was(config: Config) -> Config:
    """The configuration of a run, whose pixel classifier looked at every voxel if it is older than coarser grids."""
    given = config.pixel_classifier
    if given.use != "yes" or given.steps is None or given.reduction is not None:
        return config
    return config.model_copy(update={"pixel_classifier": given.model_copy(update={"reduction": (1, 1, 1)})})


def _take_up(folder: Path, others: Sequence[str]) -> tuple[Run, Earlier | None, Config, TrainingFiles]:
    """A run that was stopped, as it was planned. others: what else was asked for, which is refused."""
    if others:
        raise ConfigError(
            f"{folder}: a run goes on as it was planned; leave out {', '.join(others)}, give labels to begin with its "
            "weights, or train a new run"
        )
    run = resume_run(folder)
    settled = _as_it_was(run.config)
    files = TrainingFiles(settled.data.images, settled.data.labels, settled.data.weights)
    return run, read_start(folder), settled, files


def _go_on(
    folder: Path, given: TrainingFiles, options: Options, overrides: Sequence[str]
) -> tuple[Earlier, Config, TrainingFiles]:
    """A finished run and new labels: its scans where no others are given."""
    earlier = read_earlier(folder)
    if not given.images and any(name.startswith("<") for name in earlier.config.data.images):
        raise ConfigError(f"{folder}: this run was trained on arrays in memory; give the images again")
    settled = _continued(earlier, options, overrides)
    files = chosen(given, settled)
    return earlier, _with_files(settled, files), files


def _continued(earlier: Earlier, options: Options, overrides: Sequence[str]) -> Config:
    """The earlier run's configuration; for a minute and with nothing held out, unless something else is asked for."""
    config = _as_it_was(earlier.config)
    training = {key: value for key, value in options.get("training", {}).items() if value is not None}
    if not {"iterations", "time_budget_s"} & training.keys():
        training["time_budget_s"] = SECONDS
    if "learning_rate" not in training:
        training["learning_rate"] = _GENTLER * earlier.rate
    training.setdefault("hold_out_every", 0)  # the weights have learned from most labels: they can judge nothing
    labels = config.labels
    if not options.get("labels", {}).get("annotated_slices"):  # newly painted slices are none of those declared before
        labels = labels.model_copy(update={"annotated_slices": None})
    use = "no" if earlier.model.classifier is None else "yes"
    classifier = config.pixel_classifier.model_copy(update={"use": use, "steps": None})
    config = config.model_copy(update={"labels": labels, "pixel_classifier": classifier})
    return settle(config, {**options, "training": training}, overrides)


def _settle(
    config: Config | str | Path | dict[str, Any] | None,
    given: TrainingFiles,
    options: Options,
    overrides: Sequence[str],
    tell: Listener,
) -> Config:
    if config is None and not given.images and not given.labels:
        if DEFAULT_CONFIG.is_file():
            tell.note(f"using ./{DEFAULT_CONFIG}")
            config = DEFAULT_CONFIG
        else:
            tell.note("no config and no images: training the embedded demo (its scans are made in ./vol3d_demo)")
            config = demo_config(Path("vol3d_demo"))
    return settle(config, options, overrides)


def _with_files(config: Config, files: TrainingFiles) -> Config:
    """Record which files train, where they are files; resuming must find them from any folder."""

    def names(sources: Sequence[Source]) -> tuple[str, ...]:
        return tuple(
            str(Path(s).absolute()) if isinstance(s, (str, Path)) else f"<{type(s).__name__}>" for s in sources
        )

    data = {"images": names(files.images), "labels": names(files.labels), "weights": names(files.weights)}
    changes: dict[str, Any] = {"data": config.data.model_copy(update=data)}
    weights = getattr(config.network, "encoder_weights", None)
    if config.network is not None and weights is not None:
        changes["network"] = config.network.model_copy(update={"encoder_weights": str(Path(weights).absolute())})
    return config.model_copy(update=changes)


def _listed(sources: Source | Sequence[Source] | None) -> list[Source]:
    if sources is None:
        return []
    if isinstance(sources, (list, tuple)):
        return [str(s) if isinstance(s, Path) else s for s in sources]
    return [str(sources) if isinstance(sources, Path) else sources]  # type: ignore[list-item]
