"""Flip averaging: the mean over all flips of the whole volume, not of each tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vol3d.inference.predict import Progress, predict_slabs
from vol3d.inference.tiles import TilePlan
from vol3d.volume import Slab


def predict_flips(  # noqa: PLR0913  what `predict_slabs` takes, and the axes
    network: nn.Module,
    image: NDArray[Any] | Tensor,
    plan: TilePlan,
    *,
    axes: Sequence[int] = (0, 1, 2),
    device: str | torch.device = "cpu",
    precision: str = "float32",
    needed: NDArray[np.bool_] | None = None,
    logits: bool = False,
    progress: Progress | None = None,
) -> Iterator[Slab]:
    """`predict_slabs`, averaged over every combination of flips of the volume along `axes`.

    It then commutes with those flips: predict(flip(x)) = flip(predict(x)). The tiles of the flipped volumes are run
    in the order of the planes of the volume as it is, so that memory stays as flat as without flips; the time grows
    by 2 for every axis of more than one voxel that the network sees.
    """
    return predict_slabs(
        network,
        image,
        plan.flipped(axes),
        device=device,
        precision=precision,
        needed=needed,
        logits=logits,
        progress=progress,
    )
