"""How sure the members of an ensemble are, and how far they agree: slab by slab, in one pass, memory flat along X.

Every pass that answers a voxel is a member: of a network, a flip of the whole volume, an axis across which a 2-D
network goes, a tile that overlaps others. With p̄ their weighted mean (what `predict_axes` says), the entropy H(p̄) is
all there is of uncertainty, the mean entropy of the members is what stays where they agree (the data's), and the
difference, the mutual information, is what they disagree about (the model's): Houlsby et al. 2011, Gal et al. 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vol3d.errors import ModelError
from vol3d.inference.average import SharedMeter, in_step, predict_axes
from vol3d.inference.forward import Image, require_temperature, softmax
from vol3d.inference.predict import Progress, tiles_for
from vol3d.inference.tiles import TilePlan
from vol3d.volume import Slab


@dataclass(frozen=True, eq=False)
class Member:
    """A network, the plans it goes through the volume by (see `predict_axes`), and its temperature."""

    network: nn.Module
    plans: Sequence[TilePlan]
    temperature: float = 1.0


@dataclass(frozen=True, eq=False)
class UncertaintySlab:
    """Planes start … stop − 1 across X.

    probabilities: the members' mean, float32 (K, x, Y, Z). expected_entropy: the members' mean entropy / log K, float32
    (x, Y, Z), 0 … 1. Where no tile answered, everything is 0.
    """

    start: int
    probabilities: NDArray[np.float32]
    expected_entropy: NDArray[np.float32]

    @property
    def stop(self) -> int:
        """One past the last plane."""
        return self.start + int(self.probabilities.shape[1])

    @property
    def entropy(self) -> NDArray[np.float32]:
        """H(p̄) / log K: 0 where one class is certain, 1 where all are equally probable; float32 (x, Y, Z)."""
        return normalized_entropy(self.probabilities)

    @property
    def mutual_information(self) -> NDArray[np.float32]:
        """(H(p̄) − mean H(p)) / log K: 0 where all members say the same, at most 1; float32 (x, Y, Z)."""
        return np.maximum(self.entropy - self.expected_entropy, 0)  # below 0 by rounding alone

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The probability of the most probable class; float32 (x, Y, Z)."""
        return self.probabilities.max(axis=0)


def normalized_entropy(probabilities: NDArray[Any]) -> NDArray[Any]:
    """−Σ p log p / log K of probabilities (K, ...): (...), the same dtype, 0 … 1; 0 for a single class."""
    classes = len(probabilities)
    entropy = np.zeros_like(probabilities[0])
    if classes < 2:
        return entropy
    for share in probabilities:
        entropy -= share * np.log(np.where(share > 0, share, 1))
    return np.clip(entropy / entropy.dtype.type(math.log(classes)), 0, 1)


def predict_uncertainty(
    members: Sequence[Member],
    image: Image,
    *,
    flip_axes: Sequence[int] = (),
    device: str | torch.device = "cpu",
    precision: str = "float32",
    needed: NDArray[np.bool_] | None = None,
    progress: Progress | None = None,
) -> Iterator[UncertaintySlab]:
    """Mean class probabilities of all members and their uncertainty, plane by plane.

    members: networks with one set of classes and plans for one volume, of equal weight; one network is enough where
    `flip_axes` or several plans make members of it. image, flip_axes, device, precision, needed: see `predict_axes`,
    whose probabilities these are. progress: voxels of all members together. All networks are on the device at a time;
    memory is that of `predict_axes`, one channel more, for each of them.
    Raises what `predict_axes` raises, `ModelError` for members that do not fit each other.
    """
    _require_alike(members)
    plans = [[_with_entropy(plan) for plan in member.plans] for member in members]
    flipped = [[plan.flipped(flip_axes) if flip_axes else plan for plan in own] for own in plans]
    voxels = [sum(tile.input.voxels for plan in own for tile in tiles_for(plan, needed)) for own in flipped]
    meter = SharedMeter(progress, voxels)
    streams = [
        predict_axes(
            _EntropyBeside(member.network, member.temperature),
            image,
            own,
            flip_axes=flip_axes,
            device=device,
            precision=precision,
            needed=needed,
            logits=True,  # they are probabilities already
            progress=meter.part(number),
        )
        for number, (member, own) in enumerate(zip(members, plans, strict=True))
    ]
    return (_averaged(parts) for parts in in_step(streams))


class _EntropyBeside(nn.Module):
    """Answers probabilities and, as a last channel, their entropy / log K, which is then averaged as they are.

    Not a number wherever a logit is none, so that nothing silently wrong comes out.
    """

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        require_temperature(temperature)
        self.network, self.temperature = network, temperature
        if hasattr(network, "in_channels"):
            self.in_channels = network.in_channels

    def forward(self, image: Tensor) -> Any:  # noqa: ANN401  whatever the network answers, where it is no tensor
        logits = self.network(image)
        if not isinstance(logits, Tensor):
            return logits  # is refused where answers are checked
        if logits.dtype != torch.float64:
            logits = logits.float()
        shares = softmax(logits, self.temperature, dim=1)
        scale = 1 / math.log(logits.shape[1]) if logits.shape[1] > 1 else 0.0
        entropy = torch.special.entr(shares).sum(dim=1, keepdim=True) * scale
        known = torch.isfinite(logits).all(dim=1, keepdim=True)
        return torch.cat([shares, entropy], dim=1).where(known, torch.nan)


def _require_alike(members: Sequence[Member]) -> None:
    facts = {(plan.shape, plan.classes) for member in members for plan in member.plans}
    if len(facts) != 1 or not all(member.plans for member in members):
        raise ModelError(
            f"expected members of one set of classes for one volume, found {len(facts)} kinds of plan among "
            f"{len(members)} members; predict with each alone, or train them on the same classes"
        )


def _with_entropy(plan: TilePlan) -> TilePlan:
    return replace(plan, budget=replace(plan.budget, classes=plan.classes + 1))


def _averaged(parts: list[Slab]) -> UncertaintySlab:
    mean = parts[0].values.copy()
    for count, part in enumerate(parts[1:], 2):
        mean += (part.values - mean) / count  # stays where it is, to the last bit, where all agree
    return UncertaintySlab(parts[0].start, mean[:-1], mean[-1])
