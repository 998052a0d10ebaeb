"""Losses of a continuous value per voxel, over the voxels where it is known."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vol3d.errors import ConfigError, GeometryError
from vol3d.losses.cross_entropy import at_least_float32

KINDS = ("mae", "mse", "huber")


class RegressionLoss(nn.Module):
    """Σ w · error / total, with w = voxel weight; 0 where the value is unknown, and anything may stand there, NaN too.

    kind: mae: |difference|. mse: difference². huber: difference² / 2 up to delta, beyond it
    delta × (|difference| − delta / 2) (Huber 1964). delta: > 0, in the target's unit; used by huber alone.

    The whole loss is a sum over samples: any split of a batch into micro-batches or over processes, with the joint
    total, has the same loss and gradient.
    """

    def __init__(self, kind: Literal["mae", "mse", "huber"], delta: float = 1.0) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"expected a regression loss of {', '.join(KINDS)}, found {kind!r}")
        if not (math.isfinite(delta) and delta > 0):
            raise ConfigError(f"expected a finite Huber delta > 0, found {delta}")
        self.kind = kind
        self.delta = delta

    def weights(self, target: Tensor, weight: Tensor) -> Tensor:  # noqa: ARG002  every loss is asked in the same way
        """The voxel weight, whatever the target; float32 (N, *S), exactly 0 where `weight` is 0."""
        return weight.float()

    def forward(self, prediction: Tensor, target: Tensor, weight: Tensor, total: Tensor | None = None) -> Tensor:
        """The loss, a scalar in float32 (float64 for a float64 prediction).

        prediction: floating point (N, 1, *S), or (N, C, *S) for C values per voxel, whose errors are averaged.
        target: real (N, *S) for one value per voxel, (N, C, *S) for C. weight: (N, *S) ≥ 0. total: sum of `weights`
        over everything that one optimisation step sees (micro-batches, processes); None: over this batch alone.
        Without any weight the loss is a finite 0 and so is its gradient. Raises `GeometryError` where shapes differ.
        """
        expected = (prediction.shape[0], *prediction.shape[2:])
        if target.ndim == prediction.ndim - 1:
            target = target.unsqueeze(1)
        if target.shape != prediction.shape or weight.shape != expected:
            raise GeometryError(
                "expected a prediction (N, 1, *S) and target and weight (N, *S), or prediction and target (N, C, *S), "
                f"found {tuple(prediction.shape)}, {tuple(target.shape)} and {tuple(weight.shape)}"
            )
        weight = weight.float()
        total = weight.sum() if total is None else total.to(weight.device)
        prediction = at_least_float32(prediction)
        known = (weight > 0).unsqueeze(1)
        error = self._error(torch.where(known, prediction, 0), torch.where(known, target, 0).to(prediction.dtype))
        return (error.mean(1) * weight).sum() / torch.where(total > 0, total, 1)

    def _error(self, prediction: Tensor, target: Tensor) -> Tensor:
        if self.kind == "mae":
            return functional.l1_loss(prediction, target, reduction="none")
        if self.kind == "mse":
            return functional.mse_loss(prediction, target, reduction="none")
        return functional.huber_loss(prediction, target, reduction="none", delta=self.delta)
