"""A network while it learns: the network, its optimizer, its averaged weights and its gradient scaler."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vol3d.errors import ModelError
from vol3d.networks import freeze_statistics
from vol3d.training.averaging import AveragedWeights
from vol3d.training.loader import Batch
from vol3d.training.optimizer import (
    cpu_copy,
    forget_direction,
    make_optimizer,
    optimizer_state,
    restore_optimizer,
    set_learning_rate,
)
from vol3d.training.settings import FitSettings
from vol3d.training.state import LogRow, TrainingState
from vol3d.training.step import Gradients, Loss, accumulate_gradients


class Learner:
    """Set up once on a Fabric; then `gradients` and `update` in turn. The network is trained in place."""

    def __init__(self, network: nn.Module, loss: Loss, settings: FitSettings, fabric: Any) -> None:  # noqa: ANN401
        self.network, self.settings, self.fabric = network, settings, fabric
        network.to(fabric.device)
        self.memory_format = torch.contiguous_format
        if settings.channels_last:
            self.memory_format = _fastest_format(network, fabric.device)
        network.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's stubs lack it alone
        network.train()
        self.loss = loss.to(fabric.device) if isinstance(loss, nn.Module) else loss
        self._optimizer = make_optimizer(
            network,
            settings.optimizer,
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            # a fused one also takes the gradient scaler's part, and Fabric then clips nothing
            fused=fabric.device.type == "cuda" and self.loss_scale is None,
        )
        module = torch.compile(network) if settings.compile else network
        self._module, self._fabric_optimizer = fabric.setup(module, self._optimizer)
        self.averaged = None if settings.ema_decay is None else AveragedWeights(network, settings.ema_decay)
        self._aside: torch.cuda.Stream | None = None
        if fabric.device.type == "cuda":
            self._aside = torch.cuda.Stream(fabric.device)  # type: ignore[no-untyped-call]
            self._aside.wait_stream(torch.cuda.current_stream(fabric.device))

    def fetch(self, stream: Iterator[list[Batch]]) -> list[Batch] | None:
        """The next iteration's batches on the device; None where there are no more.

        On a GPU beside what it computes meanwhile, in a stream of its own: there patches are cut, or copied.
        """
        with nullcontext() if self._aside is None else torch.cuda.stream(self._aside):
            batches = next(stream, None)
            if batches is not None:
                batches = [batch.to(self.fabric.device, self.memory_format) for batch in batches]
        if self._aside is not None and batches is not None:
            current = torch.cuda.current_stream(self.fabric.device)
            current.wait_stream(self._aside)
            for tensor in (tensor for batch in batches for tensor in batch.tensors):
                tensor.record_stream(current)
        return batches

    def gradients(self, batches: Sequence[Batch], iteration: int) -> Gradients:
        """Launch forward and backward passes over batches on the device. iteration: 0-based.

        What a network draws at random (dropout) is a function of the seed, the iteration and the process; torch's own
        generators are left as they were.
        """
        clip = self.settings.gradient_clip
        with seeded(self.fabric, self.settings.seed, iteration):
            return accumulate_gradients(
                self._module, self._fabric_optimizer, self.loss, batches, fabric=self.fabric, clip=clip
            )

    def update(self, iteration: int, learning_rate: float) -> None:
        """One optimiser step with the gradients at hand, then the averages. iteration: 0-based."""
        set_learning_rate(self._optimizer, learning_rate)
        self._fabric_optimizer.step()
        if self.averaged is not None:
            self.averaged.update(self.network, iteration)

    def freeze(self, *, anew: bool) -> None:
        """Freeze BatchNorm's statistics. anew: at those of the averaged weights, if any, which are smoother."""
        freeze_statistics(self.network, self.averaged.values if anew and self.averaged is not None else None)

    @property
    def weights(self) -> dict[str, Tensor]:
        """What the network would be used with: the averaged weights if there are any."""
        return self.network.state_dict() if self.averaged is None else self.averaged.values

    def weights_copy(self) -> dict[str, Tensor]:
        """`weights` as CPU copies."""
        return _copies(self.weights)

    def validation_copy(self) -> nn.Module:
        """The network with `weights`, in evaluation mode: a copy that may be changed at will."""
        twin = copy.deepcopy(self.network)
        twin.load_state_dict(self.weights)
        return twin.eval()

    def go_back(self, weights: Mapping[str, Tensor]) -> None:
        """Continue from `weights`. Where that moves the network, the optimizer's momentum starts from zero."""
        current = self.network.state_dict()
        moved = any(not torch.equal(value.cpu(), weights[name]) for name, value in current.items())
        if moved:
            _load(self.network, weights)
            forget_direction(self._optimizer)
        if self.averaged is not None:
            self.averaged.load(weights)

    @property
    def loss_scale(self) -> float | None:
        """By what fp16 multiplies the loss; None in other precisions."""
        return self.fabric.strategy.precision.state_dict().get("scale")

    def state(
        self, iteration: int, best_score: float | None, best: dict[str, Tensor] | None, history: Sequence[LogRow]
    ) -> TrainingState:
        """All there is to save, as CPU copies."""
        return TrainingState(
            iteration=iteration,
            model=_copies(self.network.state_dict()),
            optimizer=optimizer_state(self._optimizer),
            averaged=None if self.averaged is None else _copies(self.averaged.values),
            best_score=best_score,
            best=best,
            scaler=self.fabric.strategy.precision.state_dict() or None,
            history=tuple(history),
        )

    def restore(self, state: TrainingState) -> None:
        """Become what `state` was. Raises `ModelError` where it belongs to another network or configuration."""
        if (state.averaged is None) != (self.averaged is None):
            raise ModelError(
                f"the checkpoint was made {'without' if state.averaged is None else 'with'} averaged weights. "
                "Resume with the configuration that the run was started with."
            )
        _load(self.network, state.model)
        restore_optimizer(self._optimizer, state.optimizer)
        if self.averaged is not None and state.averaged is not None:
            self.averaged.load(state.averaged)
        if state.scaler is not None and self.loss_scale is not None:
            self.fabric.strategy.precision.load_state_dict(state.scaler)


