"""What somebody drew by hand on a scan that is predicted: kept as it was drawn, and told from what was predicted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d import io, report
from vol3d.bundle import ModelBundle
from vol3d.config import Config, DataConfig, LabelsConfig, parse_config
from vol3d.errors import ConfigError, GeometryError, LabelError
from vol3d.io.names import locate
from vol3d.volume import LabelTable, Volume
from vol3d.workflows.labels import (
    annotated_planes,
    code_counts,
    explained,
    other_name,
    refuse_ambiguous_code,
    stored_names,
    unlabeled_codes,
)
from vol3d.workflows.outcomes import Outcome
from vol3d.workflows.partial import choices, not_painted
from vol3d.workflows.sources import Source, Spacing, content_hash, label_volume

TAG = "_provenance"
NAMES = {0: "predicted", 1: "drawn"}
_TASKS = {"regression": "values", "instances": "objects", "panoptic": "objects"}


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was drawn by hand on a scan's grid.

    codes: class codes, unsigned (X, Y, Z); they mean nothing where `mask`, bool (X, Y, Z), is False. name: whose.
    """

    codes: NDArray[Any]
    mask: NDArray[np.bool_]
    name: str


def find_drawn(
    scan: Source,
    volume: Volume,
    bundle: ModelBundle,
    *,
    run: Path | None = None,
    labels: Source | None = None,
    meaning: LabelsConfig | None = None,
    data: DataConfig | None = None,
    spacing_mm: Spacing = None,
) -> Drawn:
    """What somebody drew on a scan: in `labels`, else in the label file that the model's run learned from.

    scan: as given to `predict`; volume: the same, read. run: the folder that the model lies in, None for a model in
    memory. meaning: what the codes of `labels` mean; None: what they meant in the run. Of a file that the run did not
    learn from, its unlabeled codes alone still hold, and one of them must occur. data: how to read the file; None: as
    the run did.
    Raises `ConfigError` for a model that answers no classes and where no labels can be found, `LabelError` where their
    codes are not the model's, `GeometryError` where the grids differ.
    """
    require_classes(bundle)
    config = run_config(run)
    source = run_labels(scan, run) if labels is None else labels
    if data is None:
        data = DataConfig() if config is None else DataConfig(xform=config.data.xform)
    read = label_volume(source, data, spacing_mm)
    if meaning is None:
        meaning = _meaning_in_run(source, read, run, bundle.labels)
    codes, mask = drawn_codes(volume, read, meaning, bundle.labels)
    return Drawn(codes, mask, read.name)


