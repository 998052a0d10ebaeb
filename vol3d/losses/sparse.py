"""The training loss: weighted cross-entropy, focal loss and terms over regions, all over labeled voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from vol3d.errors import ConfigError, GeometryError
from vol3d.losses.cross_entropy import weighted_cross_entropy
from vol3d.losses.dice import soft_dice
from vol3d.losses.focal_loss import focal_loss
from vol3d.losses.iou import lovasz_softmax, soft_iou
from vol3d.losses.ms_ssim import ms_ssim


class SparseLoss(nn.Module):
    """Σ w · cross-entropy / total, with w = class weight × voxel weight; 0 where nobody annotated.

    class_weights: (K,) ≥ 0. cross_entropy, focal: weights of the terms over voxels. dice, iou, lovasz, ms_ssim:
    weights of the terms over regions. A term of weight 0 is left out; one weight at least is positive. focal_gamma:
    the focal loss's exponent, ≥ 0. UNet 3+'s loss is focal = ms_ssim = iou = 1 without cross-entropy.

    Each sample's region terms count with the sample's share of the total, so that the whole loss is a sum over
    samples: any split of a batch into micro-batches or over processes, with the joint total, has the same loss and
    gradient. Class weights act within the terms over voxels and within that share.

    sets: class indices of each of M sets. A voxel whose class is given as K + s is only known to be of one of the
    classes of set s: −log Σ p over them is its cross-entropy (see `log_probability`), 1 − Σ p is what the focal loss
    takes to a power, and it has no part in the terms over regions, nor in a sample's share. set_weights: (M,) ≥ 0, in
    the place of a class weight; None: all 1.

    Source: weighted softmax loss of the 3D U-Net (Çiçek et al. 2016); the other terms name theirs.
    """

    class_weights: Tensor
    index_weights: Tensor

    def __init__(  # noqa: PLR0913  a weight for every term
        self,
        class_weights: Tensor | ArrayLike,
        dice: float = 0.0,
        *,
        cross_entropy: float = 1.0,
        focal: float = 0.0,
        focal_gamma: float = 2.0,
        iou: float = 0.0,
        lovasz: float = 0.0,
        ms_ssim: float = 0.0,
        sets: Sequence[Sequence[int]] = (),
        set_weights: Tensor | ArrayLike | None = None,
    ) -> None:
        super().__init__()
        weights = _weights_of(class_weights, "class")
        self.sets = tuple(tuple(int(k) for k in members) for members in sets)
        of_sets = _weights_of(torch.ones(len(self.sets)) if set_weights is None else set_weights, "set")
        for members in self.sets:
            if len(set(members)) != len(members) or len(members) < 2 or not set(members) <= set(range(len(weights))):
                raise ConfigError(f"expected sets of two or more of {len(weights)} classes, found {list(members)}")
        if len(of_sets) != len(self.sets):
            raise ConfigError(f"expected one weight for each of {len(self.sets)} sets, found {of_sets.tolist()}")
        terms = {
            "cross-entropy": cross_entropy,
            "focal loss": focal,
            "Dice": dice,
            "IoU": iou,
            "Lovász": lovasz,
            "MS-SSIM": ms_ssim,
        }
        usable = all(math.isfinite(value) and value >= 0 for value in (*terms.values(), focal_gamma))
        if not (usable and any(terms.values())):
            found = ", ".join(f"{name} {value}" for name, value in terms.items())
            raise ConfigError(
                f"expected finite weights ≥ 0 of the loss terms, at least one of them > 0, and a focal gamma ≥ 0, "
                f"found {found} and gamma {focal_gamma}"
            )
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("index_weights", torch.cat([weights, of_sets]), persistent=False)
        self.cross_entropy, self.focal, self.focal_gamma = cross_entropy, focal, focal_gamma
        self.dice, self.iou, self.lovasz, self.ms_ssim = dice, iou, lovasz, ms_ssim

    def weights(self, classes: Tensor, weight: Tensor) -> Tensor:
        """Class (or set) weight × voxel weight; float32 (N, *S), exactly 0 where `weight` is 0.

        classes: integers (N, *S), 0…K+M−1 where weight > 0, anything elsewhere. weight: (N, *S) ≥ 0.
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
        loss = sum(
            (*self._voxel_terms(logits, settled, weights), *self._region_terms(logits, settled, weight, weights))
        )
        return loss / torch.where(total > 0, total, 1)

    def _voxel_terms(self, logits: Tensor, classes: Tensor, weights: Tensor) -> list[Tensor]:
        """Scalars: terms that are sums over voxels."""
        terms = []
        if self.cross_entropy:
            terms.append(self.cross_entropy * weighted_cross_entropy(logits, classes, weights, self.sets))
        if self.focal:
            terms.append(self.focal * focal_loss(logits, classes, weights, self.focal_gamma, self.sets))
        return terms

    def _region_terms(self, logits: Tensor, classes: Tensor, weight: Tensor, weights: Tensor) -> list[Tensor]:
        """Scalars: sums over samples, each with its share."""
        if self.sets:
            certain = classes < len(self.class_weights)
            classes, weight, weights = (torch.where(certain, part, 0) for part in (classes, weight, weights))
        share = weights.flatten(1).sum(1)
        terms = (
            (self.dice, soft_dice),
            (self.iou, soft_iou),
            (self.lovasz, lovasz_softmax),
            (self.ms_ssim, ms_ssim),
        )
        return [factor * (share * term(logits, classes, weight)).sum() for factor, term in terms if factor]

    def _of_class(self, classes: Tensor) -> Tensor:
        return self.index_weights.to(classes.device)[classes]


def _settled(classes: Tensor, weight: Tensor) -> Tensor:
    """Classes as int64 with 0 wherever the weight is 0: what stands there can then have no influence."""
    return torch.where(weight > 0, classes.long(), 0)


def _weights_of(given: Tensor | ArrayLike, what: str) -> Tensor:
    weights = torch.as_tensor(given, dtype=torch.float32).clone()
    if weights.ndim != 1 or not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ConfigError(f"expected one finite weight ≥ 0 per {what}, found {weights.tolist()}")
    return weights
