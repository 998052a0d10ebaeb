"""Losses of the intersection over union (Jaccard index) over labeled voxels: soft IoU and Lovász-softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from vol3d.losses.cross_entropy import at_least_float32
from vol3d.losses.regions import regions


def soft_iou(logits: Tensor, classes: Tensor, weight: Tensor) -> Tensor:
    """1 − mean soft intersection over union of every sample; (N,), 0 for a sample without weight.

    logits: floating point (N, K, *S), computed in float32 (float64 stays). classes: int64 (N, *S), each 0…K−1.
    weight: (N, *S) ≥ 0, 0 where nobody annotated. Masking, the classes of the mean and the weight of one average voxel
    that both sides of a ratio are raised by: as in `soft_dice`.

    Source: Rahman & Wang 2016; the IoU term of UNet 3+ (Huang et al. 2020, arXiv 2004.08790).
    """
    found = regions(logits, classes, weight)
    union = found.predicted + found.truth - found.both
    return found.mean_loss((found.both + found.one_voxel) / torch.where(found.included, union + found.one_voxel, 1))


def lovasz_softmax(logits: Tensor, classes: Tensor, weight: Tensor) -> Tensor:
    """The Lovász extension of 1 − IoU, mean over the classes present, of every sample; (N,), 0 without weight.

    logits: floating point (N, K, *S), computed in float32 (float64 stays). classes: int64 (N, *S), each 0…K−1 where
    the weight is > 0. weight: (N, *S) ≥ 0; it only says which voxels take part (those > 0) and for the rest counts
    for nothing: IoU is a ratio of numbers of voxels, and so is its extension.

    Source: Berman et al. 2018, arXiv 1705.08790; like there, a class that no voxel of the sample has is left out.
    """
    probabilities = torch.softmax(at_least_float32(logits), dim=1)
    samples = zip(probabilities, classes, weight > 0, strict=True)
    return torch.stack([_lovasz(p[:, labeled], c[labeled]) for p, c, labeled in samples])


def _lovasz(probabilities: Tensor, classes: Tensor) -> Tensor:
    """One sample: probabilities (K, n), classes (n,)."""
    codes = torch.arange(len(probabilities), device=classes.device).unsqueeze(1)
    truth = classes == codes
    errors, order = (truth.to(probabilities.dtype) - probabilities).abs().sort(dim=1, descending=True, stable=True)
    truth = truth.gather(1, order)
    size = truth.sum(1, keepdim=True)
    missed = truth.cumsum(1)  # of the class among the i worst voxels: these i are the ones that count as wrong
    lost = 1 - (size - missed) / (size + (~truth).cumsum(1)).to(probabilities.dtype)
    steps = lost.diff(dim=1, prepend=torch.zeros_like(lost[:, :1]))
    present = size.squeeze(1) > 0
    return torch.where(present, (errors * steps).sum(1), 0).sum() / present.sum().clamp(min=1)
