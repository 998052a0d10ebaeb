"""Which part of held-out labels is looked at where all of them would take too long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vol3d.sampling.regions import cells_of
from vol3d.volume import SparseLabels


def judged_part(
    labels: SparseLabels, classes: int, halo: Sequence[int], *, most: float, enough: float
) -> SparseLabels | None:
    """The labels in some cubes of the volume; None where looking at all of them costs no more than `most` voxels.

    What a cube costs are the voxels of the box around its labels, wider by `halo` along every axis. Cubes are taken
    until they cost `enough`: each time the one that adds most to what is known of the classes for its cost, classes
    that are hardly there yet counting most, but always one. classes: how many there are.
    """
    cells, costs, counts = [], [], []
    for cell, tight in cells_of(labels.labeled):
        known = labels.labeled[cell.slices()]
        cells.append(cell)
        costs.append(math.prod(tight.grow(tuple(halo)).clip(labels.shape).size))
        counts.append(np.bincount(labels.classes[cell.slices()][known], minlength=classes))
    if sum(costs) <= most:
        return None
    mask = np.zeros(labels.shape, dtype=bool)
    for number in _chosen(np.array(costs, dtype=float), np.array(counts, dtype=float), enough):
        mask[cells[number].slices()] = True
    return labels.within(mask)


def _chosen(costs: NDArray[np.float64], counts: NDArray[np.float64], enough: float) -> list[int]:
    """Which cells are taken. counts: (cells, classes)."""
    found: list[int] = []
    total, spent = np.zeros(counts.shape[1]), 0.0
    while len(found) < len(costs):
        gain = (np.log1p(total + counts) - np.log1p(total)).sum(axis=1) / costs
        gain[found] = -1
        best = int(gain.argmax())
        if found and spent + costs[best] > enough:
            break
        found.append(best)
        total, spent = total + counts[best], spent + costs[best]
    return found