def drawn_codes(
    volume: Volume, labels: Volume, meaning: LabelsConfig, table: LabelTable
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Class codes and where they were drawn: unsigned and bool, both (X, Y, Z), on the scan's grid.

    volume: the scan. labels: (1, X, Y, Z) codes; meaning: of these, where an unlabeled code may well be one of a class
    elsewhere. table: the model's classes. Voxels that are unlabeled, or only known to be of one of several classes, are
    not drawn. Raises as `find_drawn` does.
    """
    volume.require_same_grid(labels)
    unlabeled = unlabeled_codes([labels], meaning)
    planes = annotated_planes(labels, meaning)
    counts = code_counts(labels, planes)
    if not (explained(counts, unlabeled, meaning) or not_painted(labels.name, meaning)):
        refuse_ambiguous_code(labels, counts, unlabeled)
    open_ = choices(labels.name, meaning, int(table.codes[0])).keys()
    strange = sorted(counts.keys() - open_ - {*unlabeled, *table.codes.tolist()})
    if strange:
        raise LabelError(
            f"{labels.name} holds code {strange[0]}, which the model does not know; it knows "
            f"{', '.join(f'{c.code} {c.name}' for c in table.classes)}. Mend the file, or declare the code unlabeled."
        )
    known, own = {c.code: c.name for c in table.classes}, stored_names(labels)
    other = other_name(known, {code: name for code, name in own.items() if code in counts})
    if other is not None:
        raise LabelError(
            f"{labels.name} calls code {other[0]} {own[other[0]]!r}, the model calls it {other[1]!r}. Give the labels "
            "that the model learned from, or the same codes to the same classes."
        )
    mask = ~np.isin(labels.array[0], [*unlabeled, *open_])
    mask = mask if planes is None else mask & planes
    if not mask.any():
        raise LabelError(f"{labels.name}: expected voxels drawn by hand, found none; mend --unlabeled, or leave it out")
    return np.where(mask, labels.array[0], 0).astype(table.code_dtype), mask


def keep_drawn(prediction: NDArray[Any], codes: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """The drawn codes where `mask` is True, the predicted ones elsewhere; unsigned (X, Y, Z), wide enough for both."""
    if not prediction.shape == codes.shape == mask.shape:
        raise GeometryError(
            f"expected a prediction, drawn codes and mask of one shape, found {prediction.shape}, {codes.shape} and "
            f"{mask.shape}"
        )
    return np.where(mask, codes, prediction)


def with_drawn(found: Outcome, drawn: Drawn, table: LabelTable) -> Outcome:
    """A prediction of classes in which what was drawn stands as it was drawn; probabilities stay the network's own."""
    array = keep_drawn(found.array, drawn.codes, drawn.mask)
    shown = np.where(drawn.mask, np.searchsorted(table.codes, drawn.codes), found.shown).astype(found.shown.dtype)
    said = f"{int(drawn.mask.sum())} voxels as drawn in {drawn.name}"
    return replace(found, array=array, shown=shown, said=f"{found.said}; {said}" if found.said else said)


def provenance(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Where a label map comes from: 0 predicted, 1 drawn by hand; uint8, the shape of `mask`."""
    return mask.astype(np.uint8)


def provenance_path(target: str) -> str:
    """Where the provenance of the label map `target` goes: scan_seg.nii.gz → scan_seg_provenance.nii.gz."""
    return io.default_output(target, TAG)


def write_provenance(target: str, mask: NDArray[np.bool_], like: Volume, *, overwrite: bool = False) -> Path:
    """Write the provenance beside the label map `target`, on the grid of `like`. Raises as `io.write_labels` does."""
    return io.write_labels(provenance_path(target), provenance(mask), like, names=NAMES, overwrite=overwrite)


def require_classes(bundle: ModelBundle) -> None:
    """Raise `ConfigError` for a model that answers anything but a class per voxel."""
    if bundle.task.kind in _TASKS:
        raise ConfigError(
            f"--keep-drawn and --provenance are for models of a class per voxel; this one predicts "
            f"{_TASKS[bundle.task.kind]}: leave them out"
        )


def run_labels(scan: Source, run: Path | None) -> str:
    """The label file that a run learned from together with `scan`, found by the content of both.

    Raises `ConfigError` where the run did not learn from this scan, or its labels are gone or have changed.
    """
    name = str(scan) if isinstance(scan, (str, Path)) else "the scan"
    give = "give its labels: --keep-drawn LABELS"
    config = run_config(run)
    if config is None or run is None:
        raise ConfigError(f"{name}: a model without its run folder does not know what was drawn on it; {give}")
    hashes, content = report.read_record(run).get("data", []), content_hash(scan)
    numbers = [number for number, found in enumerate(hashes) if found["image"] == content]
    if not numbers:
        raise ConfigError(f"{name} is none of the scans that {run} learned from, as they were then; {give}")
    images, files = config.data.images, config.data.labels
    wanted = {hashes[number]["labels"] for number in numbers}
    places = numbers if len(hashes) == len(files) else range(len(files))  # cases without labels are not in the record
    places = [place for place in places if _dataset(scan) in (None, _dataset(images[place]))]
    found = {files[place]: None for place in places if _content(files[place]) in wanted}
    if not found:
        raise ConfigError(f"{name}: the labels that {run} learned from are gone or have changed since; {give}")
    if len({(_content(file), _dataset(file)) for file in found}) > 1:
        raise ConfigError(f"{name}: {run} learned from several labels of it ({', '.join(found)}); {give}")
    return next(iter(found))


def run_config(run: Path | None) -> Config | None:
    """The configuration of a run; None where there is no run folder around the model."""
    if run is None or not (run / report.RECORD).is_file():
        return None
    return parse_config(report.read_record(run).get("config", {}), source=str(run / report.RECORD))


def meaning_in_run(labels: Source, run: Path | None) -> tuple[LabelsConfig, bool]:
    """(what the codes of `labels` meant in a run, whether it learned from them).

    Of labels that it did not learn from the unlabeled codes hold and the choices, not which slices were painted.
    """
    config = run_config(run)
    if config is None or run is None:
        return LabelsConfig(), False
    given = config.labels
    if _learned_from(labels, run, config):
        return given, True
    return LabelsConfig(unlabeled=given.unlabeled, one_of=given.one_of, not_painted=given.not_painted), False


def _meaning_in_run(source: Source, labels: Volume, run: Path | None, table: LabelTable) -> LabelsConfig:
    """As `meaning_in_run`, with the model's unlabeled codes where the run states none; one must occur, or be learned.

    Raises `LabelError` where none does.
    """
    given, learned = meaning_in_run(source, run)
    meaning = given.model_copy(update={"unlabeled": given.unlabeled or table.unlabeled})
    if not learned and not np.isin(labels.array, unlabeled_codes([labels], meaning)).any():
        raise LabelError(
            f"{labels.name}: the model did not learn from this file; say what is drawn in it: --unlabeled CODE (all "
            f"else is drawn), --annotated-slices z=10,20 (these are) or --dense (all is)"
        )
    return meaning


def _learned_from(labels: Source, run: Path, config: Config) -> bool:
    """Whether a run learned from these labels, by their content."""
    known = {found["labels"] for found in report.read_record(run).get("data", [])}
    return content_hash(labels) in known and _dataset(labels) in {_dataset(file) for file in config.data.labels}


def _content(name: str) -> str | None:
    """SHA-256 of a file, None where there is none."""
    return content_hash(name) if io.split_name(name)[0].is_file() else None


def _dataset(source: Source) -> str | None:
    """Which volume of an HDF5 file is meant, None for other files and for arrays."""
    return locate(str(source), "raw").dataset if isinstance(source, (str, Path)) else None
