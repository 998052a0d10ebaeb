"""How a prepared volume is tiled for a network, on a device, within the memory that is free."""

from __future__ import annotations

from typing import Any

from vol3d.config import InferenceConfig
from vol3d.inference import TilePlan, bytes_per_voxel, plan_for
from vol3d.workflows.device import Device, memory_bytes

Triple = tuple[int, int, int]


def tile_plan(
    network: Any,  # noqa: ANN401  any module that states its margin, stride and input sizes
    shape: Triple,
    device: Device,
    settings: InferenceConfig,
) -> TilePlan:
    """Tiles for a volume of `shape` (X, Y, Z); settings.tile, overlap and max_memory_gb are obeyed.

    Raises `ModelError` for a tile the network cannot take, `ResourceError` where not even the smallest tile fits.
    """
    demand = bytes_per_voxel(network, in_channels=network.in_channels, precision=device.precision)
    limit = memory_bytes(device, settings.max_memory_gb)
    host = memory_bytes(Device("cpu"), settings.max_memory_gb) if device.is_gpu else None
    return plan_for(
        network,
        shape,
        memory_bytes=limit,
        bytes_per_voxel=demand,
        tile=settings.tile,
        overlap=settings.overlap,
        host_memory_bytes=host,
    )
