"""Images and labels, read, checked against each other and prepared for training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vol3d import io
from vol3d.config import Config
from vol3d.errors import ConfigError, LabelError
from vol3d.transforms import PreparedByBox, PreparedImage, Preprocessing
from vol3d.volume import Affine, SparseLabels, Volume
from vol3d.workflows.case import Case
from vol3d.workflows.labels import LabelMeaning
from vol3d.workflows.listener import Listener
from vol3d.workflows.meaning import Meaning, find_meaning, read_truth
from vol3d.workflows.partial import refuse_choices, require_meant, unseen_classes
from vol3d.workflows.results import without_results
from vol3d.workflows.sources import Source, Spacing, content_hash, image_volume, source_name, weight_volume

Image = Volume | io.FileScan | io.HeldScan
_HELD_BYTES, _HELD_SHARE = 2e9, 1 / 8  # of one channel of all scans, as float32; of the free memory


@dataclass(frozen=True)
class TrainingFiles:
    """What to train on: images, labels and optional per-voxel weights, in one order."""

    images: tuple[Source, ...]
    labels: tuple[Source, ...]
    weights: tuple[Source, ...] = ()


def gather(images: Sequence[Source], labels: Sequence[Source], weights: Sequence[Source]) -> TrainingFiles:
    """Resolve folders and globs, and pair images with labels by their names. Raises where something is unpaired."""
    if not images or not labels:
        missing = "an image (-i)" if not images else "labels (-l)"
        raise ConfigError(f"training needs images and labels; {missing} is missing")
    if not all(isinstance(source, str) for source in [*images, *labels]):
        if len(images) != len(labels):
            raise ConfigError(f"{len(images)} images but {len(labels)} labels; give one label map per image")
        if weights and len(weights) != len(images):
            raise ConfigError(f"{len(images)} images but {len(weights)} weight maps; give one weight map per image")
        return TrainingFiles(tuple(images), tuple(labels), tuple(weights))
    named = [str(s) for s in images]
    found = without_results(io.find(named), named)
    pairs = io.pair(found, io.find([str(s) for s in labels]))
    paired = dict(io.pair(found, io.find([str(s) for s in weights]), "weight map(s)")) if weights else {}
    names = tuple(image for image, _ in pairs)
    return TrainingFiles(names, tuple(drawn for _, drawn in pairs), tuple(paired[n] for n in names) if paired else ())


def chosen(given: TrainingFiles, config: Config) -> TrainingFiles:
    """The files that are given, else those of the configuration, whose weights go with its own images alone."""
    if given.images and config.data.weights and not given.weights:
        raise ConfigError(
            "the configuration has weights (data.weights), which go with its own images; give those of the new images "
            "(-w), or leave out data.weights or the new images"
        )
    data = config.data
    return gather(given.images or data.images, given.labels or data.labels, given.weights or data.weights)


def load(
    files: TrainingFiles, config: Config, preprocessing: Preprocessing, listener: Listener, spacing_mm: Spacing = None
) -> tuple[list[Case], Meaning]:
    """Read every case, refuse what does not fit together, and prepare it. Cases without labels are left out, aloud.

    Without labels is also a case of which no voxel's class is known for certain. Warns where a class occurs in some of
    the label files only.
    """
    refuse_choices(config.labels, config.task)
    label_volumes = [read_truth(source, config, spacing_mm) for source in files.labels]
    meaning = find_meaning(label_volumes, config)
    require_meant([volume.name for volume in label_volumes], config.labels)
    by_box = _by_box(label_volumes, config)
    cases: list[Case] = []
    drawn: list[SparseLabels] = []
    for number, (source, labels) in enumerate(zip(files.images, label_volumes, strict=True)):
        image = _image(source, config, spacing_mm, by_box=by_box)
        frame = _frame(image)
        frame.require_same_grid(labels)
        if frame.attributes.get("spacing_assumed"):
            listener.warn(f"{frame.name}: the file does not say how large its voxels are; they count as cubes of 1 mm")
        sparse = meaning.sparse(labels, _weight(files, number, frame, config, spacing_mm))
        if sparse.weight is not None and not (sparse.weight[sparse.known] > 0).any():
            raise LabelError(
                f"{source_name(files.weights[number])}: every labeled voxel of {labels.name} weighs 0, so that nothing "
                "could be learned from it. Mend the weights, or leave the case out."
            )
        if not sparse.labeled.any():
            certain = "" if sparse.partial is None else " whose class is certain"
            listener.warn(f"{labels.name} has no labeled voxel{certain}; the case is left out")
            continue
        drawn.append(sparse)
        hashes = {"image": content_hash(source), "labels": content_hash(files.labels[number])}
        if files.weights:
            hashes["weights"] = content_hash(files.weights[number])
        cases.append(_prepare(image, sparse, meaning, meaning.target(labels), preprocessing, hashes))
    if not cases:
        raise LabelError(
            f"{label_volumes[0].name}: expected labeled voxels, found none. Paint some, or mend --unlabeled."
        )
    unseen = unseen_classes(drawn, config.labels, meaning.table) if isinstance(meaning, LabelMeaning) else None
    if unseen is not None:
        listener.warn(unseen)
    channels = {case.channels for case in cases}
    if len(channels) > 1:
        found = ", ".join(f"{case.name} has {case.channels}" for case in cases)
        raise ConfigError(f"all images need the same channels: {found}. Select one with --channel.")
    return cases, meaning


def _by_box(labels: Sequence[Volume], config: Config) -> bool:
    """Whether scans, which are as large as their labels, are read box by box; never where they must be resampled."""
    wanted, resampled = config.data.by_box, config.preprocess.spacing_mm is not None
    if wanted and resampled:
        raise ConfigError(
            "data.by_box: true reads parts of scans, and preprocess.spacing_mm resamples, which takes all of a scan; "
            "leave one of them out"
        )
    if wanted is not None or resampled:
        return bool(wanted)
    held = 4.0 * sum(math.prod(volume.shape) for volume in labels)
    return held > max(_HELD_BYTES, _HELD_SHARE * io.available_memory())


def _image(source: Source, config: Config, spacing_mm: Spacing, *, by_box: bool) -> Image:
    """A scan, held or to be read box by box."""
    data = config.data
    if not by_box:
        return image_volume(source, data, spacing_mm)
    if isinstance(source, (str, Path)):
        boxes = io.scan_by_box(str(source), channel=data.channel, nan=data.nan, xform=data.xform)
        if data.by_box or boxes.quick:
            return boxes
    return io.HeldScan(image_volume(source, data, spacing_mm))


def _frame(image: Image) -> Volume:
    """The scan's grid, without its voxels."""
    return io.HeldScan(image).frame if isinstance(image, Volume) else image.frame


