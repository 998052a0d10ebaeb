"""What held-out labels say of a network: how much a pixel classifier should count beside it, how sure it may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vol3d.errors import ConfigError, LabelError
from vol3d.metrics import Reliability, fit_temperature, tempered
from vol3d.networks import current_statistics
from vol3d.sampling.holdout import slice_groups
from vol3d.volume import SparseLabels
from vol3d.workflows.around import Looking, answers_around
from vol3d.workflows.case import Case
from vol3d.workflows.combination import GROUPS, combination, combined

MOST_VOXELS = 200_000
_MOST_VALUES = 1 << 22  # logits kept, all classes and members together
_DENSE = 0.5  # above it labels are no slices
_BLOCK = 16  # voxels along every axis
PlaneName = Callable[[int, int], str]  # of (axis, index)
_SEED = 0  # of the voxels that are taken where there are too many


@dataclass(frozen=True, eq=False)
class Calibration:
    """What came of it.

    temperature: to be stored in the model, fitted to all voxels that were looked at. before: with temperature 1, the
    network as it is. untempered: with temperature 1, the network combined and shifted; None: as before.
    prior_share: how much of the class weights of the loss is taken back from its logits, 0 … 1. Weights make a network
    see a rare class where it only may be, which is good for learning and moves borders outwards. pool_weight: how much
    a pixel classifier counts beside it, see `LogPool`. `combination` chose both.
    after: every half of the voxels with the temperature of the other half, so that none is judged by what was fitted to
    it. halves: these two temperatures; None where the labels could not be halved, and `temperature` then is 1.
    """

    temperature: float
    before: Reliability
    after: Reliability
    halves: tuple[float, float] | None
    prior_share: float = 0.0
    pool_weight: float = 0.0
    untempered: Reliability | None = None

    @property
    def helps(self) -> bool:
        """Whether the other half's temperature made held-out probabilities better (likelihood)."""
        without = self.before if self.untempered is None else self.untempered
        return self.after.negative_log_likelihood < without.negative_log_likelihood

    @property
    def stored(self) -> float:
        """The temperature for the model: 1 where another one does not help."""
        return self.temperature if self.helps else 1.0

    @property
    def final(self) -> Reliability:
        """Of the probabilities that the model gives: with the temperature where it helps, else without."""
        return self.after if self.helps else self.untempered or self.before

    @property
    def changes(self) -> bool:
        """Whether the model's probabilities are others than the bare network's."""
        return self.helps or self.untempered is not None

    @property
    def said(self) -> str:
        """One line for the user."""
        shifted = f"class weights taken back: {100 * self.prior_share:.0f} %; " if self.prior_share else ""
        pooled = f"pixel classifier counts {100 * self.pool_weight:.0f} %; " if self.pool_weight else ""
        if self.halves is None:
            return f"{pooled}{shifted}temperature 1: too few held-out labels to find another"
        low, high = sorted(self.halves)
        ece = [100 * found.expected_calibration_error for found in (self.before, self.final)]
        nll = [found.negative_log_likelihood for found in (self.before, self.final)]
        other = ", each half with the temperature of the other" if self.helps else ""
        tried = f"{self.temperature:.3g}" if self.helps else f"1 ({self.temperature:.3g} does not help)"
        return (
            f"{pooled}{shifted}temperature {tried} (halves {low:.3g} and {high:.3g}): "
            f"calibration error {ece[0]:.2f} % → {ece[1]:.2f} %, −log likelihood {nll[0]:.3f} → {nll[1]:.3f} on "
            f"{self.before.voxels:.0f} held-out voxels{other}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        return {
            "temperature": self.temperature,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "halves": None if self.halves is None else list(self.halves),
            "prior_share": self.prior_share,
            "pool_weight": self.pool_weight,
            "untempered": None if self.untempered is None else self.untempered.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Calibration:
        """The inverse of `to_json`. Raises `LabelError` on anything else."""
        try:
            halves = value["halves"]
            return cls(
                float(value["temperature"]),
                Reliability.from_json(value["before"]),
                Reliability.from_json(value["after"]),
                None if halves is None else (float(halves[0]), float(halves[1])),
                float(value.get("prior_share", 0.0)),
                float(value.get("pool_weight", 0.0)),
                None if value.get("untempered") is None else Reliability.from_json(value["untempered"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise LabelError(f"expected a calibration as it was written down, found {str(value)[:100]}") from error


def calibrate(
    network: Any,  # noqa: ANN401  any module that states its margin and stride
    cases: Sequence[Case],
    labels: Sequence[SparseLabels | None],
    looking: Looking,
    *,
    current: bool = False,
    class_weights: NDArray[np.float64] | None = None,
    importance: NDArray[np.float64] | None = None,
) -> Calibration:
    """Fit a temperature (Guo et al. 2017) to what `network` says of held-out labels; before it, combine and shift it.

    Everything but `network` is what `HeldOut` takes: cases and their held-out labels in one order (None: nothing held),
    at least one labeled voxel in all. Where the cases have channels of a pixel classifier, which must not have seen
    these labels, it is found how much it should count. class_weights: (K,), those of the loss; None or equal ones:
    nothing to take back. importance: (K,), how many times as frequent a class is in scans as in labels, or None.

    When to call it: at the end of the stage that validates, with the best validated weights, before the refit learns
    from these labels. In `training.fit` that is right after the learner went back to its best weights (it forgets them
    there, and a refit overwrites them); where nothing is refitted, with the weights that are stored. Never later: a
    network that has learned from these voxels is surer of them than of any others, and the temperature would come out
    too low. What the refit changes is taken to leave the temperature as it is.

    Only labeled voxels are looked at, at most 200,000 of them, the same ones every time; the network runs in evaluation
    mode. Slices (where labels are dense or no slices, blocks of 16 voxels) are halved alternately; see `Calibration`. A
    single slice is halved by blocks. Planes across several axes are averaged after the softmax, as in prediction; where
    tiles overlap their logits are averaged here, their probabilities in prediction. Flips are left out: with them
    prediction is a little less sure than what was calibrated. The weights of labels play no part, as in `HeldOut`.
    Raises `ConfigError` for a regression and where no voxel is held out.
    """
    held = [(case, known) for case, known in zip(cases, labels, strict=True) if known is not None]
    held = [(case, known) for case, known in held if known.labeled.any()]
    if not held or any(case.target is not None for case, _ in held):
        raise ConfigError("calibration needs held-out labels with classes; hold some out, and leave it out for values")
    masks = _looked_at([known for _, known in held], network.classes * max(1, len(looking.planes)))
    second = _second_half([known for _, known in held], [case.file_plane for case, _ in held])
    with current_statistics(network) if current else nullcontext():
        logits = np.concatenate(
            [
                _logits(network, case, known.labeled, mask, looking)
                for (case, known), mask in zip(held, masks, strict=True)
            ],
            axis=2,
        )
    classes = np.concatenate([known.classes[mask] for (_, known), mask in zip(held, masks, strict=True)])
    half = np.concatenate([away[mask] for away, mask in zip(second, masks, strict=True)])
    other = None
    if held[0][0].logs is not None:
        said = [case.logs.at(mask) for (case, _), mask in zip(held, masks, strict=True) if case.logs is not None]
        other = torch.cat(said, dim=1).numpy()
    weight, share = combination(logits, other, classes, class_weights, _groups(masks), importance)
    found = cross_fitted(combined(logits, other, class_weights, weight, share), classes, half)
    if not share and not weight:
        return found
    before = Reliability.of(tempered(logits, 1.0), classes)
    return replace(found, before=before, untempered=found.before, prior_share=share, pool_weight=weight)


def cross_fitted(logits: NDArray[Any], classes: NDArray[Any], half: NDArray[np.bool_]) -> Calibration:
    """Fit to each half and judge by the other.

    logits: (M, K, N) of M members. classes: indices (N,). half: bool (N,), which half a voxel is in.
    """
    before = Reliability.of(tempered(logits, 1.0), classes)
    if half.all() or not half.any():
        return Calibration(1.0, before, before, None)
    of_first, of_second = (fit_temperature(logits, classes, part) for part in (~half, half))
    after = Reliability.of(tempered(logits[..., half], of_first), classes[half])
    after = after.update(tempered(logits[..., ~half], of_second), classes[~half])
    return Calibration(fit_temperature(logits, classes), before, after, (of_first, of_second))


def _looked_at(labels: Sequence[SparseLabels], values: int) -> list[NDArray[np.bool_]]:
    """Labeled voxels to look at, a mask for each labels; values: that one voxel takes."""
    counts = [int(known.labeled.sum()) for known in labels]
    most = max(1, min(MOST_VOXELS, _MOST_VALUES // values))
    if sum(counts) <= most:
        return [known.labeled for known in labels]
    taken = np.sort(np.random.default_rng(_SEED).choice(sum(counts), most, replace=False, shuffle=False))
    masks, begin = [], 0
    for known, count in zip(labels, counts, strict=True):
        own = taken[(taken >= begin) & (taken < begin + count)] - begin
        mask = np.zeros(known.shape, dtype=bool)
        mask.reshape(-1)[np.flatnonzero(known.labeled)[own]] = True
        masks.append(mask)
        begin += count
    return masks


def _logits(
    network: Any,  # noqa: ANN401  as above
    case: Case,
    labeled: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    looking: Looking,
) -> NDArray[np.float32]:
    """Logits at the voxels of `mask`, a part of `labeled`, in their order, (M, K, N): for each axis of planes."""
    axes: Sequence[int | None] = looking.planes or (None,)
    places = np.flatnonzero(mask)
    found = np.zeros((len(axes), network.classes, len(places)), dtype=np.float32)
    for member, axis in enumerate(axes if len(places) else ()):
        for part in answers_around(network, case, labeled, looking, logits=True, axis=axis):
            wanted = part.asked & mask[part.box.slices()]
            local = np.argwhere(wanted) + part.box.start
            at = np.searchsorted(places, np.ravel_multi_index(tuple(local.T), mask.shape))
            found[member][:, at] = part.values[:, wanted]
    return found


def _groups(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """For every voxel of the masks one of `GROUPS`: neighbours, in one block of 16 voxels, are in the same one."""
    blocks, first = [], 0
    for mask in masks:
        counts = tuple(-(-n // _BLOCK) for n in mask.shape)
        blocks.append(first + np.ravel_multi_index(tuple(np.argwhere(mask).T // _BLOCK), counts))
        first += int(np.prod(counts))
    _, numbers = np.unique(np.concatenate(blocks), return_inverse=True)
    found: NDArray[np.int64] = numbers.astype(np.int64) * GROUPS // (int(numbers.max()) + 1)
    return found if numbers.max() >= GROUPS else numbers.astype(np.int64)


def _second_half(labels: Sequence[SparseLabels], names: Sequence[PlaneName]) -> list[NDArray[np.bool_]]:
    """Which voxels are in the second half, a mask (X, Y, Z) for each labels; both halves hold labels where that can be.

    names: of the planes of each labels; planes of one name are one slice. Every second slice over all labels; where two
    slices cross, the first one counts. Blocks like a chessboard where labels are no slices, or where there is one slice
    in all.
    """
    slices = [_slices(known, name) for known, name in zip(labels, names, strict=True)]
    halves, number = [], 0
    for known, own in zip(labels, slices, strict=True):
        if not own:
            halves.append(_chessboard(known.labeled))
            continue
        away = np.zeros(known.shape, dtype=bool)
        for place in range(len(own) - 1, -1, -1):
            for axis, index in own[place]:
                away[(slice(None),) * axis + (index,)] = (number + place) % 2
        number += len(own)
        halves.append(away)
    chosen = np.concatenate([away[known.labeled] for away, known in zip(halves, labels, strict=True)])
    if chosen.all() or not chosen.any():
        return [_chessboard(known.labeled) for known in labels]
    return halves


def _slices(labels: SparseLabels, name: PlaneName) -> list[list[tuple[int, int]]]:
    return [] if labels.labeled.mean() > _DENSE else slice_groups(labels.labeled, name)


def _chessboard(labeled: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Every second block of the box around the labels; of 16 voxels, smaller where the box has not two of them."""
    parity = np.zeros((1, 1, 1), dtype=np.uint8)
    for axis, length in enumerate(labeled.shape):
        at = np.flatnonzero(labeled.any(axis=tuple(a for a in range(3) if a != axis)))
        low, extent = int(at[0]), int(at[-1] - at[0]) + 1
        block = min(_BLOCK, max(1, -(-extent // 2)))
        number = ((np.arange(length) - low) // block % 2).astype(np.uint8)
        parity = parity ^ number.reshape([-1 if a == axis else 1 for a in range(3)])
    return parity.view(np.bool_)
