"""A pixel classifier: small perceptrons on multi-scale features, trained in seconds on the labeled voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vol3d.baselines.features import FeatureMaps, Recipe, image_recipe
from vol3d.baselines.perceptrons import (
    HIDDEN,
    MEMBERS,
    LabeledFeatures,
    Painted,
    Perceptrons,
    fit_perceptrons,
    labeled_features,
)
from vol3d.baselines.reduced import Factors
from vol3d.baselines.unseen import Blocks, learned_by, members_of
from vol3d.errors import ModelError

CONTEXT = Recipe((2.0, 4.0, 8.0))
_LEAST_PROBABILITY = 1e-4  # what is said to be impossible is only very unlikely
_LARGEST = 1024  # members, hidden units of a model that is read
_MOST_SCALES, _FINEST, _COARSEST = 16, 0.1, 64.0
_MOST_REDUCED = 64  # voxels of the scan along an axis to one of the classifier's grid
_LARGEST_FACTOR = 1e9


class PixelClassifier(nn.Module):
    """A classifier of voxels by their surroundings, and a second one that also looks at what the first one says there.

    The second sees, beside the features of the image, those of the first one's class probabilities at some scales: what
    is around a voxel then counts as what it is taken for, not only as how it looks. channels: of the image. classes: K.
    recipe, context: the features of the image and of the probabilities. reduction: along each axis, of how many voxels
    of a scan the mean is one of those that both look at. factors: how many times as frequent each class is in scans as
    the second stage believes, None: as frequent. Source: auto-context (Tu & Bai 2010).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        recipe: Recipe,
        *,
        context: Recipe = CONTEXT,
        members: int = MEMBERS,
        hidden: int = HIDDEN,
        reduction: Factors = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.channels, self.classes, self.recipe, self.context = channels, classes, recipe, context
        self.reduction = reduction
        self.factors: tuple[float, ...] | None = None
        count, around = recipe.count(channels), context.count(told_of(classes))
        self.first = Perceptrons(count, classes, members=members, hidden=hidden)
        self.second = Perceptrons(count + around, classes, members=members, hidden=hidden)

    def settled(self, answer: Tensor) -> Tensor:
        """What the second stage's members say in the mean, (K, ...), by the `factors`; the tensor itself is changed."""
        if self.factors is None:
            return answer
        answer.mul_(torch.tensor(self.factors).to(answer).view(-1, *[1] * (answer.ndim - 1)))
        return answer.div_(answer.sum(dim=0))

    def to_json(self) -> dict[str, Any]:
        """What it is, without its weights; plain JSON values."""
        parts = {"features": self.recipe, "context": self.context}
        return {
            "members": self.first.members,
            "hidden": self.first.hidden,
            "reduction": list(self.reduction),
            "factors": None if self.factors is None else list(self.factors),
            **{name: {key: list(value) for key, value in vars(part).items()} for name, part in parts.items()},
        }

    @classmethod
    def from_json(cls, value: object, channels: int, classes: int, name: str) -> PixelClassifier:
        """The inverse of `to_json`, with weights to be loaded. Raises `ModelError` on anything else, naming `name`."""
        keys = {"members", "hidden", "features", "context"}
        if isinstance(value, dict) and value.keys() - {"reduction", "factors"} == keys:  # earlier models have none
            sizes, recipes = (value["members"], value["hidden"]), (value["features"], value["context"])
            modest = all(type(n) is int and 0 < n <= _LARGEST for n in sizes)
            reduction: Any = value.get("reduction", [1, 1, 1])
            factors: Any = value.get("factors")
            known = _is_reduction(reduction) and _are_factors(factors, classes)
            if modest and known and all(_is_recipe(one) for one in recipes):
                recipe, context = (Recipe(**{key: tuple(scales) for key, scales in one.items()}) for one in recipes)
                x, y, z = reduction
                members, hidden = sizes
                found = cls(
                    channels, classes, recipe, context=context, members=members, hidden=hidden, reduction=(x, y, z)
                )
                found.factors = None if factors is None else tuple(factors)
                return found
        raise ModelError(
            f"{name} describes no pixel classifier that this version knows: {str(value)[:100]}. Train it again."
        )


