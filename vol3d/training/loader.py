"""Batches from a data set: a deterministic stream of indices, cut in this process or by workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from vol3d.errors import TrainingError, Vol3dError

_SHARED_MEMORY = "/dev/shm"
_NO_WORKERS = "Cut patches in the main process with --set sampling.workers=0"


class PatchSource(Protocol):
    """A data set: `source[i]` for any i ≥ 0 → image float32 (C, *in), classes int64 (*out), weight float32 (*out).

    Where values are regressed, `classes` are float32. All may lie on a GPU already; then there can be no workers.
    """

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Batch:
    """A micro-batch. image: float32 (N, C, *in). classes: int64 or float32 (N, *out). weight: float32 (N, *out)."""

    image: Tensor
    classes: Tensor
    weight: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """All that it holds."""
        return self.image, self.classes, self.weight

    def pin_memory(self) -> Batch:
        """In page-locked memory, from which a GPU copies while the CPU goes on; itself where it is on a GPU."""
        if self.image.is_cuda:
            return self
        return Batch(self.image.pin_memory(), self.classes.pin_memory(), self.weight.pin_memory())

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Batch:
        """The batch on `device`, copied asynchronously from pinned memory; the image in `memory_format`."""
        image = self.image.to(device, non_blocking=True).contiguous(memory_format=memory_format)
        return Batch(image, self.classes.to(device, non_blocking=True), self.weight.to(device, non_blocking=True))


@dataclass(frozen=True)
class Share:
    """Which part of the stream a process takes: micro-batches of `batch_size`, `accumulate` of them an iteration.

    Iteration t (0-based) uses the indices t·n … (t+1)·n − 1 with n = batch_size · accumulate · ranks, cut into equal
    runs by rank, then by micro-batch: however they are split, the n samples of an iteration are the same.
    """

    batch_size: int
    accumulate: int = 1
    rank: int = 0
    ranks: int = 1

    @property
    def samples(self) -> int:
        """Samples of an iteration, over all ranks."""
        return self.batch_size * self.accumulate * self.ranks

    def indices(self, iteration: int) -> list[list[int]]:
        """Sample indices of every micro-batch of this rank in `iteration`."""
        first = iteration * self.samples + self.rank * self.batch_size * self.accumulate
        starts = range(first, first + self.batch_size * self.accumulate, self.batch_size)
        return [list(range(start, start + self.batch_size)) for start in starts]


@dataclass(frozen=True)
class Span:
    """Iterations first … last − 1 of a share: what a loader runs through."""

    share: Share
    first: int
    last: int

    def __len__(self) -> int:
        return max(self.last - self.first, 0) * self.share.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for iteration in range(self.first, self.last):
            yield from self.share.indices(iteration)


def load_batches(
    source: PatchSource, span: Span, *, workers: int = 0, pin: bool = False, timeout_seconds: float = 45.0
) -> Generator[list[Batch], None, None]:
    """The micro-batches of every iteration of `span`, one list an iteration; the same for any number of workers.

    pin: into page-locked memory. Closing or exhausting the iterator ends the workers. An error in the data set comes
    back as the `Vol3dError` it is, any other as a `TrainingError` that names the sample; workers that die, or give
    nothing for `timeout_seconds`, as a `TrainingError` too.
    """
    if workers == 0:
        received = (_cut(source, indices) for indices in span)
        for _ in range(span.first, span.last):
            batches = [next(received) for _ in range(span.share.accumulate)]
            yield [batch.pin_memory() for batch in batches] if pin else batches
        return
    others, started = set(multiprocessing.active_children()), set[Any]()
    arriving: Iterator[Batch | _Failure] = iter(())
    try:
        arriving = _start_workers(source, span, workers, pin, timeout_seconds)
        started = set(multiprocessing.active_children()) - others
        for _ in range(span.first, span.last):
            yield [_opened(next(arriving)) for _ in range(span.share.accumulate)]
    except (RuntimeError, OSError, EOFError) as error:
        endings = _endings(started)
        for process in () if pin else started:  # else a stuck one would be waited for
            process.terminate()
        raise TrainingError(_explain(error, endings)) from error.with_traceback(None)
    finally:
        del arriving  # the last reference: ends the workers


@contextmanager
def named_worker_faults() -> Iterator[None]:
    """Turn the loss of a worker, which torch's signal handler may raise in any line, into a `TrainingError`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader "):
            raise
        raise TrainingError(_explain(error)) from error.with_traceback(None)


@dataclass(frozen=True)
class _Failure:
    """An error on its way from a worker: its class and message, without a traceback."""

    kind: type[Vol3dError]
    message: str


