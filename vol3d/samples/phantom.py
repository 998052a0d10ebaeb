"""A synthetic kidney: tubules as a confocal microscope would show them, with the truth beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vol3d.errors import LabelError
from vol3d.samples import optics, tissue, tubules
from vol3d.volume import Affine, LabelClass, LabelTable

UNLABELED = 3
SPACING_MM = (0.00176, 0.00176, 0.00204)  # of the kidneys in Çiçek et al. 2016
TABLE = LabelTable(
    (
        LabelClass(0, "inside tubule", (255, 190, 60)),
        LabelClass(1, "tubule wall", (220, 60, 90)),
        LabelClass(2, "background", (64, 110, 200)),
    ),
    (UNLABELED,),
)


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic scan with its dense truth.

    image: uint8 (C, X, Y, Z). classes: uint8 (X, Y, Z), 0 inside tubule, 1 tubule wall, 2 background.
    affine: RAS, mm, centred on the origin.
    """

    image: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    affine: Affine


def kidney(
    shape: tuple[int, int, int],
    spacing_mm: ArrayLike = SPACING_MM,
    channels: int = 1,
    *,
    rng: np.random.Generator,
) -> Phantom:
    """A tangle of tubules, stained, lit unevenly and photographed.

    shape: (X, Y, Z) voxels. spacing_mm: 3 numbers, mm. channels: 1 or more; the first shows the walls, the second
    nuclei, the third autofluorescence, and so on in turn. Brightness alone does not tell the classes apart: walls
    of shaded tubules are darker than lit background, debris and fibres are as bright as walls, and what is inside a
    tubule looks like what is between them. The same generator state gives the same phantom.
    The classes and codes are those of Çiçek et al. 2016; wall ≥ 3 and inner radius ≥ 4 voxels of the finest spacing.
    """
    if channels < 1 or min(shape) < 1:
        raise ValueError(f"expected at least one channel and one voxel per axis, found {channels} and {shape}")
    spacing = Affine.from_spacing(spacing_mm).spacing
    step = spacing / spacing.min()
    tangle = tubules.fill(tubules.grow(np.asarray(shape) * step, rng), shape, step)
    things = tissue.scenery(tangle, step, rng)
    image = np.stack(
        [
            optics.photograph(tissue.brightness(tangle, things, stain, step, rng), step, rng)
            for stain in (tissue.STAINS[c % len(tissue.STAINS)] for c in range(channels))
        ]
    )
    origin = -spacing * (np.asarray(shape) - 1) / 2
    return Phantom(image, tangle.classes, Affine.from_spacing(spacing, origin))


def paint(
    classes: NDArray[np.uint8], slices: tuple[int, int, int] = (3, 3, 3), unlabeled: int = UNLABELED
) -> NDArray[np.uint8]:
    """Keep the classes in whole planes only, evenly spaced; `unlabeled` everywhere else.

    classes: (X, Y, Z). slices: how many planes across X, Y and Z; n planes of an axis with N voxels lie at
    (N − 1)(i + ½)/n, rounded to n different numbers. Raises `LabelError` where an axis has too few planes or
    `unlabeled` is a class.
    """
    if (classes == unlabeled).any():
        raise LabelError(f"code {unlabeled} is a class of this volume; choose another code for unlabeled voxels")
    painted = np.full_like(classes, unlabeled)
    for axis, (count, size) in enumerate(zip(slices, classes.shape, strict=True)):
        if not 0 <= count <= size:
            raise LabelError(f"expected 0 to {size} painted planes across {'xyz'[axis]}, found {count}")
        planes = [round((size - 1) * (i + 0.5) / count) for i in range(count)]
        if len(set(planes)) < count:  # halves that were rounded to one even number
            planes = [math.floor((size - 1) * (i + 0.5) / count + 0.5) for i in range(count)]
        where = (slice(None),) * axis + (planes,)
        painted[where] = classes[where]
    return painted
