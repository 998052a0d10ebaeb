"""A pixel classifier's class probabilities beside the network's: as further channels of the image, see `LogPool`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.baselines.features import SLAB_BYTES
from vol3d.baselines.perceptrons import Painted
from vol3d.baselines.pixel_classifier import PixelClassifier, classify, learn, log_probabilities
from vol3d.bundle import ModelBundle
from vol3d.config import Config
from vol3d.errors import ConfigError
from vol3d.io import available_memory
from vol3d.sampling import with_whole_slices
from vol3d.transforms import PreparedImage, Preprocessing
from vol3d.volume import SparseLabels, Volume
from vol3d.workflows.case import Case

_FEW_CLASSES = 8
_MOST_ANSWERS = 2**27  # classes times voxels, where there are more: minutes, and gigabytes
_KEPT_SHARE = 0.25  # of the memory that is free
_WORK_BYTES = 150.0  # a voxel, while what is coarse is made; measured on two volumes


@dataclass(frozen=True, eq=False)
class Guided:
    """Cases whose images have further channels, and the classifier these come from."""

    cases: list[Case]
    classifier: PixelClassifier


@dataclass(frozen=True, eq=False)
class PixelChannels:
    """The pixel classifier as a method of its own. cases: with its channels, from the labels that train."""

    cases: list[Case]
    name: str = "pixel classifier"

    def __call__(self, case: Case, training: SparseLabels) -> NDArray[Any] | None:  # noqa: ARG002  a `Baseline`
        """Its most probable classes, (X, Y, Z)."""
        own = next((one for one in self.cases if one.labels is case.labels), None)
        if own is None:
            return None
        return own.classifier_logs.argmax(0).numpy().astype(np.min_scalar_type(own.extra_channels - 1))


def wants_classifier(config: Config, outputs: int, voxels: int, *, sized: bool) -> bool:
    """Whether a run begins with a pixel classifier. sized: whether the network is planned for the data, not described.

    voxels: of all scans together; time and memory grow with them and with the classes. Where there are many classes a
    young network knows few of them, and the classifier matters most. Raises `ConfigError` where one is asked for that
    cannot be.
    """
    use = config.pixel_classifier.use
    possible = config.task == "semantic" and outputs > 1
    if use == "yes" and not possible:
        raise ConfigError(f"pixel_classifier.use: yes needs task semantic and two classes, found task {config.task}")
    small = outputs <= _FEW_CLASSES or outputs * voxels <= _MOST_ANSWERS
    return possible and (use == "yes" or (use == "auto" and sized and small))


def guide(
    cases: list[Case],
    known: Sequence[list[SparseLabels]],
    config: Config,
    classes: int,
    on_first_stage: Callable[[int, Tensor], None] | None = None,
) -> list[Guided]:
    """A classifier for each of `known` (a list of labels, one per case, all of them part of the cases' own labels).

    The last one's channels are those of the whole scan. The others' are only right in the slices of labels that they
    have not learned from, where they are judged; elsewhere their classes are equally probable. on_first_stage: see
    `learn`.
    """
    seed, steps = config.training.seed, config.pixel_classifier.steps
    if steps is None:
        raise AssertionError("a plan says how long the pixel classifier learns")
    painted = [Painted(case.image, case.labels, case.spacing_mm) for case in cases]
    masks = [[one.labeled for one in labels] for labels in known]
    asked: list[list[NDArray[np.bool_] | None]] = [
        [with_whole_slices(case.labels.labeled & ~one) for case, one in zip(cases, seen, strict=True)]
        for seen in masks[:-1]
    ]
    asked.append([None] * len(cases))
    found = learn(
        painted,
        masks,
        asked,
        classes,
        steps=steps,
        seed=seed,
        keep_bytes=kept_bytes(),
        on_first_stage=on_first_stage,
    )
    return [
        Guided([_joined(case, answer) for case, answer in zip(cases, answers, strict=True)], classifier)
        for classifier, answers in zip(*found, strict=True)
    ]


def prepare(volume: Volume, bundle: ModelBundle) -> PreparedImage:
    """A scan as a model takes it: preprocessed, with the channels of the model's pixel classifier."""
    prepared = Preprocessing.from_json(bundle.preprocessing).apply(volume)
    if bundle.classifier is None:
        return prepared
    image = torch.from_numpy(prepared.array)
    answer = classify(bundle.classifier, image, prepared.spacing_mm, keep_bytes=kept_bytes())
    array = torch.empty((bundle.network_channels, *image.shape[1:]))
    array[: len(image)] = image
    array[len(image) :] = log_probabilities(answer)
    return replace(prepared, array=array.numpy())


def with_channels(case: Case, classifier: PixelClassifier | None) -> Case:
    """A case whose image has the channels of a model's pixel classifier."""
    if classifier is None:
        return case
    return _joined(case, classify(classifier, case.image, case.spacing_mm, keep_bytes=kept_bytes()))


def classifying_bytes(classifier: PixelClassifier, shape: tuple[int, int, int]) -> float:
    """What `prepare` takes for a moment, beside the image: features, if they are kept, and what either stage says."""
    voxels = float(math.prod(shape))
    features = 4.0 * classifier.recipe.count(classifier.channels) * voxels
    kept = features if features <= kept_bytes() / 2 else 0.0
    return kept + 2 * min(SLAB_BYTES, features) + (_WORK_BYTES + 8.0 * classifier.classes) * voxels


def kept_bytes() -> float:
    """What features may take, so that they need not be computed twice."""
    return _KEPT_SHARE * available_memory()


def _joined(case: Case, answer: Tensor) -> Case:
    channels = log_probabilities(answer)
    return replace(case, image=torch.cat([case.image, channels]), extra_channels=len(channels))
