"""Spatial and gray-value augmentation, preprocessing and its undo. Knows torch and MONAI."""
