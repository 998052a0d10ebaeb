"""Which device computes, how much memory it may use, in which precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vol3d.errors import ConfigError, ResourceError
from vol3d.io import available_memory

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bf16", "fp16"]
PredictPrecision = Literal["float32", "bf16", "int8"]  # what may be asked for; see `workflows.precision`
_SHARE = 0.6


@dataclass(frozen=True)
class Device:
    """name: `cpu` or `cuda:0`. precision: of the network's arithmetic in training."""

    name: str
    precision: Precision = "float32"

    @property
    def is_gpu(self) -> bool:
        """Whether it is a CUDA device."""
        return self.name.startswith("cuda")


def exact(device: Device) -> Device:
    """The same device in float32: what validation and prediction use, so that tiles agree to the last digits."""
    return replace(device, precision="float32")


def pick_device(name: str = "auto", precision: str = "auto") -> Device:
    """The device called `name`, never another one in its place.

    `auto` is the first GPU, else the CPU. Raises `ResourceError` where the device is not there, `ConfigError` where
    the name is none. precision `auto` is bf16 where the device has matrix units for it (GPUs; CPUs with AMX), else
    fp16 on a GPU and float32 on a CPU.
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
        if precision == "bf16":
            require_bf16()
        quick = precision == "auto" and "amx_bf16" in _cpu_flags()
        return Device("cpu", "bf16" if precision == "bf16" or quick else "float32")
    index = int(number or 0)
    if index >= gpus:
        raise ResourceError(f"device {name} is not there: {gpus} GPUs found. Use --device cpu, or mend the driver.")
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return Device(f"cuda:{index}", "bf16" if precision == "bf16" else "fp16" if precision == "fp16" else "float32")


def emulates_bf16() -> bool:
    """Whether the CPU would compute bf16 without instructions for it, many times slower than float32.

    An x86 CPU without AVX-512 would; of other CPUs nothing is known.
    """
    flags = _cpu_flags()
    return "sse2" in flags and "avx512bw" not in flags


def require_bf16() -> None:
    """Raise `ConfigError` where the CPU would emulate bf16."""
    if emulates_bf16():
        raise ConfigError(
            "this processor has no instructions for bf16 and would take many times as long as for float32; leave the "
            "precision out"
        )


def _cpu_flags() -> set[str]:
    """Instruction sets of the CPU, as Linux names them; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def total_bytes(device: torch.device) -> float:
    """All memory of a GPU, whatever is free of it now."""
    import torch

    return float(torch.cuda.get_device_properties(device).total_memory)


def memory_bytes(device: Device, limit_gb: float | None = None) -> float:
    """Bytes a workflow may plan with: `limit_gb` · 10⁹, else 60 % of what is free on the device."""
    if limit_gb is not None:
        return limit_gb * 1e9
    if device.is_gpu:
        import torch

        free, _ = torch.cuda.mem_get_info(device.name)
        return _SHARE * free
    return _SHARE * available_memory()
