"""Images and labels, read, checked against each other and prepared for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from vol3d import io
from vol3d.config import Config
from vol3d.errors import ConfigError, LabelError
from vol3d.transforms import Preprocessing
from vol3d.volume import SparseLabels, Volume
from vol3d.workflows.case import Case
from vol3d.workflows.listener import Listener
from vol3d.workflows.meaning import Meaning, find_meaning, read_truth
from vol3d.workflows.sources import Source, Spacing, content_hash, image_volume


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
    found = io.find([str(s) for s in images])
    pairs = io.pair(found, io.find([str(s) for s in labels]))
    paired = dict(io.pair(found, io.find([str(s) for s in weights]))) if weights else {}
    names = tuple(image for image, _ in pairs)
    return TrainingFiles(names, tuple(drawn for _, drawn in pairs), tuple(paired[n] for n in names) if paired else ())


def load(
    files: TrainingFiles, config: Config, preprocessing: Preprocessing, listener: Listener, spacing_mm: Spacing = None
) -> tuple[list[Case], Meaning]:
    """Read every case, refuse what does not fit together, and prepare it. Cases without labels are left out, aloud."""
    label_volumes = [read_truth(source, config, spacing_mm) for source in files.labels]
    meaning = find_meaning(label_volumes, config)
    cases: list[Case] = []
    for number, (source, labels) in enumerate(zip(files.images, label_volumes, strict=True)):
        image = image_volume(source, config.data, spacing_mm)
        image.require_same_grid(labels)
        sparse = meaning.sparse(labels, _weight(files, number, image, config))
        if not sparse.labeled.any():
            listener.warn(f"{labels.name} has no labeled voxel; the case is left out")
            continue
        hashes = {"image": content_hash(source), "labels": content_hash(files.labels[number])}
        if files.weights:
            hashes["weights"] = content_hash(files.weights[number])
        cases.append(_prepare(image, sparse, meaning, meaning.target(labels), preprocessing, hashes))
    if not cases:
        raise LabelError(
            f"{label_volumes[0].name}: expected labeled voxels, found none. Paint some, or mend --unlabeled."
        )
    channels = {case.image.shape[0] for case in cases}
    if len(channels) > 1:
        found = ", ".join(f"{case.name} has {case.image.shape[0]}" for case in cases)
        raise ConfigError(f"all images need the same channels: {found}. Select one with --channel.")
    return cases, meaning


def _weight(files: TrainingFiles, number: int, image: Volume, config: Config) -> np.ndarray[Any, Any] | None:
    if not files.weights:
        return None
    source = files.weights[number]
    volume = (
        io.read_weights(source, xform=config.data.xform)
        if isinstance(source, str)
        else image_volume(source, config.data)
    )
    image.require_same_grid(volume)
    return volume.array[0].astype(np.float32)


def _prepare(
    image: Volume,
    labels: SparseLabels,
    meaning: Meaning,
    target: np.ndarray[Any, Any] | None,
    preprocessing: Preprocessing,
    hashes: dict[str, str],
) -> Case:
    prepared = preprocessing.apply(image)
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
    fitted = preprocessing.apply_labels(labels, image.affine)  # the two may differ by a hair
    fitted = meaning.prepared(fitted, (x, y, z))
    if target is not None:
        target = preprocessing.apply_labels(replace(labels, classes=target, weight=None), image.affine).classes
    return Case(
        image.name, torch.from_numpy(prepared.array), replace(fitted, name=labels.name), (x, y, z), scan, target
    )
