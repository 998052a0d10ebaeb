"""Losses over the labeled voxels only. Imports torch, SciPy and `errors`.

The law of this room: what stands under an unlabeled voxel changes neither the loss nor its gradient, bit for bit.
"""

from vol3d.losses.border_weights import border_weights
from vol3d.losses.class_weights import class_weights
from vol3d.losses.cross_entropy import weighted_cross_entropy
from vol3d.losses.deep_supervision import DeepSupervision
from vol3d.losses.dice import soft_dice
from vol3d.losses.focal_loss import focal_loss
from vol3d.losses.iou import lovasz_softmax, soft_iou
from vol3d.losses.ms_ssim import ms_ssim
from vol3d.losses.regression import RegressionLoss
from vol3d.losses.sparse import SparseLoss

__all__ = [
    "DeepSupervision",
    "RegressionLoss",
    "SparseLoss",
    "border_weights",
    "class_weights",
    "focal_loss",
    "lovasz_softmax",
    "ms_ssim",
    "soft_dice",
    "soft_iou",
    "weighted_cross_entropy",
]
