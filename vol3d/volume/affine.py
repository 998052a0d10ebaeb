"""Voxel index ↔ world coordinates (RAS, mm), and the turn of a grid to its closest-RAS orientation."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vol3d.errors import GeometryError

Array = NDArray[Any]
_POSITIVE, _NEGATIVE = "RAS", "LPI"


@dataclass(frozen=True, eq=False)
class Affine:
    """Maps a voxel index (x, y, z) to world coordinates in mm: +x right, +y anterior, +z superior (RAS).

    matrix: float64 (4, 4), read-only, invertible, last row 0 0 0 1. Raises `GeometryError` otherwise.
    """

    matrix: NDArray[np.float64]

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.array_equal(matrix[3], [0, 0, 0, 1]):
            raise GeometryError(f"expected a finite 4×4 affine with last row 0 0 0 1, found {matrix.tolist()}")
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if (lengths == 0).any() or abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
            raise GeometryError(f"expected an invertible affine, found {matrix.tolist()}")
        matrix.flags.writeable = False
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def from_spacing(cls, spacing_mm: ArrayLike, origin_mm: ArrayLike = (0.0, 0.0, 0.0)) -> Affine:
        """Axis-aligned RAS grid. spacing_mm, origin_mm: 3 numbers along X, Y, Z; spacing positive."""
        spacing = np.asarray(spacing_mm, dtype=np.float64)
        if spacing.shape != (3,) or not (spacing > 0).all():
            raise GeometryError(f"expected three positive spacings in mm, found {spacing.tolist()}")
        matrix = np.diag([*spacing, 1.0])
        matrix[:3, 3] = origin_mm
        return cls(matrix)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Mm per voxel along X, Y, Z; float64 (3,)."""
        return np.linalg.norm(self.matrix[:3, :3], axis=0)

    @property
    def sizes_only(self) -> bool:
        """Whether the size of its voxels says all of it: axes along right, anterior, superior, and origin 0."""
        return np.allclose(self.matrix, np.diag([*self.spacing, 1.0]), atol=1e-9)

    @property
    def orientation(self) -> Orientation:
        """The flips and the permutation that bring this grid closest to RAS."""
        directions = self.matrix[:3, :3] / self.spacing
        left, _, right = np.linalg.svd(directions)
        rotation = left @ right  # the nearest rotation: shear must not decide which axis is which
        closeness = np.abs(rotation)
        order = [0, 0, 0]
        for axis in np.argsort(-closeness.max(axis=0), kind="stable"):  # the clearest axis chooses first
            world = int(closeness[:, axis].argmax())
            order[world] = int(axis)
            closeness[world] = -1
        flips = tuple(bool(rotation[world, axis] < 0) for world, axis in enumerate(order))
        return Orientation((order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))

    @property
    def codes(self) -> str:
        """Where each voxel axis points, such as `RAS` or `LPS`."""
        letters = [""] * 3
        for world, (axis, flip) in enumerate(zip(self.orientation.order, self.orientation.flips, strict=True)):
            letters[axis] = _NEGATIVE[world] if flip else _POSITIVE[world]
        return "".join(letters)

    def to_world(self, index: ArrayLike) -> NDArray[np.float64]:
        """World mm of voxel indices; (..., 3) → (..., 3)."""
        return np.asarray(index, dtype=np.float64) @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def to_index(self, world: ArrayLike) -> NDArray[np.float64]:
        """Continuous voxel indices of world mm; (..., 3) → (..., 3)."""
        inverse = np.linalg.inv(self.matrix)
        return np.asarray(world, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]

    def shifted(self, start: ArrayLike) -> Affine:
        """The affine of a crop that begins at voxel `start` (may be negative)."""
        matrix = self.matrix.copy()
        matrix[:3, 3] = self.to_world(start)
        return Affine(matrix)

    def resampled(self, spacing_mm: ArrayLike, shape: tuple[int, ...], new_shape: tuple[int, ...]) -> Affine:
        """The same field of view (centre kept) with another spacing; shapes are (X, Y, Z) before and after."""
        ratio = np.asarray(spacing_mm, dtype=np.float64) / self.spacing
        matrix = self.matrix.copy()
        matrix[:3, :3] = matrix[:3, :3] * ratio
        centre = self.to_world((np.asarray(shape) - 1) / 2)
        matrix[:3, 3] = centre - matrix[:3, :3] @ ((np.asarray(new_shape) - 1) / 2)
        return Affine(matrix)

    def corner_distance(self, other: Affine, shape: tuple[int, ...]) -> float:
        """Largest distance between the corners of the two grids of `shape`, in voxels of this grid."""
        corners = np.array(list(itertools.product(*[(0, max(n - 1, 1)) for n in shape[-3:]])), dtype=np.float64)
        return float(np.linalg.norm(self.to_index(other.to_world(corners)) - corners, axis=1).max())


@dataclass(frozen=True)
class Orientation:
    """A permutation of the spatial axes, then flips: how a grid is turned to its closest-RAS orientation.

    order: the voxel axis that becomes axis 0, 1, 2. flips: whether that axis is then reversed.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: Array) -> Array:
        """Turn (..., X, Y, Z) into the new orientation; a view."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.order))
        return self._flip(turned)

    def undo(self, array: Array) -> Array:
        """Turn (..., X, Y, Z) back; a view. The inverse of `apply`."""
        lead = array.ndim - 3
        turned = self._flip(array)
        inverse = np.argsort(self.order)
        return turned.transpose(*range(lead), *(lead + int(axis) for axis in inverse))

    def _flip(self, array: Array) -> Array:
        x, y, z = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array[..., x, y, z]

    def apply_spacing(self, spacing_mm: ArrayLike) -> NDArray[np.float64]:
        """Spacing along the axes of the turned grid; (3,) → (3,)."""
        return np.asarray(spacing_mm, dtype=np.float64)[list(self.order)]

    def apply_affine(self, affine: Affine, shape: tuple[int, ...]) -> Affine:
        """The affine of the turned grid. shape: (X, Y, Z) before the turn."""
        step = np.zeros((4, 4))
        step[3, 3] = 1
        for new, (old, flip) in enumerate(zip(self.order, self.flips, strict=True)):
            step[old, new] = -1 if flip else 1
            step[old, 3] = shape[old] - 1 if flip else 0
        return Affine(affine.matrix @ step)
