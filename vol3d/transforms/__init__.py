"""Spatial and gray-value augmentation, preprocessing and its undo. May import `volume`, `errors`, torch and MONAI.

A patch is cut in one go: draw `SpatialParams`, build one `sampling_grid` for the crop, `resample` once (`cut_patch`).
The MONAI face (`RandSparsePatchd`) and MONAI itself are imported when first asked for.
"""

from typing import TYPE_CHECKING, Any

from vol3d.transforms.boxes import PreparedByBox
from vol3d.transforms.crop import crop
from vol3d.transforms.fields import SpatialAugmentation, linear_part, sampling_grid
from vol3d.transforms.intensity import IntensityAugmentation
from vol3d.transforms.params import SpatialParams
from vol3d.transforms.patch import cut_patch, output_box
from vol3d.transforms.preprocess import PreparedImage, Preprocessing
from vol3d.transforms.resample import resample
from vol3d.transforms.undo import Undo

if TYPE_CHECKING:
    from vol3d.transforms.monai import DrawnPatch, RandSparsePatch, RandSparsePatchd

_LAZY = ("DrawnPatch", "RandSparsePatch", "RandSparsePatchd")

__all__ = [
    "DrawnPatch",
    "IntensityAugmentation",
    "PreparedByBox",
    "PreparedImage",
    "Preprocessing",
    "RandSparsePatch",
    "RandSparsePatchd",
    "SpatialAugmentation",
    "SpatialParams",
    "Undo",
    "crop",
    "cut_patch",
    "linear_part",
    "output_box",
    "resample",
    "sampling_grid",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  a class of the MONAI face
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vol3d.transforms import monai

    return getattr(monai, name)
