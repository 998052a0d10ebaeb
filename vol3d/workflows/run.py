"""The run folder: what is in it, when it may be written, and how a run is taken up again."""

from __future__ import annotations

import platform
import shutil
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import yaml

from vol3d import io, report
from vol3d.config import Config, parse_config
from vol3d.errors import ConfigError, ModelError
from vol3d.training import LogRow, TrainingState
from vol3d.version import __version__
from vol3d.workflows.budget import Length
from vol3d.workflows.case import Case
from vol3d.workflows.listener import Listener
from vol3d.workflows.models import MODEL_FILE, RUNS
from vol3d.workflows.protected import refuse_inputs_within
from vol3d.workflows.scores import Score
from vol3d.workflows.validation import HeldOut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vol3d.sampling import HoldOut
    from vol3d.workflows.meaning import Meaning
    from vol3d.workflows.plan import Plan


@dataclass
class Run:
    """A run folder: model.safetensors, checkpoints/, metrics.csv, curves.png, preview.png, config.yaml, run.json.

    length: as fixed by an earlier start, None for a new run. replaces: an old run of that name goes. named: somebody
    chose the name; else another is found where it is taken.
    """

    folder: Path
    config: Config
    record: dict[str, Any] = field(default_factory=dict)
    length: Length | None = None
    replaces: bool = False
    named: bool = True

    @property
    def checkpoints(self) -> Path:
        """Where the full state is kept."""
        return self.folder / "checkpoints"

    def require_same_data(self, hashes: list[dict[str, str]]) -> None:
        """Raise `ModelError` where the files are no longer those the run began with."""
        if hashes != self.record.get("data"):
            raise ModelError(
                f"{self.folder}: the images or labels have changed since this run began; "
                f"put the old files back, or train a new run on the new ones"
            )

    def begin(self, plan: Plan, meaning: Meaning, splits: Sequence[HoldOut], *, leads: bool) -> None:
        """Settle what a new run is and make its folder; one that is taken up has both."""
        if "config" not in self.record:
            self.record |= {
                "vol3d": __version__,
                "versions": versions(),
                "machine": {
                    "processor": platform.machine(),
                    "device": plan.device.name,
                    "precision": plan.device.precision,
                },
                "labels": meaning.table.to_json(),
                "held_out": [split.said for split in splits],
                "config": plan.config.to_json(),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
            if leads:
                self._make_folder()

    def start(self, length: Length, *, leads: bool) -> None:
        """Write down how long the run is, before its first iteration; `train` on config.yaml then makes it again."""
        if self.length is None:
            self.length = length
            self.record |= {"iterations": length.iterations, "validations_planned": length.validations}
            if leads:
                settled = {"time_budget_s": None, "iterations": length.iterations, "validations": length.validations}
                training = self.config.training.model_copy(update=settled)
                self._write_config(self.config.model_copy(update={"training": training}))
        if leads:
            report.write_record(self.folder, self.record)

    def _make_folder(self) -> None:
        """A fresh folder; an old run of the same name goes only now, when everything about the new one is settled.

        Of two runs that begin at once each gets its own. Raises `ConfigError` where a named folder was filled since.
        """
        if self.replaces and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        free, number = self.folder, 1
        while not _made(free):
            if self.named:
                raise ConfigError(f"{self.folder}: another run has begun there. Name another folder.")
            number += 1
            free = self.folder.with_name(f"{self.folder.name}-{number}")
        self.folder = free
        self.checkpoints.mkdir()
        self._write_config(self.config)

    def _write_config(self, config: Config) -> None:
        text = yaml.safe_dump(config.to_json(), sort_keys=False, allow_unicode=True)
        with io.atomic.replace(self.folder / "config.yaml") as temporary:
            temporary.write_text(text, encoding="utf-8")

    def validated(self, iteration: int, score: Score) -> None:
        """Write down a score on held-out labels."""
        self.record.setdefault("validations", []).append({"iteration": iteration, **vars(score)})
        report.write_record(self.folder, self.record)

    def scores_until(self, iteration: int, held: HeldOut) -> list[Score]:
        """The scores written down up to an iteration; later ones are forgotten, for they will come again."""
        kept = [entry for entry in self.record.get("validations", []) if entry["iteration"] <= iteration]
        self.record["validations"] = kept
        return [held.read(entry) for entry in kept]

    def forget_judgements(self) -> None:
        """What an attempt was judged by that left nothing else, and that begins again."""
        for key in ("validations", "before_refit", "calibration"):
            self.record.pop(key, None)

    def finish(self, score: Score | None, iterations: int, seconds: float) -> None:
        """Write down how it ended."""
        self.record |= {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(seconds, 1),
            "iterations": iterations,
            "held_out_score": None if score is None else vars(score),
        }
        report.write_record(self.folder, self.record)


def open_run(
    output: str | Path | None, config: Config, cases: list[Case], *, overwrite: bool, leads: bool = True
) -> Run:
    """A new run, whose folder `start` will make. Raises `ConfigError` where a folder is in the way.

    leads: False for the processes that follow, which leave the folder to the leading one.
    """
    folder = Path(output) if output is not None else _fresh_name(cases[0].name)
    run = Run(
        folder,
        config,
        {"data": data_hashes(cases)},
        replaces=overwrite and output is not None,
        named=output is not None,
    )
    if leads and run.named and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise ConfigError(
                f"{folder} exists. Go on with it (--resume {folder}), replace it (--overwrite), or name another."
            )
        if not (folder / "run.json").is_file():
            raise ConfigError(f"{folder} exists and is no run of vol3d; it will not be replaced. Name another folder.")
        refuse_inputs_within(folder, (*config.data.images, *config.data.labels, *config.data.weights))
    return run


def resume_run(folder: Path) -> Run:
    """The run in `folder`. Raises `ModelError` where there is none, or it is finished: it has a model and its end."""
    record = report.read_record(folder)
    if (folder / MODEL_FILE).is_file() and "finished" in record:
        raise ModelError(f"{folder}: this run is finished; predict with -m {folder}, or train a new one")
    if "config" not in record:
        raise ModelError(f"{folder}: run.json lacks the configuration. Train again into a new folder.")
    config = parse_config(record["config"], source=str(folder / report.RECORD))
    if any(name.startswith("<") for name in config.data.images):
        raise ModelError(f"{folder}: this run was trained on arrays in memory, which cannot be found again")
    length = None  # it was stopped before it was known
    if {"iterations", "validations_planned"} <= record.keys():
        length = Length(int(record["iterations"]), int(record["validations_planned"]))
    return Run(folder, config, record, length)


def data_hashes(cases: list[Case]) -> list[dict[str, str]]:
    """SHA-256 of every image, label map and weight map."""
    return [dict(case.scan["sha256"]) for case in cases]


def provenance(cases: list[Case], iterations: int) -> dict[str, Any]:
    """Where a model comes from: versions and hashes; no names, no paths."""
    return {"vol3d": __version__, "versions": versions(), "iterations": iterations, "data": data_hashes(cases)}


def versions() -> dict[str, str]:
    """Versions of what computes."""
    from importlib import metadata

    names = ("torch", "monai", "lightning-fabric", "numpy", "scipy", "nibabel", "h5py", "SimpleITK", "tifffile")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def _made(folder: Path) -> bool:
    """Make a folder that is not there; an empty one will do."""
    try:
        folder.mkdir()
    except FileExistsError:
        return folder.is_dir() and not any(folder.iterdir())
    return True


def _fresh_name(scan: str) -> Path:
    file, _ = io.split_name(scan)
    stem = file.name.split(".")[0] or "scan"
    return Path(RUNS) / f"{time.strftime('%Y%m%d-%H%M%S')}-{stem}"


class RunOutput:
    """Follows the loop: progress, metrics.csv, and TensorBoard where it is installed."""

    def __init__(self, run: Run, iterations: int, held: HeldOut, tell: Listener, state: TrainingState | None) -> None:
        self._run, self._iterations, self._held, self._tell = run, iterations, held, tell
        self._csv = report.MetricsFile(run.folder / "metrics.csv", () if state is None else state.history)
        self._board = report.open_tensorboard(run.folder)
        self._score: float | None = None

    def log(self, row: LogRow) -> None:
        """Take in one iteration."""
        if row.validation is not None:
            self._score = row.validation
            self._run.validated(row.iteration, self._held.scores[-1])
        self._csv.add(row)
        if self._board is not None:
            self._board.add_scalar("loss", row.loss, row.iteration)
            if row.validation is not None:
                self._board.add_scalar(f"held-out {self._held.quantity}", row.validation, row.iteration)
        fields = {"loss": row.loss, self._held.quantity: self._score, "patches/s": row.samples_per_second}
        self._tell.progress("training", row.iteration, self._iterations, fields)


class Interrupt:
    """Turns the first Ctrl-C (or SIGTERM) into a question that the loop asks; the second one interrupts at once."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether the run should save and stop."""
        return self._asked

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  the signature of a handler
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


class RememberedInterrupt(Interrupt):
    """Interrupts at once, as ever, and remembers it: Python drops what is raised in a callback or a destructor."""

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  the signature of a handler
        self._asked = True
        raise KeyboardInterrupt
