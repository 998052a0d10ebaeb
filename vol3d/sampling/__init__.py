"""Where to look, what validates, and the patches cut there. Imports NumPy, `volume` and `errors` only."""

from vol3d.sampling.centres import LabeledVoxels
from vol3d.sampling.dataset import PatchDataset
from vol3d.sampling.holdout import HoldOut, hold_out, painted_slices
from vol3d.sampling.regions import Region, regions_around, whole_region, with_whole_slices

__all__ = [
    "HoldOut",
    "LabeledVoxels",
    "PatchDataset",
    "Region",
    "hold_out",
    "painted_slices",
    "regions_around",
    "whole_region",
    "with_whole_slices",
]
