"""Several processes that train one network: who leads, and how they are started."""

from __future__ import annotations

import os

import lightning_fabric

from vol3d.errors import ConfigError
from vol3d.workflows.budget import Length
from vol3d.workflows.device import Device

_PRECISION = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def leads() -> bool:
    """Whether this process is the one that talks and writes; the others are started by it and follow."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("RANK", "0")) == 0


def open_fabric(device: Device, processes: int) -> lightning_fabric.Fabric:
    """Fabric for `processes` devices of the kind of `device`, launched where there are several.

    Several processes start the same command line again, once per further device. Raises `ConfigError` where a single
    GPU was named but several processes are asked for.
    """
    if processes > 1 and device.is_gpu and device.name != "cuda:0":
        raise ConfigError(f"training.devices: {processes} devices begin at cuda:0; found device {device.name}")
    alone = [int(device.name.partition(":")[2] or 0)] if device.is_gpu else 1
    fabric = lightning_fabric.Fabric(
        accelerator="cuda" if device.is_gpu else "cpu",
        devices=alone if processes == 1 else processes,
        strategy="auto" if processes == 1 else "ddp",
        precision=_PRECISION[device.precision],
    )
    if processes > 1:
        fabric.launch()
    return fabric


def agree(length: Length, fabric: lightning_fabric.Fabric) -> Length:
    """The leading process's length of the run, on every process."""
    if fabric.world_size == 1:
        return length
    return Length(int(fabric.broadcast(length.iterations, src=0)), int(fabric.broadcast(length.validations, src=0)))
