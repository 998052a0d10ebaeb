"""A time budget → an iteration count, fixed once, before the first iteration."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lightning_fabric
import torch

from vol3d.training import FitSettings, PatchSource, time_steps
from vol3d.workflows.baselines import interpolation_seconds
from vol3d.workflows.batch_statistics import batches, reestimates
from vol3d.workflows.listener import Listener
from vol3d.workflows.live_preview import PREVIEW_SHARE
from vol3d.workflows.plan import Plan
from vol3d.workflows.preview import predicted_voxels

if TYPE_CHECKING:
    from vol3d.workflows.objective import AnyLoss
    from vol3d.workflows.validation import HeldOut

_TIMED_STEPS, _TIMED_SECONDS, _TIMED_SHARE = 5, 4.0, 0.02
_VALIDATION_SHARE = 0.2  # of a time budget, at most
_FEW = 50
CLOSING_SECONDS = 6.0
_FORWARD_SHARE = 0.4  # of an optimisation step's time; what a pass without gradients takes


@dataclass(frozen=True)
class Length:
    """How long a run is: iterations in all, and how many validations before the refit."""

    iterations: int
    validations: int


def _again(iterations: int) -> float:
    """How many steps as much time takes as measuring BatchNorm's statistics at the end of both stages."""
    return 2 * batches(iterations) * _FORWARD_SHARE


class Budget:
    """Counts from `started` (time.monotonic) to the end of the run: reading, validation, refit and saving included.

    shapes: of the prepared scans; the first is the one that is shown.
    """

    def __init__(self, plan: Plan, started: float, shapes: Sequence[tuple[int, int, int]]) -> None:
        self._plan, self._shapes = plan, shapes
        self.started = started

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def length(
        self,
        network: torch.nn.Module,
        patches: PatchSource,
        loss: AnyLoss,
        settings: FitSettings,
        fabric: lightning_fabric.Fabric,
        held: HeldOut,
        tell: Listener,
    ) -> Length:
        """As configured, or as many iterations as fit into what is left of the time budget; at least 1.

        Validations are left out where they would take more than a fifth of it. Warns where few iterations are left.
        """
        training = self._plan.config.training
        if training.iterations is not None:
            return Length(training.iterations, training.validations)
        if training.time_budget_s is None:
            raise AssertionError("a plan has iterations or a time budget")
        timed = min(_TIMED_SECONDS, _TIMED_SHARE * training.time_budget_s)
        step = time_steps(network, patches, loss, settings, fabric, _TIMED_STEPS, least_seconds=timed)
        validation = 0.0
        if held:
            network.to(self._plan.device.name).eval()
            begin = time.monotonic()
            held.score(network)
            validation = time.monotonic() - begin
            network.train()
        left = training.time_budget_s - self.elapsed() - CLOSING_SECONDS - self._showing(step, compared=bool(held))
        validations = training.validations
        if validation > 0:
            validations = min(validations, int(_VALIDATION_SHARE * max(left, 0) / validation))
        if training.validations and validation > 0 and not validations:
            tell.warn(
                f"looking at what is held out takes {validation:.2g} s each time, too long for "
                f"{training.time_budget_s:g} s: all labels train from the beginning, and there will be no score; allow "
                "more time for one"
            )
        left *= 1 - PREVIEW_SHARE
        left -= validation * (validations + 3) if validations else 0.0  # score, calibration, pictures
        iterations = max(1, int(left / step))
        while iterations > 1 and reestimates(training, iterations) and iterations + _again(iterations) > left / step:
            iterations -= 1
        if iterations < _FEW:
            classifier = "it is the pixel classifier that will be seen"
            poor = classifier if self._plan.classifier else "the labels will be poor"
            tell.warn(
                f"only {iterations} iteration{'s'[: iterations > 1]} of {step:.2g} s fit into "
                f"{training.time_budget_s:g} s; {poor}: allow more time, or a smaller patch or network"
            )
        return Length(iterations, validations)

    def _showing(self, step: float, *, compared: bool) -> float:
        """Seconds for what grows with the scans at the end: the picture, and interpolation to compare with."""
        plan = self._plan
        forward = _FORWARD_SHARE * step / (plan.batch_size * math.prod(plan.patch))
        shown = forward * predicted_voxels(self._shapes[0], plan.outputs)
        return shown + sum(interpolation_seconds(shape, plan.outputs) for shape in self._shapes if compared)
