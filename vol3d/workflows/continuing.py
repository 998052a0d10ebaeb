"""More slices are painted: a new run that begins with the weights of an earlier one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vol3d import io, report
from vol3d.bundle import ModelBundle
from vol3d.bundle_header import read_tensor_file, write_tensors
from vol3d.config import Config, TaskSpec, parse_config
from vol3d.errors import ConfigError, ModelError
from vol3d.instances import InstanceScheme
from vol3d.networks import Network
from vol3d.volume import LabelTable, SparseLabels
from vol3d.workflows.case import Case
from vol3d.workflows.device import exact
from vol3d.workflows.labels import LabelMeaning, other_name, says_nothing
from vol3d.workflows.listener import Listener
from vol3d.workflows.meaning import Meaning
from vol3d.workflows.models import find_model
from vol3d.workflows.pixel_channels import with_channels
from vol3d.workflows.plan import Plan, without_files
from vol3d.workflows.scores import Score
from vol3d.workflows.targets import TargetMeaning
from vol3d.workflows.validation import HeldOut

PAINTED_FILE = "painted.safetensors"
START_FILE, PAINTED_BEFORE_FILE = "start.safetensors", "painted_before.safetensors"  # of a continued run
_KEY = "vol3d_painted"
SECONDS = 60.0  # how long a continued run takes where nobody says


@dataclass(frozen=True, eq=False)
class Earlier:
    """A finished run to go on from.

    painted: bool (X, Y, Z) per scan, what was labeled then. rate: the learning rate of a fresh run. offsets: (K,), what
    was added to the model's logits after training, see `calibration.offsets`.
    """

    folder: Path
    config: Config
    model: ModelBundle
    painted: dict[str, NDArray[np.bool_]]
    rate: float
    offsets: tuple[float, ...]

    def require_same_network(self, plan: Plan) -> None:
        """Raise `ConfigError` where the weights do not fit what is planned."""
        before = (without_files(self.model.network), self.model.in_channels)
        if before != (without_files(plan.network), plan.channels):
            raise ConfigError(
                f"{self.folder}: its model is a {self.model.network.kind} for {self.model.in_channels} channels; what "
                "is asked for is another network. Train a new run: leave --resume out, or the options that change the "
                "network."
            )

    def begin(self, network: nn.Module) -> None:
        """Give `network` the model's weights, as they were when training ended."""
        network.load_state_dict(self.model.weights)
        if isinstance(network, Network):
            network.shift_logits(-torch.tensor(self.offsets))

    def in_its_terms(self, cases: list[Case], meaning: Meaning) -> tuple[list[Case], Meaning]:
        """The labels as this run's network answers: its names of classes, or its units of values.

        Raises `ConfigError` where the labels hold other classes than the earlier run's.
        """
        before, now = (_classes(*one) for one in ((self.model.task, self.model.labels), (meaning.spec, meaning.table)))
        if before != now or meaning.spec.kind != self.model.task.kind:
            raise ConfigError(
                f"{self.folder} learned task {self.model.task.kind} with classes {before}; these labels are of task "
                f"{meaning.spec.kind} with classes {now}. Train a new run on them: leave --resume out."
            )
        if isinstance(meaning, TargetMeaning):
            scaled = replace(
                meaning, spec=meaning.spec.model_copy(update={"mean": self.model.task.mean, "sd": self.model.task.sd})
            )
            return [_rescaled(case, meaning.spec, scaled.spec) for case in cases], scaled
        if not isinstance(meaning, LabelMeaning):
            return cases, meaning
        names, new = ({c.code: c.name for c in table.classes} for table in (self.model.labels, meaning.table))
        other = other_name(names, new)
        if other is not None:
            raise ConfigError(
                f"{self.folder} learned code {other[0]} as {other[1]!r}; these labels call it {new[other[0]]!r}. Give "
                "it the name that it had if it is the same class, or train a new run: leave --resume out."
            )
        said = [
            replace(c, name=names[c.code] if says_nothing(c.name, c.code) else c.name) for c in meaning.table.classes
        ]
        return cases, replace(meaning, table=replace(meaning.table, classes=tuple(said)))

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


