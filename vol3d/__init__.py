"""Dense 3-D segmentation from sparsely annotated volumes.

`train`, `predict`, `evaluate`, `check`, `suggest`, `experiment`, `info` are the verbs; `read` and `load_model` open
what they work on. The parts are importable too: `vol3d.networks.UNet`, `vol3d.transforms`, `vol3d.losses`. Names are
imported when first used, so that `import vol3d` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vol3d.version import __version__

if TYPE_CHECKING:
    from vol3d.bundle import ModelBundle
    from vol3d.io import read
    from vol3d.volume import Affine, LabelTable, SparseLabels, Volume
    from vol3d.workflows.api import check, evaluate, experiment, info, load_model, predict, suggest, train

__all__ = [
    "Affine",
    "LabelTable",
    "ModelBundle",
    "SparseLabels",
    "Volume",
    "__version__",
    "check",
    "evaluate",
    "experiment",
    "info",
    "load_model",
    "predict",
    "read",
    "suggest",
    "train",
]

_HOME = {
    "Affine": "vol3d.volume",
    "LabelTable": "vol3d.volume",
    "ModelBundle": "vol3d.bundle",
    "SparseLabels": "vol3d.volume",
    "Volume": "vol3d.volume",
    "check": "vol3d.workflows.api",
    "evaluate": "vol3d.workflows.api",
    "experiment": "vol3d.workflows.api",
    "info": "vol3d.workflows.api",
    "load_model": "vol3d.workflows.api",
    "predict": "vol3d.workflows.api",
    "read": "vol3d.io",
    "suggest": "vol3d.workflows.api",
    "train": "vol3d.workflows.api",
}
_ROOMS = {"bundle", "config", "errors", "inference", "io", "losses", "metrics", "networks", "report", "samples"} | {
    "sampling",
    "training",
    "transforms",
    "volume",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  one of the names above, or a room
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"vol3d.{name}")
    raise AttributeError(f"module 'vol3d' has no attribute {name!r}")
