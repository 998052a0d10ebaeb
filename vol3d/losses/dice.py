"""Soft Dice over labeled voxels (Milletari et al. 2016, arXiv 1606.04797; here with one term per class)."""

from __future__ import annotations

import torch
from torch import Tensor

from vol3d.losses.cross_entropy import at_least_float32


def soft_dice(logits: Tensor, classes: Tensor, weight: Tensor) -> Tensor:
    """1 − mean soft Dice of every sample; (N,), 0 for a sample without weight.

    logits: floating point (N, K, *S), computed in float32 (float64 stays). classes: int64 (N, *S), each 0…K−1.
    weight: (N, *S) ≥ 0, 0 where nobody annotated.

    Probabilities are masked after the softmax, so that a voxel without weight adds nothing to any sum. The mean of a
    sample goes over the classes, background included, that are present or predicted in its voxels with weight. Both
    sides of a ratio are raised by the weight of one average voxel, so that a class which is predicted but absent still
    has a gradient; scaling all weights changes nothing.
    """
    count, size = logits.shape[1], logits.shape[0]
    probabilities = torch.softmax(at_least_float32(logits), dim=1).reshape(size, count, -1)
    mask = weight.to(probabilities.dtype).reshape(size, 1, -1)
    index = classes.reshape(size, 1, -1)
    truth = torch.zeros_like(probabilities).scatter_(1, index, mask)
    masked = probabilities * mask
    both = (probabilities * truth).sum(-1)
    either = masked.sum(-1) + truth.sum(-1)
    voxels = (mask > 0).sum(-1).clamp(min=1)
    one_voxel = mask.sum(-1) / voxels
    with torch.no_grad():
        winner = torch.zeros_like(probabilities).scatter_(1, probabilities.argmax(1, keepdim=True), mask)
        included = (truth.sum(-1) > 0) | (winner.sum(-1) > 0)
    dice = (2 * both + one_voxel) / torch.where(included, either + one_voxel, 1)
    lost = torch.where(included, 1 - dice, 0)
    return lost.sum(1) / included.sum(1).clamp(min=1)
