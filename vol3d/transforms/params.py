"""What one draw of the spatial augmentation is: a frozen value that can be printed and replayed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import ConfigError


@dataclass(frozen=True, eq=False)
class SpatialParams:
    """Rotation, scaling, flips and deformation of one patch.

    rotation_rad: angles about the X, Y and Z axis, applied in that order. scale: sampling step along X, Y, Z;
    above 1 the patch covers more of the volume. flips: mirrored axes of the patch.
    displacements: float32 (3, gx, gy, gz), read-only: the displacement vectors *at* the control points, in voxels of
    the finest spacing, or None. Control points lie `control_spacing_voxels` of those voxels apart, centred on the
    patch.
    """

    rotation_rad: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    flips: tuple[bool, bool, bool] = (False, False, False)
    displacements: NDArray[np.float32] | None = field(default=None, repr=False)
    control_spacing_voxels: float = 32.0

    def __post_init__(self) -> None:
        numbers = (*self.rotation_rad, *self.scale, self.control_spacing_voxels)
        if min(self.scale) <= 0 or self.control_spacing_voxels <= 0 or not np.isfinite(numbers).all():
            raise ConfigError(f"expected finite angles, and positive scales and control spacing, found {self!r}")
        if self.displacements is None:
            return
        vectors = np.array(self.displacements, dtype=np.float32)
        if vectors.ndim != 4 or vectors.shape[0] != 3 or 0 in vectors.shape or not np.isfinite(vectors).all():
            raise ConfigError(f"expected finite displacements of shape (3, gx, gy, gz), found {vectors.shape}")
        vectors.flags.writeable = False
        object.__setattr__(self, "displacements", vectors)

    @property
    def is_identity(self) -> bool:
        """Whether the patch is a plain crop."""
        still = self.displacements is None or not self.displacements.any()
        return still and not any(self.rotation_rad) and not any(self.flips) and self.scale == (1.0, 1.0, 1.0)

    def __str__(self) -> str:
        if self.displacements is None:
            return f"{self!r} without deformation"
        rms = float(np.sqrt((self.displacements.astype(np.float64) ** 2).mean()))
        return f"{self!r} with {self.displacements[0].size} control points displaced by rms {rms:.2f} voxels per axis"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpatialParams) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        vectors = self.displacements
        field_key = None if vectors is None else (vectors.shape, vectors.tobytes())
        return (self.rotation_rad, self.scale, self.flips, field_key, self.control_spacing_voxels)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back exactly."""
        return {
            "rotation_rad": list(self.rotation_rad),
            "scale": list(self.scale),
            "flips": list(self.flips),
            "displacements": None if self.displacements is None else self.displacements.tolist(),
            "control_spacing_voxels": self.control_spacing_voxels,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SpatialParams:
        """The inverse of `to_json`. Raises `ConfigError` on anything else."""
        try:
            angles, scale, flips = value["rotation_rad"], value["scale"], value["flips"]
            vectors = value["displacements"]
            return cls(
                (float(angles[0]), float(angles[1]), float(angles[2])),
                (float(scale[0]), float(scale[1]), float(scale[2])),
                (bool(flips[0]), bool(flips[1]), bool(flips[2])),
                None if vectors is None else np.asarray(vectors, dtype=np.float32),
                float(value["control_spacing_voxels"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"expected spatial parameters as to_json writes them, found {str(value)[:200]}"
            ) from error
