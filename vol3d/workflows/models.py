"""Which model is meant: a model file, a run folder, or the newest run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vol3d.errors import ModelError

if TYPE_CHECKING:
    from vol3d.bundle import ModelBundle
    from vol3d.workflows.listener import Listener

MODEL_FILE = "model.safetensors"
RUNS = "runs"


def find_model(model: str | Path | None, runs: Path | None = None) -> Path:
    """The model file that `model` names: a file, a run folder, or None for the newest run under `runs`.

    Raises `ModelError` saying what to do where there is none.
    """
    if model is None:
        return _newest(Path(RUNS) if runs is None else runs)
    path = Path(model)
    if path.is_dir():
        inside = path / MODEL_FILE
        if inside.is_file():
            return inside
        raise ModelError(f"{path}: this run has no {MODEL_FILE} yet; finish it with `vol3d train --resume {path}`")
    if not path.exists():
        raise ModelError(f"{path}: no such model or run folder. Train one with `vol3d train`, or mend -m.")
    return path


def open_model(model: str | Path | ModelBundle | None, tell: Listener) -> tuple[ModelBundle, Path | None]:
    """A model and the folder that it lies in; None for one in memory. The newest run is named to the listener."""
    from vol3d.bundle import ModelBundle

    if isinstance(model, ModelBundle):
        return model, None
    path = find_model(model)
    if model is None:
        tell.note(f"model: {path} (the newest run; choose another with -m)")
    return ModelBundle.load(path), path.parent


def _newest(runs: Path) -> Path:
    found = sorted(runs.glob(f"*/{MODEL_FILE}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ModelError(f"no trained model under ./{runs}. Train one with `vol3d train`, or name one with -m.")
    return found[-1]
