"""Losses over the labeled voxels only. Imports torch and `errors`.

The law of this room: what stands under an unlabeled voxel changes neither the loss nor its gradient, bit for bit.
"""

from vol3d.losses.class_weights import class_weights
from vol3d.losses.cross_entropy import weighted_cross_entropy
from vol3d.losses.dice import soft_dice
from vol3d.losses.sparse import SparseLoss

__all__ = ["SparseLoss", "class_weights", "soft_dice", "weighted_cross_entropy"]
