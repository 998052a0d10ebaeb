"""The training loss: weighted softmax cross-entropy over labeled voxels, optionally with soft Dice."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from vol3d.errors import ConfigError, GeometryError
from vol3d.losses.cross_entropy import weighted_cross_entropy
from vol3d.losses.dice import soft_dice


class SparseLoss(nn.Module):
    """Σ w · cross-entropy / total, with w = class weight × voxel weight; 0 where nobody annotated.

    class_weights: (K,) ≥ 0. dice: weight of the soft Dice term beside cross-entropy's 1; 0 leaves it out. Each
    sample's Dice term counts with the sample's share of the total, so that the whole loss is a sum over samples: any
    split of a batch into micro-batches or over processes, with the joint total, has the same loss and gradient.

    Source: weighted softmax loss of the 3D U-Net (Çiçek et al. 2016).
    """

    class_weights: Tensor

    def __init__(self, class_weights: Tensor | ArrayLike, dice: float = 0.0) -> None:
        super().__init__()
        weights = torch.as_tensor(class_weights, dtype=torch.float32).clone()
        if weights.ndim != 1 or not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()) or dice < 0:
            raise ConfigError(
                f"expected one finite weight ≥ 0 per class and a Dice weight ≥ 0, found {weights.tolist()} and {dice}"
            )
        self.register_buffer("class_weights", weights, persistent=False)
        self.dice = dice

    def weights(self, classes: Tensor, weight: Tensor) -> Tensor:
        """Class weight × voxel weight; float32 (N, *S), exactly 0 where `weight` is 0.

        classes: integers (N, *S), 0…K−1 where weight > 0, anything elsewhere. weight: (N, *S) ≥ 0.
        """
        return self._of_class(_settled(classes, weight)) * weight.float()

    def forward(self, logits: Tensor, classes: Tensor, weight: Tensor, total: Tensor | None = None) -> Tensor:
        """The loss, a scalar in float32 (float64 for float64 logits).

        logits: floating point (N, K, *S). classes, weight: as in `weights`. total: sum of `weights` over everything
        that one optimisation step sees (micro-batches, processes); None: over this batch alone. Without any weight
        the loss is a finite 0 and so is its gradient. Raises `GeometryError` where shapes differ.
        """
        expected = (logits.shape[0], *logits.shape[2:])
        if classes.shape != expected or weight.shape != expected or logits.shape[1] != len(self.class_weights):
            raise GeometryError(
                f"expected logits (N, {len(self.class_weights)}, *S) and classes and weight (N, *S), found "
                f"{tuple(logits.shape)}, {tuple(classes.shape)} and {tuple(weight.shape)}"
            )
        settled = _settled(classes, weight)
        weight = weight.float()
        weights = self._of_class(settled) * weight
        total = weights.sum() if total is None else total.to(weights.device)
        loss = weighted_cross_entropy(logits, settled, weights)
        if self.dice:
            share = weights.flatten(1).sum(1)
            loss = loss + self.dice * (share * soft_dice(logits, settled, weight)).sum()
        return loss / torch.where(total > 0, total, 1)

    def _of_class(self, classes: Tensor) -> Tensor:
        return self.class_weights.to(classes.device)[classes]


def _settled(classes: Tensor, weight: Tensor) -> Tensor:
    """Classes as int64 with 0 wherever the weight is 0: what stands there can then have no influence."""
    return torch.where(weight > 0, classes.long(), 0)