def _classes(task: TaskSpec, table: LabelTable) -> list[str]:
    """What a network answers, as codes; where objects are told apart, with what is a thing and how they are written."""
    if task.scheme is None:
        return [str(code) for code in table.codes.tolist()]
    scheme = InstanceScheme.from_json(task.scheme)
    kinds = [f"{c.code} ({'thing' if c.thing else 'stuff'})" for c in scheme.classes]
    return kinds if scheme.divisor is None else [*kinds, f"written as class × {scheme.divisor} + object"]


def _rescaled(case: Case, found: TaskSpec, wanted: TaskSpec) -> Case:
    """The case with its values in the units that another network answers in."""
    if case.target is None:
        return case
    values = case.target.astype(np.float64) * found.sd + found.mean
    return replace(case, target=((values - wanted.mean) / wanted.sd).astype(np.float32))


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
    """The finished run in `folder`, to go on from. Raises `ModelError` where there is none."""
    return _read(folder, find_model(folder), folder / PAINTED_FILE)


def read_start(folder: Path) -> Earlier | None:
    """What the run in `folder` itself began with; None where it began with nothing."""
    if not (folder / START_FILE).is_file():
        return None
    return _read(folder, folder / START_FILE, folder / PAINTED_BEFORE_FILE)


def keep_start(folder: Path, earlier: Earlier) -> None:
    """Keep in a run's folder what it begins with, so that it can be taken up again."""
    earlier.model.save(folder / START_FILE)
    _write(folder / PAINTED_BEFORE_FILE, earlier.painted)


def write_painted(folder: Path, cases: list[Case]) -> None:
    """Keep which voxels were labeled, so that a later run can tell what is new."""
    keys = [_key(case) for case in cases]
    masks = {key: case.labels.labeled for key, case in zip(keys, cases, strict=True) if keys.count(key) == 1}
    _write(folder / PAINTED_FILE, masks)


def _read(folder: Path, model: Path, painted: Path) -> Earlier:
    record = report.read_record(folder)
    if "config" not in record:
        raise ModelError(f"{folder}: run.json lacks the configuration. Train again into a new folder.")
    config = parse_config(record["config"], source=str(folder / report.RECORD))
    rate = record.get("learning_rate_of_fresh_run", config.training.learning_rate)
    bundle = ModelBundle.load(model)
    share = bundle.provenance.get("logit_offsets", record.get("logit_offsets"))  # older models leave it to the record
    sound = isinstance(share, list) and len(share) == len(bundle.labels)
    return Earlier(
        folder,
        config,
        bundle,
        _read_painted(painted),
        float(rate),
        tuple(float(value) for value in share) if sound and share else (0.0,) * len(bundle.labels),
    )


def _write(path: Path, masks: dict[str, NDArray[np.bool_]]) -> None:
    tensors = {key: torch.from_numpy(np.packbits(mask)) for key, mask in masks.items()}
    with io.atomic.replace(path) as temporary:
        write_tensors(temporary, tensors, _KEY, {"shapes": {key: list(mask.shape) for key, mask in masks.items()}})


def _read_painted(path: Path) -> dict[str, NDArray[np.bool_]]:
    if not path.is_file():
        return {}
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = "Remove it: only the gain is not told then."
    facts, entries = read_tensor_file(path, _KEY)
    shapes = facts.get("shapes")
    if not isinstance(shapes, dict) or shapes.keys() != entries.keys():
        raise ModelError(f"{path} does not tell what was painted. {remedy}")
    for key, shape in shapes.items():
        whole = isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)
        if not whole or entries[key] != ("torch.uint8", (-(-math.prod(shape) // 8),)):
            raise ModelError(f"{path} is damaged: {str(shape)[:60]} is no grid of {entries[key]}. {remedy}")
    try:
        bits = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged ({' '.join(str(error).split())[:100]}). {remedy}") from error
    return {
        key: np.unpackbits(bits[key].numpy(), count=math.prod(shape)).reshape(shape).astype(bool)
        for key, shape in shapes.items()
    }


def _key(case: Case) -> str:
    """A scan by its content, and the dataset of a file that holds several."""
    _, dataset = io.split_name(case.name)
    return f"{str(case.scan['sha256']['image'])[:32]}-{_plain(dataset)}"


def _plain(dataset: str | None) -> str:
    """A dataset's name without characters that mean something elsewhere."""
    return "".join(letter if letter.isalnum() else "_" for letter in dataset or "")
