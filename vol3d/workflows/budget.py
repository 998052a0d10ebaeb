"""A time budget → an iteration count, fixed once, before the first iteration."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import lightning_fabric
import torch

from vol3d.training import FitSettings, PatchSource, time_steps
from vol3d.workflows.plan import Plan

if TYPE_CHECKING:
    from vol3d.losses import SparseLoss
    from vol3d.workflows.validation import HeldOut

REESTIMATION_BATCHES = 40
_TIMED_STEPS = 5
_CLOSING_SECONDS = 4.0
_FORWARD_SHARE = 0.4  # of an optimisation step's time; what a pass without gradients takes


class Budget:
    """Counts from `started` (time.monotonic) to the end of the run: reading, validation, refit and saving included."""

    def __init__(self, plan: Plan, started: float) -> None:
        self._plan = plan
        self._started = started

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started

    def iterations(
        self,
        network: torch.nn.Module,
        patches: PatchSource,
        loss: SparseLoss,
        settings: FitSettings,
        fabric: lightning_fabric.Fabric,
        held: HeldOut,
    ) -> int:
        """As configured, or as many as fit into what is left of the time budget; at least 1."""
        training = self._plan.config.training
        if training.iterations is not None:
            return training.iterations
        if training.time_budget_s is None:
            raise AssertionError("a plan has iterations or a time budget")
        step = time_steps(network, patches, loss, settings, fabric, _TIMED_STEPS)
        validation = 0.0
        if held:
            begin = time.monotonic()
            network.to(self._plan.device.name).eval()
            held.score(network)
            network.train()
            validation = time.monotonic() - begin
        passes = REESTIMATION_BATCHES * _FORWARD_SHARE * step if training.batch_statistics == "reestimate" else 0.0
        reserve = _CLOSING_SECONDS + passes + validation * (training.validations + 1)
        return max(1, int((training.time_budget_s - self.elapsed() - reserve) / step))
