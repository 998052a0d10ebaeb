"""Class names beside label codes: their JSON form, and the side-car file for formats that cannot hold them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from vol3d.io import atomic

KEY = "vol3d_class_names"
_LARGEST = 16 << 20
_CARET_LABEL = re.compile(rb'<Label\s+Key="(\d{1,10})"[^>]*>\s*<!\[CDATA\[([^\]]{0,200})\]\]>')


def encode(names: dict[int, str]) -> str:
    """Code → name as JSON text."""
    return json.dumps({str(code): name for code, name in sorted(names.items())}, ensure_ascii=True)


def decode(value: object) -> dict[str, str]:
    """The names in JSON text or in its parsed value; empty where it is something else."""
    value = _json(value)
    if not isinstance(value, dict):
        return {}
    return {str(code): str(name) for code, name in value.items() if str(code).isdecimal()}


def decode_list(value: object) -> list[str]:
    """The channel names in JSON text or in its parsed value; empty where it is something else."""
    value = _json(value)
    return [str(name) for name in value] if isinstance(value, list) else []


def _json(value: object) -> object:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value[:_LARGEST])
    except (ValueError, RecursionError):
        return None


def from_caret(xml: bytes) -> dict[str, str]:
    """The label table that Connectome Workbench and TotalSegmentator keep in a NIfTI extension."""
    return {str(int(code)): name.decode("utf-8", "replace") for code, name in _CARET_LABEL.findall(xml[:_LARGEST])}


def sidecar(path: Path) -> Path:
    """The JSON file beside a volume; where its name is a link, beside the file that it leads to."""
    target = Path(os.path.realpath(path))
    return target.with_name(target.name + ".json")


def write_sidecar(path: Path, names: dict[int, str] | None) -> None:
    """Write the names beside `path`, or remove old ones where there are none. Raises `ResourceError`."""
    beside = sidecar(path)
    if not names:
        if KEY in _parsed(beside):
            beside.unlink()
        return
    with atomic.replace(beside) as temporary:
        temporary.write_text(json.dumps({KEY: json.loads(encode(names))}, indent=1) + "\n", encoding="ascii")


def is_foreign(path: Path) -> bool:
    """Whether the side-car of a volume would replace a file that somebody else wrote."""
    beside = sidecar(path)
    return beside.exists() and KEY not in _parsed(beside)


def read_sidecar(path: Path) -> dict[str, str]:
    """The names beside `path`; empty where there are none. Beside a link they count where its target has none."""
    here = path.with_name(path.name + ".json")
    return decode(_parsed(sidecar(path)).get(KEY)) or decode(_parsed(here).get(KEY))


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            return {}
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
