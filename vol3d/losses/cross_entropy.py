"""Softmax cross-entropy with a weight per voxel (3D U-Net, section 2.2: unlabeled voxels weigh 0)."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_cross_entropy(logits: Tensor, classes: Tensor, weight: Tensor) -> Tensor:
    """Sum over all voxels of weight × −log softmax(logits)[class]; a scalar, not yet divided by anything.

    logits: floating point (N, K, *S), computed in float32 (float64 stays). classes: int64 (N, *S), each 0…K−1; the
    class where the weight is 0 has no influence. weight: (N, *S) ≥ 0.
    """
    log_probabilities = torch.log_softmax(at_least_float32(logits), dim=1)
    surprise = -log_probabilities.gather(1, classes.unsqueeze(1)).squeeze(1)
    return (surprise * weight).sum()


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision → float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
