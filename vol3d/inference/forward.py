"""One tile through the network: crop, device, precision, and the checks that nothing silently wrong comes out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vol3d.errors import ModelError
from vol3d.inference.tiles import Tile, TilePlan
from vol3d.networks.folding import fold_batch_norm
from vol3d.networks.onednn import prefer_onednn
from vol3d.transforms.crop import ReadByBox, crop, crop_read
from vol3d.volume import Box

Image = NDArray[Any] | Tensor | ReadByBox
_AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
_TOO_LARGE = (
    "out of memory",
    "can't allocate memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",
    "canUse32BitIndexMath",
)


@dataclass(frozen=True)
class Answer:
    """What the network says about one tile, perhaps still on its way from the device.

    values: (K, *output size) on the CPU. finite: one bool, whether all logits are. arrived: when both can be read.
    """

    tile: Tile
    values: Tensor
    finite: Tensor
    arrived: torch.cuda.Event | None

    def wait(self) -> Tensor:
        """The values. Raises `ModelError` where a logit is NaN or infinite."""
        if self.arrived is not None:
            self.arrived.synchronize()
        if not bool(self.finite):
            at = ", ".join(f"{a}–{b - 1}" for a, b in zip(self.tile.output.start, self.tile.output.stop, strict=True))
            raise ModelError(
                f"the network's logits are NaN or infinite in voxels ({at}). Predict with precision float32; if they "
                "still are, the model is broken: train again or take an earlier checkpoint."
            )
        return self.values


class Runner:
    """Runs tiles of one image through a copy of a network in evaluation mode; the network itself stays untouched.

    The copy lies on the device, its BatchNorms folded into convolutions, with channels last where kernels for that are
    faster. image: (C, X, Y, Z). precision: float32, bf16 or fp16 (the latter two by autocast). Values come in float32,
    or in float64 from a float64 network. temperature: what logits are divided by before a softmax.
    """

    def __init__(
        self,
        network: nn.Module,
        image: Image,
        plan: TilePlan,
        device: torch.device,
        precision: str,
        *,
        temperature: float = 1.0,
    ) -> None:
        if precision not in _AUTOCAST:
            raise ModelError(f"unknown precision {precision}; choose one of {', '.join(_AUTOCAST)}")
        require_temperature(temperature)
        found = getattr(network, "in_channels", image.shape[0])
        if image.ndim != 4 or image.shape[0] != found or tuple(image.shape[1:]) != plan.shape:
            raise ModelError(
                f"expected an image of {found} channels and {plan.shape} voxels, found an array {tuple(image.shape)}"
            )
        self.image = image
        self.device = device
        self.dimensions = plan.dimensions
        weight = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
        self.dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.autocast = _AUTOCAST[precision]
        self.temperature = temperature
        last = device.type == "cpu" or self.autocast is not None
        self.layout = _CHANNELS_LAST[self.dimensions] if last else None
        self.network = copy.deepcopy(network).eval().to(device)
        fold_batch_norm(self.network)
        if device.type == "cpu":
            prefer_onednn(self.network)
        self._lay_out_weights()

    def answers(self, tiles: Iterable[Tile], plan: TilePlan, *, logits: bool) -> Iterator[Answer]:
        """The answers of `tiles` in their order; on a GPU the next tile is under way while one is handed on."""
        ahead = None
        for tile in tiles:
            answer = self._launch(tile, plan, logits=logits)
            if self.device.type != "cuda":
                yield answer
                continue
            if ahead is not None:
                yield ahead
            ahead = answer
        if ahead is not None:
            yield ahead

    def read(self, box: Box, seen: tuple[int, ...]) -> Tensor:
        """A part of the image as the network takes it, (N, C, *S) on the device; beyond the border it is mirrored.

        seen: the axes that the network sees; planes across the others are the batch.
        """
        return _to_batch(self._read(box, []), seen)

    def release(self) -> None:
        """Give unused memory back to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _launch(self, tile: Tile, plan: TilePlan, *, logits: bool) -> Answer:
        flipped = [1 + axis for axis, flip in enumerate(tile.flips) if flip]
        output = self._through(_to_batch(self._read(tile.input, flipped), plan.seen))
        values = _from_batch(output, tile, plan).to(self.dtype)
        finite = all_finite(values)
        if not logits:
            values = softmax(values, self.temperature, dim=0)
        if flipped:
            values = values.flip(flipped)
        answered = tile.input.grow(tuple(-margin // 2 for margin in plan.margin))
        used = tile.output.shift(tuple(-start for start in answered.start))
        values = values[(slice(None), *used.slices())]
        if self.device.type != "cuda":
            return Answer(tile, values.cpu(), finite.cpu(), None)
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        flag = torch.empty((), dtype=torch.bool, pin_memory=True)
        flag.copy_(finite, non_blocking=True)
        return Answer(tile, host, flag, torch.cuda.current_stream(self.device).record_event())

    def _read(self, box: Box, flipped: list[int]) -> Tensor:
        """The image in `box` as floating point on the device, reversed along `flipped`."""
        if isinstance(self.image, Tensor):
            block = crop(self.image, box).to(self.device, self.dtype)
            return block.flip(flipped) if flipped else block
        wanted = np.float64 if self.dtype == torch.float64 else np.float32
        turned = np.flip(_voxels(self.image, box), tuple(flipped))
        values = torch.from_numpy(np.ascontiguousarray(turned, dtype=wanted))
        if self.device.type == "cuda":
            return values.pin_memory().to(self.device, non_blocking=True)
        return values.to(self.device)

    def _through(self, batch: Tensor) -> Any:  # noqa: ANN401  whatever the network answers
        """The network's answer; with channels first from now on where it cannot work on channels last."""
        try:
            with self._precision():
                return self.network(self._laid_out(batch))
        except RuntimeError as error:
            if self.layout is None or too_large(error) or "contiguous" not in str(error):
                raise
        self.layout = None
        with torch.inference_mode(mode=False):
            self._lay_out_weights()
        return self._through(batch)

    def _laid_out(self, maps: Tensor) -> Tensor:
        return maps.contiguous() if self.layout is None else maps.to(memory_format=self.layout)

    def _lay_out_weights(self) -> None:
        """Kernels in the layout of the maps they are for."""
        for weight in self.network.parameters():
            if weight.ndim == self.dimensions + 2:
                weight.data = self._laid_out(weight.data)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return whole_float32() if self.device.type == "cuda" else nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)


@contextmanager
def whole_float32() -> Iterator[None]:
    """Let a GPU compute in float32 and not in TF32, its matrix units' ten bits, by which tiles would disagree.

    What was chosen before is back afterwards, whether by PyTorch's older names or by its newer ones, which refuse to be
    mixed.
    """
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    with ExitStack() as undo:
        with suppress(RuntimeError):  # raised where newer names were used
            if cudnn.allow_tf32:
                undo.callback(setattr, cudnn, "allow_tf32", True)
                cudnn.allow_tf32 = False
        with suppress(RuntimeError):
            if matmul.allow_tf32:
                undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
                torch.set_float32_matmul_precision("highest")
        newer = (cudnn.conv, cudnn.rnn, matmul) if hasattr(cudnn, "conv") else ()
        for part in newer:
            if part.fp32_precision == "tf32":
                undo.callback(setattr, part, "fp32_precision", "tf32")
                part.fp32_precision = "ieee"
        yield


def _voxels(image: NDArray[Any] | ReadByBox, box: Box) -> NDArray[Any]:
    return crop(image, box) if isinstance(image, np.ndarray) else crop_read(image, box)


def softmax(logits: Tensor, temperature: float, dim: int) -> Tensor:
    """Class probabilities along `dim`, of logits that were divided by `temperature` (Guo et al. 2017)."""
    return torch.softmax(logits if temperature == 1.0 else logits / temperature, dim)


def all_finite(values: Tensor) -> Tensor:
    """Whether no value is NaN or infinite, one bool.

    Either would show in the sum, which is many times quicker; a sum that overflows is no proof, so all are looked at.
    On a GPU that would have to be waited for.
    """
    if values.device.type == "cpu" and bool(torch.isfinite(values.sum())):
        return torch.tensor(True)
    return torch.isfinite(values).all()


def require_temperature(temperature: float) -> None:
    """Raise `ModelError` for a temperature that is not above 0."""
    if not 0 < temperature < math.inf:
        raise ModelError(f"expected a temperature above 0, found {temperature}; 1 leaves probabilities as they are")


def too_large(error: RuntimeError) -> bool:
    """Whether an error means that a tile was too large for the memory or for a kernel."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _TOO_LARGE)


def _to_batch(block: Tensor, seen: tuple[int, ...]) -> Tensor:
    """(C, X, Y, Z) → (N, C, *S): planes across an axis the network does not see become the batch."""
    batch = [1 + axis for axis in range(3) if axis not in seen]
    return block.movedim(batch, [0]) if batch else block.unsqueeze(0)


def _from_batch(output: Any, tile: Tile, plan: TilePlan) -> Tensor:  # noqa: ANN401  whatever the network answers
    """(N, K, *S) → (K, X, Y, Z), the inverse of `_to_batch`. Raises `ModelError` for anything else than was planned."""
    batch = [axis for axis in range(3) if axis not in plan.seen]
    size = [tile.input.size[axis] - plan.margin[axis] for axis in plan.seen]
    expected = (math.prod(tile.input.size[axis] for axis in batch), plan.classes, *size)
    if not isinstance(output, Tensor):
        raise ModelError(f"expected one tensor of logits from the network, found {type(output).__name__}")
    if tuple(output.shape) != expected:
        raise ModelError(f"expected logits of shape {expected} from the network, found {tuple(output.shape)}")
    return output.movedim(0, 1 + batch[0]) if batch else output.squeeze(0)
