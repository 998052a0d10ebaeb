"""What a file holds, from its header: any volume, model, checkpoint or run folder. Imports neither torch nor MONAI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vol3d import io
from vol3d.errors import FileFormatError
from vol3d.workflows.models import MODEL_FILE


def info(path: str | Path) -> dict[str, Any]:
    """Facts as JSON values; the key `kind` says what it is: volume, model, checkpoint or run.

    Raises `FileFormatError` where it is none of them.
    """
    here = Path(path)
    if here.is_dir():
        return _folder(here)
    if here.suffix == ".safetensors":
        from vol3d.bundle_header import read_checkpoint_header, read_header  # volumes are told sooner without it

        if here.name.startswith("checkpoint-"):
            facts = read_checkpoint_header(here)
            return {"kind": "checkpoint", "file": str(path)} | {key: facts[key] for key in ("iteration", "best_score")}
        return {"kind": "model", "file": str(path), **read_header(here)}
    return {"kind": "volume", "file": str(path), **io.info(str(path))}


def info_lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """The facts as text, a line each."""
    lines: list[str] = []
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{key}:")
            lines += info_lines(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{key}:")
            for entry in value:
                lines.append(f"{indent}  - " + ", ".join(f"{k} {_plain(v)}" for k, v in entry.items()))
        else:
            lines.append(f"{indent}{key}: {_plain(value)}")
    return lines


def _folder(folder: Path) -> dict[str, Any]:
    record = folder / "run.json"
    if record.is_file():
        try:
            run = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FileFormatError(
                f"{record}: expected JSON, found {error}. Restore the file or train again."
            ) from error
        has_model = (folder / MODEL_FILE).is_file()
        return {"kind": "run", "folder": str(folder), "finished": has_model, **run}
    raise FileFormatError(f"{folder}: expected a run folder with run.json; name a file, or a folder that `train` made")


def _plain(value: Any) -> str:  # noqa: ANN401  any JSON value
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ", ".join(_plain(v) for v in value) + "]"
    return str(value)