def _prepared(image: Image, preprocessing: Preprocessing) -> PreparedImage | PreparedByBox:
    """As the network sees it."""
    if isinstance(image, Volume):
        return preprocessing.apply(image)
    found = preprocessing.apply_by_box(image)
    if found is None:
        raise AssertionError("scans that are resampled are held")
    return found.without_samples()


def _weight(
    files: TrainingFiles, number: int, image: Volume, config: Config, spacing_mm: Spacing
) -> np.ndarray[Any, Any] | None:
    if not files.weights:
        return None
    volume = weight_volume(files.weights[number], config.data, spacing_mm)
    image.require_same_grid(volume)
    return volume.array[0]


def _prepare(
    image: Image,
    labels: SparseLabels,
    meaning: Meaning,
    target: np.ndarray[Any, Any] | None,
    preprocessing: Preprocessing,
    hashes: dict[str, str],
) -> Case:
    prepared = _prepared(image, preprocessing)
    x, y, z = (float(v) for v in prepared.affine.spacing)
    scan = {
        "shape": list(image.shape),
        "spacing_mm": image.affine.orientation.apply_spacing(image.affine.spacing).tolist(),
        "orientation": image.affine.codes,
        "order": tuple(image.affine.orientation.order),
        "flips": tuple(image.affine.orientation.flips),
        "intensities": prepared.statistics,
        "sha256": hashes,
    }
    fitted = _on_grid(labels, image.affine, preprocessing)  # the two may differ by a hair
    fitted = meaning.prepared(fitted, (x, y, z))
    if target is not None:
        target = preprocessing.apply_labels(replace(labels, classes=target, weight=None), image.affine).classes
    return Case(
        image.name,
        torch.from_numpy(prepared.array) if isinstance(prepared, PreparedImage) else prepared,
        replace(fitted, name=labels.name),
        (x, y, z),
        scan,
        target,
        undo=prepared.undo,
        frame=_frame(image),
    )


def _on_grid(labels: SparseLabels, affine: Affine, preprocessing: Preprocessing) -> SparseLabels:
    """Labels on the prepared grid; a voxel takes a set of classes only where it gets no class for certain."""
    fitted = preprocessing.apply_labels(labels, affine)
    if labels.partial is None:
        return fitted
    choice = preprocessing.apply_labels(
        replace(labels, classes=labels.partial, labeled=labels.partial > 0, partial=None), affine
    )
    open_ = choice.labeled & ~fitted.labeled
    weight = fitted.weight
    if weight is not None and choice.weight is not None:
        weight = np.where(open_, choice.weight, weight)
    return replace(fitted, partial=np.where(open_, choice.classes, 0).astype(choice.classes.dtype), weight=weight)
