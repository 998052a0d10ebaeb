"""The one rule beyond the border: mirror without repeating the edge, as often as needed; one voxel is replicated."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def fold_index(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Voxel indices of any value → 0 … length − 1; int64, any shape."""
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    turned = index % period
    return np.minimum(turned, period - turned)


def fold(coordinate: Tensor, length: int) -> Tensor:
    """Continuous voxel coordinates of any value → [0, length − 1]; float, any shape. Inside it changes no bit."""
    if length == 1:
        return torch.zeros_like(coordinate)
    period = 2.0 * (length - 1)
    turned = coordinate.remainder(period)
    return torch.minimum(turned, period - turned)
