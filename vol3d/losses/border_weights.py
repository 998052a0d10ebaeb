"""U-Net's weight map: a narrow gap between two objects counts more (Ronneberger et al. 2015, arXiv 1505.04597, eq. 2).

Only annotated voxels are known. Of annotated planes distances are measured within each plane, in 2-D; of dense labels
in 3-D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vol3d.errors import ConfigError, GeometryError, LabelError

_DENSE = 0.5  # labeled part of the volume from which it is measured as a whole
_NEGLIGIBLE = 1e-7  # border terms below this are rounded away in float32 beside the 1 they are added to


def border_weights(
    instances: NDArray[np.integer] | NDArray[np.bool_],
    labeled: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    *,
    planes: Sequence[tuple[int, int]] = (),
    w0: float = 10.0,
    sigma_mm: float | None = None,
    sigma_voxels: float = 5.0,
) -> NDArray[np.float32]:
    """1 + w0 · exp(−(d1 + d2)² / 2σ²) on labeled voxels, 0 on unlabeled ones; float32 (X, Y, Z).

    instances: integers (X, Y, Z), one number > 0 per object, 0 = no object; or bool, the foreground, whose connected
    parts (corner neighbours included) are then the objects, found in each plane by itself, or in 3-D. labeled: bool
    (X, Y, Z); what `instances` says elsewhere has no influence: an unlabeled voxel belongs to no object.
    spacing_mm: along X, Y, Z. planes: annotated planes as (axis, index), none for distances in 3-D.

    d1 and d2, in mm: distance between voxel centres to the nearest and to the second nearest object. With planes they
    are those within each plane, and a voxel of several planes has the largest weight; labeled voxels outside all planes
    weigh 1. Without, they are those of the whole grid, of which at least half must be labeled, or an axis has one
    voxel. The term is for voxels of no object, which keep objects apart. A voxel within an object weighs 1, unless
    it touches another object (over a corner, too), with nothing in between: there d1 = 0, d2 is the distance to that
    object, and the common boundary is raised from both sides. The balance of classes is no part of this map.

    sigma_mm: σ; None: `sigma_voxels` × the finest spacing within the plane (or grid). w0 ≥ 0.

    Raises `GeometryError` where shapes differ or a plane lies outside the grid, `ConfigError` for impossible numbers,
    `LabelError` for negative instances, and for sparse labels without a plane.
    """
    _check(instances, labeled, spacing_mm, planes)
    if not (math.isfinite(w0) and w0 >= 0 and sigma_voxels > 0 and (sigma_mm is None or sigma_mm > 0)):
        raise ConfigError(f"expected w0 ≥ 0 and σ > 0, found w0 = {w0}, σ = {sigma_mm} mm or {sigma_voxels} voxels")
    weights = labeled.astype(np.float32)
    for part in _parts(labeled, planes):
        known = labeled[part]
        spacing = [s for s, taken in zip(spacing_mm, part, strict=True) if isinstance(taken, slice)]
        finest = min([s for s, n in zip(spacing, known.shape, strict=True) if n > 1], default=min(spacing))
        sigma = sigma_voxels * finest if sigma_mm is None else sigma_mm
        term = _border_term(_objects(instances[part], known), spacing, w0, sigma)
        weights[part] = np.maximum(weights[part], np.where(known, 1 + term, 0))
    return weights


def _check(
    instances: NDArray[np.integer] | NDArray[np.bool_],
    labeled: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    planes: Sequence[tuple[int, int]],
) -> None:
    if instances.ndim != 3 or instances.shape != labeled.shape:
        raise GeometryError(
            f"expected instances and labeled voxels on one grid (X, Y, Z), found {instances.shape} and {labeled.shape}"
        )
    if len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise GeometryError(f"expected three spacings > 0 mm, found {list(spacing_mm)}")
    for axis, index in planes:
        if not (0 <= axis < 3 and 0 <= index < labeled.shape[axis]):
            raise GeometryError(f"expected planes of a grid {labeled.shape} as (axis, index), found {(axis, index)}")
    if labeled.dtype != np.bool_ or instances.dtype.kind not in "biu":
        raise LabelError(
            f"expected bool labeled voxels and integer or bool instances, found {labeled.dtype} and {instances.dtype}"
        )
    if instances.dtype.kind == "i" and (instances[labeled] < 0).any():
        raise LabelError("expected instances numbered from 1, 0 for no object, found negative ones on labeled voxels")


def _parts(labeled: NDArray[np.bool_], planes: Sequence[tuple[int, int]]) -> list[tuple[slice | int, ...]]:
    """Indices of what is measured at once: the whole grid, or every plane."""
    if not planes:
        if labeled.any() and labeled.mean() < _DENSE and 1 not in labeled.shape:
            raise LabelError(
                f"expected annotated planes or at least half of the voxels labeled, found {labeled.mean():.1%} of them "
                "and no plane: distances between objects are unknown there; leave the border weights out"
            )
        return [(slice(None),) * 3]
    return [tuple(index if a == axis else slice(None) for a in range(3)) for axis, index in planes]


def _objects(instances: NDArray[np.integer] | NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Objects numbered 1, 2, … without a gap; 0 where there is none and where nobody annotated."""
    masked = np.where(known, instances, 0)
    if instances.dtype == np.bool_:
        components, _ = ndimage.label(masked, ndimage.generate_binary_structure(masked.ndim, masked.ndim))
        return components.astype(np.int32, copy=False)
    numbered = np.zeros(masked.shape, np.int32)
    inside = masked != 0
    numbered[inside] = np.unique(masked[inside], return_inverse=True)[1] + 1
    return numbered


