"""NRRD and MetaImage headers, read only as far as needed to check that the file holds what it promises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vol3d.errors import FileFormatError
from vol3d.io.budget import Budget
from vol3d.io.stream import GZIP, ZLIB, ByteStream, DeflateStream, PlainStream

_LARGEST_LINE = 16 << 20
_MOST_LINES = 10_000
_NRRD_BYTES = {
    1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
    2: ("short", "short int", "signed short", "signed short int", "int16", "int16_t",
        "ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"),
    8: ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t",
        "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"),
}  # fmt: skip
_META_BYTES = {
    1: ("MET_CHAR", "MET_UCHAR"),
    2: ("MET_SHORT", "MET_USHORT"),
    4: ("MET_INT", "MET_UINT", "MET_FLOAT"),
    8: ("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"),
}
_INTENSITY = {"Slope": 1.0, "Offset": 0.0}  # MetaImage's: what leaves voxels as they are


def require_whole(path: Path, name: str, budget: Budget) -> int:
    """Raise unless the voxels that the header promises are all there, undamaged, and within the budget.

    Returns their size in bytes. Compressed voxels are unpacked once for their checksum, block by block.
    """
    with path.open("rb") as file:
        if path.suffix.lower() == ".nrrd":
            promised, stream = _nrrd(file, name)
        else:
            promised, stream = _meta(file, path, name)
        with stream:
            stream.require(promised)
            budget.require(name, 2 * promised)  # SimpleITK's copy and ours
            stream.skip(promised)
            stream.finish()
    return promised


def files_of(path: Path) -> list[Path]:
    """The files that a volume is made of: itself, and of a MetaImage header the file beside it that has the voxels."""
    if path.suffix.lower() != ".mhd":
        return [path]
    with path.open("rb") as file:
        fields = (line.partition("=") for line in _lines(file, str(path)))
        where = next((value.strip() for key, _, value in fields if key.strip() == "ElementDataFile"), "LOCAL")
    return [path] if where.upper() == "LOCAL" else [path, path.with_name(where)]


def _nrrd(file: BinaryIO, name: str) -> tuple[int, ByteStream]:
    if not file.readline(16).startswith(b"NRRD000"):
        raise FileFormatError(f"{name} is not an NRRD file: its header is damaged or of another format.")
    fields: dict[str, str] = {}
    for line in _lines(file, name):
        if not line:
            break
        key, colon, value = line.partition(": ")
        if colon and not line.startswith("#") and ":=" not in key:
            fields[key.strip().lower().replace(" ", "")] = value.strip()
    if "datafile" in fields or "lineskip" in fields or "byteskip" in fields:
        raise FileFormatError(f"{name} keeps its voxels in another place or file. Save it as one NRRD file.")
    for key in ("spaceunits", "units"):
        _require_mm(fields.get(key, "").replace('"', "").split(), name)
    encoding = fields.get("encoding", "").lower()
    promised = _bytes(fields.get("sizes", ""), fields.get("type", "").lower(), _NRRD_BYTES, name)
    if encoding == "raw":
        return promised, PlainStream(file, name)
    if encoding in ("gz", "gzip"):
        return promised, DeflateStream(file, name, GZIP)
    raise FileFormatError(f"{name} is an NRRD file with encoding {encoding!r}; expected raw or gzip. Save it again.")


def _meta(file: BinaryIO, path: Path, name: str) -> tuple[int, ByteStream]:
    fields: dict[str, str] = {}
    for line in _lines(file, name):
        key, equals, value = line.partition("=")
        if not equals:
            raise FileFormatError(f"{name} is not a MetaImage file: its header is damaged or of another format.")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    _require_mm([fields["DistanceUnits"]] if "DistanceUnits" in fields else [], name)
    if any(
        _number(fields.get(f"ElementToIntensityFunction{key}"), usual) != usual for key, usual in _INTENSITY.items()
    ):
        raise FileFormatError(
            f"{name} stores intensities that are to be scaled (ElementToIntensityFunctionSlope, …Offset), which is not "
            "supported. Save it with the values themselves."
        )
    promised = _bytes(
        fields.get("DimSize", ""), fields.get("ElementType", "").removesuffix("_ARRAY"), _META_BYTES, name
    )
    promised *= _count(fields.get("ElementNumberOfChannels", "1"), name)
    if fields.get("HeaderSize", "0") != "0" or fields.get("BinaryData", "True").lower() == "false":
        raise FileFormatError(f"{name} stores its voxels as text or after a foreign header. Save it again.")
    where = fields["ElementDataFile"]
    if where.upper() == "LOCAL":
        data = path.open("rb")
        data.seek(file.tell())
    else:
        if "/" in where or "\\" in where or "%" in where or where.upper().startswith("LIST") or where in (".", ".."):
            raise FileFormatError(f"{name} names {where!r} as its voxel file; only one file beside it is opened.")
        try:
            data = path.with_name(where).open("rb")
        except OSError as error:
            raise FileFormatError(f"{name}: its voxel file {where} cannot be read ({error.strerror}).") from error
    if fields.get("CompressedData", "False").lower() == "true":
        return promised, DeflateStream(data, name, ZLIB)
    return promised, PlainStream(data, name)


def _lines(file: BinaryIO, name: str) -> Iterator[str]:
    """Header lines without their ends; the file stands just behind the last one taken."""
    for _ in range(_MOST_LINES):
        line = file.readline(_LARGEST_LINE)
        if not line.endswith(b"\n"):
            break
        yield line.decode("utf-8", "replace").rstrip("\r\n")
    raise FileFormatError(f"{name} is truncated or damaged: its header does not end. Copy or export it again.")


def _bytes(sizes: str, kind: str, table: dict[int, tuple[str, ...]], name: str) -> int:
    width = next((width for width, kinds in table.items() if kind in kinds), None)
    counts = [_count(text, name) for text in sizes.split()]
    if width is None or not 2 <= len(counts) <= 4:
        raise FileFormatError(f"{name} stores {len(counts)} axes of {kind!r}; expected x, y, z of plain real numbers.")
    return math.prod(counts) * width


def _count(text: str, name: str) -> int:
    if not text.isdecimal() or not 0 < int(text[:19]) < 2**62:
        raise FileFormatError(f"{name}: its header holds the size {text[:40]!r}; expected a positive number.")
    return int(text[:19])


def _number(text: str | None, usual: float) -> float:
    try:
        return usual if text is None else float(text)
    except ValueError:
        return math.nan


def _require_mm(units: list[str], name: str) -> None:
    strange = [unit for unit in units if unit.lower() not in ("mm", "millimeter", "millimetre", "?", "none", "")]
    if strange:
        raise FileFormatError(
            f"{name} measures in {strange[0]!r}; NRRD and MetaImage are read in mm. Convert it to .nii.gz or .h5."
        )
