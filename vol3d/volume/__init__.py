"""Volumes, geometry and labels: the nouns every other room speaks in. Imports numpy and `errors` only."""

from vol3d.volume.affine import Affine, Orientation
from vol3d.volume.box import Box
from vol3d.volume.codes import replaced, value_counts
from vol3d.volume.labels import LabelClass, LabelTable, SparseLabels, default_color, is_background
from vol3d.volume.slab import Slab
from vol3d.volume.volume import StoredForms, Volume

__all__ = [
    "Affine",
    "Box",
    "LabelClass",
    "LabelTable",
    "Orientation",
    "Slab",
    "SparseLabels",
    "StoredForms",
    "Volume",
    "default_color",
    "is_background",
    "replaced",
    "value_counts",
]
