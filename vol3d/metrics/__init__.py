"""How good a segmentation is, counted over labeled voxels. Pure functions on arrays. Imports numpy and `errors`."""

from vol3d.metrics.contingency import ClassScore, Contingency
from vol3d.metrics.overlap import dice, iou, precision, recall

__all__ = ["ClassScore", "Contingency", "dice", "iou", "precision", "recall"]
