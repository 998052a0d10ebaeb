"""How coarse a grid a pixel classifier looks at, so that it is a small part of a run however large the scans are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vol3d.baselines.reduced import Factors, reduced_shape, reduced_spacing
from vol3d.workflows.planned import Grid

TIME_SHARE = 0.25  # of a run
_VOXEL_SECONDS = (4.5e-6, 7e-7)  # for each channel of a scan, and for each class; measured on two cores of an EPYC
_MOST_ANSWERS = 2**28  # classes times voxels: a gigabyte for each of the four things that are said of all voxels
_ALIKE = 1.5  # ratio of edges up to which voxels are made coarser together
_LEAST_SAMPLES, _LARGEST = 16, 64  # samples along an axis; factor


def voxel_seconds(channels: int, classes: int) -> float:
    """What a voxel takes in training, about: both stages, with the features of a scan kept between them."""
    of_channel, of_class = _VOXEL_SECONDS
    return channels * of_channel + classes * of_class


def reduction_for(grids: Sequence[Grid], channels: int, classes: int, seconds: float) -> Factors:
    """Voxels of a scan to one of the classifier's grid, along each prepared axis; 1 in scans that are small enough.

    seconds: how long the run takes. The voxels of the coarse grid are as nearly cubes as can be. A network sees every
    voxel all the same.
    """
    most = min(TIME_SHARE * seconds / voxel_seconds(channels, classes), _MOST_ANSWERS / classes)
    spacing, factors = grids[0].spacing_mm, (1, 1, 1)
    while sum(math.prod(reduced_shape(grid.shape, factors)) for grid in grids) > most:
        edges = reduced_spacing(spacing, factors)
        least = [min(grid.shape[axis] for grid in grids) for axis in range(3)]
        able = [
            axis
            for axis in range(3)
            if least[axis] // (factors[axis] + 1) >= _LEAST_SAMPLES and factors[axis] < _LARGEST
        ]
        if not able:
            break
        finest = min(edges[axis] for axis in able)
        x, y, z = (f + (axis in able and edges[axis] <= _ALIKE * finest) for axis, f in enumerate(factors))
        factors = (x, y, z)
    return factors
