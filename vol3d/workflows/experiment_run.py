"""One row of an experiment: a training on some of the labels, a prediction, its scores on the others."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import ValidationError

from vol3d.config import AnyNetworkConfig, ClassConfig, Config, LabelsConfig, PlannedNetwork
from vol3d.errors import ConfigError
from vol3d.metrics import Contingency
from vol3d.report.experiment_rows import ExperimentRow
from vol3d.volume import LabelTable, Volume
from vol3d.workflows.experiment_kinds import PlannedRow, Subject, Variant
from vol3d.workflows.experiment_splits import Mask, counts_text
from vol3d.workflows.listener import Listener
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.plan import Plan
from vol3d.workflows.predict import predict
from vol3d.workflows.scores import HeldOutScore
from vol3d.workflows.sources import Source
from vol3d.workflows.train import train
from vol3d.workflows.training_run import TrainResult

_NEVER_PLAIN = {"deeplab_v3_plus", "encoder_unet"}
_HASH_LENGTH = 16
_LABELS = "labels_"


@dataclass(frozen=True, eq=False)
class Material:
    """What an experiment works on. images, subjects, weights (as files, or none): one each per volume, in one order.

    sets: class indices of every set of classes that a voxel may be known to be one of.
    """

    images: tuple[Volume, ...]
    subjects: tuple[Subject, ...]
    table: LabelTable
    weights: tuple[Source, ...] = ()
    sets: tuple[tuple[int, ...], ...] = ()

    @property
    def flat(self) -> bool:
        """Whether some volume is a single plane."""
        return any(1 in image.shape for image in self.images)

    def training_labels(self, number: int, training: Mask) -> Volume:
        """Codes (1, X, Y, Z) of the voxels in `training`, and one that means unlabeled everywhere else."""
        no_label, sets = self._free_codes
        codes = np.array([*self.table.codes.tolist(), *sets], dtype=np.min_scalar_type(max((no_label, *sets))))
        known = np.where(training, self.subjects[number].classes, 0)
        painted = np.where(training, codes[known], np.asarray(no_label, codes.dtype))
        return Volume(painted[None], self.images[number].affine, f"{_LABELS}{number + 1}")

    @property
    def labels_config(self) -> LabelsConfig:
        """What the codes of `training_labels` mean; where classes may hide is among their sets already."""
        no_label, sets = self._free_codes
        codes = self.table.codes.tolist()
        return LabelsConfig(
            unlabeled=(no_label,),
            dense=True,
            classes=tuple(ClassConfig(code=one.code, name=one.name) for one in self.table.classes),
            one_of={code: tuple(codes[k] for k in members) for code, members in zip(sets, self.sets, strict=True)},
            not_painted={f"{_LABELS}*": ()},
        )

    @property
    def _free_codes(self) -> tuple[int, tuple[int, ...]]:
        """Codes that are no class: of a voxel that does not train, and of every set."""
        first = int(self.table.codes.max()) + 1
        return first, tuple(range(first + 1, first + 1 + len(self.sets)))


@dataclass
class RowListener:
    """Passes progress on under the row's name and every warning once; what a training notes is not worth a line."""

    tell: Listener
    name: str = ""
    warned: set[str] = field(default_factory=set)

    def note(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Pass it on, once."""
        if text not in self.warned:
            self.warned.add(text)
            self.tell.warn(f"{self.name}: {text}")

    def progress(self, what: str, done: int, total: int, fields: dict[str, Any]) -> None:
        """Pass it on."""
        self.tell.progress(f"{self.name} {what}", done, total, fields)


def base_variant(config: Config) -> Variant:
    """The configured network as a variant; a planned one has 3 dimensions, as in the paper, unless they are given."""
    network = config.network or PlannedNetwork()
    if isinstance(network, PlannedNetwork):
        flat = config.sampling.planes or len(config.sampling.patch_size or ()) == 2
        return Variant(network.dimensions or (2 if flat else 3), True)
    norm = getattr(network, "normalization", None)
    return Variant(network.dimensions, {"batch": True, "none": False}.get(str(norm)))


def row_config(config: Config, row: PlannedRow, material: Material) -> Config:
    """The configuration of a row but for its normalization, which `set_normalization` changes in the plan.

    2-D networks go slice by slice across all three axes where
    `sampling.planes` is open. Raises `ConfigError` where the network cannot have the row's dimensions.
    """
    size = row.variant.dimensions
    sampling: dict[str, Any] = {}
    if config.sampling.patch_size is not None and len(config.sampling.patch_size) != size:
        sampling["patch_size"] = None
    if size == 3:
        sampling["planes"] = None
    elif config.sampling.planes is None and not material.flat:
        sampling["planes"] = ("x", "y", "z")
    data = {"images": (), "labels": (), "weights": (), "channel": None, "nan": None}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "labels": material.labels_config,
            "network": _sized(config.network or PlannedNetwork(), size),
            "sampling": config.sampling.model_copy(update=sampling),
            "training": config.training.model_copy(update={"seed": row.seed}),
        }
    )


def require_normalization(config: Config, batchnorm: bool | None) -> None:
    """Raise `ConfigError` where the configured kind of network cannot be had with, or without, BatchNorm."""
    network = config.network or PlannedNetwork()
    if batchnorm is None or base_variant(config).batchnorm is batchnorm:
        return
    if isinstance(network, PlannedNetwork):
        if network.plan in _NEVER_PLAIN:
            raise ConfigError(f"{network.plan} is never without normalization; compare another --network, such as unet")
        return
    set_normalization(network, batchnorm=batchnorm)


def set_normalization(network: AnyNetworkConfig, *, batchnorm: bool) -> AnyNetworkConfig:
    """The same network with BatchNorm, or with no normalization at all. Raises `ConfigError` where it has no such."""
    wanted = "batch" if batchnorm else "none"
    if "normalization" not in type(network).model_fields:
        raise ConfigError(f"networks of kind {network.kind} have no choice of normalization; take a unet")
    try:
        return type(network).model_validate(network.model_dump() | {"normalization": wanted})
    except ValidationError as error:
        raise ConfigError(f"{network.kind} is never without normalization; compare another network") from error


def row_hash(config: Config, row: PlannedRow) -> str:
    """A hash of everything that makes a row what it is, but for the data."""
    said = {
        "config": config.to_json(),
        "batchnorm": row.variant.batchnorm,
        "splits": [[split.learn, split.held, split.apart] for split in row.splits],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:_HASH_LENGTH]


def run_row(
    row: PlannedRow, config: Config, material: Material, run: Path, tell: RowListener, *, keep: bool
) -> ExperimentRow | None:
    """Train, predict, score; None where the training was stopped. config: of the experiment. run: the run folder.

    The run folder goes afterwards, unless it is to be kept and its row is done.
    """
    done = False
    shutil.rmtree(run, ignore_errors=True)  # what a killed run left
    try:
        found = _run(row, config, material, run, tell)
        done = found is not None
        return found
    finally:
        if not (keep and done):
            shutil.rmtree(run, ignore_errors=True)


def _run(row: PlannedRow, config: Config, material: Material, run: Path, tell: RowListener) -> ExperimentRow | None:
    began = time.monotonic()
    masks = [material.subjects[number].divided(split) for number, split in zip(row.volumes, row.splits, strict=True)]
    taught = [number for number, (training, _) in zip(row.volumes, masks, strict=True) if training.any()]
    chosen = dict(zip(row.volumes, masks, strict=True))
    settled = row_config(config, row, material)
    images = [material.images[number] for number in taught]
    labels = [material.training_labels(number, chosen[number][0]) for number in taught]
    weights = [material.weights[number] for number in taught] if material.weights else []
    options = {"weights": weights, "listener": tell}
    config_hash = row_hash(settled, row)
    if row.variant.batchnorm is not None and base_variant(settled).batchnorm is not row.variant.batchnorm:
        settled = _with_normalization(settled, images, labels, options, batchnorm=row.variant.batchnorm)
    start = time.monotonic()
    result = train(images, labels, config=settled, output=run, overwrite=True, **options)  # type: ignore[arg-type]
    if not isinstance(result, TrainResult) or result.bundle is None:
        return None
    trained = time.monotonic() - start
    counts = Contingency.empty(len(material.table))
    reading = PredictOptions(
        tile=settled.inference.tile,
        overlap=settled.inference.overlap,
        max_memory_gb=settled.inference.max_memory_gb,
        device=settled.training.device,
        preview=False,
    )
    for number, (_, scored) in zip(row.volumes, masks, strict=True):
        if scored.any():
            codes = predict(material.images[number], result.bundle, options=reading, listener=tell).codes
            predicted, _ = material.table.encode(codes)
            counts += Contingency.from_labels(predicted, material.subjects[number].classes, scored, len(material.table))
    score = HeldOutScore.from_counts(counts, material.table)
    shown = sum(int(np.count_nonzero(chosen[number][0])) for number in taught)
    return ExperimentRow(
        key=row.key,
        table=row.table,
        part=row.part,
        slices="" if row.slices is None else counts_text(row.slices),
        dimensions=row.variant.dimensions,
        batchnorm={True: "yes", False: "no", None: ""}[row.variant.batchnorm],
        seed=row.seed,
        iterations=result.iterations,
        training_s=round(trained, 1),
        row_s=round(time.monotonic() - began, 1),
        labeled_voxels=shown,
        labeled_share=shown / sum(chosen[number][0].size for number in taught),
        scored_voxels=counts.voxels,
        mean_iou=score.mean_iou,
        mean_iou_without_background=score.mean_iou_without_background,
        config_hash=config_hash,
        iou={int(code): counts.iou(k) for k, code in enumerate(material.table.codes)},
    )


def _with_normalization(
    config: Config, images: Sequence[Volume], labels: Sequence[Volume], options: dict[str, Any], *, batchnorm: bool
) -> Config:
    """The configuration as it will be planned, its network with or without BatchNorm: everything else stays equal."""
    plan = cast(Plan, train(images, labels, config=config, dry_run="plan", **options))
    return plan.config.model_copy(update={"network": set_normalization(plan.network, batchnorm=batchnorm)})


def _sized(network: AnyNetworkConfig | PlannedNetwork, dimensions: int) -> AnyNetworkConfig | PlannedNetwork:
    """The same network in 2-D or 3-D, its kind said: a planned one must not be taken for one described in full."""
    try:
        return type(network).model_validate(network.model_dump() | {"dimensions": dimensions})
    except ValidationError as error:
        raise ConfigError(
            f"the config describes its {network.kind} for {network.dimensions} dimensions, so it cannot be compared "
            f"in {dimensions}; leave `kernels`, `pooling` and `flat_axes` out, or name a kind (--network unet)"
        ) from error
