"""One scan and what is known of it, ready for training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vol3d.baselines.reduced import Enlarged
from vol3d.inference.forward import Image
from vol3d.transforms import Undo
from vol3d.transforms.crop import ReadByBox
from vol3d.volume import Box, SparseLabels, Volume
from vol3d.workflows.channels import WithChannels, read_part


@dataclass(frozen=True, eq=False)
class Case:
    """One scan ready for training, on its prepared grid (closest RAS, target spacing).

    image: float32 (C, X, Y, Z), normalised, held or read box by box. labels: same grid. scan: geometry facts of the
    file as it came. target: values to regress, float32 (X, Y, Z), or None where classes are learned. logs: logarithms
    of a pixel classifier's class probabilities, (K, X, Y, Z), which are further channels for a `LogPool`; None without
    a classifier. undo: the way back onto the scan's own grid; frame: that grid, as a volume without values of its own.
    border: how much more a voxel counts in the loss, since it lies between objects, float32 (X, Y, Z), or None.
    """

    name: str
    image: torch.Tensor | ReadByBox
    labels: SparseLabels
    spacing_mm: tuple[float, float, float]
    scan: dict[str, Any]
    target: np.ndarray[Any, Any] | None = None
    logs: Enlarged | None = None
    undo: Undo | None = None
    frame: Volume | None = None
    border: NDArray[np.float32] | None = None

    def file_plane(self, axis: int, index: int) -> str:
        """A plane of the prepared grid as the file counts it, such as z=12; the nearest one where it was resampled."""
        stored = self.scan["order"][axis]
        length = self.scan["shape"][stored]
        if self.undo is not None:
            at = index if self.undo.regrid is None else int(self.undo.regrid.nearest(axis)[index])
        else:
            at = round((index + 0.5) * length / self.shape[axis] - 0.5)
        return f"{'xyz'[stored]}={length - 1 - at if self.scan['flips'][axis] else at}"

    @property
    def as_stored(self) -> bool:
        """Whether planes are counted as in the file: axes in its order, none turned round, nothing resampled."""
        same_order = tuple(self.scan["order"]) == (0, 1, 2) and not any(self.scan["flips"])
        return same_order and tuple(self.scan["shape"]) == self.shape

    @property
    def channels(self) -> int:
        """C, without what a pixel classifier says."""
        return int(self.image.shape[0])

    def part(self, box: Box) -> Case:
        """What lies in a box of the prepared grid, as a case of its own, held in memory; it knows no way back."""
        at, labels = box.slices(), self.labels
        cut = replace(
            labels,
            classes=labels.classes[at],
            labeled=labels.labeled[at],
            affine=labels.affine.shifted(box.start),
            weight=None if labels.weight is None else labels.weight[at],
            partial=None if labels.partial is None else labels.partial[at],
        )
        logs = None if self.logs is None else Enlarged(self.logs.read(box), (1, 1, 1), cut.shape)
        target, border = (None if array is None else array[at] for array in (self.target, self.border))
        image = torch.from_numpy(read_part(self.image, box))
        return replace(self, image=image, labels=cut, target=target, logs=logs, undo=None, frame=None, border=border)

    def seen_by(self, network: Any) -> Image:  # noqa: ANN401  any module that states its channels
        """The channels that `network` takes: without the pixel classifier's where it takes as many as the scan has."""
        if self.logs is None or getattr(network, "in_channels", None) == self.channels:
            return self.image
        return WithChannels(self.image, self.logs)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Prepared grid (X, Y, Z)."""
        return self.labels.shape
