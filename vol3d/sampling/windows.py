"""Which part of held-out labels is looked at where all of them would take too long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vol3d.sampling.regions import cells_of
from vol3d.volume import SparseLabels


def judged_part(
    labels: SparseLabels, classes: int, halo: Sequence[int], *, most: float, enough: float
) -> SparseLabels | None:
    """The labels in some cubes of the volume; None where looking at all of them costs no more than `most` voxels.

    What a cube costs are the voxels of the box around its labels, wider by `halo` along every axis; what it is worth is
    which part of the labels of every class it holds, so that rare classes count as much as others. Cubes are taken in
    the order of their worth for their cost until they cost `enough`, but always one. classes: how many there are.
    """
    cells, costs, counts = [], [], []
    for cell, tight in cells_of(labels.labeled):
        known = labels.labeled[cell.slices()]
        cells.append(cell)
        costs.append(math.prod(tight.grow(tuple(halo)).clip(labels.shape).size))
        counts.append(np.bincount(labels.classes[cell.slices()][known], minlength=classes))
    if sum(costs) <= most:
        return None
    many = np.array(counts, dtype=float)
    worth = (many / np.maximum(many.sum(axis=0), 1)).sum(axis=1) / costs
    mask, spent = np.zeros(labels.shape, dtype=bool), 0.0
    for number in np.argsort(-worth, kind="stable").tolist():
        if spent and spent + costs[number] > enough:
            break
        mask[cells[number].slices()] = True
        spent += costs[number]
    return labels.within(mask)
