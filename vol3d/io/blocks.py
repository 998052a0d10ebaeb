"""Values of a volume on disk: written part by part, read back in boxes; a killed run can take them up again."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import ResourceError
from vol3d.io import atomic
from vol3d.io.spool import beside, faults_named
from vol3d.volume import Box

_BLOCK = 64  # voxels along an axis that lie together on disk, at most
_ITEM = 4


class BlockFile:
    """float32 values (C, X, Y, Z) in blocks of 64³ voxels. shape: (C, X, Y, Z)."""

    def __init__(self, file: BufferedRandom, note: Path, output: str, key: str, shape: tuple[int, ...]) -> None:
        self._file, self._note, self._output, self._key = file, note, output, key
        self.shape = shape
        x, y, z = (min(_BLOCK, n) for n in shape[1:])
        self._edges = (x, y, z)
        self._counts = tuple(-(-n // edge) for n, edge in zip(shape[1:], self._edges, strict=True))
        self._block_bytes = shape[0] * math.prod(self._edges) * _ITEM
        self._there = self._kept()

    @property
    def missing_bytes(self) -> int:
        """What will still be written, on disk."""
        return int((~self._there).sum()) * self._block_bytes

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been written."""
        return not self._there.any()

    def has(self, box: Box) -> bool:
        """Whether all blocks that a box inside the volume touches are on disk."""
        return all(self._there[number] for number, _ in self._blocks(box))

    def write(self, start: tuple[int, int, int], values: NDArray[np.float32]) -> None:
        """Keep a part, (C, x, y, z), whose first voxel is `start`; it is on disk when this returns.

        start: multiples of 64; so is the size, but for a part that ends with the volume.
        """
        box = Box(start, values.shape[1:])
        ends = zip(start, box.stop, self._edges, self.shape[1:], strict=True)
        if any(a % edge or (b % edge and b != n) for a, b, edge, n in ends):
            raise AssertionError(f"a part at {start} of {values.shape[1:]} voxels in {self.shape}")
        padded = np.zeros((self.shape[0], *self._edges), dtype=np.float32)
        with faults_named(self._output):
            for number, block in self._blocks(box):
                inside = block.shift(tuple(-n for n in start)).clip(box.size)
                padded[(slice(None), *Box((0, 0, 0), inside.size).slices())] = values[(slice(None), *inside.slices())]
                self._file.seek(number * self._block_bytes)
                self._file.write(padded.data)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._there[[number for number, _ in self._blocks(box)]] = True
            told = {"key": self._key, "there": np.packbits(self._there).tobytes().hex()}
            with atomic.replace(self._note) as temporary:
                temporary.write_text(json.dumps(told), encoding="utf-8")

    def read(self, box: Box) -> NDArray[np.float32]:
        """The values in a box inside the volume, (C, *box.size). Raises `ResourceError` where they cannot be read."""
        found = np.empty((self.shape[0], *box.size), dtype=np.float32)
        buffer = np.empty((self.shape[0], *self._edges), dtype=np.float32)
        for number, block in self._blocks(box):
            if not self._there[number]:
                raise AssertionError(f"block {number} is read before it was written")
            self._file.seek(number * self._block_bytes)
            if self._file.readinto(buffer.data.cast("B")) != self._block_bytes:
                raise ResourceError(f"{self._file.name}: cut short by something else. Remove it and begin again.")
            there = block.shift(tuple(-n for n in box.start)).clip(box.size)
            here = there.shift(tuple(a - b for a, b in zip(box.start, block.start, strict=True)))
            found[(slice(None), *there.slices())] = buffer[(slice(None), *here.slices())]
        return found

    def _blocks(self, box: Box) -> Iterator[tuple[int, Box]]:
        """The blocks that a box touches: their numbers and where they lie."""
        ranges = (range(a // n, -(-b // n)) for a, b, n in zip(box.start, box.stop, self._edges, strict=True))
        for place in itertools.product(*ranges):
            x, y, z = place
            number = (x * self._counts[1] + y) * self._counts[2] + z
            yield number, Box(tuple(n * edge for n, edge in zip(place, self._edges, strict=True)), self._edges)

    def _kept(self) -> NDArray[np.bool_]:
        """Which blocks an earlier run with the same key left; whatever else is there is thrown away."""
        count = math.prod(self._counts)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._note.read_text(encoding="utf-8"))
            bits = np.frombuffer(bytes.fromhex(note["there"]), dtype=np.uint8)
            there = np.unpackbits(bits, count=count).astype(bool)
            written = self._file.seek(0, os.SEEK_END) // self._block_bytes
            if note["key"] == self._key and not there[written:].any():
                return there
        with faults_named(self._output):
            self._note.unlink(missing_ok=True)  # before it could speak of other values
            self._file.truncate(0)
        return np.zeros(count, dtype=bool)


@contextmanager
def block_file(output: str, name: str, key: str, shape: tuple[int, ...]) -> Iterator[BlockFile]:
    """Values that are needed on the way to `output`, in a file beside it. key: of everything they depend on.

    What was written stays, and is what the next one with the same key begins with; `forget_block_file` removes it.
    Raises `ResourceError` where the system refuses. Nobody else may write to it meanwhile: see `spooled`.
    """
    path, note = beside(output, f".{name}")
    with faults_named(output):
        path.touch()
        file = path.open("r+b")
    values: BlockFile | None = None
    try:
        with file:
            values = BlockFile(file, note, output, key, shape)
            yield values
    finally:
        if values is not None and values.is_empty:
            forget_block_file(output, name)


def forget_block_file(output: str, name: str) -> None:
    """Remove the file of that name, if there is one; it must be closed."""
    path, note = beside(output, f".{name}")
    with faults_named(output):
        note.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
