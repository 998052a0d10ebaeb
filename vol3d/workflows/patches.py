"""Cases + augmentation → the patches a network trains on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vol3d.config import AugmentConfig
from vol3d.sampling import LabeledVoxels, PatchDataset
from vol3d.transforms import IntensityAugmentation, SpatialAugmentation, cut_patch
from vol3d.volume import SparseLabels
from vol3d.workflows.cases import Case

Triple = tuple[int, int, int]


class PatchCutter:
    """Cuts the patch around a drawn voxel: one grid for image, classes and weights, then gray values.

    size: the network's input. margin: input − output; classes and weights are cut for the output only. The drawn
    voxel lands uniformly anywhere in the output.
    """

    def __init__(self, size: Triple, margin: Triple, augment: AugmentConfig) -> None:
        self._size = size
        self._margin = margin
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
        """Image float32 (C, *size), classes int64 (*output), weight float32 (*output)."""
        inside = [m // 2 + int(rng.integers(n - m)) for n, m in zip(self._size, self._margin, strict=True)]
        params = self._spatial.draw(rng, self._size, case.spacing_mm)
        image, classes, weight = cut_patch(
            case.image,
            case.classes,
            case.weight,
            params,
            case.spacing_mm,
            self._size,
            self._margin,
            (inside[0], inside[1], inside[2]),
            voxel,
        )
        return {"image": self._intensity(image, rng), "classes": classes.long(), "weight": weight}


class TrainingCase:
    """A case as tensors, with the labels that train now.

    image: float32 (C, X, Y, Z). classes: (X, Y, Z). weight: float32 (X, Y, Z), 0 where unlabeled.
    """

    def __init__(self, case: Case, labels: SparseLabels) -> None:
        self.image = case.image
        self.spacing_mm = case.spacing_mm
        kind = np.uint8 if labels.classes.dtype == np.uint8 else np.int32
        self.classes = torch.from_numpy(labels.classes.astype(kind, copy=False))
        weight = labels.labeled.astype(np.float32)
        self.weight = torch.from_numpy(weight if labels.weight is None else weight * labels.weight)


def patch_dataset(
    cases: list[Case], labels: list[SparseLabels], cut: PatchCutter, seed: int
) -> PatchDataset[TrainingCase]:
    """Patches of `cases` around the voxels that `labels` (one per case) call labeled."""
    return PatchDataset(
        [TrainingCase(c, s) for c, s in zip(cases, labels, strict=True)], LabeledVoxels(labels), cut, seed
    )
