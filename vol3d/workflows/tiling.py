"""How a prepared volume is tiled for a network, on a device, within the memory that is free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vol3d.bundle import ModelBundle
from vol3d.config import InferenceConfig
from vol3d.errors import ModelError, ResourceError
from vol3d.inference import TilePlan, bytes_per_voxel, plan_axes, plan_for
from vol3d.networks import uses_current_statistics
from vol3d.workflows.device import Device, memory_bytes

Triple = tuple[int, int, int]
_FEW_VOXELS = 2**19  # of a batch of planes
_LARGEST_PATCH = 2**16
_THRIFT = 0.1  # smaller tiles are no slower: measured on a CPU
PROGRAM_BYTES = 4.5e8  # of a process that predicts, beside arrays and tiles
PLANNED_SHARE = 0.9  # the rest is for pieces of freed memory that are too small to be used again


def trained_patch(bundle: ModelBundle) -> tuple[int, ...] | None:
    """The input that a model's network learned from, voxels along its axes; None where the model does not say."""
    patch = bundle.training_range.get("patch")
    if patch is None:
        return None
    sound = isinstance(patch, list) and len(patch) == bundle.network.dimensions
    if not sound or not all(type(n) is int and 0 < n < _LARGEST_PATCH for n in patch):
        raise ModelError(f"this model says it learned from patches of {str(patch)[:60]}: no such size. Train it again.")
    return tuple(patch)


def gb_for_tiles(name: str, arrays: float, device: Device, limit_gb: float | None) -> float | None:
    """What `limit_gb` leaves for tiles beside the program and `arrays` bytes; as it is on a GPU, or where it is None.

    name: of the scan. Raises `ResourceError` where nothing is left.
    """
    if limit_gb is None or device.is_gpu:
        return limit_gb
    left = PLANNED_SHARE * (1e9 * limit_gb - PROGRAM_BYTES - arrays)
    if left <= 0:
        raise ResourceError(
            f"{name}: {limit_gb:.2g} GB are less than the program ({PROGRAM_BYTES / 1e9:.2g} GB) and the scan's arrays "
            f"({arrays / 1e9:.2g} GB) take. Allow more with --max-memory."
        )
    return left / 1e9


def sees_all(network: Any) -> bool:  # noqa: ANN401  as below
    """Whether an answer depends on all of the input, by the network's layers or by BatchNorm's own statistics."""
    return not getattr(network, "local", False) or uses_current_statistics(network)


def tile_plans(
    network: Any,  # noqa: ANN401  any module that states its margin, stride and input sizes
    shape: Triple,
    device: Device,
    settings: InferenceConfig,
    planes: Sequence[int] = (),
    patch: Sequence[int] | None = None,
    *,
    indices: bool = False,
) -> tuple[TilePlan, ...]:
    """Tiles for a volume of `shape` (X, Y, Z), as `predict_axes` takes them; settings' sizes and limits are obeyed.

    planes: of a 2-D network, the axes across which it goes slice by slice: a plan for each; of a 3-D one none, and one
    plan. patch: the input it learned from, along its axes: the tile of a network whose answers depend on all of its
    input; what another same-padded one should see at least. indices: only the most probable classes are wanted, which a
    valid 3-D network is then planned for. On a CPU such a network gets tiles that take less memory, for up to a tenth
    more voxels in all, unless a limit says how much it may take.
    Raises `ModelError` for a tile the network cannot take, `ResourceError` where not even the smallest tile fits.
    """
    demand = bytes_per_voxel(network, in_channels=network.in_channels, precision=device.precision)
    limit = memory_bytes(device, settings.max_memory_gb)
    host = memory_bytes(Device("cpu"), settings.max_memory_gb) if device.is_gpu else None
    facts: dict[str, Any] = {
        "memory_bytes": limit,
        "bytes_per_voxel": demand,
        "tile": settings.tile,
        "overlap": settings.overlap,
        "host_memory_bytes": host,
    }
    if patch is not None and not any(network.margin):
        facts["sight"] = patch
    if patch is not None and sees_all(network):
        facts["patch"] = patch
        answered = [n - m for n, m in zip(patch, network.margin, strict=True)]
        useful = all(n >= step for n, step in zip(answered, network.total_stride, strict=True))
        if any(network.margin) and useful and settings.tile is None:
            facts["tile"] = patch  # else a valid network would get the tile that costs least
    if planes:  # a batch of many planes is no faster, and planes that nobody needs can be left out of small ones
        plane = [n + m + s for n, m, s in zip(sorted(shape)[1:], network.margin, network.total_stride, strict=True)]
        facts["most_voxels"] = max(_FEW_VOXELS, math.prod(plane))
        return plan_axes(network, shape, planes, **facts)
    thrift = 0.0 if device.is_gpu or settings.max_memory_gb is not None else _THRIFT
    return (plan_for(network, shape, **facts, indices=indices, thrift=thrift),)


def model_plans(
    network: Any,  # noqa: ANN401  as in `tile_plans`
    shape: Triple,
    bundle: ModelBundle,
    device: Device,
    settings: InferenceConfig,
    *,
    indices: bool = False,
) -> tuple[TilePlan, ...]:
    """Tiles as `tile_plans` makes them for what a model learned from, and as large as `require_sight` wants them."""
    patch = trained_patch(bundle)
    plans = tile_plans(network, shape, device, settings, bundle.task.planes, patch, indices=indices)
    return require_sight(plans, patch, settings)


def require_sight(
    plans: tuple[TilePlan, ...], patch: Sequence[int] | None, settings: InferenceConfig
) -> tuple[TilePlan, ...]:
    """Plans whose tiles see at least half a patch along every axis, where nobody asked for smaller ones.

    A same-padded network answers poorly where it sees less. Raises `ResourceError` where that does not fit into the
    memory.
    """
    if patch is None or settings.tile is not None:
        return plans
    return tuple(_seeing(plan, patch) if any(plan.blended) else plan for plan in plans)


def _seeing(plan: TilePlan, patch: Sequence[int]) -> TilePlan:
    least = [1, 1, 1]
    for axis, learned in zip(plan.seen, patch, strict=True):
        least[axis] = min(plan.axes[axis].at_least(-(-learned // 2)), plan.axes[axis].whole)
    size = (least[0], least[1], least[2])
    if all(plan.size[axis] >= size[axis] for axis in plan.seen):
        return plan
    plan.budget.require(size, plan.axes, "half the patch that the network learned from, which it has to see")
    return replace(plan, size=size)
