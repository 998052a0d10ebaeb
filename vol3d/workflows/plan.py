"""Data + device + budget → every value the configuration left open, and what the run will cost."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vol3d.config import Config, UNetConfig
from vol3d.errors import ConfigError
from vol3d.networks import NetworkGeometry, network_geometry

if TYPE_CHECKING:
    from vol3d.workflows.device import Device

_CPU_VOXELS = 48**3
_CPU_WIDTH = 16
_LEVELS = 4
_DEEPEST = 4
_DEFAULT_SECONDS = {"cpu": 600.0, "gpu": 3600.0}
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """The prepared grid of one scan: voxels and mm along X, Y, Z."""

    shape: Triple
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Plan:
    """What a run will do. config: without open values. Sizes in voxels along X, Y, Z."""

    config: Config
    network: UNetConfig
    geometry: NetworkGeometry
    channels: int
    classes: int
    patch: Triple
    batch_size: int
    device: Device

    @property
    def output(self) -> Triple:
        """The part of a patch that the network answers for."""
        x, y, z = self.geometry.output_size(self.patch)
        return (x, y, z)


def make_plan(config: Config, grids: list[Grid], channels: int, names: tuple[str, ...], device: Device) -> Plan:
    """Fill in what `config` leaves open: network, patch, batch, length of the run, flips. names: of the classes.

    On a CPU a small same-padded network with patches that fit the spacing; on a GPU the 3D U-Net of Çiçek et al. 2016.
    Raises `ConfigError` where the given values contradict each other.
    """
    grid = _typical(grids)
    patch, network = config.sampling.patch_size, config.network
    if network is not None and network.dimensions != 3:
        raise ConfigError("network.dimensions: volumes are segmented by networks of 3 dimensions, found 2")
    if network is None:
        wanted = _three(patch) if patch else _paper_patch() if device.is_gpu else small_patch(grid)
        network = UNetConfig(padding="valid") if device.is_gpu and not patch else small_network(wanted, grid.spacing_mm)
        patch = wanted if patch is None else patch
    geometry = network_geometry(network)
    size = _three(patch) if patch else _default_patch(geometry, grid)
    size = _fit(size, geometry, given=config.sampling.patch_size is not None)
    batch = config.sampling.batch_size or (1 if network.padding == "valid" else 2)
    training = config.training
    changes: dict[str, Any] = {}
    if training.iterations is None and training.time_budget_s is None:
        changes["time_budget_s"] = _DEFAULT_SECONDS["gpu" if device.is_gpu else "cpu"]
    settled = config.model_copy(
        update={
            "network": network,
            "sampling": config.sampling.model_copy(update={"patch_size": size, "batch_size": batch}),
            "augment": config.augment.model_copy(update=_flips(config, names)),
            "training": training.model_copy(update=changes),
        }
    )
    return Plan(settled, network, geometry, channels, len(names), size, batch, device)


def small_patch(grid: Grid, voxels: int = _CPU_VOXELS) -> Triple:
    """About `voxels` voxels, physically as cubic as the scan allows, never larger than the scan."""
    size = [0.0, 0.0, 0.0]
    open_axes, left = [0, 1, 2], float(voxels)
    while open_axes:
        volume_mm = left * math.prod(grid.spacing_mm[a] for a in open_axes)
        edge = volume_mm ** (1 / len(open_axes))
        full = [a for a in open_axes if grid.shape[a] <= edge / grid.spacing_mm[a]]
        for a in full or open_axes:
            size[a] = min(edge / grid.spacing_mm[a], float(grid.shape[a]))
        if not full:
            break
        left /= math.prod(size[a] for a in full)
        open_axes = [a for a in open_axes if a not in full]
    x, y, z = (max(1, round(n)) for n in size)
    return (x, y, z)


def small_network(patch: Triple, spacing_mm: tuple[float, float, float], width: int = _CPU_WIDTH) -> UNetConfig:
    """A same-padded U-Net whose pooling and kernels follow the spacing.

    An axis is pooled, and convolved across, only once its voxels are less than twice as long as the shortest ones
    of those axes that can still be pooled.
    """
    spacing, size = list(spacing_mm), list(patch)
    kernels: list[Triple] = []
    pooling: list[Triple] = []
    for level in range(_LEVELS):
        long = [size[a] >= 2 * _DEEPEST for a in range(3)]
        finest = min((spacing[a] for a in range(3) if long[a]), default=max(spacing))
        fine = [spacing[a] < 2 * finest for a in range(3)]
        kernels.append(_three([3 if fine[a] and size[a] > 1 else 1 for a in range(3)]))
        halved = [fine[a] and long[a] for a in range(3)]
        if level == _LEVELS - 1 or not any(halved):
            break
        pooling.append(_three([2 if h else 1 for h in halved]))
        for a in range(3):
            if halved[a]:
                spacing[a], size[a] = 2 * spacing[a], size[a] // 2
    encoder = tuple((width * 2**level,) * 2 for level in range(len(kernels)))
    return UNetConfig(encoder=encoder, kernels=tuple(kernels), pooling=tuple(pooling), padding="same")


def _flips(config: Config, names: tuple[str, ...]) -> dict[str, float]:
    """Mirrored patches teach most, except where a class is left and another right."""
    if config.augment.flip_probability is not None:
        return {}
    words = {word for name in names for word in re.split(r"[^a-z]+", name.lower())}
    return {"flip_probability": 0.0 if words & {"left", "right"} else 0.5}


def _typical(grids: list[Grid]) -> Grid:
    """Median shape and spacing of the scans."""
    middle = len(grids) // 2
    shape = [sorted(g.shape[a] for g in grids)[middle] for a in range(3)]
    x, y, z = (sorted(g.spacing_mm[a] for g in grids)[middle] for a in range(3))
    return Grid(_three(shape), (x, y, z))


def _fit(size: Triple, geometry: NetworkGeometry, *, given: bool) -> Triple:
    """A size the network takes as it is. A size that was asked for is refused where it does not fit a valid network."""
    if not geometry.padded:
        if given:
            geometry.output_size(size)
            return size
        return _three(geometry.largest_input([max(n, least) for n, least in zip(size, geometry.smallest, strict=True)]))
    return _three([-(-n // s) * s for n, s in zip(size, geometry.total_stride, strict=True)])


def _default_patch(geometry: NetworkGeometry, grid: Grid) -> Triple:
    return small_patch(grid) if geometry.padded else _paper_patch()


def _paper_patch() -> Triple:
    return (132, 132, 116)


def _three(sizes: Any) -> Triple:  # noqa: ANN401  any sequence of integers
    if len(sizes) != 3:
        raise ConfigError(f"expected three sizes, along X, Y and Z, found {list(sizes)}")
    x, y, z = (int(n) for n in sizes)
    return (x, y, z)
