"""How bright the tissue is before any microscope looks at it: a different stain in every channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vol3d.samples.tubules import Tangle

Floats = NDArray[np.float64]
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Stain:
    """Relative brightness of the parts of the tissue; 1 is a typical tubule wall.

    lumen, wall: (mean, spread between tubules). background: mean. mottle: contrast of the background's texture.
    debris, fibres, vacuoles, nuclei: brightness of what lies about; negative is darker than its surroundings.
    """

    lumen: tuple[float, float]
    wall: tuple[float, float]
    background: float
    mottle: float
    debris: float
    fibres: float
    vacuoles: float
    nuclei: float


STAINS = (
    Stain((0.36, 0.10), (1.00, 0.18), 0.38, 0.36, 0.75, 0.60, -0.26, 0.20),  # the walls' own stain
    Stain((0.24, 0.06), (0.50, 0.10), 0.32, 0.36, 0.40, 0.15, -0.12, 0.85),  # nuclei, wherever they are
    Stain((0.36, 0.16), (0.78, 0.16), 0.52, 0.40, 0.90, 0.80, -0.30, -0.15),  # autofluorescence
)


@dataclass(frozen=True, eq=False)
class Scenery:
    """What lies in the tissue besides the tubules' walls, the same in every channel; float32 (X, Y, Z) from 0 to 1."""

    debris: Image
    fibres: Image
    vacuoles: Image
    nuclei: Image


def scenery(tangle: Tangle, step: Floats, rng: np.random.Generator) -> Scenery:
    """Debris, fibres and vacuoles between the tubules, nuclei in walls and between; step: (3,) units per voxel."""
    shape, outside = tangle.classes.shape, tangle.classes == 2
    units = float(np.prod(np.asarray(shape) * step))
    debris = _blobs(shape, step, round(units / 1500), (1.3, 3.2), rng) * outside
    vacuoles = _blobs(shape, step, round(units / 2200), (2.5, 5.5), rng) * outside
    fibres = _fibres(shape, step, round(units / 9000), rng) * outside
    nuclei = _blobs(shape, step, round(units / 420), (1.4, 2.4), rng) * (tangle.classes != 0)
    return Scenery(debris, fibres, vacuoles, nuclei)


def brightness(tangle: Tangle, things: Scenery, stain: Stain, step: Floats, rng: np.random.Generator) -> Image:
    """The tissue under one stain; float32 (X, Y, Z), about 0 to 2."""
    number = max(tangle.tubules, 1)
    lumen = _spread(stain.lumen, number, rng)[tangle.owner]
    wall = _spread(stain.wall, number, rng)[tangle.owner]
    shape = tangle.classes.shape
    fine, coarse = smooth_noise(shape, 1.4 / step, rng), smooth_noise(shape, 5.0 / step, rng)
    ground = stain.background * (1 + stain.mottle * (0.55 * fine + 0.75 * coarse))
    ground += stain.debris * things.debris + stain.fibres * things.fibres
    ground += stain.vacuoles * things.vacuoles * (ground > -stain.vacuoles)
    brush = np.exp(-(((tangle.depth - 0.3) / 1.5) ** 2))  # the wall's inner rim is a little brighter
    flesh = wall * (0.9 + 0.2 * brush + 0.16 * coarse + 0.10 * fine)
    hollow = lumen * (1 + 0.5 * stain.mottle * coarse + 0.25 * stain.mottle * fine)
    tissue = np.choose(tangle.classes, [hollow, flesh, ground]) + stain.nuclei * things.nuclei
    return np.maximum(tissue, 0.03).astype(np.float32)


def smooth_noise(shape: tuple[int, ...], sigma: Floats, rng: np.random.Generator) -> Image:
    """Gaussian noise blurred by `sigma` (voxels along each axis), mean 0, standard deviation 1; float32."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="reflect")
    noise -= noise.mean()
    deviation = float(noise.std())
    return noise / deviation if deviation else noise


def _spread(level: tuple[float, float], number: int, rng: np.random.Generator) -> Image:
    mean, spread = level
    return rng.uniform(mean - spread, mean + spread, number).astype(np.float32)


def _blobs(
    shape: tuple[int, ...], step: Floats, count: int, radii: tuple[float, float], rng: np.random.Generator
) -> Image:
    """Soft ellipsoids of random place, radius (units) and strength."""
    image = np.zeros(shape, dtype=np.float32)
    extent = np.asarray(shape) * step
    for _ in range(count):
        centre, stretch = rng.uniform(0, extent), rng.uniform(0.75, 1.4, 3)
        _stamp(image, centre, rng.uniform(*radii) * stretch, step, rng.uniform(0.5, 1.0))
    return image


def _fibres(shape: tuple[int, ...], step: Floats, count: int, rng: np.random.Generator) -> Image:
    """Solid bright threads, as thick as a tubule's wall but without anything inside."""
    image = np.zeros(shape, dtype=np.float32)
    extent = np.asarray(shape) * step
    for _ in range(count):
        point, heading = rng.uniform(0, extent), rng.normal(size=3)
        radius, strength = rng.uniform(1.2, 2.2), rng.uniform(0.6, 1.0)
        for _ in range(int(rng.uniform(12, 30))):
            heading = heading / np.linalg.norm(heading) + rng.normal(scale=0.22, size=3)
            point = point + 1.2 * heading / np.linalg.norm(heading)
            _stamp(image, point, np.full(3, radius), step, strength)
    return image


def _stamp(image: Image, centre: Floats, radii: Floats, step: Floats, strength: float) -> None:
    """Raise `image` to a soft-edged ellipsoid at `centre`, radii in units."""
    low = np.clip(np.ceil((centre - 1.5 * radii) / step - 0.5), 0, image.shape).astype(int)
    high = np.clip(np.floor((centre + 1.5 * radii) / step + 0.5), 0, image.shape).astype(int)
    if (low >= high).any():
        return
    x, y, z = (
        (((np.arange(a, b) + 0.5) * s - c) / r) ** 2
        for a, b, s, c, r in zip(low, high, step, centre, radii, strict=True)
    )
    inside = strength / (1 + np.exp(8 * (np.sqrt(x[:, None, None] + y[:, None] + z) - 1)))
    box = image[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    np.maximum(box, inside, out=box, casting="same_kind")
