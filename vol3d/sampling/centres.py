"""Where to look: labeled voxels, drawn so that every class is met equally often."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import LabelError
from vol3d.volume import SparseLabels

Voxel = tuple[int, int, int]
_Voxels = dict[int, dict[int, NDArray[Any]]]  # class or set → number of the volume → places in its line of memory
_PARTIAL = 0.1  # of the patches, where any voxel is only known to be of one of several classes


class LabeledVoxels:
    """All labeled voxels of some volumes, by class, and those only known to be of one of several, by set.

    Voxels with a confidence weight of zero do not count: they could not change the loss.
    Raises `LabelError` where no volume has a labeled one.
    """

    def __init__(self, cases: list[SparseLabels]) -> None:
        self._shapes = [case.shape for case in cases]
        self._by_class: _Voxels = {}
        self._by_set: _Voxels = {}
        for number, case in enumerate(cases):
            _sort(self._by_class, number, case.classes, case.labeled, case.weight)
            if case.partial is not None:
                _sort(self._by_set, number, case.partial, (case.partial > 0) & ~case.labeled, case.weight)
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
        """A voxel to cut a patch around: its volume's number and its index (x, y, z).

        First a class, each that occurs with equal probability; then a volume that has it; then one of its voxels.
        Where some voxels are only known to be of one of several classes, a tenth of all patches is drawn around these,
        each set with equal probability; where there are none, no random number is spent on them.
        """
        found = self._by_set if self._by_set and rng.random() < _PARTIAL else self._by_class
        volumes = found[sorted(found)[rng.integers(len(found))]]
        number = list(volumes)[rng.integers(len(volumes))]
        voxels = volumes[number]
        x, y, z = np.unravel_index(int(voxels[rng.integers(len(voxels))]), self._shapes[number])
        return number, (int(x), int(y), int(z))


def _sort(
    found: _Voxels,
    number: int,
    indices: NDArray[Any],
    mask: NDArray[np.bool_],
    weight: NDArray[np.float32] | None,
) -> None:
    """Add the voxels of one volume where `mask` is True and the weight > 0 to `found`, by their index."""
    usable = mask if weight is None else mask & (weight > 0)
    flat = np.flatnonzero(usable)
    if not len(flat):
        return
    flat = flat.astype(np.int32) if usable.size < 2**31 else flat
    values = indices.reshape(-1)[flat]
    order = np.argsort(values, kind="stable")
    present, first = np.unique(values[order], return_index=True)
    for index, voxels in zip(present, np.split(flat[order], first[1:]), strict=True):
        found.setdefault(int(index), {})[number] = voxels
