"""What a network says around labeled voxels, without going through the rest of the volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d import inference
from vol3d.config import InferenceConfig
from vol3d.sampling import Region, regions_around, whole_region
from vol3d.volume import Box
from vol3d.workflows.case import Case
from vol3d.workflows.channels import part_of
from vol3d.workflows.device import Device
from vol3d.workflows.tiling import sees_all, tile_plans

_CONTEXT = 1 / 3  # of a patch on each side; in training half of all voxels see less along some axis
_LEAST_CONTEXT = 8
_LITTLE_CONTEXT = 24  # voxels on each side, where more would take too long
_MOST_LOOKED_AT = 2**25  # voxels through a network: some ten seconds on two cores
_GPU_SPEED = 32


@dataclass(frozen=True)
class Looking:
    """How a network goes through a volume. planes, patch: see `tile_plans`."""

    device: Device
    tiling: InferenceConfig
    planes: tuple[int, ...] = ()
    patch: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """A part of what was answered. values: (K, *box.size). asked: bool (*box.size), the voxels that this is for."""

    box: Box
    values: NDArray[Any]
    asked: NDArray[np.bool_]


def answers_around(
    network: Any,  # noqa: ANN401  any module that states its margin, stride and input sizes
    case: Case,
    asked: NDArray[np.bool_],
    looking: Looking,
    *,
    logits: bool,
    axis: int | None = None,
) -> Iterator[Answer]:
    """Class probabilities (logits: what the network answers) of every voxel in `asked`, once each.

    asked: bool (X, Y, Z). axis: of a 2-D network, go slice by slice across this one of its axes only. A same-padded
    network whose answers depend on their surroundings looks at boxes around painted slices, in which a voxel has a
    third of a patch around it along the axes that the network sees, or less where that would be very many voxels;
    others go through the whole volume, and get there what they get in prediction.
    """
    image = case.seen_by(network)
    planes = looking.planes if axis is None else (axis,)
    for region in _regions(network, asked, planes, looking):
        cut = part_of(image, region.box)
        x, y, z = region.box.size
        slabs = inference.predict_axes(
            network,
            cut,
            tile_plans(network, (x, y, z), looking.device, looking.tiling, planes, looking.patch),
            device=looking.device.name,
            precision=looking.device.precision,
            needed=region.asked,
            logits=logits,
        )
        for slab in slabs:
            start = (region.box.start[0] + slab.start, *region.box.start[1:])
            own = region.asked[slab.start : slab.stop]
            yield Answer(Box(start, own.shape), slab.values, own)


def _regions(
    network: Any,  # noqa: ANN401  as above
    asked: NDArray[np.bool_],
    planes: Sequence[int],
    looking: Looking,
) -> Sequence[Region]:
    patch = looking.patch
    if patch is None or any(network.margin) or sees_all(network):
        return whole_region(asked)
    halo = _along([max(_LEAST_CONTEXT, round(_CONTEXT * n)) for n in patch], planes)
    found = regions_around(asked, halo)
    if max(1, len(planes)) * sum(region.box.voxels for region in found) <= most_looked_at(looking.device):
        return found
    return regions_around(asked, [min(n, _LITTLE_CONTEXT) for n in halo])


def most_looked_at(device: Device) -> float:
    """Voxels that may go through a network to judge it: some ten seconds."""
    return _MOST_LOOKED_AT * (_GPU_SPEED if device.is_gpu else 1)


def little_context(planes: Sequence[int], dimensions: int) -> list[int]:
    """How many voxels along each axis of a volume are looked at around asked ones, where more would take too long."""
    return _along([_LITTLE_CONTEXT] * dimensions, planes)


def _along(around: Sequence[int], planes: Sequence[int]) -> list[int]:
    """Numbers along a network's axes as numbers along X, Y and Z; of several planes the largest, 0 where none looks."""
    if not planes:
        return list(around)
    halo = [0, 0, 0]
    for across in planes:
        for axis, n in zip([a for a in range(3) if a != across], around, strict=True):
            halo[axis] = max(halo[axis], n)
    return halo
