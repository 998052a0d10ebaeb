"""Gray-value augmentation: MONAI's transforms, fitted to normalised patches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vol3d.errors import ConfigError


@dataclass(frozen=True)
class IntensityAugmentation:
    """Bias field, blur, noise and gamma, in this order, each with its probability.

    Gamma 0.7 … 1.5 and the bias field act on every channel between its own extremes, noise (σ up to 0.1) in units of
    the channel's standard deviation, so that they mean the same after any normalisation. Blur: σ 0.25 … 1 voxel.
    """

    gamma_probability: float = 0.3
    noise_probability: float = 0.2
    blur_probability: float = 0.1
    bias_field_probability: float = 0.0

    def __post_init__(self) -> None:
        chances = (self.gamma_probability, self.noise_probability, self.blur_probability, self.bias_field_probability)
        if min(chances) < 0 or max(chances) > 1:
            raise ConfigError(f"expected probabilities from 0 to 1, found {self}")
        if max(chances) > 0:
            import monai.transforms  # noqa: F401  it takes seconds, for which no patch should wait

    def __call__(self, patch: Tensor, rng: np.random.Generator) -> Tensor:
        """A changed copy of `patch`, float (C, X, Y, Z) → float32; all chance comes from `rng`.

        The same number of values is drawn from `rng` whatever happens.
        """
        chances = (self.bias_field_probability, self.blur_probability, self.noise_probability, self.gamma_probability)
        chosen = rng.random(4) < chances
        seeds = rng.integers(2**32, size=4, dtype=np.uint64)
        result = patch.as_subclass(Tensor).to(torch.float32, copy=True)
        for happens, seed, change in zip(chosen, seeds, (_bias_field, _blur, _noise, _gamma), strict=True):
            if happens:
                with _one_thread():
                    result = change(result, int(seed))
        return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same bits in a process that cuts patches, which has one thread, and in one that trains, which has several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _bias_field(patch: Tensor, seed: int) -> Tensor:
    from monai.transforms import RandBiasField

    bias = RandBiasField(coeff_range=(-0.1, 0.1), prob=1.0).set_random_state(seed)
    low = patch.amin(dim=tuple(range(1, patch.ndim)), keepdim=True)
    field = _plain(bias(torch.ones(1, *patch.shape[1:]))).to(patch.device)
    return (patch - low) * field + low


def _blur(patch: Tensor, seed: int) -> Tensor:
    from monai.transforms import RandGaussianSmooth

    sigma = (0.25, 1.0)
    blur = RandGaussianSmooth(sigma, sigma, sigma, prob=1.0).set_random_state(seed)
    # MONAI pads with zeros: a channel of ones tells how much of the kernel lay inside.
    blurred = _plain(blur(torch.cat([patch, torch.ones_like(patch[:1])])))
    return blurred[:-1] / blurred[-1:]


def _noise(patch: Tensor, seed: int) -> Tensor:
    from monai.transforms import RandGaussianNoise

    noise = RandGaussianNoise(prob=1.0, std=0.1).set_random_state(seed)
    spread = patch.std(dim=tuple(range(1, patch.ndim)), keepdim=True, correction=0)
    return patch + spread * _plain(noise(torch.zeros(patch.shape))).to(patch.device)


def _gamma(patch: Tensor, seed: int) -> Tensor:
    from monai.transforms import RandAdjustContrast

    contrast = RandAdjustContrast(prob=1.0, gamma=(0.7, 1.5)).set_random_state(seed)
    contrast.randomize()
    return torch.cat([_plain(contrast(channel[None], randomize=False)) for channel in patch])


def _plain(result: Tensor) -> Tensor:
    """MONAI's tensor with its metadata → a plain one."""
    return result.as_subclass(Tensor)
