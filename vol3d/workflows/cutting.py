"""Where patches are cut: in this process, by others, or on a GPU from volumes that lie there."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vol3d.transforms.crop import ReadByBox
from vol3d.workflows.case import Case
from vol3d.workflows.device import total_bytes
from vol3d.workflows.plan import Plan

_PART = 6  # of a GPU's memory: what volumes may take
_CHANNEL_BYTES, _LABEL_BYTES = 4, 2 * (4 + 4)  # a voxel; labels twice, with and without those that are held out
_MOST_WORKERS = 8
_LARGE = 64**3  # voxels of a patch from which on a GPU cuts it sooner than one core, for all the kernels it starts


@dataclass(frozen=True)
class Cutting:
    """workers: processes that cut patches, 0 for this one. device: the GPU that cuts them, None: a CPU does."""

    workers: int
    device: torch.device | None = None

    def images(self, cases: Sequence[Case]) -> list[Tensor | ReadByBox]:
        """The cases' images where patches are cut from them."""
        if self.device is None:
            return [case.image for case in cases]
        return [case.image.to(self.device) for case in cases if isinstance(case.image, Tensor)]


def choose_cutting(plan: Plan, cases: Sequence[Case], device: torch.device, processes: int = 1) -> Cutting:
    """As configured; where that is left open, in this process, and for large patches on `device` if it is a GPU.

    Where the volumes would take more than a sixth of the GPU's memory, by up to eight others; where they are read box
    by box by so many too, on a CPU by one, which reads ahead. processes: that train.
    """
    configured, by_box = plan.config.sampling.workers, any(not isinstance(case.image, Tensor) for case in cases)
    others = max(1, (os.cpu_count() or 1) // processes - 1)
    if configured is not None:
        return Cutting(configured)
    if by_box:  # they read ahead
        return Cutting(min(_MOST_WORKERS if plan.device.is_gpu else 1, others))
    if not plan.device.is_gpu or math.prod(plan.patch) < _LARGE:
        return Cutting(0)
    needed = sum(math.prod(case.shape) * (_CHANNEL_BYTES * case.channels + _LABEL_BYTES) for case in cases)
    if needed <= total_bytes(device) / _PART:  # of all: what is free changes, and with it the last digits of patches
        return Cutting(0, device)
    return Cutting(min(_MOST_WORKERS, others))
