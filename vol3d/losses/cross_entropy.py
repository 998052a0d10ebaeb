"""Softmax cross-entropy with a weight per voxel (3D U-Net, section 2.2: unlabeled voxels weigh 0)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Sets = Sequence[Sequence[int]]


def weighted_cross_entropy(logits: Tensor, classes: Tensor, weight: Tensor, sets: Sets = ()) -> Tensor:
    """Sum over all voxels of weight × −log softmax(logits)[class]; a scalar, not yet divided by anything.

    logits: floating point (N, K, *S), computed in float32 (float64 stays). classes: int64 (N, *S), each 0…K−1, or
    K + s for set s; the class where the weight is 0 has no influence. weight: (N, *S) ≥ 0. sets: as `log_probability`
    takes them.
    """
    return (-log_probability(logits, classes, sets) * weight).sum()


def log_probability(logits: Tensor, classes: Tensor, sets: Sets = ()) -> Tensor:
    """Logarithm of softmax(logits)[class], or of its sum over the classes of a set, at every voxel; (N, *S).

    logits: floating point (N, K, *S). classes: int64 (N, *S), each 0…K−1, or K + s for a voxel only known to be of one
    of the classes in sets[s]: its marginal likelihood.
    Source of the latter: the marginal loss of Shi et al. 2021, arXiv 2007.03868; target-adaptive loss of Fang & Yan
    2020, arXiv 2001.00208.
    """
    found = torch.log_softmax(at_least_float32(logits), dim=1)
    if sets:
        channels = found.unbind(1)
        sums = [torch.stack([channels[k] for k in members]).logsumexp(0) for members in sets]
        found = torch.cat([found, torch.stack(sums, dim=1)], dim=1)
    return found.gather(1, classes.unsqueeze(1)).squeeze(1)


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision → float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
