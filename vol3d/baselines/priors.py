"""How much of a scan every class covers, where the painted voxels do not tell: somebody drew strokes, not slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ROUNDS, _SETTLED = 500, 1e-4  # the latter of a share, from one round to the next
_LEAST = 1e-6  # no class that was painted is thought to be rarer
_MOST_VALUES = 2**23  # probabilities that are looked at


def class_shares(answers: Sequence[Tensor], learned: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """The share of every class in the scans, float64 (K,); sums to 1.

    answers: class probabilities of all voxels, float32 (K, X, Y, Z), a scan each; where these are very many, some
    voxels are drawn. learned: the shares that the classifier believes in, by which its probabilities are as they are; 0
    for a class that nobody painted, which has no share. Source: the expectation maximisation of Saerens, Latinne &
    Decaestecker 2002.
    """
    there = np.flatnonzero(learned > 0)
    rng, count = np.random.default_rng(seed), len(learned)
    share = min(1.0, _MOST_VALUES / sum(answer.numel() for answer in answers))
    seen = torch.cat([_drawn(answer.reshape(count, -1), share, rng) for answer in answers], dim=1)
    seen = seen[torch.from_numpy(there)].double().clamp_min_(1e-12)
    before = torch.from_numpy(learned[there] / learned[there].sum())
    found = before.clone()
    for _ in range(_ROUNDS):
        posterior = seen * (found / before)[:, None]
        following = (posterior / posterior.sum(dim=0)).mean(dim=1).clamp_min_(_LEAST)
        change = float(((following - found).abs() / found).max())
        found = following
        if change < _SETTLED:
            break
    result = np.zeros(count)
    result[there] = found.numpy() / float(found.sum())
    return result


def _drawn(voxels: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """A share of the voxels (K, N)."""
    if share == 1.0:
        return voxels
    return voxels[:, torch.from_numpy(rng.integers(voxels.shape[1], size=max(1, int(share * voxels.shape[1]))))]
