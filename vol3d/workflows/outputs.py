"""What `predict` is asked for, and where its files go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vol3d import io
from vol3d.bundle import ModelBundle
from vol3d.config import DataConfig, LabelsConfig
from vol3d.errors import ConfigError, Vol3dError
from vol3d.io.names import locate
from vol3d.workflows.device import PredictPrecision
from vol3d.workflows.drawn import provenance_path, run_config
from vol3d.workflows.protected import refuse_to_replace
from vol3d.workflows.results import RESULT_TAGS
from vol3d.workflows.sources import Source
from vol3d.workflows.uncertainty import require_uncertainty_room


@dataclass(frozen=True)
class PredictOptions:
    """How to predict. tile: the network's input size along its axes, None plans it for `max_memory_gb`.

    probabilities: also keep class probabilities. tta: average over flips of the whole volume. prune: of a U-Net++, how
    deep it goes. uncertainty: also measure where the answers are unsure. keep_drawn: what was drawn by hand stands as
    it was drawn; provenance: the same, and tell which voxels those are. drawn: the labels drawn on the scan, None for
    those that the model's run learned from; drawn_meaning: what their codes mean, None: the same as in the run; run:
    that run's folder, for a model that is given in memory. precision: float32, or one that is quicker and used where it
    gives the same labels on parts of the scan; see `workflows.precision.tried`.
    """

    probabilities: bool = False
    tta: bool = False
    tile: tuple[int, ...] | None = None
    overlap: float = 0.25
    max_memory_gb: float | None = None
    device: str = "auto"
    overwrite: bool = False
    preview: bool = True
    prune: int | None = None
    uncertainty: bool = False
    keep_drawn: bool = False
    provenance: bool = False
    drawn: Source | None = None
    drawn_meaning: LabelsConfig | None = None
    run: Path | None = None
    precision: PredictPrecision = "float32"
    data: DataConfig = field(default_factory=DataConfig)


def default_target(scan: str, bundle: ModelBundle) -> str:
    """Where a prediction goes by default: beside the scan, `_seg` in its name, of a regression `_values`."""
    return io.default_output(scan, *RESULT_TAGS[bundle.task.kind == "regression"])


def output_for(scan: str, output: str | None, scans: int, bundle: ModelBundle) -> str:
    """Where the label map of `scan` goes. output: a file (one scan), a folder, or None for beside the scan.

    Raises `ConfigError` where several scans would be written to one file.
    """
    if output is None:
        return default_target(scan, bundle)
    folder = Path(output)
    if folder.is_dir() or output.endswith("/"):
        folder.mkdir(parents=True, exist_ok=True)
        file, dataset = io.split_name(default_target(scan, bundle))
        return str(folder / file.name) + (f":{dataset}" if dataset else "")
    if scans > 1:
        raise ConfigError(f"-o {output} is one file, but there are {scans} scans; give a folder that ends in /")
    return output


def target_of(scan: Source, output: str | Path | None, bundle: ModelBundle) -> str | None:
    """Where the label map of one scan goes; None for an array without a name for its output."""
    if output is not None:
        location = locate(str(output), RESULT_TAGS[bundle.task.kind == "regression"][1])
        return f"{location.path}:{location.dataset}" if location.dataset else str(output)
    return default_target(str(scan), bundle) if isinstance(scan, (str, Path)) else None


def require_room(target: str, choice: PredictOptions, scans: Sequence[Source] = ()) -> None:
    """Before hours of work: raise where anything that will be written is there already or cannot be written.

    scans: those that are predicted; neither they nor what was drawn on them is ever replaced.
    """
    refuse_to_replace(target, "a scan that is predicted", scans)
    refuse_to_replace(target, "what was drawn by hand", [choice.drawn], "label")
    images, labels = _learned_from(choice.run)
    refuse_to_replace(target, f"a scan that {choice.run} learned from", images)
    refuse_to_replace(target, f"the labels that {choice.run} learned from", labels, "label")
    io.require_writable(target, choice.overwrite)
    picture = io.preview_path(io.split_name(target)[0])
    if choice.preview and picture.exists() and not choice.overwrite:
        raise ConfigError(f"{picture} exists already. Give --overwrite, --no-preview, or another name with -o.")
    if choice.probabilities:
        io.require_writable(io.default_output(target, "_probabilities"), choice.overwrite)
    if choice.provenance:
        io.require_writable(provenance_path(target), choice.overwrite)
    if choice.uncertainty:
        require_uncertainty_room(target, overwrite=choice.overwrite, preview=choice.preview)


def require_rooms(
    targets: Sequence[str], choice: PredictOptions, scans: Sequence[str], drawn: Mapping[str, str]
) -> None:
    """As `require_room`, of several scans. drawn: the labels of some of them. Raises where two share an output."""
    pictures = [str(io.preview_path(target)) for target in targets]
    for names in (targets, pictures if choice.preview else []):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"several scans would be written to {twice}; predict them into different folders")
    for scan, target in zip(scans, targets, strict=True):
        require_room(target, replace(choice, drawn=drawn.get(scan)), scans)


def _learned_from(run: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Images and labels of a run; none where there is no run, or its record cannot be read: a model needs no run."""
    try:
        config = run_config(run)
    except Vol3dError:
        return (), ()
    return ((), ()) if config is None else (config.data.images, config.data.labels)