@contextmanager
def seeded(fabric: Any, seed: int, iteration: int) -> Iterator[None]:  # noqa: ANN401  as above
    """Seed torch's generators for one iteration; they are as they were afterwards."""
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        state = np.random.SeedSequence([seed, iteration, fabric.global_rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))
        yield


@contextmanager
def fastest_convolutions(device: torch.device) -> Iterator[None]:
    """Let cuDNN try its algorithms on a GPU, unless deterministic ones were asked for; the setting is put back."""
    before = torch.backends.cudnn.benchmark
    if device.type == "cuda" and not torch.backends.cudnn.deterministic:
        torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _copies(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: cpu_copy(value) for name, value in weights.items()}


def _load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"the checkpoint belongs to another network ({' '.join(str(error).split())[:200]}). "
            "Resume with the configuration that the run was started with."
        ) from error


def _fastest_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, for two or three axes as the network's convolutions have; on a CPU not for all of them.

    Convolutions by groups in 3-D take twice as long that way in their backward pass. That of strided convolutions of
    size 1 writes beyond its memory (oneDNN in torch 2.13, processors with AVX2 and no AVX-512), which ends the process.
    """
    volumetric = any(parameter.ndim == 5 for parameter in network.parameters())
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
    grouped = any(isinstance(layer, nn.Conv3d) and layer.groups > 1 for layer in layers)
    picking = any(max(layer.kernel_size) == 1 and max(layer.stride) > 1 for layer in layers)
    if device.type == "cpu" and (grouped or picking):
        return torch.contiguous_format
    return torch.channels_last_3d if volumetric else torch.channels_last
