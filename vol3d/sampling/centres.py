"""Where to look: labeled voxels, drawn so that every class is met equally often."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import LabelError
from vol3d.volume import SparseLabels

Voxel = tuple[int, int, int]


class LabeledVoxels:
    """All labeled voxels of some volumes, by class.

    Voxels with a confidence weight of zero do not count: they could not change the loss.
    Raises `LabelError` where no volume has any.
    """

    def __init__(self, cases: list[SparseLabels]) -> None:
        self._shapes = [case.shape for case in cases]
        self._by_class: dict[int, dict[int, NDArray[Any]]] = {}
        for number, case in enumerate(cases):
            usable = case.labeled if case.weight is None else case.labeled & (case.weight > 0)
            flat = np.flatnonzero(usable)
            if not len(flat):
                continue
            flat = flat.astype(np.int32) if usable.size < 2**31 else flat
            classes = case.classes.reshape(-1)[flat]
            order = np.argsort(classes, kind="stable")
            present, first = np.unique(classes[order], return_index=True)
            for index, voxels in zip(present, np.split(flat[order], first[1:]), strict=True):
                self._by_class.setdefault(int(index), {})[number] = voxels
        if not self._by_class:
            names = ", ".join(case.name for case in cases) or "no label file"
            raise LabelError(
                f"{names}: expected labeled voxels to train on, found none. Paint some, or check --unlabeled."
            )

    @property
    def classes(self) -> tuple[int, ...]:
        """Class indices that occur."""
        return tuple(sorted(self._by_class))

    def draw(self, rng: np.random.Generator) -> tuple[int, Voxel]:
        """One labeled voxel: its volume's number and its index (x, y, z).

        First a class, each that occurs with equal probability; then a volume that has it; then one of its voxels.
        """
        volumes = self._by_class[self.classes[rng.integers(len(self._by_class))]]
        number = list(volumes)[rng.integers(len(volumes))]
        voxels = volumes[number]
        x, y, z = np.unravel_index(int(voxels[rng.integers(len(voxels))]), self._shapes[number])
        return number, (int(x), int(y), int(z))
