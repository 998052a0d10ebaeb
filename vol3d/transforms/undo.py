"""From the prepared grid back onto the scan's: the exact undo of `Preprocessing`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError
from vol3d.transforms.spacing import Regrid, Size
from vol3d.volume import Affine, Orientation, Slab


@dataclass(frozen=True, eq=False)
class Undo:
    """How a scan's grid became the prepared one: turned by `orientation`, then resampled by `regrid` (None: not).

    shape, affine: of the scan.
    """

    shape: Size
    affine: Affine
    orientation: Orientation
    regrid: Regrid | None = None

    @property
    def turned_shape(self) -> Size:
        """The scan's grid after the turn (X, Y, Z)."""
        x, y, z = (self.shape[axis] for axis in self.orientation.order)
        return (x, y, z)

    @property
    def prepared_shape(self) -> Size:
        """The grid that the network sees (X, Y, Z)."""
        return self.turned_shape if self.regrid is None else self.regrid.new_shape

    def labels(self, slabs: Iterable[Slab], classes: int) -> NDArray[Any]:
        """The most probable class of every voxel of the scan: class indices (X, Y, Z), uint8 or uint16 above 256.

        slabs: (classes, x, Y', Z') on the prepared grid in ascending order without gaps. Where the grid was resampled
        they must be probabilities, which are interpolated linearly (never the indices); else logits do as well, and so
        do class indices, whole numbers (1, x, Y', Z'). Ties go to the lower index. Only two planes of probabilities are
        kept beside the slab at hand.
        Raises `GeometryError` where slabs do not fit together or do not cover the grid.
        """
        result = np.empty(self.shape, dtype=np.uint8 if classes <= 256 else np.uint16)
        turned = self.orientation.apply(result)
        for start, values in self._turned(slabs, classes, indices=self.regrid is None):
            found = values[0] if values.dtype.kind == "i" else _argmax(values, result.dtype)
            turned[start : start + values.shape[1]] = found
        return result

    def probabilities(self, slabs: Iterable[Slab], classes: int) -> NDArray[np.float32]:
        """Class probabilities on the scan's grid, float32 (classes, X, Y, Z); slabs and errors as in `labels`."""
        result = np.empty((classes, *self.shape), dtype=np.float32)
        turned = self.orientation.apply(result)
        for start, values in self._turned(slabs, classes):
            turned[:, start : start + values.shape[1]] = values
        return result

    def array(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn `array` (..., X', Y', Z') back to the scan's orientation; exact, a view.

        Raises `GeometryError` where the scan was resampled: values must then go through `probabilities`.
        """
        if self.regrid is not None or array.shape[-3:] != self.prepared_shape:
            raise GeometryError(
                f"expected an array on the scan's own voxels {self.turned_shape}, found {array.shape} on a prepared "
                f"grid of {self.prepared_shape}; use labels() or probabilities() for resampled scans"
            )
        return self.orientation.undo(array)

    def _turned(
        self, slabs: Iterable[Slab], classes: int, *, indices: bool = False
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """First plane and values (classes, x, Y, Z) of runs of planes on the turned grid, in ascending order."""
        checked = self._checked(slabs, classes, indices=indices)
        if self.regrid is None:
            for slab in checked:
                yield slab.start, slab.values
            return
        back = self.regrid.inverse
        lower, upper, share = back.between(0)
        before: NDArray[np.float32] | None = None
        done = 0
        for slab in checked:
            for offset in range(slab.values.shape[1]):
                plane = _plane(slab.values[:, offset], back)
                at = slab.start + offset
                while done < len(upper) and upper[done] <= at:
                    low = plane if before is None or lower[done] == at else before
                    yield done, (low + share[done] * (plane - low))[:, None]
                    done += 1
                before = plane

    def _checked(self, slabs: Iterable[Slab], classes: int, *, indices: bool) -> Iterator[Slab]:
        planes, *across = self.prepared_shape
        at = 0
        for slab in slabs:
            lead, thick, *found = slab.values.shape
            if indices and slab.values.dtype.kind == "i" and lead == 1:
                lead = classes  # the most probable of them
            if slab.start != at or lead != classes or found != across or at + thick > planes:
                raise GeometryError(
                    f"expected {classes} classes on planes {at} … {planes - 1} of {tuple(across)}, "
                    f"found {slab.values.shape} from plane {slab.start}"
                )
            at += thick
            yield slab
        if at != planes:
            raise GeometryError(f"expected slabs over all {planes} planes, they end before plane {at}")


def _argmax(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Index of the largest of (K, x, Y, Z) along the first axis, the lower of equals; faster than numpy's."""
    best = values[0].copy()
    index = np.zeros(best.shape, dtype=dtype)
    for k, candidate in enumerate(values[1:], 1):
        higher = candidate > best
        np.maximum(index, higher * dtype.type(k), out=index)
        np.maximum(best, candidate, out=best)
    return index


def _plane(values: NDArray[np.float32], back: Regrid) -> NDArray[np.float32]:
    """One plane (K, Y', Z') interpolated linearly onto the scan's voxels (K, Y, Z)."""
    for axis in (1, 2):
        lower, upper, share = back.between(axis)
        low = values.take(lower, axis=axis)
        shape = (1, -1, 1) if axis == 1 else (1, 1, -1)
        values = low + share.reshape(shape) * (values.take(upper, axis=axis) - low)
    return values
