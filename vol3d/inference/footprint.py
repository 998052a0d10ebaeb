"""What a network needs per voxel of a tile, found without computing or allocating anything."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vol3d.inference.tiles import TiledNetwork

_COPYING = (torch.ops.aten.convolution,)  # kernels may copy input and output into a layout of their own
_SLACK = 1.3  # measured on CPUs: work space of kernels, their caches, the weights
_WIDTH = {"float32": 1.0, "bf16": 0.5, "fp16": 0.5}


def bytes_per_voxel(
    network: nn.Module, size: Sequence[int] | None = None, *, in_channels: int, precision: str = "float32"
) -> float:
    """Peak memory of one prediction pass per input voxel, input, logits and all maps that live at one time included.

    size: a valid input along the network's axes; None: one whose output has 192 voxels along every axis. A valid
    network takes less per voxel of small tiles, of which it keeps less towards the end. precision: bf16 and fp16 halve
    the maps. Only shapes pass through the network. Convolutions are taken to copy their input and output once, as CPU
    kernels do; three tenths on top cover other work space and the weights.
    """
    if size is None:
        sized = cast("TiledNetwork", network)
        size = sized.input_size((192,) * len(sized.margin))
    weight = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    shapes = copy.deepcopy(network).eval().to("meta")
    with torch.no_grad(), _Living() as living:
        shapes(torch.empty((1, in_channels, *size), dtype=weight.dtype, device="meta"))
    return _SLACK * living.peak * _WIDTH[precision] / math.prod(size)


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, from when they are made to when the last reference goes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage() not in given:
                self._born(leaf.untyped_storage())
                if func.overloadpacket in _COPYING:
                    copies = leaf.untyped_storage().nbytes() + args[0].untyped_storage().nbytes()
                    self.peak = max(self.peak, self._now + copies)
        return result

    def _born(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        count = storage.nbytes()
        self._now += count
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._died, count)

    def _died(self, count: int) -> None:
        self._now -= count
