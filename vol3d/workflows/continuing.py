"""More slices are painted: a new run that begins with the weights of an earlier one."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d import io, report
from vol3d.bundle import ModelBundle
from vol3d.config import Config, parse_config
from vol3d.errors import ConfigError, ModelError
from vol3d.volume import SparseLabels
from vol3d.workflows.case import Case
from vol3d.workflows.device import exact
from vol3d.workflows.listener import Listener
from vol3d.workflows.meaning import Meaning
from vol3d.workflows.models import find_model
from vol3d.workflows.pixel_channels import with_channels
from vol3d.workflows.plan import Plan
from vol3d.workflows.scores import Score
from vol3d.workflows.validation import HeldOut

PAINTED_FILE = "painted.npz"
SECONDS = 60.0  # how long a continued run takes where nobody says


@dataclass(frozen=True, eq=False)
class Earlier:
    """A finished run to go on from. painted: bool (X, Y, Z) per scan by its hash, what was labeled then."""

    folder: Path
    config: Config
    model: ModelBundle
    painted: dict[str, NDArray[np.bool_]]

    def require_same_classes(self, meaning: Meaning) -> None:
        """Raise `ConfigError` where the labels hold other classes than the earlier run's."""
        before, now = self.model.labels.codes.tolist(), meaning.table.codes.tolist()
        if before != now or meaning.spec.kind != self.model.task.kind:
            raise ConfigError(
                f"{self.folder} learned task {self.model.task.kind} with classes {before}; these labels are of task "
                f"{meaning.spec.kind} with classes {now}. Train a new run on them: leave --resume out."
            )

    def new_labels(self, case: Case) -> SparseLabels | None:
        """What was painted since: labels whose voxels had none then; None where that is nothing, or not known."""
        before = self.painted.get(_key(case))
        if before is None or before.shape != case.shape:
            return None
        fresh = case.labels.labeled & ~before
        return replace(case.labels, labeled=fresh) if fresh.any() else None

    def score(self, cases: list[Case], labels: list[SparseLabels | None], meaning: Meaning, plan: Plan) -> Score | None:
        """How well the earlier model does on `labels`; None where there are none. cases: with the image's channels."""
        if not any(one is not None and one.labeled.any() for one in labels):
            return None
        seen = [with_channels(case, self.model.classifier) for case in cases]
        held = HeldOut(
            seen,
            labels,
            meaning,
            exact(plan.device),
            plan.config.inference,
            planes=plan.planes,
            patch=plan.patch,
            current=self.model.statistics == "current",
        )
        return held.score(self.model.build(plan.device.name))


def tell_what_is_new(
    earlier: Earlier, cases: list[Case], meaning: Meaning, plan: Plan, tell: Listener
) -> dict[str, Any]:
    """Before anything is learned: how well did the earlier model do where somebody has painted since?"""
    facts: dict[str, Any] = {"continued_from": earlier.model.weights_sha256}
    new = [earlier.new_labels(case) for case in cases]
    score = earlier.score(cases, new, meaning, plan)
    if score is None:
        tell.note("going on from an earlier model; what was painted since is not known, or nothing")
        return facts
    count = sum(int(one.labeled.sum()) for one in new if one is not None)
    tell.note(f"{count} voxels were painted since; there the earlier model, which never saw them: {score.said}")
    return facts | {"newly_painted": {"voxels": count, "earlier_model": vars(score)}}


def read_earlier(folder: Path) -> Earlier:
    """The finished run in `folder`. Raises `ModelError` where there is none."""
    record = report.read_record(folder)
    model = ModelBundle.load(find_model(folder))
    if "config" not in record:
        raise ModelError(f"{folder}: run.json lacks the configuration. Train again into a new folder.")
    config = parse_config(record["config"], source=str(folder / report.RECORD))
    return Earlier(folder, config, model, _read_painted(folder / PAINTED_FILE))


def write_painted(folder: Path, cases: list[Case]) -> None:
    """Keep which voxels were labeled, so that a later run can tell what is new."""
    masks = {_key(case): np.packbits(case.labels.labeled) for case in cases}
    shapes = {f"{_key(case)}_shape": np.array(case.shape, dtype=np.int64) for case in cases}
    with io.atomic.replace(folder / PAINTED_FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **masks, **shapes)


def _read_painted(path: Path) -> dict[str, NDArray[np.bool_]]:
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            keys = [name for name in kept.files if not name.endswith("_shape")]
            return {key: _unpacked(kept[key], kept[f"{key}_shape"]) for key in keys}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{path} is damaged ({str(error)[:100]}). Remove it: only the gain is not told then."
        ) from error


def _unpacked(bits: NDArray[Any], shape: NDArray[Any]) -> NDArray[np.bool_]:
    size = tuple(int(n) for n in shape)
    if bits.dtype != np.uint8 or len(size) != 3 or min(size) < 1 or len(bits) != -(-int(np.prod(size)) // 8):
        raise ValueError(f"{len(bits)} bytes for a mask of {size}")
    return np.unpackbits(bits, count=int(np.prod(size))).reshape(size).astype(bool)


def _key(case: Case) -> str:
    return str(case.scan["sha256"]["image"])[:32]
