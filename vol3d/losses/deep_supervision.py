"""One loss on every output of a network that answers at several depths (Lee et al. 2015, arXiv 1409.5185)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from vol3d.errors import ConfigError
from vol3d.losses.regression import RegressionLoss
from vol3d.losses.sparse import SparseLoss


class DeepSupervision(nn.Module):
    """Σ wᵢ · lossᵢ / Σ wᵢ over the outputs of a network; of a single output, the loss itself.

    loss: what every output is compared by. weights: wᵢ ≥ 0 of the outputs, the final one first and > 0. Where there
    are more weights than outputs the first ones count, and sum to 1 all the same.
    """

    def __init__(self, loss: SparseLoss | RegressionLoss, weights: Sequence[float]) -> None:
        super().__init__()
        usable = all(math.isfinite(w) and w >= 0 for w in weights)
        if not (weights and usable and weights[0] > 0):
            raise ConfigError(
                "expected one finite deep supervision weight ≥ 0 per output, the first (the final output's) > 0, "
                f"found {list(weights)}"
            )
        self.loss = loss
        self.output_weights = tuple(float(w) for w in weights)

    def weights(self, target: Tensor, weight: Tensor) -> Tensor:
        """Weight of every voxel, float32 (N, *S), as the wrapped loss gives it; the same for all outputs."""
        return self.loss.weights(target, weight)

    def forward(
        self, outputs: Tensor | Sequence[Tensor], target: Tensor, weight: Tensor, total: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar.

        outputs: one output as the wrapped loss takes it, or a list or tuple of outputs of one shape, the final one
        first. target, weight, total: as the wrapped loss takes them. Raises `ConfigError` where there are more
        outputs than weights, or none.
        """
        if isinstance(outputs, Tensor):
            outputs = (outputs,)
        if not 1 <= len(outputs) <= len(self.output_weights):
            raise ConfigError(
                f"expected 1 to {len(self.output_weights)} outputs of the network, one per deep supervision weight, "
                f"found {len(outputs)}: give as many weights as the network has outputs"
            )
        used = self.output_weights[: len(outputs)]
        first, *others = (self.loss(output, target, weight, total) for output in outputs)
        value: Tensor = first if not others else first * (used[0] / sum(used))
        for share, loss in zip(used[1:], others, strict=True):
            value = value + loss * (share / sum(used))
        return value
