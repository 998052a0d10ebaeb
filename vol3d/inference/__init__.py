"""Tiles, network, blend: a volume in, class probabilities out, slab by slab. Knows torch; imports `transforms.crop`.

`planning`, `tiles`, `axes` and `budget` are plain arithmetic: how a volume will be tiled can be planned without
torch. Whatever needs torch is therefore imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vol3d.inference.budget import Budget
from vol3d.inference.planning import plan_axes, plan_for, plan_tiles
from vol3d.inference.tiles import Tile, TiledNetwork, TilePlan

if TYPE_CHECKING:
    from vol3d.inference.average import predict_axes
    from vol3d.inference.flips import predict_flips
    from vol3d.inference.footprint import bytes_per_voxel
    from vol3d.inference.predict import predict_slabs
    from vol3d.inference.uncertainty import (
        Member,
        UncertaintySlab,
        normalized_entropy,
        predict_uncertainty,
    )
    from vol3d.inference.whole import whole_pass

__all__ = [
    "Budget",
    "Member",
    "Tile",
    "TilePlan",
    "TiledNetwork",
    "UncertaintySlab",
    "bytes_per_voxel",
    "normalized_entropy",
    "plan_axes",
    "plan_for",
    "plan_tiles",
    "predict_axes",
    "predict_flips",
    "predict_slabs",
    "predict_uncertainty",
    "whole_pass",
]

_HOME = {
    "Member": "uncertainty",
    "UncertaintySlab": "uncertainty",
    "bytes_per_voxel": "footprint",
    "normalized_entropy": "uncertainty",
    "predict_axes": "average",
    "predict_flips": "flips",
    "predict_slabs": "predict",
    "predict_uncertainty": "uncertainty",
    "whole_pass": "whole",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  one of the names above
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
