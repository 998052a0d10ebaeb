"""Objects told apart: what a network learns from instance labels, and objects from what it predicts.

Pure functions on arrays. Imports NumPy, SciPy, scikit-image, cc3d, `volume` and `errors`. What needs only NumPy is
imported at once, the rest when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vol3d.instances.panoptic import join, split
from vol3d.instances.rules import InstanceRules, ResolvedRules
from vol3d.instances.scheme import DIVISOR, InstanceScheme, Output, SemanticClass

if TYPE_CHECKING:
    from vol3d.instances.targets import encode
    from vol3d.instances.watershed import instances_from

__all__ = [
    "DIVISOR",
    "InstanceRules",
    "InstanceScheme",
    "Output",
    "ResolvedRules",
    "SemanticClass",
    "encode",
    "instances_from",
    "join",
    "split",
]

_HOME = {"encode": "targets", "instances_from": "watershed"}


def __getattr__(name: str) -> Any:  # noqa: ANN401  one of the names above
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
