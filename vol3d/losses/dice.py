"""Soft Dice over labeled voxels, as Milletari et al. (2016, arXiv 1606.04797) have it but for one term per class.

Its denominator is the sum of probabilities and labels, not of their squares, as in Sudre et al. (2017, arXiv
1707.03237).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vol3d.losses.regions import regions


def soft_dice(logits: Tensor, classes: Tensor, weight: Tensor) -> Tensor:
    """1 − mean soft Dice of every sample; (N,), 0 for a sample without weight.

    logits: floating point (N, K, *S), computed in float32 (float64 stays). classes: int64 (N, *S), each 0…K−1.
    weight: (N, *S) ≥ 0, 0 where nobody annotated.

    Probabilities are masked after the softmax, so that a voxel without weight adds nothing to any sum. The mean of a
    sample goes over the classes, background included, that are present or predicted in its voxels with weight. Both
    sides of a ratio are raised by the weight of one average voxel, so that a class which is predicted but absent still
    has a gradient; scaling all weights changes nothing.
    """
    found = regions(logits, classes, weight)
    either = found.predicted + found.truth
    dice = (2 * found.both + found.one_voxel) / torch.where(found.included, either + found.one_voxel, 1)
    return found.mean_loss(dice)
