"""Checkpoints: a training state on disk, as safetensors + a JSON seal with its SHA-256. No pickle.

A checkpoint is `checkpoint-NUMBER.safetensors` and, written after it, `checkpoint-NUMBER.json`. Only the seal makes it
count, so that a crash leaves the checkpoints of before, or those and the new one. The last two are kept.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from vol3d.bundle_header import CHECKPOINT_KEY, write_tensors
from vol3d.errors import ModelError, ResourceError, Vol3dError
from vol3d.io.atomic import replace
from vol3d.io.digest import sha256
from vol3d.training.state import TrainingState

_FORMAT = 1
_KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{6,})\.json")
_AFRESH = "Give the folder of a run that has one, or start afresh without --resume."


def save_checkpoint(folder: str | Path, state: TrainingState) -> Path:
    """Write `state` as the newest checkpoint of `folder` (made if missing) and drop all but the last two.

    Returns the path of the seal. Raises `ResourceError` where the system refuses; checkpoints of before stay.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be made: {error.strerror}. Choose another folder.") from error
    seals = _seals(folder)
    seal = folder / f"checkpoint-{_number(seals[-1]) + 1 if seals else 1:06d}.json"
    with replace(_data(seal)) as temporary:
        write_tensors(temporary, state.tensors(), CHECKPOINT_KEY, state.facts())
        facts = {
            CHECKPOINT_KEY: _FORMAT,
            "iteration": state.iteration,
            "best_score": state.best_score,
            "bytes": temporary.stat().st_size,
            "sha256": sha256(str(temporary)),
        }
    with replace(seal) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _drop([*seals, seal])
    return seal


def load_checkpoint(folder: str | Path) -> TrainingState:
    """The newest checkpoint of `folder` that is whole.

    Warns for each one that is corrupt. Raises `ModelError` where there is no folder, no checkpoint, or none whole.
    """
    seals = _require_seals(Path(folder))
    faults = []
    for seal in reversed(seals):
        try:
            state = _load(seal)
        except ModelError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            warnings.warn(f"{fault} Going on from {seal.name}, iteration {state.iteration}.", UserWarning, stacklevel=2)
        return state
    raise ModelError(f"{folder} holds no whole checkpoint: {' '.join(faults)} {_AFRESH}")


def _load(seal: Path) -> TrainingState:
    facts = _read_seal(seal)
    data = _data(seal)
    try:
        _require_digest(data, facts["sha256"])
        with safe_open(data, "pt") as file:
            stored = json.loads(file.metadata()[CHECKPOINT_KEY])
        state = TrainingState.from_parts(load_file(data), stored)
    except ModelError:
        raise
    except (Vol3dError, SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{data} cannot be read: {' '.join(str(error).split())[:200]}.") from error
    if state.iteration != facts["iteration"]:
        raise ModelError(f"{seal} is corrupt: it tells another iteration than {data.name}.")
    return state


def _require_digest(data: Path, expected: str) -> None:
    if sha256(str(data)) != expected:
        raise ModelError(f"{data} is corrupt: it is not what was saved.")


def _read_seal(seal: Path) -> dict[str, Any]:
    try:
        facts = json.loads(seal.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{seal} is corrupt: {' '.join(str(error).split())[:200]}.") from error
    wanted = {CHECKPOINT_KEY, "iteration", "best_score", "bytes", "sha256"}
    if not isinstance(facts, dict) or not wanted <= facts.keys():
        raise ModelError(f"{seal} is corrupt: it is not the seal of a checkpoint.")
    if facts[CHECKPOINT_KEY] != _FORMAT:
        raise ModelError(f"{seal} has format {facts['vol3d_checkpoint']}, this version reads {_FORMAT}.")
    return facts


def _require_seals(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder with checkpoints. {_AFRESH}")
    seals = _seals(folder)
    if not seals:
        raise ModelError(f"{folder} holds no checkpoint. {_AFRESH}")
    return seals


def _seals(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_number)


def _number(seal: Path) -> int:
    return int(seal.stem.removeprefix("checkpoint-"))


def _data(seal: Path) -> Path:
    return seal.with_suffix(".safetensors")


def _drop(seals: list[Path]) -> None:
    """Remove what is older than the last two, and data that lost their seal in an interrupted removal."""
    with contextlib.suppress(OSError):  # a checkpoint too many does no harm
        for seal in seals[:-_KEPT]:
            seal.unlink(missing_ok=True)
        oldest = _number(seals[-_KEPT:][0])
        for data in seals[-1].parent.glob("checkpoint-*.safetensors"):
            if _NAME.fullmatch(data.with_suffix(".json").name) and _number(data) < oldest:
                data.unlink(missing_ok=True)
