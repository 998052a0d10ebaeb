"""One pass over the mirrored whole volume: what tiled prediction is measured against."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vol3d.inference.planning import plan_tiles
from vol3d.inference.predict import predict_slabs
from vol3d.inference.tiles import TiledNetwork


def whole_pass(
    network: nn.Module,
    image: NDArray[Any] | Tensor,
    *,
    planes: int | None = None,
    device: str | torch.device = "cpu",
    precision: str = "float32",
) -> NDArray[Any]:
    """Logits of the whole volume from a single tile; (K, X, Y, Z), float32, float64 from a float64 network.

    image: (C, X, Y, Z), mirrored beyond its border by the network's margin and up to its next valid size. planes: the
    axis across which a 2-D network goes slice by slice; None: Z. Nothing is planned for the memory at hand.
    """
    sized = cast("TiledNetwork", network)
    plan = plan_tiles(
        (int(image.shape[1]), int(image.shape[2]), int(image.shape[3])),
        sized.margin,
        sized.total_stride,
        memory_bytes=math.inf,
        bytes_per_voxel=0.0,
        classes=sized.classes,
        planes=planes,
        smallest=sized.input_size((1,) * len(sized.margin)),
        most_voxels=math.inf,
    )
    slabs = predict_slabs(network, image, plan, device=device, precision=precision, logits=True)
    return np.concatenate([slab.values for slab in slabs], axis=1)
