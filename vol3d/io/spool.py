"""Label codes that arrive plane by plane, kept on disk until all are there; a killed run can be taken up again."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import ResourceError
from vol3d.io import atomic
from vol3d.io.names import split_name


class Spool:
    """Planes 0 … planes − 1 across X of a label map on the grid that the network sees, in a file beside the output.

    planes: how many are there. shape: (X, Y, Z) of all of it. dtype: of the codes.
    """

    def __init__(
        self,
        file: BinaryIO,
        note: Path,
        output: str,
        key: str,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
    ) -> None:
        self._file, self._note, self._output, self._key = file, note, output, key
        self.shape, self.dtype = shape, dtype
        self._plane_bytes = shape[1] * shape[2] * dtype.itemsize
        self.planes = self._kept()
        file.truncate(self.planes * self._plane_bytes)
        file.seek(0, os.SEEK_END)

    def append(self, codes: NDArray[Any]) -> None:
        """Add the next planes, (x, Y, Z); they are on disk when this returns."""
        if codes.shape[1:] != self.shape[1:] or codes.dtype != self.dtype:
            raise AssertionError(f"planes {codes.shape} of {codes.dtype} for {self.shape} of {self.dtype}")
        with faults_named(self._output):
            self._file.write(np.ascontiguousarray(codes).data)
            self._file.flush()
            os.fsync(self._file.fileno())
        self.planes += len(codes)
        with atomic.replace(self._note) as temporary:
            temporary.write_text(json.dumps({"key": self._key, "planes": self.planes}), encoding="utf-8")

    def runs(self, thickness: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """First plane and codes (x, Y, Z) of runs of `thickness` planes, from the first on."""
        self._file.flush()
        for start in range(0, self.planes, thickness):
            count = min(thickness, self.planes - start)
            self._file.seek(start * self._plane_bytes)
            codes = np.frombuffer(self._file.read(count * self._plane_bytes), dtype=self.dtype)
            yield start, codes.reshape(count, *self.shape[1:])

    def _kept(self) -> int:
        """How many planes an earlier run with the same key left."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._note.read_text(encoding="utf-8"))
            planes = int(note["planes"])
            if note["key"] == self._key and 0 <= planes <= self.shape[0]:
                return min(planes, self._file.seek(0, os.SEEK_END) // self._plane_bytes)
        with faults_named(self._output):
            self._note.unlink(missing_ok=True)  # before it could speak of other planes
        return 0


@contextmanager
def spooled(output: str, key: str, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Iterator[Spool]:
    """A spool for what will be written to `output`. key: of everything the codes depend on.

    It stays where the body raises, and is what the next one with the same key begins with; it is removed where the body
    ends. Raises `ResourceError` where another process fills it, or the system refuses (disk full, no permission).
    """
    planes, note = beside(output)
    with faults_named(output):
        file = planes.open("a+b")
    with file:
        _lock(file, output)
        with faults_named(output):
            spool = Spool(file, note, output, key, shape, dtype)
        yield spool
    with faults_named(output):
        note.unlink(missing_ok=True)
        planes.unlink(missing_ok=True)


def beside(output: str, name: str = "") -> tuple[Path, Path]:
    """The file for what is on its way to `output`, and the note that says how much of it is there."""
    path, dataset = split_name(output)
    inside = f"-{dataset.replace('/', '-')}" if dataset else ""
    part = path.with_name(f".{path.name}{inside}{name}.vol3d-part")
    return part, part.with_name(part.name + ".json")


@contextmanager
def faults_named(output: str) -> Iterator[None]:
    """Faults of the system are told as `ResourceError`s that name the output."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{output} cannot be written: {error.strerror or error}. Free space or choose another folder; what has "
            "been predicted is kept beside it, and the same command goes on from there."
        ) from error


def _lock(file: BinaryIO, output: str) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ResourceError(
            f"{output} is being predicted by another process. Wait for it, or name another output with -o."
        ) from error
