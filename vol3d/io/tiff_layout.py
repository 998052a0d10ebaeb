"""Whether a TIFF file holds all that its directories point at: what is cut off would be read as a shorter stack."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import FileFormatError

_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}  # field types that offsets and sizes come in
_VOXELS = ((273, 279), (324, 325))  # offsets and sizes of strips, of tiles
_ALIKE = (256, 257, 258, 259, 277, 284, 339)  # width, height, bits, compression, samples, their layout, their type
_MOST_PAGES, _MOST_TAGS = 1 << 20, 1 << 12


@dataclass(frozen=True)
class _Kind:
    """Byte order, and how wide a directory's count, its entries and its offsets are."""

    order: str
    count: str
    entry: str
    offset: str


def require_whole(path: Path, name: str) -> int:
    """Raise `FileFormatError` unless every page, every entry and every strip or tile lies inside the file.

    Pages must be alike: of others tifffile, which looks at a few, would fill in zeros. Returns the number of pages.
    Voxels are not read. TIFF 6.0 (Adobe 1992), and BigTIFF.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        pages, before = 0, list[list[int]]()
        for entries, kind in _pages(file, size, name):
            back = file.tell()
            for where, length in _VOXELS:
                if where in entries:
                    _require_inside(file, entries[where], entries.get(length), kind, size, name)
            found = [_values(file, entries[tag], kind, name).tolist() if tag in entries else [] for tag in _ALIKE]
            file.seek(back)
            if pages and found != before:
                raise FileFormatError(
                    f"{name}: page {pages} (from 0) has another size or type than the one before; expected one stack. "
                    "Save the pages that are needed alone."
                )
            before = found
            pages += 1
    return pages


def _pages(file: BinaryIO, size: int, name: str) -> Iterator[tuple[dict[int, bytes], _Kind]]:
    """The entries of every directory, by tag, in the order in which directories point at each other."""
    kind, at = _header(file, name)
    seen: set[int] = set()
    while at:
        if at in seen or len(seen) >= _MOST_PAGES:
            raise _damaged(name, "its pages go round in a circle")
        seen.add(at)
        file.seek(at)
        (tags,) = _unpacked(file, kind.order + kind.count, name)
        if not 0 < tags <= _MOST_TAGS:
            raise _damaged(name, f"a page has {tags} entries")
        entries: dict[int, bytes] = {}
        for _ in range(tags):
            entry = file.read(struct.calcsize(kind.order + kind.entry))
            tag, field, count, place = _fields(entry, kind, name)
            inline = struct.calcsize(kind.order + kind.offset)
            length = _BYTES.get(field, 0) * count
            if length > inline and place + length > size:
                raise _damaged(name, "an entry of a page lies beyond its end")
            entries[tag] = entry
        (at,) = _unpacked(file, kind.order + kind.offset, name)
        yield entries, kind


def _header(file: BinaryIO, name: str) -> tuple[_Kind, int]:
    start = file.read(4)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    version = struct.unpack(f"{order}H", start[2:])[0] if order and len(start) == 4 else 0
    if order is None or version not in (42, 43):
        raise FileFormatError(f"{name} is not a TIFF file: it is empty, damaged or of another format. Export it again.")
    if version == 42:
        kind = _Kind(order, "H", "HHI4s", "I")
    else:
        kind = _Kind(order, "Q", "HHQ8s", "Q")
        file.read(4)  # the width of offsets, 8, and nothing
    (first,) = _unpacked(file, order + kind.offset, name)
    if not first:
        raise _damaged(name, "it has no page")
    return kind, int(first)


def _fields(entry: bytes, kind: _Kind, name: str) -> tuple[int, int, int, int]:
    """Tag, field type, number of values, and where they lie if they do not fit into the entry."""
    try:
        tag, field, count, value = struct.unpack(kind.order + kind.entry, entry)
    except struct.error as error:
        raise _damaged(name, "it ends inside a page") from error
    return tag, field, count, struct.unpack(kind.order + kind.offset, value)[0]


def _require_inside(file: BinaryIO, offsets: bytes, lengths: bytes | None, kind: _Kind, size: int, name: str) -> None:
    starts = _values(file, offsets, kind, name)
    if lengths is None:
        raise _damaged(name, "it does not say how long its strips are (StripByteCounts)")
    counts = _values(file, lengths, kind, name)
    if starts.size != counts.size or not starts.all() or not counts.all():
        raise _damaged(name, "some of its voxels are not stored")
    if bool((starts > size).any()) or bool((counts > size - starts).any()):
        raise _damaged(name, "voxels lie beyond its end")


def _values(file: BinaryIO, entry: bytes, kind: _Kind, name: str) -> NDArray[np.int64]:
    _, field, count, place = _fields(entry, kind, name)
    if field not in _WHOLE:
        raise _damaged(name, f"an entry of a page is of type {field}, which is no whole number")
    dtype = np.dtype(_WHOLE[field]).newbyteorder("<" if kind.order == "<" else ">")
    length, inline = count * dtype.itemsize, struct.calcsize(kind.order + kind.offset)
    if length <= inline:
        stored = entry[-inline:][:length]
    else:
        file.seek(place)
        stored = file.read(length)
    found = np.frombuffer(stored, dtype)
    if found.size and int(found.max()) >= 1 << 62:
        raise _damaged(name, "voxels lie beyond its end")
    return found.astype(np.int64)


def _unpacked(file: BinaryIO, layout: str, name: str) -> tuple[int, ...]:
    try:
        return struct.unpack(layout, file.read(struct.calcsize(layout)))
    except struct.error as error:
        raise _damaged(name, "a page lies beyond its end") from error


def _damaged(name: str, cause: str) -> FileFormatError:
    return FileFormatError(f"{name} is truncated or damaged: {cause}. Copy or export it again.")
