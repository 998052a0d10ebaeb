"""A volume: array + affine, frozen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError
from vol3d.volume.affine import Affine


@dataclass(frozen=True, eq=False)
class StoredForms:
    """How a file wrote its geometry, kept so that a prediction can be written the same way.

    qform, sform: float64 (4, 4) in the file's units, or None where its code is 0.
    units: NIfTI `xyzt_units` byte. pixdim: the eight NIfTI pixdim values, or None.
    """

    qform: NDArray[np.float64] | None = None
    sform: NDArray[np.float64] | None = None
    qform_code: int = 0
    sform_code: int = 0
    units: int = 0
    pixdim: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or label map in memory.

    array: (C, X, Y, Z), any real dtype. affine: of the grid (X, Y, Z). name: for messages, usually the file's name.
    forms: the geometry as the file wrote it, None where the file had nothing more than `affine` says.
    attributes: further facts a file kept (class names, channel names) or lacks (spacing_assumed); JSON values only.
    """

    array: NDArray[Any]
    affine: Affine
    name: str = "array"
    forms: StoredForms | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or 0 in self.array.shape:
            raise GeometryError(
                f"{self.name}: expected an array of shape (channels, x, y, z) without empty axes, "
                f"found {self.array.shape}"
            )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Grid size (X, Y, Z)."""
        _, x, y, z = self.array.shape
        return (x, y, z)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Mm per voxel along X, Y, Z."""
        x, y, z = self.affine.spacing
        return (float(x), float(y), float(z))

    def require_same_grid(self, other: Volume, tolerance_voxels: float = 1e-3) -> Volume:
        """Raise `GeometryError` unless both grids have one shape and corners within `tolerance_voxels`.

        Where the file of `other` says nothing of its voxels (attributes["spacing_assumed"]), as painting tools leave
        it, one shape is enough, if this grid is one that a voxel size alone describes. Returns `other`, there with
        this grid's affine.
        """
        same = self.shape == other.shape
        if same and self.affine.corner_distance(other.affine, self.shape) <= tolerance_voxels:
            return other
        if same and self.forms is None and self.affine.sizes_only and other.attributes.get("spacing_assumed"):
            return replace(other, affine=self.affine)
        raise GeometryError(
            f"{self.name} and {other.name} are not on one grid: {self.describe_grid()} against "
            f"{other.describe_grid()}. Resample one onto the other, or name the files that belong together."
        )

    def describe_grid(self) -> str:
        """Shape, spacing, orientation and origin in one phrase, for messages."""
        shape = "×".join(map(str, self.shape))
        spacing = "×".join(f"{v:.6g}" for v in self.spacing_mm)
        origin = ", ".join(f"{v:.6g}" for v in self.affine.matrix[:3, 3])
        assumed = " (assumed, not in the file)" if self.attributes.get("spacing_assumed") else ""
        return f"{shape} voxels of {spacing} mm{assumed}, {self.affine.codes}, origin ({origin})"
