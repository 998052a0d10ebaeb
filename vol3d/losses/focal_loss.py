"""Softmax focal loss: voxels that the network already gets right count less (Lin et al. 2017, arXiv 1708.02002)."""

from __future__ import annotations

import torch
from torch import Tensor

from vol3d.losses.cross_entropy import Sets, log_probability


def focal_loss(logits: Tensor, classes: Tensor, weight: Tensor, gamma: float = 2.0, sets: Sets = ()) -> Tensor:
    """Sum over all voxels of weight × (1 − p)^gamma × −log p, with p = softmax(logits)[class]; a scalar, undivided.

    logits: floating point (N, K, *S), computed in float32 (float64 stays). classes: int64 (N, *S), each 0…K−1, or K + s
    for set s, with p then the sum over its classes; the class where the weight is 0 has no influence. weight: (N, *S)
    ≥ 0; the paper's α belongs in it, as a class weight. gamma: ≥ 0; 0 is `weighted_cross_entropy`. sets: as
    `log_probability` takes them.
    """
    log_p = log_probability(logits, classes, sets)
    # never exactly 0, where the derivative of a power below 1 is infinite
    missing = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    return -(missing.pow(gamma) * log_p * weight).sum()
