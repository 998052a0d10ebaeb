"""The record of a run: `run.json`, written whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vol3d import io
from vol3d.errors import ModelError

RECORD = "run.json"


def write_record(folder: Path, record: dict[str, Any]) -> Path:
    """Write `run.json` into a run folder, atomically. record: JSON values; NaN is written as null."""
    path = folder / RECORD
    with io.atomic.replace(path) as temporary:
        text = json.dumps(_without_nan(record), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def read_record(folder: Path) -> dict[str, Any]:
    """What `write_record` wrote. Raises `ModelError` where there is no run or its record is damaged."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(
            f"{folder}: no run to go on with ({RECORD} is missing). Name the folder that `train` made."
        ) from error
    except (ValueError, OSError) as error:
        raise ModelError(
            f"{path}: expected the record of a run, found {error}. Train again into a new folder."
        ) from error
    if not isinstance(record, dict):
        raise ModelError(f"{path}: expected the record of a run, found {type(record).__name__}")
    return record


def _without_nan(value: Any) -> Any:  # noqa: ANN401  a JSON tree
    if isinstance(value, dict):
        return {str(key): _without_nan(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
