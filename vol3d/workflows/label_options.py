"""What options say that the codes of labels mean, in words → in numbers."""

from __future__ import annotations

from typing import Any

from vol3d.errors import LabelError
from vol3d.workflows.partial import Codes

_AXES = "xyz"


def parse_annotated_slices(texts: list[str]) -> dict[str, tuple[int, ...]]:
    """`["z=10,20", "y=5"]` → {"z": (10, 20), "y": (5,)}. Raises `LabelError` on anything else."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        axis, equals, numbers = text.partition("=")
        parts: list[Any] = [part.strip() for part in numbers.split(",")]
        if axis not in tuple(_AXES) or not equals or not all(part.isdecimal() for part in parts):
            raise LabelError(f"--annotated-slices expects AXIS=NUMBERS such as z=10,20,30, found {text!r}")
        found[axis] = found.get(axis, ()) + tuple(int(part) for part in parts)
    return found


def parse_one_of(texts: list[str]) -> dict[int, Codes]:
    """`["250=0,1,2"]` → {250: (0, 1, 2)}. Raises `LabelError` on anything else."""
    found: dict[int, Codes] = {}
    for text in texts:
        code, equals, codes = text.partition("=")
        members = _codes(codes)
        if not code.strip().isdecimal() or not equals or not members or int(code) in found:
            raise LabelError(f"--one-of expects CODE=CODES such as 250=0,1,2, each code once, found {text!r}")
        found[int(code)] = members
    return found


def parse_not_painted(texts: list[str]) -> dict[str, Codes]:
    """`["scan_b=3", "scan_c="]` → {"scan_b": (3,), "scan_c": ()}: nothing was left out there. Raises `LabelError`."""
    found: dict[str, Codes] = {}
    for text in texts:
        name, equals, codes = text.rpartition("=")
        members = () if equals and not codes.strip() else _codes(codes)
        if not name.strip() or members is None:
            raise LabelError(f"--not-painted expects FILE=CODES such as scan_b=3 or scan_b=3,4, found {text!r}")
        found[name] = found.get(name, ()) + members
    return found


def _codes(text: str) -> Codes | None:
    """Codes with commas between them, None for anything else."""
    parts = [part.strip() for part in text.split(",")]
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else None
