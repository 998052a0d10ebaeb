"""Numbers that turn class probabilities into objects, in physical units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from vol3d.errors import ConfigError, GeometryError

SMALLEST_OBJECT_VOXELS = 20


@dataclass(frozen=True)
class InstanceRules:
    """How objects are found. Lengths in mm, volumes in mm³; 0 switches a rule off, None takes its default.

    smoothing_mm: sigma of the Gaussian that smooths all probabilities first. None: the finest spacing.
    seed_threshold: objects start from connected voxels whose probability of `inside` is above it.
    split: whether a connected inside with several bulges starts several objects, against borders that leak.
    split_depth_mm: how much deeper inside than the neck between two bulges both must reach. None: the finest spacing.
    distance_weight: how much a millimetre inside counts in the landscape that objects grow on, in probabilities per
    finest spacing.
    min_volume_mm3: smaller objects are given up: a neighbour that touches takes their voxels, else they are stuff.
    None: 20 voxels.
    hole_volume_mm3: stuff enclosed by one object up to this volume joins the object. None: 20 voxels.
    Raises `ConfigError` on negative numbers and thresholds outside 0 to 1.
    """

    smoothing_mm: float | None = None
    seed_threshold: float = 0.6
    split: bool = True
    split_depth_mm: float | None = None
    distance_weight: float = 0.0
    min_volume_mm3: float | None = None
    hole_volume_mm3: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{field.name}: expected a number from 0 up, found {value}")
        if self.seed_threshold >= 1:
            raise ConfigError(f"seed_threshold: expected a probability from 0 to below 1, found {self.seed_threshold}")

    def resolve(self, spacing_mm: Sequence[float]) -> ResolvedRules:
        """The numbers that hold on a grid of this spacing (mm per voxel, (3,)). Raises `GeometryError` on others."""
        if len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
            raise GeometryError(f"expected three spacings in mm, found {list(spacing_mm)}")
        finest, few = min(spacing_mm), SMALLEST_OBJECT_VOXELS * math.prod(spacing_mm)
        return ResolvedRules(
            spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])),
            smoothing_mm=finest if self.smoothing_mm is None else self.smoothing_mm,
            seed_threshold=self.seed_threshold,
            split=self.split,
            split_depth_mm=finest if self.split_depth_mm is None else self.split_depth_mm,
            distance_weight=self.distance_weight / finest,
            min_volume_mm3=few if self.min_volume_mm3 is None else self.min_volume_mm3,
            hole_volume_mm3=few if self.hole_volume_mm3 is None else self.hole_volume_mm3,
        )


@dataclass(frozen=True)
class ResolvedRules:
    """`InstanceRules` on one grid: no default is left open. distance_weight: probabilities per mm."""

    spacing_mm: tuple[float, float, float]
    smoothing_mm: float
    seed_threshold: float
    split: bool
    split_depth_mm: float
    distance_weight: float
    min_volume_mm3: float
    hole_volume_mm3: float

    @property
    def sigma(self) -> list[float]:
        """Smoothing along every axis, in voxels."""
        return [self.smoothing_mm / s for s in self.spacing_mm]

    @property
    def min_voxels(self) -> float:
        """Objects of fewer voxels are given up."""
        return self._voxels(self.min_volume_mm3)

    @property
    def hole_voxels(self) -> float:
        """Holes of no more voxels are filled."""
        return self._voxels(self.hole_volume_mm3)

    def _voxels(self, volume_mm3: float) -> float:
        return round(volume_mm3 / math.prod(self.spacing_mm), 6)  # 20 voxels are 20, whatever the last digit
