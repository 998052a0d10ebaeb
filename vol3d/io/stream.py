"""The bytes of a file in order, plain or decompressed, read to a checked end.

A compressed stream is trusted only after `finish`: that reads it to its end, where its checksum and length are
checked. Nothing here allocates more than one block, whatever the file claims.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from isal import isal_zlib

from vol3d.errors import FileFormatError
from vol3d.io.budget import bytes_text

BLOCK = 1 << 20
_STORED_BLOCK = 1 << 17
_DAMAGED = cast("type[Exception]", isal_zlib.error)
GZIP, ZLIB = 31, 15  # zlib's codes for the two wrappings of deflate
_LARGEST_RATIO = 1032  # deflate cannot expand further
_SURPLUS = 1 << 20  # unpacked bytes after the voxels that some programs pad with
_PADDING = 1 << 12  # the same, of a file without compression


class ByteStream(ABC):
    """Reads a file once from front to back. name: for messages. position: bytes handed out so far."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.position = 0
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Upper bound of the bytes that the whole stream can hold."""

    @abstractmethod
    def read_into(self, target: memoryview) -> None:
        """Fill `target` (bytes). Raises `FileFormatError` where the stream ends early or is damaged."""

    @abstractmethod
    def finish(self) -> None:
        """Read to the end and check it. Raises `FileFormatError`."""

    def read(self, count: int) -> bytes:
        """The next `count` bytes. Raises `FileFormatError`."""
        self.require(count)
        buffer = bytearray(count)
        self.read_into(memoryview(buffer))
        return bytes(buffer)

    def skip(self, count: int) -> None:
        """Pass over `count` bytes. Raises `FileFormatError`."""
        block = memoryview(bytearray(min(count, BLOCK)))
        while count > 0:
            step = min(count, BLOCK)
            self.read_into(block[:step])
            count -= step

    def require(self, count: int) -> None:
        """Raise `FileFormatError` where `count` more bytes cannot be in the file. Call it before allocating."""
        if self.position + count > self.capacity:
            raise FileFormatError(
                f"{self.name} is truncated or damaged: its header promises {bytes_text(self.position + count)}, "
                f"the file can hold {bytes_text(self.capacity)} at most. Copy or export it again."
            )


class PlainStream(ByteStream):
    """A file without compression. There is no checksum: only its length can be checked."""

    @property
    def capacity(self) -> int:
        """Size of the file."""
        here = self._file.tell()
        size = self._file.seek(0, 2)
        self._file.seek(here)
        return size - here + self.position

    def read_into(self, target: memoryview) -> None:
        """Fill `target` (bytes). Raises `FileFormatError` where the file ends early."""
        filled = 0
        while filled < len(target):
            count = self._file.readinto(target[filled:])  # type: ignore[attr-defined]
            if not count:
                raise FileFormatError(
                    f"{self.name} is truncated: {bytes_text(len(target))} expected from byte {self.position}, "
                    f"{bytes_text(filled)} found. Copy or export it again."
                )
            filled += count
        self.position += filled

    def finish(self) -> None:
        """Refuse a file that goes on: its header may declare too few voxels, or of the wrong type."""
        surplus = self.capacity - self.position
        if surplus > _PADDING:
            raise FileFormatError(
                f"{self.name} holds {bytes_text(surplus)} beyond the voxels that its header declares, which may be of "
                "another size or type than it says. Mend the header, or export it again."
            )


class DeflateStream(ByteStream):
    """A gzip file (one or several members) or a zlib stream, from the file's current position on.

    ISA-L's inflate, several times as fast as zlib's, compares checksum and length at the end of each member itself.
    """

    def __init__(self, file: BinaryIO, name: str, wrapping: int = GZIP) -> None:
        super().__init__(file, name)
        self._wrapping = wrapping
        self._decoder: Any = isal_zlib.decompressobj(wrapping)
        self._ahead = b""  # read from the file, not yet given to the decoder
        here = file.tell()
        self._stored = file.seek(0, 2) - here
        file.seek(here)

    @property
    def capacity(self) -> int:
        """What deflate can make of the bytes in the file at the very most."""
        return self._stored * _LARGEST_RATIO

    def read_into(self, target: memoryview) -> None:
        """Fill `target` (bytes). Raises `FileFormatError` where the stream ends early or is damaged."""
        filled = 0
        while filled < len(target):
            piece = self._next(min(len(target) - filled, BLOCK))
            if not piece:
                raise FileFormatError(
                    f"{self.name} is truncated: {bytes_text(self.position + len(target))} expected, "
                    f"its compressed data hold {bytes_text(self.position + filled)}. Copy or export it again."
                )
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
        self.position += filled

    def finish(self) -> None:
        """Read to the end and check checksum and length; more than a little padding is refused."""
        surplus = 0
        while piece := self._next(BLOCK):
            surplus += len(piece)
            if surplus > _SURPLUS:
                raise FileFormatError(
                    f"{self.name} holds more than {bytes_text(_SURPLUS)} beyond the voxels that its header declares. "
                    "Export it again."
                )

    def _next(self, limit: int) -> bytes:
        """At most `limit` further bytes; empty at the checked end."""
        while True:
            if self._decoder.eof and not self._next_member():
                return b""
            data = self._decoder.unconsumed_tail or self._ahead or self._file.read(_STORED_BLOCK)
            self._ahead = b""
            try:
                piece = self._decoder.decompress(data, limit)
            except _DAMAGED as error:
                raise FileFormatError(
                    f"{self.name} is corrupt: its compressed data fail their check ({error}). Copy or export it again."
                ) from error
            if piece:
                return piece
            if not data and not self._decoder.eof:
                raise FileFormatError(
                    f"{self.name} is truncated: its compressed data end before their checksum. Copy or export it again."
                )

    def _next_member(self) -> bool:
        """Go on to the next gzip member; zeros that pad the file are passed over. False at the end of the file."""
        data = self._decoder.unused_data
        while not data.lstrip(b"\0"):
            data = self._file.read(_STORED_BLOCK)
            if not data:
                return False
        data = data.lstrip(b"\0")
        if self._wrapping != GZIP or data[:1] != b"\x1f":
            raise FileFormatError(f"{self.name} has foreign bytes after its compressed data. Copy or export it again.")
        self._decoder = isal_zlib.decompressobj(self._wrapping)
        self._ahead = data
        return True


def open_stream(path: Path, name: str) -> ByteStream:
    """The bytes of a file; a name that ends in .gz is decompressed. Raises `OSError`, `FileFormatError`."""
    file = path.open("rb")
    try:
        return DeflateStream(file, name) if path.name.lower().endswith(".gz") else PlainStream(file, name)
    except BaseException:
        file.close()
        raise
