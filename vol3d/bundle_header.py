"""The safetensors files of vol3d, models and checkpoints: their heads read without torch, the files written.

Heads are taken to be hostile: sizes are checked before anything is parsed, and nothing is ever executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vol3d.errors import ModelError
from vol3d.metrics import TEMPERATURES

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
KEY = "vol3d"
CHECKPOINT_KEY = "vol3d_checkpoint"
Entries = dict[str, tuple[str, tuple[int, ...]]]  # tensor name → (dtype as torch prints it, shape)

_PARTS = {
    "format": int, "in_channels": int, "statistics": str, "weights_sha256": str, "network": dict, "labels": dict,
    "preprocessing": dict, "training_range": dict, "provenance": dict,
}  # fmt: skip
_DTYPES = {
    "F64": ("torch.float64", 8), "F32": ("torch.float32", 4), "F16": ("torch.float16", 2),
    "BF16": ("torch.bfloat16", 2), "I64": ("torch.int64", 8), "I32": ("torch.int32", 4), "U8": ("torch.uint8", 1),
    "BOOL": ("torch.bool", 1),
}  # fmt: skip
_LARGEST_HEADER = 8 << 20  # bytes; the paper's network needs 10,000
_LARGEST_FILE = 64 << 30  # bytes
_MOST_TENSORS = 1 << 14
_MOST_CHANNELS = 1 << 16
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON of a model, and `parameters`, how many weights it learned. Raises `ModelError` on any other file."""
    header, tensors = read_model_head(path)
    learned = [shape for name, (_, shape) in tensors.items() if not name.endswith(_BUFFERS)]
    return {**header, "parameters": sum(math.prod(shape) for shape in learned)}


def read_checkpoint_header(path: str | Path) -> dict[str, Any]:
    """The JSON of a `checkpoint-….safetensors`: iteration, best_score and more. Raises `ModelError` on other files."""
    facts, _ = _read(Path(path), CHECKPOINT_KEY)
    return facts


def read_model_head(path: str | Path) -> tuple[dict[str, Any], Entries]:
    """(the JSON of a model, what tensors it holds). Raises `ModelError` on any other file."""
    header, tensors = _read(Path(path), KEY)
    for key, kind in _PARTS.items():
        if type(header.get(key)) is not kind:
            raise ModelError(f"{path} is no whole model: expected {key!r} in its header. Train it again.")
    if not 1 <= header["in_channels"] <= _MOST_CHANNELS:
        raise ModelError(f"{path} takes {str(header['in_channels'])[:20]} channels: no such image. Train it again.")
    if header["format"] != FORMAT:
        raise ModelError(f"{path} has format {header['format']}; this version of vol3d reads format {FORMAT}")
    temperature = header.get("temperature", 1.0)  # absent: never calibrated
    if type(temperature) not in (int, float):
        raise ModelError(f"{path} is no whole model: expected 'temperature' in its header as a number")
    require_temperature(temperature, str(path))
    return header, tensors


def read_tensor_file(path: Path, key: str) -> tuple[dict[str, Any], Entries]:
    """(our JSON under `key`, what tensors the file holds). Raises `ModelError` on any other file."""
    return _read(path, key)


def require_temperature(value: float, name: str) -> None:
    """Raise `ModelError` for anything but a number that a temperature may be."""
    low, high = TEMPERATURES
    if type(value) not in (int, float) or not low <= value <= high:
        raise ModelError(
            f"{name}: expected a temperature from {low:g} to {high:g}, found {str(value)[:40]}. Calibrate it again."
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], key: str, header: dict[str, Any]) -> None:
    """Write a safetensors file with `header` as a JSON string under `key` of its metadata.

    The bytes are a function of the values alone. Written here, tensor by tensor, since the library makes a temporary
    file of its own, which a killed process leaves behind. Raises `OSError`, and ValueError on NaN in the header.
    """
    import torch

    codes = {name: code for code, (name, _) in _DTYPES.items()}
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # keeps them aligned
    entries: dict[str, Any] = {"__metadata__": {key: json.dumps(header, allow_nan=False)}}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": codes[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            if tensor.numel():
                file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _read(path: Path, key: str) -> tuple[dict[str, Any], Entries]:
    """(our JSON, what tensors the file holds); reads the head alone."""
    text, room = _head(path)
    declared = text.count(b'"data_offsets"')  # counted before anything is made of them
    if declared > _MOST_TENSORS:
        raise ModelError(f"{path} declares {declared} tensors, more than any network of vol3d has: refused.")
    try:
        entries = _parse(text)
        header = _parse(entries.pop("__metadata__")[key])
        tensors = {name: _entry(value, room) for name, value in entries.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is a safetensors file, but not one that vol3d made. Name a model or a run."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} has no valid header ({_one_line(error)}). Give a file as vol3d saved it.") from error
    return header, tensors


def _head(path: Path) -> tuple[bytes, int]:
    """(the JSON header of a safetensors file, how many bytes of tensors follow)."""
    try:
        with path.open("rb") as file:
            first, size = file.read(9), path.stat().st_size
            length = int.from_bytes(first[:8], "little")
            sound = first[8:] == b"{" and length <= size - 8
            text = b"{" + file.read(length - 1) if sound and length <= _LARGEST_HEADER else b""
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}. Name a model or the folder of a run.") from error
    if not sound and first.startswith((b"\x80", b"PK\x03\x04")):
        raise ModelError(
            f"{path} is a pickle or an archive (PyTorch's .pt?), which could run code when opened: refused. "
            "Give a .safetensors model that vol3d saved."
        )
    if not sound:
        raise ModelError(f"{path} is not a safetensors file, or is truncated. Give a model that vol3d saved.")
    if length > _LARGEST_HEADER or size > _LARGEST_FILE:
        raise ModelError(
            f"{path} declares a header of {length} bytes in a file of {size}; vol3d makes at most {_LARGEST_HEADER} "
            f"and {_LARGEST_FILE}. Give a model that vol3d saved."
        )
    return text, size - 8 - length


def _parse(text: bytes | str) -> dict[str, Any]:
    value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    if not isinstance(value, dict):
        raise TypeError("expected a JSON object")
    return value


def _entry(value: dict[str, Any], room: int) -> tuple[str, tuple[int, ...]]:
    """(dtype as torch prints it, shape) of one tensor, whose bytes must be in the file."""
    dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
    if any(type(n) is not int or n < 0 for n in (*shape, begin, end)) or len(shape) > 8 or end > room:
        raise ValueError(f"shape {shape}, bytes {begin} to {end} of {room}"[:200])
    if dtype not in _DTYPES or math.prod(shape) * _DTYPES[dtype][1] != end - begin:
        raise ValueError(f"{end - begin} bytes for {shape} of {dtype}"[:200])
    return _DTYPES[dtype][0], tuple(shape)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a key occurs twice")
    return entries


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
