"""B-spline displacement, rotation, scaling and flips → ONE sampling grid for the crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.errors import ConfigError
from vol3d.transforms.params import SpatialParams
from vol3d.transforms.spline import interpolation_weights
from vol3d.volume import Box

Size = tuple[int, int, int]


@dataclass(frozen=True)
class SpatialAugmentation:
    """How patches are rotated, scaled, flipped and deformed at random.

    deformation_voxels: σ of the normal displacement vectors at the control points; control_spacing_voxels: their
    distance; both in voxels of the finest spacing. deformation_probability: of a deformation, given `probability`.
    rotation_degrees: largest angle about each axis. scale: lowest and highest sampling step, drawn for each axis.
    flip_probability: for each axis. probability: of rotation, scaling and deformation together.
    Source of the deformation: Çiçek et al. 2016 (σ 4, every 32 voxels).
    """

    deformation_voxels: float = 4.0
    control_spacing_voxels: float = 32.0
    deformation_probability: float = 1.0
    rotation_degrees: float = 30.0
    scale: tuple[float, float] = (0.9, 1.1)
    flip_probability: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        chances = (self.deformation_probability, self.flip_probability, self.probability)
        if min(chances) < 0 or max(chances) > 1:
            raise ConfigError(f"expected probabilities from 0 to 1, found {self}")
        if self.deformation_voxels < 0 or self.control_spacing_voxels <= 0 or not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(
                f"expected σ ≥ 0, a positive control spacing and 0 < lowest ≤ highest scale, found {self}"
            )

    def draw(self, rng: np.random.Generator, size: Size, spacing_mm: Sequence[float]) -> SpatialParams:
        """Draw for a patch of `size` voxels (X, Y, Z) on a grid of `spacing_mm`.

        A patch that is one voxel thick along an axis stays in its plane: it is not rotated or displaced out of it.
        """
        flips = rng.random(3) < self.flip_probability
        still, undeformed = rng.random() >= self.probability, rng.random() >= self.deformation_probability
        angles, scales, vectors = np.zeros(3), np.ones(3), None
        if not still:
            thick = np.array(size) > 1
            limit = np.deg2rad(self.rotation_degrees)
            in_plane = [all(np.delete(thick, axis)) for axis in range(3)]
            angles = np.where(in_plane, rng.uniform(-limit, limit, 3), 0.0)
            scales = rng.uniform(*self.scale, 3)
            if not undeformed and self.deformation_voxels > 0:
                shape = control_points(size, spacing_mm, self.control_spacing_voxels)
                vectors = rng.normal(0.0, self.deformation_voxels, (3, *shape)).astype(np.float32)
                vectors[~thick] = 0
        return SpatialParams(
            (float(angles[0]), float(angles[1]), float(angles[2])),
            (float(scales[0]), float(scales[1]), float(scales[2])),
            (bool(flips[0]), bool(flips[1]), bool(flips[2])),
            vectors,
            self.control_spacing_voxels,
        )


def control_points(size: Sequence[int], spacing_mm: Sequence[float], control_spacing_voxels: float) -> Size:
    """Control points per axis: they cover the patch and at least one more on either side."""
    step_mm = control_spacing_voxels * min(spacing_mm)
    x, y, z = (int(np.ceil((n - 1) * mm / step_mm - 1e-9)) + 3 for n, mm in zip(size, spacing_mm, strict=True))
    return (x, y, z)


def linear_part(params: SpatialParams, spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Matrix (3, 3), voxels of the patch → voxels of the volume: flips, scaling and rotation in physical space."""
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    (cx, cy, cz), (sx, sy, sz) = np.cos(params.rotation_rad), np.sin(params.rotation_rad)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    stretch = np.diag(np.where(params.flips, -1.0, 1.0) * params.scale)
    result: NDArray[np.float64] = np.diag(1 / spacing) @ about_z @ about_y @ about_x @ stretch @ np.diag(spacing)
    return result


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a patch lies in a volume: its position p is read at  v + M (p − t) + d(p) − d(t).

    matrix: M (3, 3), the `linear_part`. anchor: t, voxels of the patch. target: v, voxels of the volume; t goes to v
    whatever was drawn. vectors: (3, gx, gy, gz), what the control points are displaced by, in voxels along each axis,
    with d(t) taken off. shares: for each axis (n, g), how much of every control point a voxel of the patch gets. No
    control points where nothing is deformed. All float64.
    """

    matrix: NDArray[np.float64]
    anchor: NDArray[np.float64]
    target: NDArray[np.float64]
    vectors: NDArray[np.float64]
    shares: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

    @property
    def size(self) -> Size:
        """Of the patch."""
        x, y, z = (len(shares) for shares in self.shares)
        return (x, y, z)

    @property
    def bounds(self) -> Box:
        """A box of the volume in which every voxel of the patch is read, and its neighbours; it may reach outside."""
        ends = np.stack([np.zeros(3), np.asarray(self.size) - 1.0]) - self.anchor
        moved = np.sort(self.matrix[:, :, None] * ends.T[None], axis=2).sum(axis=1) + self.target[:, None]
        if self.vectors.size:  # the field lies between the least and the largest of its control values
            lines = self.vectors.reshape(3, -1)
            moved += np.stack([lines.min(axis=1), lines.max(axis=1)], axis=1)
        start, stop = np.floor(moved[:, 0]).astype(int) - 1, np.ceil(moved[:, 1]).astype(int) + 2
        return Box(tuple(start.tolist()), tuple((stop - start).tolist()))

    def grid(self, device: torch.device | str | None = None) -> Tensor:
        """Where in the volume every voxel of the patch is read: voxel coordinates, float32 (3, *size)."""
        grid = _displacement(self, device)
        for axis, shares in enumerate(self.shares):
            positions = np.arange(len(shares), dtype=np.float64)
            line = np.outer(self.matrix[:, axis], positions - self.anchor[axis])
            if axis == 0:
                line += self.target[:, None]
            shape = [3, 1, 1, 1]
            shape[axis + 1] = -1
            grid = grid + torch.from_numpy(line).to(grid).reshape(shape)
        return grid.float()


def place(
    params: SpatialParams,
    size: Size,
    spacing_mm: Sequence[float],
    anchor_patch: Sequence[float],
    anchor_volume: Sequence[float],
) -> Placement:
    """What was drawn, as a `Placement` of a patch of `size` voxels on a grid of `spacing_mm`."""
    matrix = linear_part(params, spacing_mm)
    anchor, target = np.asarray(anchor_patch, dtype=np.float64), np.asarray(anchor_volume, dtype=np.float64)
    if params.displacements is None:
        x, y, z = (np.zeros((n, 0)) for n in size)
        return Placement(matrix, anchor, target, np.zeros((3, 0, 0, 0)), (x, y, z))
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    step_mm = params.control_spacing_voxels * spacing.min()
    shares, at_anchor = [], []
    for axis, (length, points) in enumerate(zip(size, params.displacements.shape[1:], strict=True)):
        positions = np.append(np.arange(length, dtype=np.float64), anchor[axis])
        control = (positions - (length - 1) / 2) * spacing[axis] / step_mm + (points - 1) / 2
        rows = interpolation_weights(control, points)
        shares.append(rows[:-1])
        at_anchor.append(rows[-1])
    vectors = params.displacements.astype(np.float64) * (spacing.min() / spacing)[:, None, None, None]
    # Shares sum to 1: taking d(anchor) off the control values takes it off the field.
    vectors = vectors - np.einsum("cxyz,x,y,z->c", vectors, *at_anchor)[:, None, None, None]
    return Placement(matrix, anchor, target, vectors, (shares[0], shares[1], shares[2]))


def sampling_grid(
    params: SpatialParams,
    size: Size,
    spacing_mm: Sequence[float],
    anchor_patch: Sequence[float],
    anchor_volume: Sequence[float],
    device: torch.device | str | None = None,
) -> Tensor:
    """Where in the volume every voxel of the patch is read: voxel coordinates, float32 (3, *size); see `Placement`."""
    return place(params, size, spacing_mm, anchor_patch, anchor_volume).grid(device)


def _displacement(placement: Placement, device: torch.device | str | None) -> Tensor:
    """d(p) − d(anchor) in voxels along each axis, (3, *size); zeros (3, 1, 1, 1) where nothing is deformed.

    Evaluated axis by axis with dense weight matrices. float64 on CUDA, where float32 products may be rounded to
    fewer bits; else float32.
    """
    dtype = torch.float64 if device is not None and torch.device(device).type == "cuda" else torch.float32
    if not placement.vectors.size:
        return torch.zeros(3, 1, 1, 1, dtype=dtype, device=device)
    x, y, z = (torch.from_numpy(shares).to(device=device, dtype=dtype) for shares in placement.shares)
    field = torch.from_numpy(placement.vectors).to(device=device, dtype=dtype)
    field = torch.einsum("cxyz,kz->cxyk", field, z)
    field = torch.einsum("cxyk,jy->cxjk", field, y)
    return torch.einsum("cxjk,ix->cijk", field, x)