def _border_term(objects: NDArray[np.int32], spacing: Sequence[float], w0: float, sigma: float) -> NDArray[np.float32]:
    """w0 · exp(−(d1 + d2)² / 2σ²) where it is not negligible; float32, like `objects`."""
    if w0 <= _NEGLIGIBLE:
        return np.zeros(objects.shape, np.float32)
    reach = sigma * math.sqrt(2 * math.log(w0 / _NEGLIGIBLE))
    nearest, second = _two_nearest(objects, spacing, reach)
    term = w0 * np.exp(-np.square((nearest + second) / sigma) / 2)
    return np.where((objects == 0) | _touching(objects), term, 0).astype(np.float32)


def _two_nearest(
    objects: NDArray[np.int32], spacing: Sequence[float], reach: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distance to the nearest and the second nearest object, exact up to `reach`, inf where none is that near.

    Each object's distances are found in its own bounding box grown by `reach`: as the second nearest is at least as
    far as the nearest, a sum up to `reach` never needs more.
    """
    nearest = np.full(objects.shape, np.inf, np.float32)
    second = nearest.copy()
    for number, box in enumerate(ndimage.find_objects(objects), start=1):
        grown = tuple(
            slice(max(0, s.start - math.ceil(reach / mm)), s.stop + math.ceil(reach / mm))
            for s, mm in zip(box, spacing, strict=True)
        )
        distance = ndimage.distance_transform_edt(objects[grown] != number, sampling=spacing).astype(np.float32)
        near, far = nearest[grown], second[grown]
        np.minimum(far, np.maximum(near, distance), out=far)
        np.minimum(near, distance, out=near)
    return nearest, second


def _touching(objects: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Voxels of an object with a voxel of another one among their neighbours, corners included."""
    none = np.iinfo(np.int32).max
    highest = ndimage.maximum_filter(objects, size=3, mode="constant", cval=0)
    lowest = ndimage.minimum_filter(np.where(objects > 0, objects, none), size=3, mode="constant", cval=none)
    return np.asarray((objects > 0) & ((highest != objects) | (lowest != objects)))
