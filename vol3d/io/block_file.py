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

from vol3d.io import atomic
from vol3d.io.spool import beside, faults_named
from vol3d.volume import Box

BLOCK = 64  # voxels along an axis that lie together on disk
_ITEM = 4


class BlockFile:
    """float32 values (C, X, Y, Z) in blocks of 64³ voxels.

    shape: (C, X, Y, Z). parts: how many calls of `write` have reached the disk.
    """

    ndim = 4

    def __init__(
        self, file: BufferedRandom, note: Path, output: str, key: str, shape: tuple[int, int, int, int]
    ) -> None:
        self._file, self._note, self._output, self._key = file, note, output, key
        self.shape = shape
        self._counts = tuple(-(-n // BLOCK) for n in shape[1:])
        self._block_bytes = shape[0] * BLOCK**3 * _ITEM
        self.parts = self._kept()

    @property
    def room(self) -> int:
        """Bytes on disk when all of it is written."""
        return math.prod(self._counts) * self._block_bytes

    def write(self, start: tuple[int, int, int], values: NDArray[np.float32]) -> None:
        """Keep the next part, (C, x, y, z), whose first voxel is `start`; it is on disk when this returns.

        start: multiples of 64; so is the size, but for a part that ends with the volume.
        """
        box = Box(start, values.shape[1:])
        ends = zip(start, box.stop, self.shape[1:], strict=True)
        if any(a % BLOCK or (b % BLOCK and b != n) for a, b, n in ends):
            raise AssertionError(f"a part at {start} of {values.shape[1:]} voxels in {self.shape}")
        padded = np.zeros((self.shape[0], BLOCK, BLOCK, BLOCK), dtype=np.float32)
        with faults_named(self._output):
            for number, block in self._blocks(box):
                inside = block.shift(tuple(-n for n in start)).clip(box.size)
                padded[(slice(None), *Box((0, 0, 0), inside.size).slices())] = values[(slice(None), *inside.slices())]
                self._file.seek(number * self._block_bytes)
                self._file.write(padded.data)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.parts += 1
            with atomic.replace(self._note) as temporary:
                temporary.write_text(json.dumps({"key": self._key, "parts": self.parts}), encoding="utf-8")

    def read(self, box: Box) -> NDArray[np.float32]:
        """The values in a box inside the volume, (C, *box.size)."""
        found = np.empty((self.shape[0], *box.size), dtype=np.float32)
        buffer = np.empty((self.shape[0], BLOCK, BLOCK, BLOCK), dtype=np.float32)
        for number, block in self._blocks(box):
            self._file.seek(number * self._block_bytes)
            if self._file.readinto(buffer.data.cast("B")) != self._block_bytes:
                raise AssertionError(f"block {number} is read before it was written")
            there = block.shift(tuple(-n for n in box.start)).clip(box.size)
            here = there.shift(tuple(a - b for a, b in zip(box.start, block.start, strict=True)))
            found[(slice(None), *there.slices())] = buffer[(slice(None), *here.slices())]
        return found

    def _blocks(self, box: Box) -> Iterator[tuple[int, Box]]:
        """The blocks that a box touches: their numbers and where they lie."""
        ranges = (range(a // BLOCK, -(-b // BLOCK)) for a, b in zip(box.start, box.stop, strict=True))
        for x, y, z in itertools.product(*ranges):
            number = (x * self._counts[1] + y) * self._counts[2] + z
            yield number, Box((BLOCK * x, BLOCK * y, BLOCK * z), (BLOCK, BLOCK, BLOCK))

    def _kept(self) -> int:
        """How many parts an earlier run with the same key left."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._note.read_text(encoding="utf-8"))
            parts = int(note["parts"])
            if note["key"] == self._key and parts >= 0 and self._file.seek(0, os.SEEK_END) > 0:
                return parts
        self._file.truncate(0)
        return 0


@contextmanager
def block_file(output: str, name: str, key: str, shape: tuple[int, int, int, int]) -> Iterator[BlockFile]:
    """Values that are needed on the way to `output`, in a file beside it. key: of everything they depend on.

    The file stays, and is what the next one with the same key begins with; `forget_block_file` removes it. Raises
    `ResourceError` where the system refuses. Nobody else may write to it meanwhile: see `spooled`.
    """
    path, note = beside(output, f".{name}")
    with faults_named(output):
        path.touch()
        file = path.open("r+b")
    with file:
        yield BlockFile(file, note, output, key, shape)


def forget_block_file(output: str, name: str) -> None:
    """Remove the file of that name, if there is one."""
    with faults_named(output):
        for path in beside(output, f".{name}"):
            path.unlink(missing_ok=True)
