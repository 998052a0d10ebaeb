"""Synthetic volumes for the demo and for tests. Arrays only; `io` writes them. NumPy, SciPy, `volume`, `errors`."""

from vol3d.samples.phantom import SPACING_MM, TABLE, UNLABELED, Phantom, kidney, paint
from vol3d.samples.threshold import best_two_threshold_iou

__all__ = ["SPACING_MM", "TABLE", "UNLABELED", "Phantom", "best_two_threshold_iou", "kidney", "paint"]
