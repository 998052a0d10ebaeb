"""What becomes of freed memory while a network runs on a CPU: kept for the next tensor, or given back at once.

Glibc gives large blocks back, and the system clears every page of the next one. Measured on two cores, that took a
seventh of a training step's time, and a quarter to a half of a prediction's. Kept, memory is cut into pieces by tiles
of several sizes, and more is taken than is in use. Left to itself, glibc does some of both. Where there is no glibc
nothing is changed. Both ways are contexts, and decorators of workflows that run in them. Between large tiles less is
kept, which costs little: of a scan of 512³ voxels that is a seventh of the memory of a prediction.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt
_NEVER = 2**31 - 1
_BLOCK = 1 << 20
_USUAL_MMAP = 1 << 25  # what glibc's own rule arrives at in a program with large blocks


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While the body runs; at its end what is free goes back to the system."""
    with _thresholds(1 << 30, _NEVER):
        yield


@contextmanager
def freed_memory_returned() -> Iterator[None]:
    """While the body runs a block of a megabyte and more goes back to the system as soon as it is freed.

    Unless it was found between others that were there before: this is for a process that has not done much yet.
    """
    with _thresholds(_BLOCK, _BLOCK):
        yield


def keep_less() -> None:
    """All that is free goes back to the system now; from now on blocks of 32 MB and more do as soon as they are freed.

    For the body of `freed_memory_kept`.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
        library.malloc_trim(0)


@contextmanager
def _thresholds(mapped: int, trimmed: int) -> Iterator[None]:
    """Freed blocks of `mapped` bytes and more go back to the system; so do `trimmed` at the end of the heap."""
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, mapped)
    library.mallopt(_TRIM_THRESHOLD, trimmed)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
        library.mallopt(_TRIM_THRESHOLD, 2 * _USUAL_MMAP)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
    except OSError:
        return None