@dataclass(frozen=True)
class _MicroBatches:
    """The data set that workers see: indexed by the samples of a micro-batch."""

    source: PatchSource

    def __getitem__(self, indices: list[int]) -> Batch | _Failure:
        try:
            return _cut(self.source, indices)
        except Vol3dError as error:
            return _Failure(type(error), str(error))


def _start_workers(
    source: PatchSource, span: Span, workers: int, pin: bool, timeout_seconds: float
) -> Iterator[Batch | _Failure]:
    fork = "fork" in multiprocessing.get_all_start_methods()  # shares the volumes with the workers, copies nothing
    loader: DataLoader[Any] = DataLoader(
        _MicroBatches(source),  # type: ignore[arg-type]  # all it needs is __getitem__
        batch_size=None,
        sampler=span,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin,
        timeout=timeout_seconds,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator().manual_seed(0),
        multiprocessing_context="fork" if fork else None,
    )
    with warnings.catch_warnings():
        # Python ≥ 3.12 warns of forking beside threads; workers compute on one thread and touch no device
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
        return iter(loader)


def _cut(source: PatchSource, indices: list[int]) -> Batch:
    """One micro-batch."""
    samples = []
    for index in indices:
        try:
            samples.append(source[index])
        except Vol3dError:
            raise
        except Exception as error:
            raise TrainingError(f"patch {index} cannot be cut: {type(error).__name__}: {error}") from error
    try:
        return Batch(
            _stack([sample["image"] for sample in samples]),
            _stack([sample["classes"] for sample in samples]),
            _stack([sample["weight"] for sample in samples]),
        )
    except KeyError as error:
        raise TrainingError(f"patch {indices[0]}: expected image, classes and weight, no {error} was found") from error


def _stack(parts: list[Any]) -> Tensor:
    """One tensor, (N, …), where the parts are: int64 of integers, else float32."""
    tensors = [torch.as_tensor(part) for part in parts]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1:
        raise TrainingError(f"expected patches of one shape in a batch, found {sorted(shapes)}")
    dtype = torch.float32 if tensors[0].is_floating_point() else torch.int64
    stacked = torch.empty((len(tensors), *tensors[0].shape), dtype=dtype, device=tensors[0].device)
    if get_worker_info() is not None:
        stacked = _shared(stacked)
    for position, tensor in enumerate(tensors):
        stacked[position] = tensor
    return stacked


def _shared(tensor: Tensor) -> Tensor:
    """In shared memory, now: later the queue's thread would do it, and would lose the batch where no room is left."""
    try:
        return tensor.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        raise TrainingError(_explain(error)) from error


def _opened(received: Batch | _Failure) -> Batch:
    if isinstance(received, _Failure):
        raise received.kind(received.message)
    return received


def _unchanged(batch: Any) -> Any:  # noqa: ANN401  what the data set gave
    return batch


def _ignore_interrupts(_worker: int) -> None:
    """Ctrl-C is for the main process, which ends the workers once it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _endings(processes: set[Any]) -> str:
    """How those of the processes that have ended did, `SIGKILL` or `exit code 1`; torch may see only a lost pipe."""
    codes = []
    for process in processes:
        process.join(0.1)
        codes.append(process.exitcode)
    names = {signal.Signals(-code).name if code < 0 else f"exit code {code}" for code in codes if code}
    return ", ".join(sorted(names))


def _explain(error: Exception, endings: str = "") -> str:
    """One line that names the case and the remedy."""
    text = " ".join(str(error).split())[:200]
    free = _free_shared_mb()
    full = any(sign in endings + text for sign in ("SIGBUS", "Bus error", "shared memory", "shm", "No space left"))
    if full or (free is not None and free < 1):
        room = "" if free is None else f" ({_SHARED_MEMORY} has {free:.0f} MB free)"
        return (
            f"the data workers ran out of shared memory{room}. {_NO_WORKERS}, or give {_SHARED_MEMORY} more room "
            "(docker run --shm-size=4g)."
        )
    if endings or "killed by signal" in text or "exited unexpectedly" in text:
        return f"a data worker died ({endings or text}); often the machine ran out of memory. {_NO_WORKERS}, or fewer."
    if "timed out" in text:
        return f"the data workers gave no patch in time ({text}). {_NO_WORKERS} to see what holds them up."
    return f"the data workers failed ({text}). {_NO_WORKERS}."


def _free_shared_mb() -> float | None:
    try:
        stats = os.statvfs(_SHARED_MEMORY)
    except (OSError, AttributeError):
        return None
    return stats.f_bavail * stats.f_frsize / 1e6
