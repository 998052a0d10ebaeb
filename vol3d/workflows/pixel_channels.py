"""A pixel classifier's class probabilities beside the network's: further channels beside the image, see `LogPool`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from torch import Tensor

from vol3d.baselines.features import SLAB_BYTES
from vol3d.baselines.perceptrons import Painted
from vol3d.baselines.pixel_classifier import PixelClassifier, classify, learn, log_probabilities
from vol3d.baselines.priors import class_shares
from vol3d.baselines.reduced import (
    Enlarged,
    Factors,
    read_reduced,
    reduced_image,
    reduced_labels,
    reduced_mask,
    reduced_shape,
    reduced_spacing,
)
from vol3d.bundle import ModelBundle
from vol3d.config import Config
from vol3d.errors import ConfigError
from vol3d.inference.forward import Image
from vol3d.io import available_memory
from vol3d.sampling import HoldOut, with_whole_slices
from vol3d.sampling.holdout import plane_name, slice_groups
from vol3d.transforms import PreparedImage, Preprocessing
from vol3d.volume import Box, SparseLabels, Volume
from vol3d.workflows.case import Case
from vol3d.workflows.channels import WithChannels

_MOST_OF_IT = 0.5  # of a scan: where more is labeled, classes are as frequent in it as in the labels
_LEAST_ALONE = 0.5  # of the coarse voxels that stand for labels which train
_KEPT_SHARE = 0.25  # of the memory that is free
_WORK_BYTES = 150.0  # a voxel, while what is coarse is made; measured on two volumes


@dataclass(frozen=True, eq=False)
class Guided:
    """Cases with further channels beside their images, and the classifier these come from.

    shares: how much of the scans every class covers, (K,), where what was painted does not tell; else None.
    """

    cases: list[Case]
    classifier: PixelClassifier
    shares: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class PixelChannels:
    """The pixel classifier as a method of its own. cases: with its channels, from the labels that train."""

    cases: list[Case]
    name: str = "pixel classifier"

    def __call__(self, case: Case, split: HoldOut) -> NDArray[Any] | None:
        """Its most probable classes at the held-out labels, 0 elsewhere, (X, Y, Z)."""
        own = next((one for one in self.cases if one.labels is case.labels), None)
        if own is None or own.logs is None or split.validation is None:
            return None
        found = np.zeros(case.shape, np.min_scalar_type(own.logs.count - 1))
        asked = split.validation.labeled
        found[asked] = own.logs.largest_at(asked)
        return found


def wants_classifier(config: Config, outputs: int, *, sized: bool) -> bool:
    """Whether a run begins with a pixel classifier. sized: whether the network is planned for the data, not described.

    Raises `ConfigError` where one is asked for that cannot be.
    """
    use = config.pixel_classifier.use
    possible = config.task == "semantic" and outputs > 1
    if use == "yes" and not possible:
        raise ConfigError(f"pixel_classifier.use: yes needs task semantic and two classes, found task {config.task}")
    return possible and (use == "yes" or (use == "auto" and sized))


def reduction_of(config: Config) -> Factors:
    """How coarse a grid the pixel classifier of a plan looks at."""
    return config.pixel_classifier.reduction or (1, 1, 1)


def guide(
    cases: list[Case],
    known: Sequence[list[SparseLabels]],
    config: Config,
    classes: int,
    on_first_stage: Callable[[int, Enlarged], None] | None = None,
) -> list[Guided]:
    """A classifier for each of `known` (a list of labels, one per case, all of them part of the cases' own labels).

    The last one's channels are those of the whole scan. The others' are only right in the slices of labels that they
    have not learned from, where they are judged; elsewhere they mean nothing. on_first_stage: told a
    case's number and class probabilities, as soon as there are any.
    """
    seed, steps, factors = config.training.seed, config.pixel_classifier.steps, reduction_of(config)
    if steps is None:
        raise AssertionError("a plan says how long the pixel classifier learns")
    painted = [_reduced(case, factors, classes) for case in cases]
    masks = [
        [_without_held_out(one, case.labels, factors) for one, case in zip(labels, cases, strict=True)]
        for labels in known
    ]
    asked: list[list[NDArray[np.bool_] | None]] = [
        [_asked(case.labels.labeled & ~one.labeled, factors) for case, one in zip(cases, labels, strict=True)]
        for labels in known[:-1]
    ]
    asked.append([None] * len(cases))

    def first_stage(number: int, said: Tensor) -> None:
        if on_first_stage is not None:
            on_first_stage(number, Enlarged(said, factors, cases[number].shape))

    found = learn(
        painted,
        masks,
        asked,
        classes,
        steps=steps,
        seed=seed,
        keep_bytes=kept_bytes(),
        on_first_stage=first_stage,
    )
    for one in found[0]:
        one.reduction = factors
    shares = _settle_shares(*found, seed) if _are_strokes(cases) else None
    return [
        Guided(
            [_guided(case, answer, factors) for case, answer in zip(cases, answers, strict=True)], classifier, shares
        )
        for classifier, answers in zip(*found, strict=True)
    ]


def _are_strokes(cases: Sequence[Case]) -> bool:
    """Whether nobody painted slices or most of a scan, so that classes are not as frequent in the scan as in paint."""
    known = [case.labels.known for case in cases]
    return all(mask.mean() <= _MOST_OF_IT and not slice_groups(mask, plane_name) for mask in known)


def _settle_shares(
    classifiers: Sequence[PixelClassifier],
    answers: Sequence[Sequence[Tensor]],
    seed: int,
) -> NDArray[np.float64]:
    """Find out how frequent the classes are in the scans; make classifiers, and what they answered, believe in that."""
    before = [_believed(classifier) for classifier in classifiers]
    shares = class_shares(list(answers[-1]), before[-1], seed)
    for classifier, said, believed in zip(classifiers, answers, before, strict=True):
        there = (shares > 0) & (believed > 0)
        classifier.factors = tuple(np.divide(shares, believed, out=np.ones(len(shares)), where=there).tolist())
        for answer in said:
            classifier.settled(answer)
    return shares


def _believed(classifier: PixelClassifier) -> NDArray[np.float64]:
    if classifier.second.believed is None:
        raise AssertionError("a classifier that has learned believes in something")
    return classifier.second.believed


def _reduced(case: Case, factors: Factors, classes: int) -> Painted:
    """A case on the classifier's grid."""
    labels = reduced_labels(case.labels, factors, classes)
    return Painted(_on_grid(case.image, factors), labels, reduced_spacing(case.spacing_mm, factors))


def _on_grid(image: Image, factors: Factors) -> Tensor:
    """An image on the classifier's grid."""
    if isinstance(image, Tensor):
        return reduced_image(image, factors)
    if isinstance(image, np.ndarray):
        return reduced_image(torch.from_numpy(image), factors)
    return torch.from_numpy(read_reduced(image, factors)(Box.whole(reduced_shape(image.shape[1:], factors))))


def _without_held_out(known: SparseLabels, labels: SparseLabels, factors: Factors) -> NDArray[np.bool_]:
    """Where a voxel of the coarse grid stands for `known` labels, and for no others of the case's.

    The latter is given up where that would leave few: slices then lie side by side.
    """
    found = reduced_mask(known.labeled, factors)
    if factors == (1, 1, 1):
        return found
    alone = found & ~reduced_mask(labels.labeled & ~known.labeled, factors)
    return alone if _LEAST_ALONE * found.sum() <= alone.sum() else found


def _asked(held: NDArray[np.bool_], factors: Factors) -> NDArray[np.bool_]:
    """Where the coarse grid must be right so that held-out slices are, between whose voxels it is interpolated."""
    found = reduced_mask(with_whole_slices(held), factors)
    if factors == (1, 1, 1):
        return found
    dilated: NDArray[np.bool_] = binary_dilation(found, np.ones((3, 3, 3), dtype=bool))
    return dilated


def prepare(volume: Volume, bundle: ModelBundle) -> tuple[PreparedImage, Image]:
    """A scan, preprocessed, and as a model takes it: with the channels of the model's pixel classifier, if it has one.

    For `predict_axes`.
    """
    prepared = Preprocessing.from_json(bundle.preprocessing).apply(volume)
    if bundle.classifier is None:
        return prepared, prepared.array
    logs = _logs(bundle.classifier, prepared.array, prepared.spacing_mm)
    return prepared, WithChannels(prepared.array, logs)


def with_channels(case: Case, classifier: PixelClassifier | None) -> Case:
    """A case with the channels of a model's pixel classifier."""
    return case if classifier is None else replace(case, logs=_logs(classifier, case.image, case.spacing_mm))


def _logs(classifier: PixelClassifier, image: Image, spacing_mm: Sequence[float]) -> Enlarged:
    own, edges = _on_grid(image, classifier.reduction), reduced_spacing(spacing_mm, classifier.reduction)
    found = log_probabilities(classify(classifier, own, edges, keep_bytes=kept_bytes()))
    _, x, y, z = image.shape
    return Enlarged(found, classifier.reduction, (x, y, z))


def classifying_bytes(classifier: PixelClassifier, shape: tuple[int, int, int]) -> float:
    """What `prepare` takes for a moment, beside the image: features, if they are kept, and what either stage says."""
    voxels = float(math.prod(reduced_shape(shape, classifier.reduction)))
    features = 4.0 * classifier.recipe.count(classifier.channels) * voxels
    kept = features if features <= kept_bytes() / 2 else 0.0
    return kept + 2 * min(SLAB_BYTES, features) + (_WORK_BYTES + 8.0 * classifier.classes) * voxels


def kept_bytes() -> float:
    """What features may take, so that they need not be computed twice."""
    return _KEPT_SHARE * available_memory()


def _guided(case: Case, probabilities: Tensor, factors: Factors) -> Case:
    return replace(case, logs=Enlarged(log_probabilities(probabilities), factors, case.shape))
