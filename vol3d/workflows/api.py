"""What `import vol3d` offers: the verbs, with plain keyword arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vol3d.config import Config, DataConfig, LabelsConfig
from vol3d.workflows.check import Check
from vol3d.workflows.check import check as _check
from vol3d.workflows.evaluate import Evaluation
from vol3d.workflows.evaluate import evaluate as _evaluate
from vol3d.workflows.info import info
from vol3d.workflows.listener import Listener
from vol3d.workflows.models import find_model
from vol3d.workflows.sources import Source, Spacing

if TYPE_CHECKING:
    from vol3d.bundle import ModelBundle
    from vol3d.workflows.plan import Plan
    from vol3d.workflows.predict import Prediction
    from vol3d.workflows.training_run import TrainResult

__all__ = ["check", "evaluate", "info", "load_model", "predict", "train"]

Slices = dict[str, Sequence[int]] | None


def train(  # noqa: PLR0913  keyword arguments of a verb
    images: Source | Sequence[Source] | None = None,
    labels: Source | Sequence[Source] | None = None,
    *,
    output: str | Path | None = None,
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
    or `dense` (every voxel annotated). The length: `time_budget_s` seconds or `iterations`.
    Returns a `TrainResult`, whose `bundle` goes straight into `predict`; with `dry_run` the `Plan`.
    """
    from vol3d.workflows.train import train as run

    codes = (unlabeled,) if isinstance(unlabeled, int) else unlabeled
    slices = None if annotated_slices is None else {axis: tuple(n) for axis, n in annotated_slices.items()}
    options = {
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
    tile: tuple[int, int, int] | None = None,
    max_memory_gb: float | None = None,
    device: str = "auto",
    channel: int | None = None,
    nan: float | None = None,
    overwrite: bool = False,
    preview: bool = True,
    listener: Listener | None = None,
) -> Prediction:
    """Segment one scan; see `vol3d.workflows.predict.predict`.

    scan: a file, a `Volume`, or an array (X, Y, Z) or (C, X, Y, Z) with `spacing_mm`. model: a bundle, a model file, a
    run folder, or None for the newest run under ./runs. Returns a `Prediction`; its `codes` are (X, Y, Z).
    """
    from vol3d.workflows.predict import PredictOptions
    from vol3d.workflows.predict import predict as run

    options = PredictOptions(
        probabilities=probabilities,
        tta=tta,
        tile=tile,
        max_memory_gb=max_memory_gb,
        device=device,
        overwrite=overwrite,
        preview=preview,
        data=DataConfig(channel=channel, nan=nan),
    )
    return run(scan, model, output, options=options, spacing_mm=spacing_mm, listener=listener)


def evaluate(
    prediction: Source,
    reference: Source,
    *,
    unlabeled: int | Sequence[int] | None = None,
    annotated_slices: Slices = None,
    leave_out: Source | None = None,
    spacing_mm: Spacing = None,
) -> Evaluation:
    """Score a prediction on the labeled voxels of a reference; see `vol3d.workflows.evaluate.evaluate`."""
    labels = _meaning(unlabeled, annotated_slices, dense=False)
    return _evaluate(prediction, reference, labels=labels, leave_out=leave_out, spacing_mm=spacing_mm)


def check(
    image: Source,
    labels: Source,
    *,
    unlabeled: int | Sequence[int] | None = None,
    annotated_slices: Slices = None,
    dense: bool = False,
    spacing_mm: Spacing = None,
) -> Check:
    """Do an image and its labels fit together, and what do the labels cover? See `vol3d.workflows.check.check`."""
    return _check(image, labels, config=_meaning(unlabeled, annotated_slices, dense=dense), spacing_mm=spacing_mm)


def load_model(model: str | Path | None = None) -> ModelBundle:
    """The model in a file or a run folder; None: of the newest run under ./runs. Raises `ModelError`."""
    from vol3d.bundle import ModelBundle

    return ModelBundle.load(find_model(model))


def _meaning(unlabeled: int | Sequence[int] | None, slices: Slices, *, dense: bool) -> LabelsConfig:
    codes = () if unlabeled is None else (unlabeled,) if isinstance(unlabeled, int) else tuple(unlabeled)
    planes: Any = None if slices is None else {axis: tuple(indices) for axis, indices in slices.items()}
    return LabelsConfig(unlabeled=codes, annotated_slices=planes, dense=dense)
