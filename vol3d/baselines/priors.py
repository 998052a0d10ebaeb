"""How much of a scan every class covers, where the painted voxels do not tell: somebody drew strokes, not slices."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ROUNDS, _SETTLED = 200, 1e-4
_MOST_VALUES = 2**24  # probabilities that are looked at


def class_shares(answers: list[Tensor], learned: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of every class in the scans, float64 (K,); sums to 1.

    answers: class probabilities of all voxels, float32 (K, X, Y, Z), a scan each; of large scans every n-th is looked
    at. learned: the shares that the classifier believes in, by which its probabilities are as they are. Source: the
    expectation maximisation of Saerens, Latinne & Decaestecker 2002. A class that nobody painted has none.
    """
    count = len(learned)
    total = sum(answer.numel() for answer in answers)
    step = max(1, total // _MOST_VALUES)
    seen = torch.cat([answer.reshape(count, -1)[:, ::step] for answer in answers], dim=1).double()
    before = torch.from_numpy(np.maximum(learned / learned.sum(), 1e-9))
    found = before.clone()
    for _ in range(_ROUNDS):
        posterior = seen * (found / before)[:, None]
        following = (posterior / posterior.sum(dim=0)).mean(dim=1)
        change = float((following - found).abs().max())
        found = following
        if change < _SETTLED:
            break
    result: NDArray[np.float64] = np.where(learned > 0, found.numpy(), 0.0)
    return result / result.sum()
