"""Which device computes, how much memory it may use, in which precision."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vol3d.errors import ConfigError, ResourceError

Precision = Literal["float32", "bf16", "fp16"]
_SHARE = 0.6


@dataclass(frozen=True)
class Device:
    """name: `cpu` or `cuda:0`. precision: of the network's arithmetic."""

    name: str
    precision: Precision = "float32"

    @property
    def is_gpu(self) -> bool:
        """Whether it is a CUDA device."""
        return self.name.startswith("cuda")


def pick_device(name: str = "auto", precision: str = "auto") -> Device:
    """The device called `name`, never another one in its place.

    `auto` is the first GPU, else the CPU. Raises `ResourceError` where the device is not there, `ConfigError` where
    the name is none.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda:0" if gpus else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise ConfigError(f"expected device auto, cpu, cuda or cuda:NUMBER, found {name!r}")
    if kind == "cpu":
        if precision == "fp16":
            raise ConfigError("precision fp16 needs a GPU; on a CPU use float32 or bf16")
        return Device("cpu", "bf16" if precision == "bf16" else "float32")
    index = int(number or 0)
    if index >= gpus:
        raise ResourceError(f"device {name} is not there: {gpus} GPUs found. Use --device cpu, or mend the driver.")
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return Device(f"cuda:{index}", "bf16" if precision == "bf16" else "fp16" if precision == "fp16" else "float32")


def memory_bytes(device: Device, limit_gb: float | None = None) -> float:
    """Bytes a workflow may plan with: `limit_gb` · 10⁹, else 60 % of what is free on the device."""
    if limit_gb is not None:
        return limit_gb * 1e9
    if device.is_gpu:
        import torch

        free, _ = torch.cuda.mem_get_info(device.name)
        return _SHARE * free
    return _SHARE * free_ram()


def free_ram() -> float:
    """Bytes of main memory that are free, as the operating system sees it."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE") * 0.5
