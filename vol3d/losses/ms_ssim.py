"""Multi-scale structural similarity between class probabilities and the truth, over labeled voxels.

The term of UNet 3+'s loss that weighs fuzzy boundaries (Huang et al. 2020, arXiv 2004.08790, section 2.3), after Wang,
Simoncelli & Bovik 2003. All local moments are normalised convolutions (Knutsson & Westin 1993): a voxel counts in a
window with its weight, so that neither unlabeled voxels nor what would lie beyond the border of the patch count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vol3d.losses.cross_entropy import at_least_float32
from vol3d.losses.regions import mean_over, present_or_predicted

WINDOW = 7  # voxels along each axis
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first: Wang et al. 2003
LUMINANCE = 0.01**2  # C1 and C2 of the papers, for values from 0 to 1
CONTRAST = 0.03**2
_FLOOR = 0.01


def ms_ssim(logits: Tensor, classes: Tensor, weight: Tensor) -> Tensor:
    """1 − mean multi-scale structural similarity of every sample; (N,), 0 for a sample without weight.

    logits: floating point (N, K, *S) with one, two or three spatial axes, computed in float32 (float64 stays).
    classes: int64 (N, *S), each 0…K−1. weight: (N, *S) ≥ 0, 0 where nobody annotated; scaling it changes nothing.

    For every class the probabilities are compared with the one-hot truth: at each scale the similarity in the window
    around every labeled voxel (`masked_similarity`), its mean with that voxel's weight, and the product of these means
    to the power of `EXPONENTS`, raised to sum 1 over the scales in use. A mean below 0.01 (similarities can be
    negative) goes on as the exponential that touches the power there: positive, and with a gradient. The next scale
    is the weighted mean over blocks of two voxels along each axis. There are as many scales, one to five, as leave
    `WINDOW` voxels along every axis; an axis of one voxel does not count. The mean of a sample goes over the classes
    that are present or predicted in its voxels with weight, as in `soft_dice`.
    """
    size, count = logits.shape[:2]
    spatial = logits.shape[2:]
    probabilities = torch.softmax(at_least_float32(logits), dim=1)
    mask = weight.to(probabilities.dtype).unsqueeze(1)
    largest = mask.flatten(1).amax(1).reshape(size, *[1] * (mask.ndim - 1))
    mask = mask / torch.where(largest > 0, largest, 1)
    labeled = (mask > 0).to(probabilities.dtype)
    truth = torch.zeros_like(probabilities).scatter_(1, classes.unsqueeze(1), labeled)
    included = present_or_predicted(probabilities.flatten(2), truth.flatten(2), labeled.flatten(2))

    scales = scale_count(spatial)
    log = torch.zeros(size, count, dtype=probabilities.dtype, device=probabilities.device)
    for scale in range(scales):
        if scale:
            probabilities, truth, mask = _halve(probabilities, truth, mask)
        total = mask.flatten(2).sum(-1)
        similarity = (masked_similarity(probabilities, truth, mask) * mask).flatten(2).sum(-1)
        mean = similarity / torch.where(total > 0, total, 1)
        log = log + EXPONENTS[scale] / sum(EXPONENTS[:scales]) * _log(mean)
    return mean_over(1 - log.exp(), included)


def scale_count(spatial: tuple[int, ...]) -> int:
    """How many scales a patch has: each next one halves it, rounded up, and keeps `WINDOW` voxels along every axis."""
    extents = [n for n in spatial if n > 1]
    count = 1
    while extents and count < len(EXPONENTS) and all(-(-n // 2**count) >= WINDOW for n in extents):
        count += 1
    return count


def masked_similarity(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Structural similarity in the window around every voxel, from −1 to 1; (N, K, *S), of no meaning without weight.

    first, second: floating point (N, K, *S), values from 0 to 1. weight: (N, 1, *S), 0 to 1: how much a voxel counts
    in the means, the variances and the covariance. The window is a box of `WINDOW` voxels along every axis. Windows
    without any weight have a finite value and no gradient.
    """
    mass = _box(weight)
    mass = torch.where(mass > 0, mass, 1)

    def local(*values: Tensor) -> tuple[Tensor, ...]:
        return (_box(torch.cat(values, 1) * weight) / mass).chunk(len(values), 1)

    mean, square, product = local(first, first * first, first * second)
    other_mean, other_square = local(second, second * second)
    covariance = product - mean * other_mean
    variances = (square - mean * mean) + (other_square - other_mean * other_mean)
    luminance = (2 * mean * other_mean + LUMINANCE) / (mean * mean + other_mean * other_mean + LUMINANCE)
    return luminance * (2 * covariance + CONTRAST) / (variances + CONTRAST)


def _log(values: Tensor) -> Tensor:
    """Logarithm, below `_FLOOR` its tangent there."""
    above = values.clamp(min=_FLOOR)
    return above.log() + (values - above) / _FLOOR


class _Box(torch.autograd.Function):
    """Mean over a centred window along every spatial axis, zeros beyond the border.

    The filter is its own transpose: nothing needs to be kept for the backward pass, which is the same sum on every
    device, in the same order.
    """

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:  # noqa: ANN401  autograd's context, untyped
        for axis in range(2, values.ndim):
            if values.shape[axis] > 1:
                values = _pool(values, axis, WINDOW, 1, WINDOW // 2)
        return values

    @staticmethod
    def backward(_: Any, *gradient: Tensor) -> Tensor:  # noqa: ANN401
        return _box(gradient[0])


def _box(values: Tensor) -> Tensor:
    filtered: Tensor = _Box.apply(values)  # type: ignore[no-untyped-call]
    return filtered


def _halve(first: Tensor, second: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means over blocks of two voxels along each axis, and the mean weight of each block."""
    mass, *parts = (_blocks(values) for values in (weight, first * weight, second * weight))
    below = torch.where(mass > 0, mass, 1)
    return parts[0] / below, parts[1] / below, mass


def _blocks(values: Tensor) -> Tensor:
    for axis in range(2, values.ndim):
        extent = values.shape[axis]
        if extent > 1:
            values = _pool(values, axis, 2, 2, 0, extent % 2)
    return values


def _pool(values: Tensor, axis: int, width: int, step: int, padding: int, behind: int = 0) -> Tensor:
    """Means along one axis; 1-D pooling alone, whose backward pass is deterministic on every device."""
    moved = values.movedim(axis, -1)
    lines = functional.pad(moved.reshape(1, -1, moved.shape[-1]), (0, behind))
    means = functional.avg_pool1d(lines, width, step, padding)
    return means.reshape(*moved.shape[:-1], -1).movedim(-1, axis)
