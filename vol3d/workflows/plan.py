"""Data + device + budget → every value the configuration left open, and what the run will cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vol3d.config import AnyNetworkConfig, Config, PlannedNetwork
from vol3d.errors import ConfigError, ModelError
from vol3d.networks import NetworkGeometry, network_geometry
from vol3d.workflows.pixel_channels import wants_classifier
from vol3d.workflows.planned import (
    GPU_VOXELS,
    GPU_WIDTH,
    PAPER_PATCH,
    Grid,
    SizedNetwork,
    small_network,
    small_patch,
)
from vol3d.workflows.reduction import reduction_for
from vol3d.workflows.sides import tell_sides

if TYPE_CHECKING:
    from vol3d.workflows.device import Device
    from vol3d.workflows.train_forecast import TrainForecast

_BATCH = {2: 4, 3: 2}
_DEFAULT_SECONDS = {"cpu": 600.0, "gpu": 3600.0}
_STEPS_PER_LENGTH, _MOST_STEPS = 10, 700  # of the pixel classifier, per iteration or second of the run
_ANISOTROPIC = 3.0  # how much longer voxels must be along one axis than along the others to go across it alone
_THIN = 24  # voxels of a plane along its shorter side, below which it is no picture

__all__ = ["Grid", "Plan", "make_plan", "small_network", "small_patch"]


def without_files(network: AnyNetworkConfig) -> AnyNetworkConfig:
    """The network as a model describes it: no names of files, whose contents are in its weights by then."""
    return network.model_copy(update={"encoder_weights": None}) if hasattr(network, "encoder_weights") else network


@dataclass(frozen=True)
class Plan:
    """What a run will do. config: without open values.

    patch: the network's input, voxels along its axes. planes: of a 2-D network, the axes across which it goes slice by
    slice. outputs: what the network answers per voxel. channels: of the image. forecast: what the run will take, of a
    dry run.
    """

    config: Config
    network: AnyNetworkConfig
    geometry: NetworkGeometry
    channels: int
    outputs: int
    patch: tuple[int, ...]
    batch_size: int
    device: Device
    planes: tuple[int, ...] = ()
    forecast: TrainForecast | None = None

    @property
    def classifier(self) -> bool:
        """Whether a pixel classifier learns beside the network."""
        return self.config.pixel_classifier.use == "yes"

    @property
    def output(self) -> tuple[int, ...]:
        """The part of a patch that the network answers for."""
        return self.geometry.output_size(self.patch)


def make_plan(
    config: Config,
    grids: list[Grid],
    channels: int,
    names: tuple[str, ...],
    device: Device,
    painted: Collection[int] = (),
) -> Plan:
    """Fill in what `config` leaves open: network, patch, batch, length of the run, flips. names: of the outputs.

    painted: the prepared axes across which slices are painted (those with narrow planes do not count). A same-padded
    network, on a CPU a small one, 2-D where `_with_dimensions` says so; on a GPU in 3-D, a U-Net twice as wide. Raises
    `ConfigError` where the given values contradict each other.
    """
    grid = _typical(grids)
    painted = {axis for axis in painted if min(n for a, n in enumerate(grid.shape) if a != axis) >= _THIN}
    wanted = _with_dimensions(config, grids, device, painted)
    planes = _planes(config, wanted.dimensions, grids, painted)
    seen = _seen(grid, planes)
    patch = None if config.sampling.patch_size is None else _sized(config.sampling.patch_size, wanted.dimensions)
    if isinstance(wanted, SizedNetwork):
        if device.is_gpu and wanted.plan == "unet":
            patch = patch or small_patch(seen, GPU_VOXELS[wanted.dimensions])
            wanted = replace(wanted, width=wanted.width or GPU_WIDTH)
        patch = patch or small_patch(seen)
        network = small_network(wanted, patch, seen.spacing_mm)
    else:
        network = wanted
    geometry = network_geometry(network)
    size = patch or (small_patch(seen) if geometry.padded else PAPER_PATCH[network.dimensions])
    size = _fit(size, geometry, given=config.sampling.patch_size is not None)
    _require_tile(config.inference.tile, geometry, network.dimensions)
    batch = config.sampling.batch_size or (_BATCH[network.dimensions] if geometry.padded else 1)
    training = config.training
    changes: dict[str, Any] = {}
    if training.iterations is None and training.time_budget_s is None:
        changes["time_budget_s"] = _DEFAULT_SECONDS["gpu" if device.is_gpu else "cpu"]
    classifier = wants_classifier(config, len(names), sized=isinstance(wanted, SizedNetwork))
    settled = config.model_copy(
        update={
            "network": network,
            "sampling": config.sampling.model_copy(
                update={"patch_size": size, "batch_size": batch, "planes": _letters(planes, grids)}
            ),
            "augment": config.augment.model_copy(update=_flips(config, names)),
            "training": training.model_copy(update=changes),
            "pixel_classifier": config.pixel_classifier.model_copy(
                update=_classifier(config, changes, grids, channels, len(names), wanted=classifier)
            ),
        }
    )
    return Plan(settled, network, geometry, channels, len(names), size, batch, device, planes)


def _with_dimensions(
    config: Config, grids: list[Grid], device: Device, painted: Collection[int]
) -> AnyNetworkConfig | SizedNetwork:
    """The configured network, its dimensions settled.

    In minutes on a CPU a 2-D network that looks at painted slices sees many times as many labeled voxels as a 3-D one,
    and is more accurate: across the coarsest axis alone, or across those that are painted. Where there are no slices,
    or none that such a network could look at, it is 3-D.
    """
    wanted = config.network or PlannedNetwork()
    if not isinstance(wanted, PlannedNetwork):
        return wanted
    dimensions, patch = wanted.dimensions, config.sampling.patch_size
    if dimensions is None and patch is not None:
        dimensions = 2 if len(patch) == 2 else 3
    elif dimensions is None and config.sampling.planes:
        dimensions = 2
    elif dimensions is None:
        coarse = _coarse_axis(grids)
        flat = coarse is not None and _typical(grids).shape[coarse] == 1
        seen = bool(painted) if coarse is None else flat or coarse in painted
        dimensions = 2 if seen and config.task == "semantic" and not device.is_gpu else 3
    return SizedNetwork(wanted.plan, dimensions, wanted.width)


def _planes(config: Config, dimensions: int, grids: list[Grid], painted: Collection[int]) -> tuple[int, ...]:
    """The prepared axes across which a 2-D network goes: as configured, else those of `_open_planes`.

    Configured axes are those of the files, as everywhere where a user names one.
    """
    chosen = config.sampling.planes
    if dimensions == 3:
        if chosen:
            raise ConfigError("sampling.planes is for networks of 2 dimensions, found 3; leave it out")
        return ()
    if chosen:
        found = {tuple(sorted({one.order.index("xyz".index(letter)) for letter in chosen})) for one in grids}
        if len(found) > 1:
            raise ConfigError(
                f"sampling.planes: {', '.join(chosen)} are not the same planes in all scans, whose axes are stored in "
                "different orders; leave it open, or turn the scans alike"
            )
        return found.pop()
    return _open_planes(grids, painted)


def _open_planes(grids: list[Grid], painted: Collection[int]) -> tuple[int, ...]:
    """The coarsest axis; where none is, those across which slices are painted; where none are, all."""
    coarse = _coarse_axis(grids)
    return (tuple(sorted(painted)) or (0, 1, 2)) if coarse is None else (coarse,)


def _coarse_axis(grids: list[Grid]) -> int | None:
    """The axis of one voxel, or along which voxels are much longer than along the others."""
    grid = _typical(grids)
    flat = [axis for axis in range(3) if grid.shape[axis] == 1]
    by_spacing = sorted(range(3), key=lambda axis: grid.spacing_mm[axis])
    if flat:
        return flat[0]
    if grid.spacing_mm[by_spacing[2]] >= _ANISOTROPIC * grid.spacing_mm[by_spacing[1]]:
        return by_spacing[2]
    return None


def _letters(planes: tuple[int, ...], grids: list[Grid]) -> tuple[str, ...] | None:
    """The axes of the files that these prepared axes were; None for none, and where the files do not agree."""
    found = {tuple(sorted("xyz"[grid.order[axis]] for axis in planes)) for grid in grids}
    return (found.pop() or None) if len(found) == 1 else None


def _seen(grid: Grid, planes: tuple[int, ...]) -> Grid:
    """The grid along the axes that the network sees; for a 2-D network across several axes, of the most typical."""
    if not planes:
        return grid
    if len(planes) == 1:
        axes = [axis for axis in range(3) if axis != planes[0]]
        return Grid(tuple(grid.shape[a] for a in axes), tuple(grid.spacing_mm[a] for a in axes))
    edge, spacing = sorted(grid.shape)[1], sorted(grid.spacing_mm)[1]
    return Grid((edge, edge), (spacing, spacing))


def _flips(config: Config, names: tuple[str, ...]) -> dict[str, float]:
    """Mirrored patches teach most, except where a class is left and another right."""
    if config.augment.flip_probability is not None:
        return {}
    return {"flip_probability": 0.0 if tell_sides(names) else 0.5}


def _classifier(
    config: Config, changes: dict[str, Any], grids: list[Grid], channels: int, outputs: int, *, wanted: bool
) -> dict[str, Any]:
    """Whether there is a pixel classifier, how long it learns and how closely it looks: a small part of the run."""
    found: dict[str, Any] = {"use": "yes" if wanted else "no"}
    training, given = config.training.model_copy(update=changes), config.pixel_classifier
    length = training.iterations if training.iterations is not None else training.time_budget_s or 0.0
    if wanted and given.steps is None:
        found["steps"] = max(1, min(_MOST_STEPS, round(_STEPS_PER_LENGTH * length)))
    if wanted and given.reduction is None:
        seconds = _DEFAULT_SECONDS["cpu"] if training.iterations is not None else length
        found["reduction"] = reduction_for(grids, channels, outputs, seconds)
    return found


def _typical(grids: list[Grid]) -> Grid:
    """Median shape and spacing of the scans."""
    middle = len(grids) // 2
    shape = tuple(sorted(g.shape[a] for g in grids)[middle] for a in range(3))
    return Grid(shape, tuple(sorted(g.spacing_mm[a] for g in grids)[middle] for a in range(3)), grids[0].order)


def _fit(size: tuple[int, ...], geometry: NetworkGeometry, *, given: bool) -> tuple[int, ...]:
    """A size the network takes as it is. A size that was asked for is refused where it does not fit a valid network."""
    if not geometry.padded:
        if given:
            geometry.output_size(size)
            return size
        return geometry.largest_input([max(n, least) for n, least in zip(size, geometry.smallest, strict=True)])
    return tuple(-(-n // s) * s for n, s in zip(size, geometry.total_stride, strict=True))


def _require_tile(tile: Sequence[int] | None, geometry: NetworkGeometry, dimensions: int) -> None:
    """Raise where the configured tile is none that the network takes, which validation would find out in mid-run."""
    if tile is None:
        return
    if len(tile) not in (dimensions, 3):
        raise ConfigError(
            f"inference.tile: expected {dimensions} sizes for a {dimensions}-D network, found {list(tile)}"
        )
    if not geometry.padded and len(tile) == dimensions:
        try:
            geometry.output_size(tuple(tile))
        except ModelError as error:
            raise ConfigError(f"inference.tile: {error}") from error


def _sized(size: Sequence[int], dimensions: int) -> tuple[int, ...]:
    if len(size) != dimensions:
        raise ConfigError(
            f"sampling.patch_size: expected {dimensions} sizes for a network of {dimensions} dimensions, found "
            f"{list(size)}"
        )
    return tuple(size)
