"""Cases + augmentation → the patches a network trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vol3d.config import AugmentConfig
from vol3d.sampling import LabeledVoxels, PatchDataset
from vol3d.transforms import IntensityAugmentation, SpatialAugmentation, crop, cut_patch
from vol3d.transforms.crop import ReadByBox, crop_read
from vol3d.transforms.patch import source_box
from vol3d.volume import Box, SparseLabels
from vol3d.workflows.case import Case

Triple = tuple[int, int, int]


class PatchCutter:
    """Cuts the patch around a drawn voxel: one grid for image, classes and weights, then gray values.

    size: the network's input. margin: input − output; classes and weights are cut for the output only. The drawn
    voxel lands uniformly anywhere in the output. planes: of a 2-D network, the axes across which it sees planes; of
    several one is drawn for each patch, more often the one in whose plane through the voxel more is labeled.
    """

    def __init__(
        self,
        size: Sequence[int],
        margin: Sequence[int],
        augment: AugmentConfig,
        planes: Sequence[int] = (),
    ) -> None:
        self._size, self._margin = tuple(size), tuple(margin)
        self._planes = tuple(planes)
        self._spatial = SpatialAugmentation(
            deformation_voxels=augment.deformation_voxels,
            control_spacing_voxels=augment.control_spacing_voxels,
            deformation_probability=augment.deformation_probability,
            rotation_degrees=augment.rotation_degrees,
            scale=augment.scale,
            flip_probability=augment.flip_probability or 0.0,
            probability=augment.spatial_probability,
        )
        self._intensity = IntensityAugmentation(
            gamma_probability=augment.gamma_probability,
            noise_probability=augment.noise_probability,
            blur_probability=augment.blur_probability,
            bias_field_probability=augment.bias_field_probability,
        )

    def __call__(self, case: TrainingCase, voxel: Triple, rng: np.random.Generator) -> dict[str, Any]:
        """Image float32 (C, *size), classes int64 or values float32 (*output), weight float32 (*output)."""
        across = self._across(case, voxel, rng)
        size, margin = _volume(self._size, across, 1), _volume(self._margin, across, 0)
        inside = [m // 2 + int(rng.integers(n - m)) for n, m in zip(size, margin, strict=True)]
        params, anchor = self._spatial.draw(rng, size, case.spacing_mm), (inside[0], inside[1], inside[2])
        box = None if isinstance(case.image, Tensor) else source_box(params, case.spacing_mm, size, anchor, voxel)
        held, at = case.within(box, voxel)
        image, classes, weight = cut_patch(*held, params, case.spacing_mm, size, margin, anchor, at)
        image = self._intensity(image, rng)
        if across is not None:
            image, classes, weight = image.squeeze(1 + across), classes.squeeze(across), weight.squeeze(across)
        return {"image": image, "classes": classes, "weight": weight}

    def _across(self, case: TrainingCase, voxel: Triple, rng: np.random.Generator) -> int | None:
        """The axis that a 2-D patch has no extent along; None for a 3-D patch."""
        if len(self._planes) < 2:
            return self._planes[0] if self._planes else None
        labeled = np.array([case.labeled_in_plane[axis][voxel[axis]] for axis in self._planes], dtype=float)
        return int(self._planes[rng.choice(len(self._planes), p=labeled / labeled.sum())])


class TrainingCase:
    """A case as tensors, with the labels that train now.

    image: float32 (C, X, Y, Z), or what is read box by box. classes: (X, Y, Z), indices or values to regress; K + s
    where a voxel is only known to be of one of the classes of set s. weight: (X, Y, Z), 0 where unlabeled; bool where
    voxels do not differ in confidence, else float32. labeled_in_plane: for every axis, of how many voxels something is
    known in each plane across it. All tensors are where `image` is: the case's, moved.
    """

    def __init__(self, case: Case, labels: SparseLabels, image: Tensor | ReadByBox | None = None) -> None:
        self.image = image = case.image if image is None else image
        self.spacing_mm = case.spacing_mm
        known = labels.known
        if case.target is None:
            indices = labels.indices
            kind = np.uint8 if indices.dtype == np.uint8 else np.int32
            classes = torch.from_numpy(indices.astype(kind, copy=False))
        else:
            classes = torch.from_numpy(case.target)
        device = image.device if isinstance(image, Tensor) else "cpu"
        self.classes = classes.to(device)
        weight = known if labels.weight is None else known * labels.weight
        self.weight = torch.from_numpy(weight if case.border is None else weight * case.border).to(device)
        self.labeled_in_plane = tuple(known.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3))

    def within(self, box: Box | None, voxel: Triple) -> tuple[tuple[Tensor, Tensor, Tensor], Triple]:
        """(image, classes, weight) of a box, mirrored where it reaches outside; where a voxel of the volume is in it.

        None: the whole volume, which must be held.
        """
        if isinstance(self.image, Tensor) and box is None:
            return (self.image, self.classes, self.weight), voxel
        if isinstance(self.image, Tensor) or box is None:
            raise AssertionError("a box is read of what is not held")
        image = torch.from_numpy(np.ascontiguousarray(crop_read(self.image, box)))
        x, y, z = (a - b for a, b in zip(voxel, box.start, strict=True))
        return (image, crop(self.classes, box), crop(self.weight, box)), (x, y, z)


def patch_dataset(
    cases: list[Case],
    labels: list[SparseLabels],
    cut: PatchCutter,
    seed: int,
    images: Sequence[Tensor | ReadByBox] = (),
) -> PatchDataset[TrainingCase]:
    """Patches of `cases` around the voxels that `labels` (one per case) know something of; see `LabeledVoxels`.

    images: those of the cases where patches are to be cut from them, on a GPU perhaps; none: as they are.
    """
    there = list(images) or [case.image for case in cases]
    parts = [TrainingCase(*part) for part in zip(cases, labels, there, strict=True)]
    return PatchDataset(parts, LabeledVoxels(labels), cut, seed)


def _volume(sizes: tuple[int, ...], across: int | None, thickness: int) -> Triple:
    """Sizes along a network's axes → along X, Y, Z."""
    x, y, z = sizes if across is None else (*sizes[:across], thickness, *sizes[across:])
    return (x, y, z)
