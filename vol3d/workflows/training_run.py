"""One training run: from a plan and prepared cases to a model in a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vol3d import report
from vol3d.baselines.pixel_classifier import PixelClassifier
from vol3d.baselines.reduced import Enlarged
from vol3d.bundle import ModelBundle
from vol3d.networks import build, parameter_count, reestimate
from vol3d.training import (
    FitResult,
    FitSettings,
    Stage,
    TrainingState,
    fit,
    load_checkpoint,
    save_checkpoint,
)
from vol3d.transforms import Preprocessing
from vol3d.volume import SparseLabels
from vol3d.workflows.baselines import BaselineScore, score_baseline, score_interpolation
from vol3d.workflows.batch_statistics import first_inputs, reestimates
from vol3d.workflows.budget import Budget, Length
from vol3d.workflows.bundling import bundle_of
from vol3d.workflows.case import Case
from vol3d.workflows.continuing import Earlier, keep_start, tell_what_is_new, write_painted
from vol3d.workflows.cutting import choose_cutting
from vol3d.workflows.device import exact
from vol3d.workflows.listener import Listener
from vol3d.workflows.live_preview import LivePreview
from vol3d.workflows.meaning import Meaning
from vol3d.workflows.models import MODEL_FILE
from vol3d.workflows.objective import make_loss
from vol3d.workflows.patches import PatchCutter, patch_dataset
from vol3d.workflows.pixel_channels import Guided, PixelChannels, guide
from vol3d.workflows.plan import Plan
from vol3d.workflows.preview import training_preview
from vol3d.workflows.processes import agree, open_fabric
from vol3d.workflows.run import Interrupt, Run, RunOutput, provenance
from vol3d.workflows.run_report import Outcome, report_run
from vol3d.workflows.scores import Score
from vol3d.workflows.splits import looked_at, split_cases
from vol3d.workflows.stage_end import StageEnd
from vol3d.workflows.stages import fit_settings, make_stages
from vol3d.workflows.trained_encoder import KEY as ENCODER
from vol3d.workflows.trained_encoder import take_encoder
from vol3d.workflows.validation import HeldOut

_SEEN_BEFORE = "the model that this run began with had learned from those painted before"


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
        earlier: Earlier | None = None,
    ) -> None:
        self.earlier = earlier
        self.plan, self.cases, self.meaning, self.run = plan, cases, meaning, run
        self.preprocessing, self.tell, self.budget = preprocessing, tell, budget
        training = plan.config.training
        self.table = meaning.table
        self.spec = meaning.spec.model_copy(update={"planes": plan.planes})
        classes = 0 if meaning.spec.kind == "regression" else len(meaning.table)
        splits = split_cases(cases, training.hold_out_every)
        self.splits = looked_at(splits, classes, plan.planes, plan.network.dimensions, plan.device)
        for said in dict.fromkeys(split.said for split in self.splits):
            tell.note(said)
        device = plan.device
        self.fabric = open_fabric(device, training.devices)
        everything = [case.labels for case in cases]
        first = [split.training for split in self.splits]
        held_out = [split.validation for split in self.splits]
        self.known = everything if training.refit else first
        generator = torch.Generator().manual_seed(training.seed)
        self.network = build(plan.network, plan.channels, plan.outputs, generator=generator)
        self.loss = make_loss(plan.config.loss, meaning, self.known, self.network)
        self.fresh = run.length is None
        if self.fresh and earlier is None:
            found = take_encoder(self.network, plan, tell)  # the last that may be refused: then an old run goes
            self.run.record |= found
        self.run.begin(plan, meaning, self.splits, leads=self.fabric.is_global_zero)
        self._keep_start()
        self.preview = LivePreview(run.folder, cases[0], self.table, plan, budget.started, tell)
        self.guided = self._guide(first, everything, refit=training.refit and any(held_out))
        seen, self.shown = (cases, cases) if not self.guided else (self.guided[0].cases, self.guided[-1].cases)
        self.held = HeldOut(
            seen,
            held_out,
            meaning,
            exact(device),
            plan.config.inference,
            planes=plan.planes,
            patch=plan.patch,
            current=training.batch_statistics == "current",
        )
        cut = PatchCutter(plan.patch, plan.geometry.margin, plan.config.augment, plan.planes)
        cutting = choose_cutting(plan, cases, self.fabric.device, self.fabric.world_size)
        self.workers, images = cutting.workers, cutting.images(cases)
        self.all_patches = patch_dataset(cases, everything, cut, training.seed, images)
        self.patches = patch_dataset(cases, first, cut, training.seed, images)
        shares = self.guided[-1].shares if self.guided else None
        self.end = StageEnd(
            self.held, meaning, plan.config.loss, self.known, earlier, tell, guided=bool(self.guided), shares=shares
        )
        self._tell_shares(shares)
        self.classifier_score: BaselineScore | None = None
        self.length = run.length or Length(0, 0)
        if self.guided:
            self.classifier_score = score_baseline(PixelChannels(seen), cases, self.splits, meaning)
            self._early_preview(0, self.shown[0].logs, logs=True)
            self.preview = LivePreview(run.folder, self.shown[0], self.table, plan, budget.started, tell)

    def _guide(self, first: list[SparseLabels], everything: list[SparseLabels], *, refit: bool) -> list[Guided]:
        """The cases with a pixel classifier's channels: made of the labels that train now, then of all of them.

        Both are the same where nothing is held out, or is not given back; none where there is no classifier.
        """
        if not self.plan.classifier:
            return []
        known = [first, everything] if refit else [first]
        return guide(self.cases, known, self.plan.config, len(self.table), on_first_stage=self._early_preview)

    def _tell_shares(self, shares: NDArray[np.float64] | None) -> None:
        """Say how much of the scans every class is thought to cover, where strokes were drawn."""
        if shares is not None:
            self.run.record["class_shares"] = shares.tolist()
            found = ", ".join(f"{n} {100 * p:.2g} %" for n, p in zip(self.table.names[:12], shares, strict=False))
            more = " …" if len(shares) > 12 else ""
            self.tell.note(f"strokes do not tell how much of a scan a class covers; it looks like {found}{more}")

    def go(self, resuming: bool) -> TrainResult:
        """Fit, measure, save."""
        network, loss = self.network, self.loss
        self.held.factors = self.end.factors(network)
        state: TrainingState | None = None
        if resuming and not any(self.run.checkpoints.glob("checkpoint-*.json")):  # none was finished
            self.run.forget_judgements()
            self.tell.note(f"resuming {self.run.folder} from the beginning: it was stopped before its first checkpoint")
        elif resuming:
            state = load_checkpoint(self.run.checkpoints)
            self.end.read(self.run.record)
            self.held.scores = self.run.scores_until(state.iteration, self.held)
            self.tell.note(f"resuming {self.run.folder} after iteration {state.iteration}")
        if state is None and self.earlier is not None:
            self.earlier.begin(network)
            self.run.record |= tell_what_is_new(self.earlier, self.cases, self.meaning, self.plan, self.tell)
        elif state is None and not self.fresh:
            self.run.record |= take_encoder(network, self.plan, self.tell)
        self.length = length = self.run.length or agree(
            self.budget.length(network, self.patches, loss, self._settings(1), self.fabric, self.held, self.tell),
            self.fabric,
        )
        iterations = length.iterations
        stages = make_stages(self.plan, length, self.patches, self.all_patches, held=bool(self.held))
        self.run.start(length, leads=self.fabric.is_global_zero)
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
                validate=self._validate if self.held else None,
                on_log=out.log if out is not None else lambda _row: None,
                on_checkpoint=lambda kept: save_checkpoint(self.run.checkpoints, kept),
                on_validated_stage=self._validated_stage,
                should_stop=interrupt.asked,
            )
        stopped = result.stopped or interrupt.asked()  # asked in the last iteration, too: its checkpoint is there
        if stopped or out is None:
            return TrainResult(self.run.folder, None, None, None, stopped, result.state.iteration)
        return self._finish(network, result, stages)

    def _reestimates(self) -> bool:
        return reestimates(self.plan.config.training, self.length.iterations)

    def _settings(self, iterations: int) -> FitSettings:
        return fit_settings(self.plan, iterations, self.workers)

    def _keep_start(self) -> None:
        """What a continued run needs to be taken up again, and what the next one needs to know of this one."""
        fresh = self.plan.config.training.learning_rate if self.earlier is None else self.earlier.rate
        self.run.record["learning_rate_of_fresh_run"] = fresh
        if self.earlier is not None:
            self.run.record["logit_offsets"] = list(self.earlier.offsets)
        if self.fabric.is_global_zero:
            if self.earlier is not None:
                keep_start(self.run.folder, self.earlier)
            report.write_record(self.run.folder, self.run.record)

    def _early_preview(self, number: int, found: Enlarged | None, *, logs: bool = False) -> None:
        """Show what the pixel classifier says of the first scan, in a run that has not trained yet."""
        if found is None or number or self.run.length is not None or not self.fabric.is_global_zero:
            return
        self.preview.show(found, logs=logs)
        if self.preview.path.exists() and "first_preview_seconds" not in self.run.record:
            self.run.record["first_preview_seconds"] = round(self.budget.elapsed(), 1)
            self.tell.note(f"first preview after {self.budget.elapsed():.0f} s: {self.preview.path}")

    def _validate(self, network: torch.nn.Module) -> float:
        value = self.held(network)
        if self.plan.config.training.batch_statistics != "current":
            self._refresh_preview(network)
        return value

    def _refresh_preview(self, network: torch.nn.Module) -> None:
        """Replace the preview by what the model would say now, if there is time for it."""
        if self.spec.kind == "semantic" and self.preview.affordable:
            self.preview.refresh(lambda: self.end.model_now(network))

    def _validated_stage(self, network: torch.nn.Module) -> None:
        """With the best weights, before held-out labels are learned from."""
        if self._reestimates():
            network.to(self.plan.device.name)
            reestimate(network, first_inputs(self.patches, self.plan, self.length.iterations))
        self.run.record |= self.end.measure(network)

    def _finish(self, network: torch.nn.Module, result: FitResult, stages: list[Stage]) -> TrainResult:
        network.load_state_dict(result.weights)
        network.to(self.plan.device.name)
        if self._reestimates():
            reestimate(network, first_inputs(stages[-1].dataset, self.plan, result.state.iteration))
        self.end.shift(network)
        bundle = bundle_of(
            network,
            self.plan,
            self.cases,
            preprocessing=self.preprocessing,
            table=self.table,
            task=self.spec,
            end=self.end,
            classifier=self._classifier(stages),
            provenance=provenance(self.cases, result.state.iteration) | self._encoder_hash(),
        )
        write_painted(self.run.folder, self.cases)
        model = self.run.folder / MODEL_FILE
        bundle.save(model)
        score = self.end.score or max(self.held.scores, key=lambda found: found.value, default=None)
        refitted = len(stages) > 1
        if self.held and stages[-1].dataset is self.patches:
            score = self.end.judge(network.eval())
        shown = self.spec.kind == "semantic" and self.preview.affordable
        if shown:
            self.preview.refresh(lambda: bundle.build(self.plan.device.name))
        before = self._earlier_score(score)
        self.run.finish(score, result.state.iteration, self.budget.elapsed())
        report.curves_png(
            self.run.folder / "curves.png",
            result.history,
            score_name=f"held-out {self.held.quantity}",
            marks=_marks(stages),
        )
        self._preview(bundle, self.preview.indices if shown else None)
        self._report(network, score, before, result.state.iteration, refitted=refitted)
        if score is not None:
            when = ", before they joined the training" if refitted else ""
            when = when if self.earlier is None else f" ({_SEEN_BEFORE})"
            self.tell.note(f"held-out labels{when}: {score.said}")
        return TrainResult(self.run.folder, model, bundle, score, False, result.state.iteration)

    def _earlier_score(self, score: Score | None) -> Score | None:
        """What the earlier model, if there is one, makes of the held-out labels."""
        if self.earlier is None or score is None:
            return None
        held = [split.validation for split in self.splits]
        before = self.earlier.score(self.cases, held, self.meaning, self.plan)
        if before is not None:
            self.run.record["earlier_model_on_held_out"] = vars(before)
            self.tell.note(
                f"held-out labels, before → after: {before.said} → {score.said} (the earlier model had learned from "
                "those of them that were painted then)"
            )
        return before

    def _encoder_hash(self) -> dict[str, str]:
        return {ENCODER: self.run.record[ENCODER]} if ENCODER in self.run.record else {}

    def _classifier(self, stages: list[Stage]) -> PixelClassifier | None:
        """The pixel classifier that has learned from the same labels as the network."""
        if not self.guided:
            return None
        return self.guided[0 if stages[-1].dataset is self.patches else -1].classifier

    def _report(
        self, network: torch.nn.Module, score: Score | None, before: Score | None, iterations: int, *, refitted: bool
    ) -> None:
        """Write `report.md` and what it shows."""
        calibration = self.end.calibration
        if calibration is not None:
            report.reliability_png(self.run.folder / "reliability.png", calibration.before, calibration.final)
        found = [score_interpolation(self.cases, self.splits, self.meaning), self.classifier_score]
        path = report_run(
            self.run.folder,
            self.plan,
            self.cases,
            self.meaning,
            self.splits,
            Outcome(
                score,
                self.end.answers,
                parameter_count(network),
                iterations,
                self.budget.elapsed(),
                refitted=refitted,
                baselines=[one for one in found if one is not None],
                earlier=before,
                calibration=calibration,
                hurried=bool(self.held) and not self.length.validations,
                warnings=[] if self.earlier is None else [f"Scores on held-out labels are too high: {_SEEN_BEFORE}."],
            ),
        )
        self.tell.note(f"report: {path}")

    def _preview(self, bundle: ModelBundle, indices: NDArray[Any] | None) -> None:
        path = self.run.folder / "preview.png"
        training_preview(path, bundle, self.shown[0], exact(self.plan.device), self.plan.config.inference, indices)


def _marks(stages: list[Stage]) -> list[tuple[int, str]]:
    return [(stage.until, "held-out labels join") for stage in stages[:-1]]
