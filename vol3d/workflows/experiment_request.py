"""What an experiment is asked to do, and the folder that remembers it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vol3d import io
from vol3d.config import Config
from vol3d.errors import ConfigError
from vol3d.report.experiment_rows import RowsFile
from vol3d.version import __version__
from vol3d.volume import LabelTable
from vol3d.workflows.cases import TrainingFiles, chosen
from vol3d.workflows.experiment_kinds import Choices, Subject
from vol3d.workflows.experiment_run import Material, base_variant
from vol3d.workflows.protected import refuse_inputs_within
from vol3d.workflows.settings import Options, settle
from vol3d.workflows.sources import Source, content_hash

RECORD = "experiment.json"
RESULTS = "results.csv"
_SECONDS = 300.0
_EXPERIMENTS = "experiments"
_ONE_NETWORK = ("folds", "slices", "batchnorm", "volumes")  # kinds that compare no dimensions
AnyConfig = Config | str | Path | dict[str, Any] | None


@dataclass(frozen=True)
class Request:
    """What is asked for: the choices, the files and the configuration of every training."""

    choices: Choices
    files: TrainingFiles
    config: Config

    @classmethod
    def of(
        cls, choices: Choices, files: TrainingFiles, config: AnyConfig, options: Options, overrides: Sequence[str]
    ) -> Request:
        """From arguments; the files of the configuration where none are given, five minutes where no length is."""
        settled = settle(config, options, overrides)
        found = chosen(files, settled)
        training = settled.training
        if training.iterations is None and training.time_budget_s is None:
            settled = settled.model_copy(update={"training": training.model_copy(update={"time_budget_s": _SECONDS})})
        if choices.dimensions is not None and base_variant(settled).dimensions != choices.dimensions:
            raise ConfigError(f"--dimensions {choices.dimensions} does not go with the configured network")
        if settled.sampling.planes and choices.kind in _ONE_NETWORK and base_variant(settled).dimensions == 3:
            raise ConfigError(
                "--planes is for 2-D networks, and the experiment's is 3-D: leave it out, or the 3-D network"
            )
        return cls(choices, found, settled)

    @classmethod
    def read(cls, folder: Path) -> Request:
        """From the record of an earlier start. Raises `ConfigError` where there is none."""
        record = _read_record(folder)
        try:
            files = TrainingFiles(*(tuple(record[name]) for name in ("images", "labels", "weights")))
            choices = record["choices"]
            slices = tuple((int(x), int(y), int(z)) for x, y, z in choices["slices"])
            request = cls(Choices(**(choices | {"slices": slices})), files, settle(record["config"], {}, ()))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{folder / RECORD}: damaged; begin a new experiment in another folder") from error
        if any(str(name).startswith("<") for name in files.images):
            raise ConfigError(f"{folder}: this experiment was on arrays in memory; give them again to go on with it")
        return request

    def record(self, table: LabelTable, hashes: list[dict[str, str]]) -> dict[str, Any]:
        """What is written down, as JSON values."""

        def names(sources: Sequence[Source]) -> list[str]:
            return [str(Path(s).absolute()) if isinstance(s, (str, Path)) else f"<{type(s).__name__}>" for s in sources]

        return {
            "vol3d": __version__,
            "choices": asdict(self.choices),
            "images": names(self.files.images),
            "labels": names(self.files.labels),
            "weights": names(self.files.weights),
            "data": hashes,
            "classes": table.to_json(),
            "config": self.config.to_json(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }


def listed(sources: Source | Sequence[Source]) -> tuple[Source, ...]:
    """One or several sources as a tuple; paths as names."""
    several: list[Any] = [*sources] if isinstance(sources, (list, tuple)) else [sources]
    return tuple(str(source) if isinstance(source, Path) else source for source in several)


def experiment_folder(
    request: Request, output: str | Path | None, resume: str | Path | None, *, overwrite: bool
) -> Path:
    """Where results go. Raises `ConfigError` where something is in the way, or there is nothing to go on with."""
    if resume is not None:
        if output is not None and Path(output) != Path(resume):
            raise ConfigError(f"--resume {resume} goes on in its own folder; leave -o {output} out")
        _read_record(Path(resume))
        return Path(resume)
    folder = (
        Path(_EXPERIMENTS) / f"{time.strftime('%Y%m%d-%H%M%S')}-{request.choices.kind}"
        if output is None
        else Path(output)
    )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise ConfigError(
                f"{folder} exists. Go on with it (--resume {folder}), replace it (--overwrite), or name another."
            )
        if not (folder / RECORD).is_file():
            raise ConfigError(f"{folder} exists and is no experiment; it will not be replaced. Name another folder.")
        refuse_inputs_within(folder, (*request.files.images, *request.files.labels, *request.files.weights))
        shutil.rmtree(folder)
    return folder


def _hash_of(subject: Subject) -> str:
    """Of what is known of every voxel, however it was said."""
    return content_hash(np.where(subject.known, subject.classes, 0)) + content_hash(subject.known)


def open_rows(folder: Path, request: Request, material: Material, hashes: dict[str, str], *, fresh: bool) -> RowsFile:
    """The table of results. Raises `ConfigError` where rows that are there were made of other data or settings."""
    data = [
        {"grid": volume.describe_grid(), "image": content_hash(volume.array), "labels": _hash_of(subject)}
        for volume, subject in zip(material.images, material.subjects, strict=True)
    ]
    for entry, source in zip(data, request.files.weights, strict=False):
        entry["weights"] = content_hash(source)
    if not fresh and _read_record(folder).get("data") != data:
        raise ConfigError(
            f"{folder}: made of other images or labels, or of the same read otherwise (channel, dataset, what codes "
            "mean). Give the same, or begin in another folder (-o)."
        )
    if fresh:
        folder.mkdir(parents=True, exist_ok=True)
    file = RowsFile(folder / RESULTS, [int(code) for code in material.table.codes])
    other = [row.key for row in file.rows if row.key in hashes and hashes[row.key] != row.config_hash]
    if other:
        raise ConfigError(
            f"{folder}: {len(other)} rows were made with other settings, such as {other[0]!r}. Go on with the "
            "experiment as it was (--resume alone), or begin in another folder (-o)."
        )
    with io.atomic.replace(folder / RECORD) as temporary:
        text = json.dumps(request.record(material.table, data), indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return file


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{folder}: no experiment to go on with ({RECORD} is missing)") from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: damaged ({error}); begin a new experiment in another folder") from error
    if not isinstance(record, dict):
        raise ConfigError(f"{path}: damaged; begin a new experiment in another folder")
    return record
