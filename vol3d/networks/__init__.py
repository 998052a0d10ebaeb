"""Networks, one paper per file; dimension is data. Imports torch, `config` and `errors`.

`geometry` is plain Python: what sizes a network takes and gives can be planned without torch. Whatever needs torch is
therefore imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vol3d.networks.build import build, initialise
from vol3d.networks.geometry import NetworkGeometry, network_geometry

if TYPE_CHECKING:
    from vol3d.networks.batch_statistics import current_statistics, reestimate, use_current_statistics
    from vol3d.networks.counting import activation_values, flops, paper_parameter_count, parameter_count
    from vol3d.networks.unet import UNet

__all__ = [
    "NetworkGeometry",
    "UNet",
    "activation_values",
    "build",
    "current_statistics",
    "flops",
    "initialise",
    "network_geometry",
    "paper_parameter_count",
    "parameter_count",
    "reestimate",
    "use_current_statistics",
]

_HOME = {
    "UNet": "unet",
    "activation_values": "counting",
    "flops": "counting",
    "paper_parameter_count": "counting",
    "parameter_count": "counting",
    "current_statistics": "batch_statistics",
    "reestimate": "batch_statistics",
    "use_current_statistics": "batch_statistics",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  one of the names above
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