def _is_recipe(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {"scales", "grid_scales", "textures"}:
        return False
    lists = list(value.values())
    if not all(isinstance(scales, list) and len(scales) <= _MOST_SCALES for scales in lists):
        return False
    return all(type(s) in {int, float} and _FINEST <= s <= _COARSEST for scales in lists for s in scales)


def _is_reduction(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(n) is int and 0 < n <= _MOST_REDUCED for n in value)


def _are_factors(value: object, classes: int) -> bool:
    if value is None:
        return True
    if not isinstance(value, list) or len(value) != classes:
        return False
    return all(type(n) in {int, float} and 1 / _LARGEST_FACTOR <= n <= _LARGEST_FACTOR for n in value)


def told_of(classes: int) -> int:
    """How many class probabilities tell all of them."""
    return max(1, classes - 1)


def learn(
    scans: Sequence[Painted],
    known: Sequence[Sequence[NDArray[np.bool_]]],
    asked: Sequence[Sequence[NDArray[np.bool_] | None]],
    classes: int,
    *,
    steps: int = 700,
    seed: int = 0,
    keep_bytes: float = 0.0,
    on_first_stage: Callable[[int, Tensor], None] | None = None,
) -> tuple[list[PixelClassifier], list[list[Tensor]]]:
    """A classifier for each of `known`, masks (X, Y, Z), one a scan; and what each says of every scan, (K, X, Y, Z).

    All of them share one first stage, which has learned from the first of `known`, each of its members without some
    blocks of the volumes. At a labeled voxel the second stage is shown what a member says that has not learned from the
    labels there; what all of them say there would be surer than anywhere else. asked: for each of `known` the
    voxels of every scan that its answers are wanted of, None for all; elsewhere all classes are equally probable.
    keep_bytes: memory for features, which are otherwise computed again when they are needed again. on_first_stage: told
    a scan's number and what the first stage says of it, class probabilities (K, X, Y, Z), as soon as that is known.
    """
    recipe = image_recipe([scan.spacing_mm for scan in scans])
    share = keep_bytes / (2 * len(scans))
    images = [FeatureMaps(scan.image, scan.spacing_mm, recipe, keep_bytes=share) for scan in scans]
    rows = labeled_features(scans, images, classes, seed=seed)
    blocks = [Blocks(scan.labels.shape, scan.spacing_mm, MEMBERS) for scan in scans]
    first = _first_stage(rows.within(known[0]), blocks, classes, steps=steps, seed=seed)
    contexts, unseen = [], []
    for number, (maps, scan) in enumerate(zip(images, scans, strict=True)):
        said, apart = _answers_apart(first, maps, blocks[number])
        if on_first_stage is not None:
            on_first_stage(number, said)
        contexts.append(FeatureMaps(said[: told_of(classes)], scan.spacing_mm, CONTEXT, keep_bytes=share))
        unseen.append(FeatureMaps(apart[: told_of(classes)], scan.spacing_mm, CONTEXT))
        del said, apart  # they take as much as the image, and more
    rows = rows.beside(unseen)
    del unseen
    classifiers = []
    for masks in known:
        one = PixelClassifier(scans[0].image.shape[0], classes, recipe)
        one.first.load_state_dict(first.state_dict())
        one.second = fit_perceptrons(rows.within(masks), classes, steps=steps, seed=seed + 1)
        classifiers.append(one.eval().requires_grad_(False))
    answers = []
    for number, scan in enumerate(scans):
        seconds, wanted = [one.second for one in classifiers], [masks[number] for masks in asked]
        answers.append(_answers(seconds, images[number], contexts[number], scan.image.shape[1:], wanted))
    return classifiers, [list(of_one) for of_one in zip(*answers, strict=True)]


def _first_stage(
    known: LabeledFeatures, blocks: Sequence[Blocks], classes: int, *, steps: int, seed: int
) -> Perceptrons:
    left_out = members_of(blocks, known.scan, known.place)
    learned = learned_by(left_out, known.classes, classes, MEMBERS)
    return fit_perceptrons(known, classes, learned=learned, steps=steps, seed=seed)


def classify(
    classifier: PixelClassifier, image: Tensor, spacing_mm: Sequence[float], *, keep_bytes: float = 0.0
) -> Tensor:
    """Class probabilities, float32 (K, X, Y, Z). keep_bytes: see `learn`.

    image: float32 (C, X, Y, Z), spacing_mm: on the classifier's grid, see `reduced_image`.
    """
    maps = FeatureMaps(image, spacing_mm, classifier.recipe, keep_bytes=keep_bytes / 2)
    said = _answers([classifier.first], maps, None, image.shape[1:], [None])[0]
    context = FeatureMaps(said[: told_of(classifier.classes)], spacing_mm, classifier.context)
    return classifier.settled(_answers([classifier.second], maps, context, image.shape[1:], [None])[0])


def _answers(
    several: Sequence[Perceptrons],
    maps: FeatureMaps,
    context: FeatureMaps | None,
    shape: Sequence[int],
    asked: Sequence[NDArray[np.bool_] | None],
) -> list[Tensor]:
    """What each of `several` says, (K, X, Y, Z): of the voxels that it is asked for, None for all."""
    found = [torch.full((one.classes, *shape), 1 / one.classes) for one in several]
    for start, stop, features in _side_by_side(maps, context):
        for one, result, mask in zip(several, found, asked, strict=True):
            if mask is None:
                result[:, start:stop] = one.answer(features.flatten(1)).view(-1, stop - start, *shape[1:])
                continue
            here = torch.from_numpy(np.ascontiguousarray(mask[start:stop]))
            if bool(here.any()):
                result[:, start:stop][:, here] = one.answer(features[:, here])
    return found


def _answers_apart(first: Perceptrons, maps: FeatureMaps, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """What a first stage says of every voxel, and what that member says of it that leaves it out; (K, X, Y, Z) each."""
    said, apart = (torch.empty((first.classes, *blocks.shape)) for _ in range(2))  # each is freed by itself
    for start, stop, features in maps.slabs():
        member = torch.from_numpy(blocks.within(start, stop).reshape(-1)).long()
        for whole, part in zip((said, apart), first.answer_apart(features.flatten(1), member), strict=True):
            whole[:, start:stop] = part.view(-1, stop - start, *blocks.shape[1:])
    return said, apart


def _side_by_side(maps: FeatureMaps, context: FeatureMaps | None) -> Iterator[tuple[int, int, Tensor]]:
    """Slabs of the image's features, and below them those of the context, as thin as the thinner of the two."""
    if context is None:
        yield from maps.slabs()
        return
    for start, stop, features in maps.slabs():
        for first in range(start, stop, context.thickness):
            last = min(first + context.thickness, stop)
            yield first, last, torch.cat([features[:, first - start : last - start], context.slab(first, last)])


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Their natural logarithms, never below that of 1e-4; in their place: the tensor itself is changed."""
    return probabilities.clamp_min_(_LEAST_PROBABILITY).log_()
