"""What a microscope makes of a tissue: blur, uneven light, photons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vol3d.samples.tissue import smooth_noise

Floats = NDArray[np.float64]
_BLUR = np.array([0.9, 0.9, 1.5])  # σ of the point-spread function in units: longer along the optical axis, Z
_PHOTONS = 95.0  # expected from a typical wall in full light
_DARK = 6.0  # counts without light


def photograph(tissue: NDArray[np.float32], step: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Camera counts of one channel. tissue: (X, Y, Z), 1 = a typical wall; step: (3,) units per voxel; → uint8."""
    blurred = ndimage.gaussian_filter(tissue, _BLUR / step, mode="reflect")
    light = illumination(tissue.shape, step, rng)
    counts = rng.poisson(np.maximum(_PHOTONS * light * blurred, 0)) + rng.normal(_DARK, 1.5, tissue.shape)
    return np.clip(np.rint(counts), 0, 255).astype(np.uint8)


def illumination(shape: tuple[int, ...], step: Floats, rng: np.random.Generator) -> NDArray[np.float32]:
    """Light that reaches each voxel: falls to about 40 % at the deepest plane, and a smooth unevenness of ±30 %."""
    depth = (np.arange(shape[2]) + 0.5) / shape[2]
    patches = smooth_noise(shape, np.minimum(22.0 / step, np.asarray(shape) / 2), rng)
    light: NDArray[np.float32] = (np.exp(-0.8 * depth) * np.exp(0.25 * np.clip(patches, -2, 2))).astype(np.float32)
    return light
