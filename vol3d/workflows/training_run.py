"""One training run: from a plan and prepared cases to a model in a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vol3d import io, report
from vol3d.bundle import ModelBundle
from vol3d.config import AnyNetworkConfig
from vol3d.networks import build, load_encoder_weights, reestimate
from vol3d.sampling import HoldOut, hold_out
from vol3d.training import (
    FitResult,
    FitSettings,
    Stage,
    TrainingState,
    fit,
    load_checkpoint,
    read_encoder_weights,
    save_checkpoint,
)
from vol3d.transforms import Preprocessing
from vol3d.volume import SparseLabels
from vol3d.workflows.budget import REESTIMATION_BATCHES, Budget, Length
from vol3d.workflows.case import Case
from vol3d.workflows.device import exact
from vol3d.workflows.listener import Listener
from vol3d.workflows.meaning import Meaning
from vol3d.workflows.models import MODEL_FILE
from vol3d.workflows.objective import make_loss
from vol3d.workflows.patches import PatchCutter, patch_dataset
from vol3d.workflows.plan import Plan
from vol3d.workflows.preview import training_preview
from vol3d.workflows.processes import agree, open_fabric
from vol3d.workflows.run import Interrupt, Run, RunOutput, provenance
from vol3d.workflows.scores import Score
from vol3d.workflows.validation import HeldOut


@dataclass(frozen=True)
class TrainResult:
    """What `train` returns. model: None where the run was stopped before its end (`stopped`); go on with resume."""

    run: Path
    model: Path | None
    bundle: ModelBundle | None
    score: Score | None
    stopped: bool
    iterations: int


class TrainingRun:
    """One run, from planned to bundled."""

    def __init__(  # noqa: PLR0913, PLR0917 RUF100  the parts of a run
        self,
        plan: Plan,
        cases: list[Case],
        meaning: Meaning,
        preprocessing: Preprocessing,
        run: Run,
        tell: Listener,
        budget: Budget,
    ) -> None:
        self.plan, self.cases, self.meaning, self.run = plan, cases, meaning, run
        self.preprocessing, self.tell, self.budget = preprocessing, tell, budget
        training = plan.config.training
        self.table = meaning.table
        self.spec = meaning.spec.model_copy(update={"planes": plan.planes})
        self.splits = split_cases(cases, training.hold_out_every)
        for said in dict.fromkeys(split.said for split in self.splits):
            tell.note(said)
        device = plan.device
        self.fabric = open_fabric(device, training.devices)
        self.held = HeldOut(
            cases,
            [split.validation for split in self.splits],
            meaning,
            exact(device),
            plan.config.inference,
            planes=plan.planes,
            patch=plan.patch,
            current=training.batch_statistics == "current",
        )
        cut = PatchCutter(plan.patch, plan.geometry.margin, plan.config.augment, plan.planes)
        everything = [case.labels for case in cases]
        self.known = everything if training.refit else [split.training for split in self.splits]
        self.all_patches = patch_dataset(cases, everything, cut, training.seed)
        self.patches = patch_dataset(cases, [s.training for s in self.splits], cut, training.seed)

    def go(self, resuming: bool) -> TrainResult:
        """Fit, measure, save."""
        generator = torch.Generator().manual_seed(self.plan.config.training.seed)
        network = build(self.plan.network, self.plan.channels, self.plan.outputs, generator=generator)
        loss = make_loss(self.plan.config.loss, self.meaning, self.known, network)
        state: TrainingState | None = None
        if resuming and not any(self.run.checkpoints.glob("checkpoint-*")):
            self.tell.note(f"resuming {self.run.folder} from the beginning: it was stopped before its first checkpoint")
        elif resuming:
            state = load_checkpoint(self.run.checkpoints)
            self.held.scores = self.run.scores_until(state.iteration, self.held)
            self.tell.note(f"resuming {self.run.folder} after iteration {state.iteration}")
        if state is None:
            self._take_encoder(network)
        length = self.run.length or agree(
            self.budget.length(network, self.patches, loss, self._settings(1), self.fabric, self.held, self.tell),
            self.fabric,
        )
        iterations = length.iterations
        stages = self._stages(length)
        self.run.start(self.plan, length, self.meaning, self.splits, leads=self.fabric.is_global_zero)
        self.tell.note(f"{iterations} iterations on {self.plan.device.name}; run folder {self.run.folder}")
        out = RunOutput(self.run, iterations, self.held, self.tell, state) if self.fabric.is_global_zero else None
        with Interrupt() as interrupt:
            result = fit(
                network,
                stages,
                loss,
                self._settings(iterations),
                fabric=self.fabric,
                start=state,
                validate=self.held if self.held else None,
                on_log=out.log if out is not None else lambda _row: None,
                on_checkpoint=lambda kept: save_checkpoint(self.run.checkpoints, kept),
                should_stop=interrupt.asked,
            )
        if result.stopped or out is None:
            return TrainResult(self.run.folder, None, None, None, result.stopped, result.state.iteration)
        return self._finish(network, result, stages)

    def _finish(self, network: torch.nn.Module, result: FitResult, stages: list[Stage]) -> TrainResult:
        network.load_state_dict(result.weights)
        network.to(self.plan.device.name)
        if self.plan.config.training.batch_statistics == "reestimate":
            reestimate(network, self._images(stages[-1], result.state.iteration))
        bundle = ModelBundle(
            network=without_files(self.plan.network),
            in_channels=self.plan.channels,
            weights={name: value.detach().cpu() for name, value in network.state_dict().items()},
            preprocessing=self.preprocessing.to_json(),
            labels=self.table,
            statistics="current" if self.plan.config.training.batch_statistics == "current" else "running",
            training_range=training_range(self.cases)
            | {"channel": self.plan.config.data.channel, "patch": list(self.plan.patch)},
            provenance=provenance(self.cases, result.state.iteration) | self._encoder_hash(),
            task=self.spec,
        )
        model = self.run.folder / MODEL_FILE
        bundle.save(model)
        score = max(self.held.scores, key=lambda found: found.value, default=None)
        refitted = len(stages) > 1
        if self.held and stages[-1].dataset is self.patches:
            score = self.held.score(network.eval())
        self.run.finish(score, result.state.iteration, self.budget.elapsed())
        report.curves_png(
            self.run.folder / "curves.png",
            result.history,
            score_name=f"held-out {self.held.quantity}",
            marks=_marks(stages),
        )
        self._preview(bundle)
        if score is not None:
            when = ", before they joined the training" if refitted else ""
            self.tell.note(f"held-out labels{when}: {score.said}")
        return TrainResult(self.run.folder, model, bundle, score, False, result.state.iteration)

    def _stages(self, length: Length) -> list[Stage]:
        training, iterations = self.plan.config.training, length.iterations
        if not self.held or length.validations == 0:
            return [Stage(self.all_patches if not self.held or training.refit else self.patches, iterations, ())]
        first = iterations
        if training.refit:
            first = max(1, round(iterations * (1 - training.refit_fraction)))
        count = min(length.validations, first)
        marks = tuple(sorted({round(first * (k + 1) / count) for k in range(count)}))
        stages = [Stage(self.patches, first, marks)]
        if first < iterations:
            stages.append(Stage(self.all_patches, iterations, ()))
        return stages

    def _settings(self, iterations: int) -> FitSettings:
        training = self.plan.config.training
        return FitSettings(
            iterations=iterations,
            batch_size=self.plan.batch_size,
            accumulate=training.accumulate,
            workers=self.plan.config.sampling.workers,
            optimizer=training.optimizer,
            learning_rate=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            warmup_fraction=training.warmup_fraction,
            decay_power=training.decay_power,
            gradient_clip=training.gradient_clip,
            ema_decay=(default_ema(iterations) if training.ema_decay is None else training.ema_decay) or None,
            channels_last=training.channels_last,
            compile=training.compile,
            checkpoint_seconds=60 * training.checkpoint_minutes,
            seed=training.seed,
        )

    def _take_encoder(self, network: torch.nn.Module) -> None:
        """Begin with the weights of a trained encoder, where the configuration names some."""
        file = getattr(self.plan.network, "encoder_weights", None)
        if file is not None:
            self.tell.note(load_encoder_weights(network, read_encoder_weights(file)))
            self.run.record["encoder_weights_sha256"] = io.sha256(file)

    def _encoder_hash(self) -> dict[str, str]:
        key = "encoder_weights_sha256"
        return {key: self.run.record[key]} if key in self.run.record else {}

    def _images(self, stage: Stage, iterations: int) -> Iterator[torch.Tensor]:
        """Inputs for the statistics of BatchNorm: the first samples of what the last stage learned from."""
        count = min(REESTIMATION_BATCHES, max(1, iterations))
        size = self.plan.batch_size
        device = self.plan.device.name
        return (
            torch.stack([stage.dataset[i]["image"] for i in range(b * size, (b + 1) * size)]).to(device)
            for b in range(count)
        )

    def _preview(self, bundle: ModelBundle) -> None:
        path = self.run.folder / "preview.png"
        training_preview(path, bundle, self.cases[0], exact(self.plan.device), self.plan.config.inference)


def split_cases(cases: list[Case], every: int) -> list[HoldOut]:
    """What trains and what validates: whole volumes where there are at least three, else slices of each."""
    if every < 2 or len(cases) < 3:
        return [hold_out(case.labels, every, name=case.file_plane) for case in cases]
    away = _held_volumes(cases, every)
    if not away:
        said = "no volume can be held out without losing a class from training"
        return [HoldOut(case.labels, None, said) for case in cases]
    nothing = [_none_of(case.labels) for case in cases]
    names = ", ".join(cases[n].name for n in sorted(away))
    said = f"held out for validation: {len(away)} of {len(cases)} volumes ({names})"
    return [
        HoldOut(nothing[n], case.labels, said) if n in away else HoldOut(case.labels, None, said)
        for n, case in enumerate(cases)
    ]


def _held_volumes(cases: list[Case], every: int) -> set[int]:
    """Numbers of the volumes that validate: every `every`-th, such that training keeps every class; else none."""
    present = [set(np.unique(case.labels.classes[case.labels.labeled]).tolist()) for case in cases]
    step = min(every, len(cases))
    for offset in [step // 2, *range(step)]:
        away = set(range(offset, len(cases), step))
        kept = [codes for n, codes in enumerate(present) if n not in away]
        if away and kept and set().union(*kept) == set().union(*present):
            return away
    return set()


def _marks(stages: list[Stage]) -> list[tuple[int, str]]:
    return [(stage.until, "held-out labels join") for stage in stages[:-1]]


def default_ema(iterations: int) -> float:
    """Decay of the averaged weights: they remember about the last twentieth of the run."""
    return max(0.0, min(0.999, 1 - 20 / max(iterations, 1)))


def training_range(cases: list[Case]) -> dict[str, Any]:
    """What the training scans were like: spacing, orientation, intensities per channel."""
    spacings = [case.scan["spacing_mm"] for case in cases]
    channels = range(len(cases[0].scan["intensities"]))
    return {
        "spacing_mm": {
            "minimum": [min(s[a] for s in spacings) for a in range(3)],
            "maximum": [max(s[a] for s in spacings) for a in range(3)],
        },
        "orientations": sorted({case.scan["orientation"] for case in cases}),
        "intensities": [
            {
                "p1": min(case.scan["intensities"][c]["p1"] for case in cases),
                "p99": max(case.scan["intensities"][c]["p99"] for case in cases),
            }
            for c in channels
        ],
    }


def _none_of(labels: SparseLabels) -> SparseLabels:
    return SparseLabels(labels.classes, np.zeros_like(labels.labeled), labels.affine, labels.name, labels.weight)


def without_files(network: AnyNetworkConfig) -> AnyNetworkConfig:
    """The network as a model describes it: no names of files, whose contents are in its weights by then."""
    return network.model_copy(update={"encoder_weights": None}) if hasattr(network, "encoder_weights") else network
