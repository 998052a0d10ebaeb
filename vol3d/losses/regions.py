"""What the losses over regions share: how much of each class is there, is predicted, and is both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vol3d.losses.cross_entropy import at_least_float32


@dataclass(frozen=True)
class Regions:
    """Sums over the voxels of every sample, by class; (N, K) except `one_voxel`, which is (N, 1).

    both: Σ weight × probability over the voxels of the class. predicted: Σ weight × probability. truth: Σ weight over
    the voxels of the class. one_voxel: weight of one average voxel with weight, 0 where there is none. included: bool,
    whether the class is present, or predicted more than any other, in a voxel with weight.
    """

    both: Tensor
    predicted: Tensor
    truth: Tensor
    one_voxel: Tensor
    included: Tensor

    def mean_loss(self, score: Tensor) -> Tensor:
        """Mean of 1 − score (N, K) over the classes that are included; (N,), 0 for a sample without weight."""
        return mean_over(1 - score, self.included)


def regions(logits: Tensor, classes: Tensor, weight: Tensor) -> Regions:
    """The sums for logits (N, K, *S), classes int64 (N, *S), each 0…K−1, and weight (N, *S) ≥ 0.

    Probabilities are masked after the softmax, so that a voxel without weight adds nothing to any sum.
    """
    size, count = logits.shape[:2]
    probabilities = torch.softmax(at_least_float32(logits), dim=1).reshape(size, count, -1)
    mask = weight.to(probabilities.dtype).reshape(size, 1, -1)
    truth = torch.zeros_like(probabilities).scatter_(1, classes.reshape(size, 1, -1), mask)
    both = (probabilities * truth).sum(-1)
    voxels = (mask > 0).sum(-1).clamp(min=1)
    return Regions(
        both=both,
        predicted=(probabilities * mask).sum(-1),
        truth=truth.sum(-1),
        one_voxel=mask.sum(-1) / voxels,
        included=present_or_predicted(probabilities, truth, mask),
    )


@torch.no_grad()
def present_or_predicted(probabilities: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Classes that some voxel with weight has, or that are the most probable one in some; bool (N, K).

    probabilities: (N, K, n). truth: (N, K, n), the mask at the voxels of each class. mask: (N, 1, n) ≥ 0.
    """
    winner = torch.zeros_like(probabilities).scatter_(1, probabilities.argmax(1, keepdim=True), mask)
    return (truth.sum(-1) > 0) | (winner.sum(-1) > 0)


def mean_over(lost: Tensor, included: Tensor) -> Tensor:
    """Mean of (N, K) over the classes included; (N,), 0 where none is."""
    return torch.where(included, lost, 0).sum(1) / included.sum(1).clamp(min=1)
