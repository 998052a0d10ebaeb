"""`preview.nii.gz` in the run folder: a first segmentation soon after the start, better ones as training goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vol3d import inference, io
from vol3d.baselines.reduced import Enlarged
from vol3d.errors import Vol3dError
from vol3d.volume import LabelTable, Slab
from vol3d.workflows.listener import Listener
from vol3d.workflows.tiling import tile_plans

if TYPE_CHECKING:
    from vol3d.workflows.case import Case
    from vol3d.workflows.plan import Plan

PREVIEW_FILE = "preview.nii.gz"
PREVIEW_SHARE = 0.05  # of a run's time, at most
_SECONDS_PER_VOXEL, _FEW_CLASSES = 1e-6, 10  # until one was made; more classes take longer
_MOST_VOXELS = 2**28  # writing more would take a minute


class LivePreview:
    """Segments one whole scan now and then, on the scan's own grid. case: as the network sees it.

    indices: what was shown last, class indices (X, Y, Z) on the prepared grid. Takes a twentieth of the time since
    `began` (time.monotonic) at most: one that would take more is left out.
    """

    def __init__(self, folder: Path, case: Case, table: LabelTable, plan: Plan, began: float, tell: Listener) -> None:
        self._tell = tell
        self.indices: NDArray[Any] | None = None
        self.path = folder / PREVIEW_FILE
        self._case, self._table, self._plan = case, table, plan
        self._began, self._spent = began, 0.0
        self._expected = _SECONDS_PER_VOXEL * math.prod(case.shape) * max(1.0, len(table) / _FEW_CLASSES)

    def show(self, found: Enlarged, *, logs: bool) -> None:
        """Write the most probable classes; nothing of a scan that is too large.

        found: probabilities (K, X, Y, Z), or their logarithms.
        """
        if math.prod(found.shape) <= _MOST_VOXELS:
            self._write(Slab(one.start, np.exp(one.values)) if logs else one for one in found.slabs())

    @property
    def affordable(self) -> bool:
        """Whether there is time for another one."""
        return self._spent + self._expected <= PREVIEW_SHARE * (time.monotonic() - self._began)

    def refresh(self, make: Callable[[], Any]) -> None:
        """Write what a network says, any module that states its margin and stride; making it is part of the time."""
        now = time.monotonic()
        network = make()
        device = self._plan.device
        patch, tiling = self._plan.patch, self._plan.config.inference
        self._write(
            inference.predict_axes(
                network,
                self._case.seen_by(network),
                tile_plans(network, self._case.shape, device, tiling, self._plan.planes, patch),
                device=device.name,
                precision=device.precision,
            )
        )
        self._expected = time.monotonic() - now
        self._spent += self._expected

    def _kept(self, slabs: Iterable[Slab]) -> Iterator[Slab]:
        """The slabs, whose classes are kept in `indices` as they pass."""
        self.indices = np.zeros(self._case.shape, dtype=np.min_scalar_type(len(self._table) - 1))
        for slab in slabs:
            self.indices[slab.start : slab.stop] = slab.values.argmax(axis=0)
            yield slab

    def _write(self, slabs: Iterable[Slab]) -> None:
        if self._case.undo is None or self._case.frame is None:
            raise AssertionError("a case that was loaded knows the way back to its scan")
        codes = self._table.decode(self._case.undo.labels(self._kept(slabs), len(self._table)))
        names = {c.code: c.name for c in self._table.classes}
        try:
            io.write_labels(str(self.path), codes, self._case.frame, names=names, overwrite=True)
        except Vol3dError as error:
            self._tell.warn(f"no preview: {error}")  # training goes on without
