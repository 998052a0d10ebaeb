"""What happens to a scan before a network sees it: closest-RAS orientation, spacing, normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import ConfigError
from vol3d.transforms.boxes import BoxSource, PreparedByBox, strided
from vol3d.transforms.spacing import Regrid, Size, same_spacing
from vol3d.transforms.statistics import Scaling, Statistics, sampling_steps
from vol3d.transforms.undo import Undo
from vol3d.volume import Affine, Orientation, SparseLabels, Volume

Normalization = Literal["zscore", "percentile", "window", "none"]


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A scan as the network sees it.

    array: float32 (C, X', Y', Z'), C-contiguous, finite. affine: of that grid. undo: the way back.
    statistics: per channel low, high, mean, std, p1, p99 of the raw intensities (see `Statistics`).
    """

    array: NDArray[np.float32]
    affine: Affine
    undo: Undo
    statistics: list[dict[str, float]]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Mm per voxel of the prepared grid along X, Y, Z."""
        x, y, z = self.affine.spacing
        return (float(x), float(y), float(z))


@dataclass(frozen=True)
class Preprocessing:
    """Turns to closest RAS, resamples to `spacing_mm` (along R, A, S; None: keeps the scan's) and normalises.

    normalization, per channel: zscore (mean 0, standard deviation 1), percentile (`percentiles` to 0 and 1, clipped),
    window (`window` to 0 and 1, clipped), none. Raises `ConfigError` for values that make no sense.
    """

    spacing_mm: tuple[float, float, float] | None = None
    normalization: Normalization = "zscore"
    percentiles: tuple[float, float] = (0.5, 99.5)
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.normalization not in get_args(Normalization):
            known = ", ".join(get_args(Normalization))
            raise ConfigError(f"expected a normalization among {known}, found {self.normalization!r}")
        if self.spacing_mm is not None and not all(0 < mm < np.inf for mm in self.spacing_mm):
            raise ConfigError(f"expected three positive spacings in mm, found {self.spacing_mm}")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(f"expected percentiles 0 ≤ low < high ≤ 100, found {self.percentiles}")
        if (self.normalization == "window") != (self.window is not None):
            raise ConfigError("a window [low, high] goes with normalization 'window', and only with it")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ConfigError(f"expected a window low < high, found {self.window}")

    def shape_of(self, affine: Affine, shape: Size) -> Size:
        """The grid (X, Y, Z) that a scan of this affine and shape gets."""
        orientation, _, regrid = self._grid(affine, shape)
        return Undo(shape, affine, orientation, regrid).prepared_shape

    def apply(self, volume: Volume) -> PreparedImage:
        """Prepare a scan. The result is the same, to the bit, in whichever orientation the scan is stored."""
        orientation, affine, regrid = self._grid(volume.affine, volume.shape)
        undo = Undo(volume.shape, volume.affine, orientation, regrid)
        array = np.empty((volume.channels, *undo.prepared_shape), dtype=np.float32)
        statistics = []
        for channel, prepared in zip(volume.array, array, strict=True):
            turned = orientation.apply(channel)
            found = Statistics.of(turned, self.percentiles)
            scaled = self._scaling(found).apply(turned)
            prepared[...] = scaled if regrid is None else regrid.smooth(scaled)
            statistics.append(found.to_json())
        return PreparedImage(array, affine, undo, statistics)

    def apply_by_box(self, source: BoxSource) -> PreparedByBox | None:
        """As `apply`, of a scan that is read box by box; None where it must be resampled, which needs all of it.

        Intensities are looked at once, at the same voxels as in `apply`.
        """
        orientation, affine, regrid = self._grid(source.affine, source.shape)
        if regrid is not None:
            return None
        steps = sampling_steps(tuple(source.shape[axis] for axis in orientation.order))
        seen = strided(source, orientation, steps)
        found = [Statistics.of(channel, self.percentiles) for channel in seen]
        return PreparedByBox(
            source,
            orientation,
            [self._scaling(one) for one in found],
            affine,
            [one.to_json() for one in found],
            steps,
            seen,
        )

    def apply_labels(self, labels: SparseLabels, affine: Affine | None = None) -> SparseLabels:
        """Labels on the grid that `apply` gives for a scan on theirs; nearest, never mixing codes.

        Where the new grid is coarser, a voxel whose nearest old voxel is unlabeled takes the nearest labeled one that
        falls into it, so that painted slices are not skipped. affine: the scan's, where the labels' differs a trifle.
        """
        orientation, new_affine, regrid = self._grid(affine or labels.affine, labels.shape)
        maps = [orientation.apply(labels.classes), orientation.apply(labels.labeled)]
        if labels.weight is not None:
            maps.append(orientation.apply(labels.weight))
        turned = [np.array(array, order="C") for array in maps]
        new = turned if regrid is None else _nearest(turned, regrid)
        return SparseLabels(new[0], new[1], new_affine, labels.name, new[2] if len(new) > 2 else None)

    def _grid(self, affine: Affine, shape: Size) -> tuple[Orientation, Affine, Regrid | None]:
        orientation = affine.orientation
        x, y, z = (shape[axis] for axis in orientation.order)
        turned = orientation.apply_affine(affine, shape)
        if self.spacing_mm is None or same_spacing(turned.spacing.tolist(), self.spacing_mm):
            return orientation, turned, None
        regrid = Regrid.to_spacing((x, y, z), turned.spacing.tolist(), self.spacing_mm)
        return orientation, turned.resampled(self.spacing_mm, regrid.shape, regrid.new_shape), regrid

    def _scaling(self, statistics: Statistics) -> Scaling:
        if self.normalization == "zscore":
            return Scaling.zscore(statistics)
        if self.normalization == "percentile":
            return Scaling.percentile(statistics)
        return Scaling(0.0, 1.0) if self.window is None else Scaling.window(self.window)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        return {
            "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm),
            "normalization": self.normalization,
            "percentiles": list(self.percentiles),
            "window": None if self.window is None else list(self.window),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_json`. Raises `ConfigError` on anything else."""
        try:
            spacing, window, (low, high) = value["spacing_mm"], value["window"], value["percentiles"]
            return cls(
                None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2])),
                value["normalization"],
                (float(low), float(high)),
                None if window is None else (float(window[0]), float(window[1])),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"expected preprocessing as to_json writes it, found {str(value)[:200]}") from error


def _nearest(maps: list[NDArray[Any]], regrid: Regrid) -> list[NDArray[Any]]:
    """Classes, labeled mask and perhaps weights (X, Y, Z) on the new grid; unlabeled cells look for labels inside."""
    index = np.ix_(*(regrid.nearest(axis) for axis in range(3)))
    new = [array[index] for array in maps]
    back = regrid.inverse
    cells = np.ix_(*(back.nearest(axis) for axis in range(3)))
    left_out = np.argwhere(maps[1] & ~new[1][cells])
    if left_out.size == 0:
        return new
    cell = np.stack([back.nearest(axis)[left_out[:, axis]] for axis in range(3)])
    away = [back.positions(axis)[left_out[:, axis]] - cell[axis] for axis in range(3)]
    farthest_first = np.argsort(-np.sum(np.square(away), axis=0), kind="stable")  # the nearest comes last, and stays
    source = tuple(left_out[farthest_first].T)
    target = tuple(cell[:, farthest_first])
    for array, values in zip(new, maps, strict=True):
        array[target] = values[source]
    return new
