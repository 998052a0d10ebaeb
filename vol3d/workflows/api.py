"""What `import vol3d` offers: the verbs, with plain keyword arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from vol3d.config import Config, DataConfig, LabelsConfig, NetworkKind, Task
from vol3d.errors import ConfigError
from vol3d.workflows.case_evaluations import CaseEvaluations
from vol3d.workflows.check import Check
from vol3d.workflows.check import check as _check
from vol3d.workflows.device import PredictPrecision
from vol3d.workflows.evaluate import AnyEvaluation, Scoring, evaluate_task
from vol3d.workflows.evaluate_cases import evaluate_cases, is_several
from vol3d.workflows.evaluations import (
    Evaluation,
    RegressionEvaluation,
)
from vol3d.workflows.info import info
from vol3d.workflows.listener import Listener
from vol3d.workflows.models import find_model
from vol3d.workflows.object_evaluations import InstanceEvaluation, PanopticEvaluation
from vol3d.workflows.sources import Source, Spacing, require_arrays

if TYPE_CHECKING:
    from vol3d.bundle import ModelBundle
    from vol3d.workflows.experiment import Experiment
    from vol3d.workflows.plan import Plan
    from vol3d.workflows.predict import Prediction
    from vol3d.workflows.suggest import Suggestions
    from vol3d.workflows.training_run import TrainResult

__all__ = ["check", "evaluate", "experiment", "info", "load_model", "predict", "suggest", "train"]

Slices = dict[str, Sequence[int]] | None
_SEEDS = 3  # of an experiment, where nobody says
Several = list[Any] | tuple[Source, ...]


class EvaluateOptions(TypedDict, total=False):
    """Keyword arguments of `evaluate` that every task has; see there."""

    unlabeled: int | Sequence[int] | None
    annotated_slices: Slices
    dense: bool
    leave_out: Source | Several | None
    spacing_mm: Spacing
    surface: bool
    tolerance_mm: float | None
    divisor: int | None
    things: Sequence[int] | None


def train(  # noqa: PLR0913  keyword arguments of a verb
    images: Source | Sequence[Source] | None = None,
    labels: Source | Sequence[Source] | None = None,
    *,
    output: str | Path | None = None,
    task: Task | None = None,
    network: NetworkKind | None = None,
    unlabeled: int | Sequence[int] | None = None,
    annotated_slices: Slices = None,
    dense: bool = False,
    weights: Source | Sequence[Source] = (),
    spacing_mm: Spacing = None,
    time_budget_s: float | None = None,
    iterations: int | None = None,
    device: str | None = None,
    seed: int | None = None,
    channel: int | None = None,
    nan: float | None = None,
    config: Config | str | Path | dict[str, Any] | None = None,
    resume: str | Path | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> TrainResult | Plan:
    """Train on sparsely labeled scans; see `vol3d.workflows.train.train`.

    images, labels: files, folders, globs, `Volume`s or arrays (X, Y, Z) or (C, X, Y, Z) with `spacing_mm`. What the
    codes mean: `unlabeled` (codes nobody annotated), `annotated_slices` ({"z": [10, 20]}; in those 0 is background)
    or `dense` (every voxel annotated). The length: `time_budget_s` seconds or `iterations`. task: "semantic" (a class
    per voxel), "instances", "panoptic" or "regression". network: a kind, sized for the data; one that is described in
    full goes into `config`.
    Returns a `TrainResult`, whose `bundle` goes straight into `predict`; with `dry_run` the `Plan`.
    """
    from vol3d.workflows.train import train as run

    require_arrays(spacing_mm, images, labels, weights)
    codes = (unlabeled,) if isinstance(unlabeled, int) else unlabeled
    slices = None if annotated_slices is None else {axis: tuple(n) for axis, n in annotated_slices.items()}
    options = {
        "task": task,
        "network": None if network is None else {"plan": network},
        "labels": {
            "unlabeled": None if codes is None else tuple(codes),
            "annotated_slices": slices,
            "dense": dense or None,
        },
        "data": {"channel": channel, "nan": nan},
        "training": {"time_budget_s": time_budget_s, "iterations": iterations, "device": device, "seed": seed},
    }
    return run(
        images,
        labels,
        weights=weights,
        config=config,
        output=output,
        options=options,
        spacing_mm=spacing_mm,
        resume=resume,
        dry_run=dry_run,
        overwrite=overwrite,
        listener=listener,
    )


def predict(  # noqa: PLR0913  keyword arguments of a verb
    scan: Source,
    model: str | Path | ModelBundle | None = None,
    output: str | Path | None = None,
    *,
    spacing_mm: Spacing = None,
    probabilities: bool = False,
    tta: bool = False,
    uncertainty: bool = False,
    keep_drawn: bool | Source = False,
    provenance: bool = False,
    unlabeled: int | Sequence[int] | None = None,
    tile: tuple[int, ...] | None = None,
    prune: int | None = None,
    max_memory_gb: float | None = None,
    device: str = "auto",
    precision: PredictPrecision = "float32",
    channel: int | None = None,
    nan: float | None = None,
    overwrite: bool = False,
    preview: bool = True,
    listener: Listener | None = None,
) -> Prediction:
    """Segment one scan; see `vol3d.workflows.predict.predict`.

    scan: a file, a `Volume`, or an array (X, Y, Z) or (C, X, Y, Z) with `spacing_mm`. model: a bundle, a model file, a
    run folder, or None for the newest run under ./runs. prune: of a U-Net++, how deep it goes. uncertainty:
    also where the answers are unsure. keep_drawn: True, or the labels that were drawn on the scan: they stand as drawn;
    provenance: also write which voxels those are. unlabeled: codes of those labels that mean nobody drew a voxel; None:
    as in the run. precision: float32; bf16 or int8 are quicker, and used where they give 99.9 % of float32's labels on
    parts of the scan. Returns a `Prediction`; its `codes` are (X, Y, Z): class codes, object numbers or values, as the
    model's task has it.
    """
    from vol3d.workflows.outputs import PredictOptions
    from vol3d.workflows.predict import predict as run

    require_arrays(spacing_mm, scan, keep_drawn)
    if unlabeled is not None and keep_drawn is False and not provenance:
        raise ConfigError("unlabeled tells what drawn labels mean, and goes with keep_drawn or provenance alone")
    options = PredictOptions(
        probabilities=probabilities,
        tta=tta,
        uncertainty=uncertainty,
        keep_drawn=keep_drawn is not False,
        provenance=provenance,
        drawn=None if isinstance(keep_drawn, bool) else keep_drawn,
        drawn_meaning=None if unlabeled is None else _meaning(unlabeled, None, dense=False),
        tile=tile,
        prune=prune,
        max_memory_gb=max_memory_gb,
        device=device,
        precision=precision,
        overwrite=overwrite,
        preview=preview,
        data=DataConfig(channel=channel, nan=nan),
    )
    return run(scan, model, output, options=options, spacing_mm=spacing_mm, listener=listener)


@overload
def evaluate(
    prediction: Source, reference: Source, *, task: Literal["semantic"] = "semantic", **options: Unpack[EvaluateOptions]
) -> Evaluation: ...
@overload
def evaluate(
    prediction: Source, reference: Source, *, task: Literal["instances"], **options: Unpack[EvaluateOptions]
) -> InstanceEvaluation: ...
@overload
def evaluate(
    prediction: Source, reference: Source, *, task: Literal["panoptic"], **options: Unpack[EvaluateOptions]
) -> PanopticEvaluation: ...
@overload
def evaluate(
    prediction: Source, reference: Source, *, task: Literal["regression"], **options: Unpack[EvaluateOptions]
) -> RegressionEvaluation: ...
@overload
def evaluate(
    prediction: Several, reference: Several, *, task: Task = "semantic", **options: Unpack[EvaluateOptions]
) -> CaseEvaluations: ...


def evaluate(  # noqa: PLR0913  keyword arguments of a verb
    prediction: Source | Several,
    reference: Source | Several,
    *,
    task: Task = "semantic",
    unlabeled: int | Sequence[int] | None = None,
    annotated_slices: Slices = None,
    dense: bool = False,
    leave_out: Source | Several | None = None,
    spacing_mm: Spacing = None,
    surface: bool = False,
    tolerance_mm: float | None = None,
    divisor: int | None = None,
    things: Sequence[int] | None = None,
) -> AnyEvaluation | CaseEvaluations:
    """Score a prediction on the labeled voxels of a reference; see `vol3d.workflows.evaluate`.

    task: what the voxels hold: "semantic" class codes, "instances" object numbers, "panoptic" class × `divisor` +
    object number, "regression" values. unlabeled, annotated_slices, dense: what the reference's codes mean. surface:
    also distances between surfaces in mm, with the surface Dice at `tolerance_mm`. things: panoptic classes whose
    objects count one by one. Lists of predictions and references (files, folders, globs, paired by name; or arrays, by
    order) are several cases: the result is a `CaseEvaluations` with every case, mean and standard deviation.
    """
    meaning = _meaning(unlabeled, annotated_slices, dense=dense)
    require_arrays(spacing_mm, prediction, reference, leave_out)
    scoring = Scoring(task, meaning, surface, tolerance_mm, divisor, None if things is None else tuple(things))
    if isinstance(prediction, (list, tuple)) and isinstance(reference, (list, tuple)):
        left_out = leave_out if leave_out is None or isinstance(leave_out, (list, tuple)) else [leave_out]
        return evaluate_cases(prediction, reference, scoring, leave_out=left_out, spacing_mm=spacing_mm)
    refusal = ConfigError("several cases are given as lists, folders and globs too: evaluate([...], [...])")
    if isinstance(prediction, (list, tuple)) or isinstance(reference, (list, tuple)):
        raise refusal
    if isinstance(leave_out, (list, tuple)) or is_several(prediction) or is_several(reference):
        raise refusal
    return evaluate_task(prediction, reference, scoring, leave_out=leave_out, spacing_mm=spacing_mm)


def check(
    image: Source,
    labels: Source,
    *,
    unlabeled: int | Sequence[int] | None = None,
    annotated_slices: Slices = None,
    dense: bool = False,
    task: Task = "semantic",
    spacing_mm: Spacing = None,
) -> Check:
    """Do an image and its labels fit together, and what do the labels cover? See `vol3d.workflows.check.check`."""
    meaning = _meaning(unlabeled, annotated_slices, dense=dense)
    require_arrays(spacing_mm, image, labels)
    return _check(image, labels, config=meaning, task=task, spacing_mm=spacing_mm)


def experiment(  # noqa: PLR0913  keyword arguments of a verb
    kind: Literal["folds", "slices", "batchnorm", "dimensions", "volumes", "paper"] | None = None,
    images: Source | Sequence[Source] = (),
    labels: Source | Sequence[Source] = (),
    *,
    output: str | Path | None = None,
    folds: int | None = None,
    slices: Sequence[tuple[int, int, int]] = (),
    seeds: int = _SEEDS,
    batchnorm: Literal["on", "off", "both"] | None = None,
    dimensions: Literal[2, 3] | None = None,
    network: NetworkKind | None = None,
    unlabeled: int | Sequence[int] | None = None,
    annotated_slices: Slices = None,
    dense: bool = False,
    spacing_mm: Spacing = None,
    time_budget_s: float | None = None,
    iterations: int | None = None,
    device: str | None = None,
    seed: int | None = None,
    config: Config | str | Path | dict[str, Any] | None = None,
    resume: str | Path | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    keep_runs: bool = False,
    listener: Listener | None = None,
) -> Experiment:
    """Compare trainings on your own labels, as in Çiçek et al. 2016; see `vol3d.workflows.experiment`.

    kind: "folds" of annotated slices, "slices" (scores by their number), "batchnorm" with and without, "dimensions" 3
    and 2, "volumes" left out one by one, or "paper": all of it. slices: numbers of slices across x, y, z. seeds: how
    many trainings of each. The length is that of every training, five minutes by default. resume: a folder to go on
    with, alone or with a kind. Returns an `Experiment`, whose `rows` hold the scores and `arms` their means.
    """
    from vol3d.workflows.experiment import run_experiment
    from vol3d.workflows.experiment_kinds import Choices

    require_arrays(spacing_mm, images, labels)
    if kind is None and resume is not None and (slices or overwrite or output or seeds != _SEEDS or folds or batchnorm):
        raise ConfigError("resume goes on as planned; say which kind of experiment, or leave the other options out")
    sizes = {"plan": network, "dimensions": dimensions}
    codes = (unlabeled,) if isinstance(unlabeled, int) else unlabeled
    planes = None if annotated_slices is None else {axis: tuple(n) for axis, n in annotated_slices.items()}
    options = {
        "network": {key: value for key, value in sizes.items() if value is not None} or None,
        "labels": {
            "unlabeled": None if codes is None else tuple(codes),
            "annotated_slices": planes,
            "dense": dense or None,
        },
        "training": {"time_budget_s": time_budget_s, "iterations": iterations, "device": device, "seed": seed},
    }
    chosen = None if kind is None else Choices(kind, folds, tuple(slices), seeds, batchnorm, dimensions)
    return run_experiment(
        chosen,
        images,
        labels,
        config=config,
        options=options,
        spacing_mm=spacing_mm,
        output=output,
        resume=resume,
        dry_run=dry_run,
        overwrite=overwrite,
        keep_runs=keep_runs,
        listener=listener,
    )


def suggest(  # noqa: PLR0913  keyword arguments of a verb
    scan: Source,
    model: str | Path | ModelBundle | None = None,
    labels: Source | None = None,
    n: int = 3,
    *,
    axes: Sequence[str] = ("x", "y", "z"),
    output: str | Path | None = None,
    spacing_mm: Spacing = None,
    unlabeled: int | Sequence[int] | None = None,
    annotated_slices: Slices = None,
    reach_mm: float | None = None,
    per_voxel: bool = False,
    tta: bool = False,
    max_memory_gb: float | None = None,
    device: str = "auto",
    channel: int | None = None,
    nan: float | None = None,
    overwrite: bool = False,
    preview: bool = True,
    listener: Listener | None = None,
) -> Suggestions:
    """The `n` slices to paint next; see `vol3d.workflows.suggest.suggest`.

    scan, model: as of `predict`. labels: what is painted so far, default as the run trained on it; unlabeled,
    annotated_slices: what its codes mean. output: the label file to paint in, default SCAN_paint beside a file.
    Returns `Suggestions`: ranked `planes` (axis and index of the file), and `codes` with their voxels marked.
    """
    from vol3d.workflows.suggest import SuggestOptions
    from vol3d.workflows.suggest import suggest as run

    require_arrays(spacing_mm, scan, labels)
    stated = unlabeled is not None or annotated_slices is not None
    options = SuggestOptions(
        axes=tuple(axes),
        reach_mm=reach_mm,
        per_voxel=per_voxel,
        tta=tta,
        max_memory_gb=max_memory_gb,
        device=device,
        overwrite=overwrite,
        preview=preview,
        data=DataConfig(channel=channel, nan=nan),
        meaning=_meaning(unlabeled, annotated_slices, dense=False) if stated else None,
    )
    return run(scan, model, labels, n, output, options=options, spacing_mm=spacing_mm, listener=listener)


def load_model(model: str | Path | None = None) -> ModelBundle:
    """The model in a file or a run folder; None: of the newest run under ./runs. Raises `ModelError`."""
    from vol3d.bundle import ModelBundle

    return ModelBundle.load(find_model(model))


def _meaning(unlabeled: int | Sequence[int] | None, slices: Slices, *, dense: bool) -> LabelsConfig:
    codes = () if unlabeled is None else (unlabeled,) if isinstance(unlabeled, int) else tuple(unlabeled)
    planes: Any = None if slices is None else {axis: tuple(indices) for axis, indices in slices.items()}
    return LabelsConfig(unlabeled=codes, annotated_slices=planes, dense=dense)
