"""Networks, one paper per file; dimension is data. Imports torch, `config` and `errors`.

`geometry` is plain Python: what sizes a network takes and gives can be planned without torch. Whatever needs torch is
therefore imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vol3d.networks.build import build, expected_tensors, initialise
from vol3d.networks.geometry import NetworkGeometry, network_geometry

if TYPE_CHECKING:
    from vol3d.networks.batch_statistics import (
        current_statistics,
        freeze_statistics,
        reestimate,
        use_current_statistics,
        uses_current_statistics,
    )
    from vol3d.networks.counting import activation_values, flops, paper_parameter_count, parameter_count
    from vol3d.networks.deeplab_v3_plus import DeepLabV3Plus
    from vol3d.networks.encoder_unet import EncoderUNet
    from vol3d.networks.encoder_weights import load_encoder_weights
    from vol3d.networks.fcn import FCN
    from vol3d.networks.log_pool import LogPool
    from vol3d.networks.monai_nets import MonaiNetwork
    from vol3d.networks.network import Network
    from vol3d.networks.pruning import prune
    from vol3d.networks.unet import UNet
    from vol3d.networks.unet3plus import UNet3Plus
    from vol3d.networks.unet_plus_plus import UNetPlusPlus

__all__ = [
    "FCN",
    "DeepLabV3Plus",
    "EncoderUNet",
    "LogPool",
    "MonaiNetwork",
    "Network",
    "NetworkGeometry",
    "UNet",
    "UNet3Plus",
    "UNetPlusPlus",
    "activation_values",
    "build",
    "current_statistics",
    "expected_tensors",
    "flops",
    "freeze_statistics",
    "initialise",
    "load_encoder_weights",
    "network_geometry",
    "paper_parameter_count",
    "parameter_count",
    "prune",
    "reestimate",
    "use_current_statistics",
    "uses_current_statistics",
]

_HOME = {
    "DeepLabV3Plus": "deeplab_v3_plus",
    "EncoderUNet": "encoder_unet",
    "LogPool": "log_pool",
    "MonaiNetwork": "monai_nets",
    "load_encoder_weights": "encoder_weights",
    "FCN": "fcn",
    "Network": "network",
    "UNet": "unet",
    "UNet3Plus": "unet3plus",
    "UNetPlusPlus": "unet_plus_plus",
    "prune": "pruning",
    "activation_values": "counting",
    "flops": "counting",
    "paper_parameter_count": "counting",
    "parameter_count": "counting",
    "current_statistics": "batch_statistics",
    "freeze_statistics": "batch_statistics",
    "reestimate": "batch_statistics",
    "use_current_statistics": "batch_statistics",
    "uses_current_statistics": "batch_statistics",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  one of the names above
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
