"""Which statistics BatchNorm uses: averaged while training, frozen, measured again after it, or the tile's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vol3d.networks.nd import BATCH_NORMS

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def use_current_statistics(network: nn.Module) -> None:
    """Let every BatchNorm normalise with the statistics of its own input, in evaluation too (3D U-Net, section 2.1).

    In place and for good: the stored running statistics are dropped. Meant for batches of one, where a batch's
    statistics are those of one tile.
    """
    for module in _batch_norms(network):
        module.track_running_stats = False
        for name in _BUFFERS:
            setattr(module, name, None)


def uses_current_statistics(network: nn.Module) -> bool:
    """Whether some BatchNorm normalises with its own input in evaluation, so that an answer depends on all of it."""
    return any(module.running_mean is None for module in _batch_norms(network))


def freeze_statistics(network: nn.Module, measured: Mapping[str, Tensor] | None = None) -> None:
    """Let every BatchNorm normalise with its running statistics from now on, in training too; they change no more.

    What is learned from then on is learned for the statistics that are used at test time, not for those of each batch,
    which in 3-D is a few patches that differ widely. measured: a state dict of the network, whose running statistics
    are taken; None: those it has. Put back by `network.train()`.
    """
    own = network.state_dict()
    for name, module in network.named_modules():
        if not isinstance(module, BATCH_NORMS):
            continue
        module.eval()
        for buffer in _BUFFERS[:2]:
            key = f"{name}.{buffer}" if name else buffer
            if measured is not None and key in own:
                own[key].copy_(measured[key])


@contextmanager
def current_statistics(network: nn.Module) -> Iterator[None]:
    """`use_current_statistics` for the length of a `with` block; the stored statistics are then back, unchanged."""
    kept = [
        (module, module.track_running_stats, {name: getattr(module, name) for name in _BUFFERS})
        for module in _batch_norms(network)
    ]
    use_current_statistics(network)
    try:
        yield
    finally:
        for module, tracked, buffers in kept:
            module.track_running_stats = tracked
            for name, value in buffers.items():
                setattr(module, name, value)


def reestimate(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Measure the running statistics of every BatchNorm again, with the weights as they are; returns the batch count.

    batches: images (N, C, *S) on the network's device. The statistics become the plain average over all batches. Modes
    (train or evaluation), momenta and weights stay as they were; without any batch so do the statistics.
    """
    norms = _batch_norms(network)
    momenta = [module.momentum for module in norms]
    modes = {module: module.training for module in network.modules()}
    count = 0
    try:
        network.eval()
        for module in norms:
            module.train()
            module.momentum = None  # cumulative average
        with torch.no_grad():
            for batch in batches if norms else ():
                if count == 0:
                    for module in norms:
                        module.reset_running_stats()
                network(batch)
                count += 1
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
        for part, mode in modes.items():
            part.training = mode
    return count


def _batch_norms(network: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm]:
    return [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
