"""Three planes through a voxel, turned so that a person sees patient left on the left and superior up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.volume import Affine

Voxel = tuple[int, int, int]
_POSITIVE, _NEGATIVE = "RAS", "LPI"
_LOOK_AT = 1_000_000  # voxels examined per axis when planes are chosen


@dataclass(frozen=True)
class Plane:
    """One plane of a grid, as it is shown: columns to the right, rows downwards.

    world_axis: 0 sagittal, 1 coronal, 2 axial. axis, index: which plane of the stored array it is.
    left, right, top, bottom: orientation letters. width_mm, height_mm: physical size of what is shown.
    """

    world_axis: int
    axis: int
    index: int
    left: str
    right: str
    top: str
    bottom: str
    width_mm: float
    height_mm: float

    def is_thinner_than(self, aspect: float) -> bool:
        """Whether one side is longer than `aspect` times the other."""
        return min(self.width_mm, self.height_mm) * aspect < max(self.width_mm, self.height_mm) * (1 - 1e-6)

    def cut(self, array: NDArray[Any], affine: Affine) -> NDArray[Any]:
        """The plane of an array (…, X, Y, Z) on this grid; (…, rows, columns), a view."""
        lead = (slice(None),) * (array.ndim - 3)
        kept = [slice(None)] * 3
        kept[self.axis] = slice(self.index, self.index + 1)
        turned = affine.orientation.apply(array[(*lead, *kept)])
        flat = turned[(*lead, *(0 if a == self.world_axis else slice(None) for a in range(3)))]
        return np.swapaxes(flat, -1, -2)[..., ::-1, :]


def planes_through(voxel: Voxel, shape: Voxel, affine: Affine) -> list[Plane]:
    """Axial, coronal and sagittal plane through a voxel of a grid of `shape`.

    Planes that would show a line only are left out: a volume of a single slice gives that slice. A voxel outside the
    grid is moved to its border.
    """
    order = affine.orientation.order
    extent = np.asarray(shape) * affine.spacing
    planes = []
    for world in (2, 1, 0):
        across, up = (a for a in range(3) if a != world)
        axis = order[world]
        planes.append(
            Plane(
                world_axis=world,
                axis=axis,
                index=min(max(int(voxel[axis]), 0), shape[axis] - 1),
                left=_NEGATIVE[across],
                right=_POSITIVE[across],
                top=_POSITIVE[up],
                bottom=_NEGATIVE[up],
                width_mm=float(extent[order[across]]),
                height_mm=float(extent[order[up]]),
            )
        )
    thin = [sum(shape[a] == 1 for a in range(3) if a != plane.axis) for plane in planes]
    return [plane for plane, count in zip(planes, thin, strict=True) if count == min(thin)]


def interesting_voxel(
    classes: NDArray[Any], labeled: NDArray[np.bool_] | None = None, avoid: NDArray[np.bool_] | None = None
) -> Voxel:
    """Where the planes with most to see cross.

    classes: class indices, unsigned (X, Y, Z). labeled: bool (X, Y, Z) or None for everywhere. avoid: bool (X, Y, Z);
    planes of which half is marked come last. On every axis the plane with the most different classes; among those
    where the rarer classes cover nearly the most, the middle one. Big volumes are looked at through a coarse grid.
    """
    x, y, z = (_best_plane(classes, labeled, avoid, axis) for axis in range(3))
    return (x, y, z)


def _best_plane(
    classes: NDArray[Any], labeled: NDArray[np.bool_] | None, avoid: NDArray[np.bool_] | None, axis: int
) -> int:
    size = classes.shape[axis]
    stride = max(1, int(np.ceil(np.sqrt(classes.size / _LOOK_AT))))

    def rows_of(array: NDArray[Any]) -> NDArray[Any]:
        coarse = tuple(slice(None) if a == axis else slice(None, None, stride) for a in range(3))
        return np.moveaxis(array[coarse], axis, 0).reshape(size, -1)

    flat = rows_of(classes).astype(np.int64)
    kinds = int(flat.max()) + 1
    numbers = np.broadcast_to(np.arange(size)[:, None], flat.shape)
    if labeled is not None:
        chosen = rows_of(labeled)
        flat, numbers = flat[chosen], numbers[chosen]
    counts = np.bincount((numbers * kinds + flat).ravel(), minlength=size * kinds).reshape(size, kinds)
    marked = np.zeros(size, dtype=bool) if avoid is None else rows_of(avoid).mean(axis=1) >= 0.5
    different = (counts > 0).sum(axis=1)
    rare = counts.sum(axis=1) - counts.max(axis=1)
    enough = rare >= 0.8 * rare.max()
    central = np.abs(np.arange(size) - (size - 1) / 2)
    return int(np.lexsort((central, ~enough, -different, marked))[0])
