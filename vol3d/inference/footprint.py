"""What a network needs per voxel of a tile, found without computing or allocating anything if possible."""

from __future__ import annotations

import copy
import logging
import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vol3d.errors import ModelError
from vol3d.inference.tiles import TiledNetwork

_COPYING = (torch.ops.aten.convolution,)  # kernels may copy input and output into a layout of their own
_SLACK = 1.3  # measured on CPUs: work space of kernels, their caches, the weights
_TRACED, _RUN = 192, 64  # output voxels along every axis where none are given
_WIDTH = {"float32": 1.0, "bf16": 0.5, "fp16": 0.5}
_log = logging.getLogger(__name__)


def bytes_per_voxel(
    network: nn.Module, size: Sequence[int] | None = None, *, in_channels: int, precision: str = "float32"
) -> float:
    """Peak memory of one prediction pass per input voxel, input, logits and all maps that live at one time included.

    size: a valid input along the network's axes; None: one whose output has 192 voxels along every axis. A valid
    network takes less per voxel of small tiles, of which it keeps less towards the end. The planes of a batch, which a
    2-D network answers together, take as much each. precision: bf16 and fp16 halve the maps. Only shapes pass through
    the network; where it needs numbers to pass, it is run on the CPU (with an output of 64 voxels along every axis if
    `size` is None). Convolutions are taken to copy their input and output once, as CPU kernels do; three tenths on top
    cover other work space and the weights. Raises `ModelError` where the network cannot be run at all.
    """
    try:
        traced = _input(network, size, _TRACED)
        peak = _peak(network, (1, in_channels, *traced), "meta")
    except Exception:  # whatever somebody's network raises where there are no numbers
        _log.debug("only shapes do not pass through the network; running it", exc_info=True)
        traced = _input(network, size, _RUN)
        try:
            peak = _peak(network, (1, in_channels, *traced), "cpu")
        except Exception as error:
            raise ModelError(
                f"the network cannot take an image of {in_channels} channels and {'×'.join(map(str, traced))} voxels: "
                f"{type(error).__name__}: {error}"
            ) from error
    return _SLACK * peak * _WIDTH[precision] / math.prod(traced)


def _input(network: nn.Module, size: Sequence[int] | None, output: int) -> Sequence[int]:
    """`size`, or a valid input for an output of so many voxels along every axis."""
    if size is not None:
        return size
    sized = cast("TiledNetwork", network)
    return sized.input_size((output,) * len(sized.margin))


def _peak(network: nn.Module, shape: Sequence[int], device: str) -> int:
    """Largest number of bytes that live at one time in a pass of a copy of the network."""
    weight = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    copied = copy.deepcopy(network).eval().to(device)
    with torch.no_grad(), _Living() as living:
        copied(torch.zeros(tuple(shape), dtype=weight.dtype, device=device))
    return living.peak


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
