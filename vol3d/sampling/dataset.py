"""The patches a network trains on: sample i is a pure function of (seed, i)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

from vol3d.sampling.centres import LabeledVoxels, Voxel

Case = TypeVar("Case")
Cut = Callable[[Case, Voxel, np.random.Generator], dict[str, Any]]


class PatchDataset(Generic[Case]):
    """Endless patches around labeled voxels.

    cases: the volumes, in the order `centres` knows them. cut: (case, drawn voxel, rng) → patch; it must place the
    drawn voxel in the part the loss sees. seed: with the sample's index it alone decides what is drawn, so that
    neither the number of workers nor an interruption changes a patch.
    """

    def __init__(self, cases: list[Case], centres: LabeledVoxels, cut: Cut[Case], seed: int) -> None:
        self._cases = cases
        self._centres = centres
        self._cut = cut
        self._seed = seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The patch of sample `index` ≥ 0."""
        rng = np.random.default_rng([self._seed, index])
        number, voxel = self._centres.draw(rng)
        return self._cut(self._cases[number], voxel, rng)
