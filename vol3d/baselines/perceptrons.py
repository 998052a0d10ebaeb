"""Perceptrons that learn from the features of labeled voxels: the two stages of a pixel classifier."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vol3d.baselines.features import FeatureMaps
from vol3d.errors import LabelError
from vol3d.volume import SparseLabels

MEMBERS = 5
HIDDEN = 64
MOST_VOXELS = 300_000  # that are learned from
_CHUNK = 4096  # voxels: five members of 64 hidden units then take 5 MB
_BATCH = 1024
_LEARNING_RATE = 2e-2
_DECAY_POWER = 0.9
_WEIGHT_DECAY = 1e-2
_CONSTANT, _MUTE = 1e-6, 1e30  # a spread of normalised intensities that is none, and what it is taken for
_MOST_EPOCHS, _FEWEST_STEPS = 40, 20  # what a few strokes say is soon known by heart
_BALANCE = 1 / 3  # 0: classes weigh as they were painted, 1: all the same


@dataclass(frozen=True, eq=False)
class Painted:
    """One scan to learn from. image: float32 (C, X, Y, Z), normalised. labels: on the same grid."""

    image: Tensor
    labels: SparseLabels
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class LabeledFeatures:
    """Features of labeled voxels, to learn from.

    rows: float32 (N, F). classes: int64 (N,). weight: float32 (N,), confidence × kept voxels' stand-in for those that
    were left out. scan, place: (N,), the voxel's scan and its index in that scan's memory.
    """

    rows: Tensor
    classes: NDArray[np.int64]
    weight: NDArray[np.float64]
    scan: NDArray[np.int64]
    place: NDArray[np.int64]

    def beside(self, maps: Sequence[FeatureMaps]) -> LabeledFeatures:
        """With the features of further maps, one a scan, at the same voxels."""
        found = [one.at(self.place[self.scan == number]) for number, one in enumerate(maps)]
        return replace(self, rows=torch.cat([self.rows, torch.cat(found)], dim=1))

    def within(self, masks: Sequence[NDArray[np.bool_]]) -> LabeledFeatures:
        """Only the voxels inside the masks (X, Y, Z), one a scan."""
        kept = np.zeros(len(self.classes), dtype=bool)
        for number, mask in enumerate(masks):
            here = np.flatnonzero(self.scan == number)
            kept[here] = mask.reshape(-1)[self.place[here]]
        return LabeledFeatures(
            self.rows[torch.from_numpy(kept)],
            self.classes[kept],
            self.weight[kept],
            self.scan[kept],
            self.place[kept],
        )


class Perceptrons(nn.Module):
    """Several perceptrons with two hidden layers side by side, whose probabilities are averaged.

    features: how many values a voxel has. classes: K. believed: the shares of the classes by which these are right,
    (K,), once they have learned; not kept in a file.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, features: int, classes: int, *, members: int = MEMBERS, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.classes, self.members, self.hidden = classes, members, hidden
        self.believed: NDArray[np.float64] | None = None
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("sd", torch.ones(features))
        sizes = (features, hidden, hidden, classes)
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(members, a, b)) for a, b in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, b)) for b in sizes[1:])

    def forward(self, features: Tensor) -> Tensor:
        """Logits of every member, (members, N, K). features: float32 (N, F), the same for all, or (members, N, F)."""
        maps = (features - self.mean) / self.sd
        if maps.ndim == 2:
            maps = maps.expand(self.members, -1, -1)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            maps = torch.relu(torch.baddbmm(bias, maps, weight))
        return torch.baddbmm(self.biases[-1], maps, self.weights[-1])

    @torch.no_grad()
    def answer(self, columns: Tensor) -> Tensor:
        """Class probabilities, float32 (K, N): the mean of the members. columns: features (F, N).

        What `forward` says, without its copies: the first layer, with the features' scale in it, is one product for all
        members, and so many voxels at a time go through all layers as stay in a processor's cache.
        """
        found = torch.empty((self.classes, columns.shape[1]))
        for start, said in self._each(columns):
            found[:, start : start + said.shape[2]] = said.mean(0)
        return found

    @torch.no_grad()
    def answer_apart(self, columns: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
        """`answer`, and what one member says, float32 (K, N). member: which one, int64 (N,)."""
        found, alone = torch.empty((2, self.classes, columns.shape[1]))
        for start, said in self._each(columns):
            stop = start + said.shape[2]
            found[:, start:stop] = said.mean(0)
            chosen = member[start:stop].to(said.device).expand(1, self.classes, -1)
            alone[:, start:stop] = said.gather(0, chosen)[0]
        return found, alone

    def _each(self, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(where it begins, class probabilities of every member (members, K, n)) for some voxels after the other."""
        first, *others = self.weights
        into = (first / self.sd[:, None]).transpose(1, 2).flatten(0, 1)
        shift = self.biases[0].reshape(-1, 1)
        for start in range(0, columns.shape[1], _CHUNK):
            part = columns[:, start : start + _CHUNK].to(into.device) - self.mean[:, None]
            maps = torch.addmm(shift, into, part).view(self.members, -1, part.shape[1])
            for weight, bias in zip(others, self.biases[1:], strict=True):
                maps = torch.baddbmm(bias.transpose(1, 2), weight.transpose(1, 2), maps.relu_())
            yield start, torch.softmax(maps, dim=1)


def labeled_features(
    scans: Sequence[Painted], maps: Sequence[FeatureMaps], classes: int, *, seed: int = 0
) -> LabeledFeatures:
    """The features of the scans' labeled voxels; of more than 300,000 as many are drawn, all of the rare classes.

    maps: of the scans' images, in their order.

    Raises `LabelError` where nothing is labeled.
    """
    rng = np.random.default_rng(seed)
    counts = np.sum([scan.labels.counts(classes) for scan in scans], axis=0)
    if not counts.any():
        raise LabelError("a pixel classifier needs labeled voxels, found none. Paint some.")
    chance = np.divide(_shares(counts), counts, out=np.zeros(classes), where=counts > 0)
    values: list[Tensor] = []
    parts: list[tuple[NDArray[Any], ...]] = []
    for number, scan in enumerate(scans):
        shape = scan.labels.shape
        chosen = scan.labels.labeled & (rng.random(shape) < chance[scan.labels.classes])
        confidence = np.broadcast_to(np.float32(1) if scan.labels.weight is None else scan.labels.weight, shape)
        places = np.arange(chosen.size).reshape(shape)
        for start, stop, features in maps[number].slabs():
            here = chosen[start:stop]
            if here.any():
                values.append(features[:, torch.from_numpy(here)].T)
                columns = (scan.labels.classes, confidence, places)
                codes, trust, place = (array[start:stop][here] for array in columns)
                parts.append((codes.astype(np.int64), trust, np.full(len(codes), number), place))
    found, trusted, scan_of, place_of = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    stands_for = np.divide(1, chance, out=np.zeros(classes), where=chance > 0)
    return LabeledFeatures(torch.cat(values), found, trusted * stands_for[found], scan_of, place_of)


def fit_perceptrons(
    known: LabeledFeatures,
    classes: int,
    *,
    learned: Sequence[NDArray[np.int64]] | None = None,
    steps: int = 700,
    seed: int = 0,
) -> Perceptrons:
    """Learn from labeled voxels; a function of the arguments.

    Classes weigh by a root of how often they were painted, voxels by their confidence beside that. learned: for each
    member the rows that it learns from, None for all. steps: at most so many, fewer where there are few voxels.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = min(steps, max(_FEWEST_STEPS, math.ceil(_MOST_EPOCHS * len(known.classes) / _BATCH)))
    network = Perceptrons(known.rows.shape[1], classes)
    network.mean.copy_(known.rows.mean(0))
    spread = known.rows.std(0, correction=0)
    network.sd.copy_(torch.where(spread > _CONSTANT, spread, _MUTE))  # what never differs in the paint says nothing
    for parameter in network.weights:
        nn.init.normal_(parameter, std=math.sqrt(2 / parameter.shape[1]), generator=generator)
    truth, weight = torch.from_numpy(known.classes), torch.from_numpy(_balanced(known, classes))
    everything = np.arange(len(truth))
    pools = [torch.from_numpy(rows) for rows in ([everything] * network.members if learned is None else learned)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * (1 - step / steps) ** _DECAY_POWER
        drawn = torch.stack([rows[torch.randint(len(rows), (_BATCH,), generator=generator)] for rows in pools])
        logits = network(known.rows[drawn]).flatten(0, 1)
        losses = nn.functional.cross_entropy(logits, truth[drawn].flatten(), reduction="none")
        loss = (losses * weight[drawn].flatten()).mean() * network.members
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    mass = np.bincount(known.classes, weights=weight.numpy(), minlength=classes).astype(np.float64)
    network.believed = mass / max(mass.sum(), 1e-30)
    return network.eval().requires_grad_(False)


def _balanced(known: LabeledFeatures, classes: int) -> NDArray[np.float32]:
    """Weights (N,) with mean 1, such that a class counts as a root of how often it was painted."""
    total = np.bincount(known.classes, weights=known.weight, minlength=classes)
    of_class = np.divide(1, total**_BALANCE, out=np.zeros(classes), where=total > 0)
    weight = known.weight * of_class[known.classes]
    mean = weight.mean()
    return (weight / mean if mean > 0 else weight).astype(np.float32)


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many voxels of every class to keep: all of the rare ones, of the others as many as there is room for."""
    kept, left, open_classes = np.zeros(len(counts)), float(MOST_VOXELS), int((counts > 0).sum())
    for index in np.argsort(counts, kind="stable"):
        if counts[index]:
            kept[index] = min(float(counts[index]), left / open_classes)
            left, open_classes = left - kept[index], open_classes - 1
    return kept
