"""What is measured when the stage that validates has ended, and what the model takes from it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vol3d.config import LossConfig
from vol3d.networks import LogPool, Network
from vol3d.volume import SparseLabels
from vol3d.workflows.calibration import Calibration
from vol3d.workflows.combination import offsets, share_factors
from vol3d.workflows.continuing import Earlier
from vol3d.workflows.listener import Listener
from vol3d.workflows.meaning import Meaning
from vol3d.workflows.objective import weights_of_classes
from vol3d.workflows.scores import Score
from vol3d.workflows.validation import HeldOut

_UNTESTED_WEIGHT = 0.65  # of a pixel classifier, where nothing is held out


class StageEnd:
    """The best weights on held-out labels, before these are learned from: how good, and how sure may they be?

    known: what is learned from in the end, whose class weights the loss has. earlier: what the run began with.
    guided: whether the cases have channels of a pixel classifier. shares: how much of the scans every class covers,
    (K,), where what was painted does not tell; None: as much as of what was painted.
    score: None until there is one. answers: what the network predicted where it got that score, class indices
    (X, Y, Z) per case, None where nothing is held out. calibration: of classes, and of fresh runs alone: the network
    of a continued one has seen most labels before.
    """

    def __init__(
        self,
        held: HeldOut,
        meaning: Meaning,
        loss: LossConfig,
        known: list[SparseLabels],
        earlier: Earlier | None,
        tell: Listener,
        *,
        guided: bool = False,
        shares: NDArray[np.float64] | None = None,
    ) -> None:
        self._held, self._kind, self._table = held, meaning.spec.kind, meaning.table
        self._loss, self._known, self._earlier, self._tell = loss, known, earlier, tell
        self._guided, self._shares = guided, shares
        self.calibration: Calibration | None = None
        self.score: Score | None = None
        self.answers: list[NDArray[Any] | None] = held.no_answers()

    def factors(self, network: torch.nn.Module) -> NDArray[np.float64]:
        """What class probabilities of `network`, as it trains, are multiplied by when it is judged; see `HeldOut`."""
        if self._kind != "semantic" or not _can_shift(network, len(self._table)):
            return np.ones((1, len(self._table)))
        if self._earlier is not None:
            return np.exp([self._earlier.offsets])
        return share_factors(self._class_weights())

    def measure(self, network: torch.nn.Module) -> dict[str, Any]:
        """Judge a network, which is shifted as the model will be; returns what the run's record keeps of it."""
        kept: dict[str, Any] = {}
        if self._kind == "semantic" and self._earlier is None:
            self.calibration = self.calibrate(network)
            kept["calibration"] = self.calibration.to_json()
            self._tell.note(self.calibration.said)
        self.shift(network)
        self.score = self.judge(network)
        return {**kept, "before_refit": vars(self.score)}

    def calibrate(self, network: torch.nn.Module) -> Calibration:
        """What held-out labels say of a network as it is."""
        can = _can_shift(network, len(self._table))
        return self._held.calibrate(network, self._class_weights() if can else None, self._importance())

    def read(self, record: dict[str, Any]) -> None:
        """Take up what `measure` gave, if the run got so far."""
        if "before_refit" in record:
            self.score = self._held.read(record["before_refit"])
        if "calibration" in record:
            self.calibration = Calibration.from_json(record["calibration"])

    def judge(self, network: torch.nn.Module) -> Score:
        """The score of the model that `network`, shifted, will be part of on held-out labels; its answers are kept."""
        if self._kind == "regression":
            return self._held.score(network)
        self.answers = self._held.answers(self.pooled(network))
        return self._held.score_of(self.answers)

    @property
    def temperature(self) -> float:
        """That of the model."""
        if self._earlier is not None:
            return self._earlier.model.temperature
        return 1.0 if self.calibration is None else self.calibration.stored

    @property
    def pool_weight(self) -> float:
        """How much a pixel classifier counts beside the network; 0 where there is none."""
        return self._pool_weight(self.calibration)

    @property
    def offsets(self) -> list[float]:
        """What to add to the logits after training: the share of the class weights that the calibration found best.

        A continued run has no labels that its network has never seen, and does as the run before it did.
        """
        return self._offsets(self.calibration)

    def shift(self, network: torch.nn.Module) -> None:
        """Add the offsets to the logits of `network`."""
        _shift(network, self.offsets)

    def pooled(self, network: torch.nn.Module) -> torch.nn.Module:
        """A shifted network as the model has it: with the pixel classifier, if that counts."""
        return _pooled(network, self.pool_weight)

    def model_now(self, network: torch.nn.Module) -> torch.nn.Module:
        """What the model would be, were training over now: a copy, shifted and combined as held-out labels advise."""
        found = self.calibrate(network) if self._held and self._earlier is None else None
        copied = copy.deepcopy(network)
        _shift(copied, self._offsets(found))
        return _pooled(copied, self._pool_weight(found))

    def _pool_weight(self, calibration: Calibration | None) -> float:
        if not self._guided:
            return 0.0
        if self._earlier is not None:
            return self._earlier.model.pool_weight
        return _UNTESTED_WEIGHT if calibration is None else calibration.pool_weight

    def _offsets(self, calibration: Calibration | None) -> list[float]:
        if self._earlier is not None:
            return list(self._earlier.offsets)
        share = 0.0 if calibration is None else calibration.prior_share
        found: list[float] = offsets(self._class_weights(), share).tolist() if share else [0.0] * len(self._table)
        return found

    def _class_weights(self) -> NDArray[np.float64]:
        """By how much each class counts more in training than in the scans: to be taken back from what is learned."""
        found: NDArray[np.float64] = weights_of_classes(self._loss, self._table, self._known).double().numpy()
        importance = self._importance()
        return found if importance is None else found / importance

    def _importance(self) -> NDArray[np.float64] | None:
        """How many times as frequent a class is in the scans as in what was painted, (K,); None where that is alike."""
        if self._shares is None:
            return None
        counts = np.sum([labels.counts(len(self._table)) for labels in self._known], axis=0)
        there = (counts > 0) & (self._shares > 0)
        return np.divide(self._shares * counts.sum(), counts, out=np.ones(len(counts)), where=there)


def _can_shift(network: torch.nn.Module, classes: int) -> bool:
    return isinstance(network, Network) and network.shift_logits(torch.zeros(classes))


def _shift(network: torch.nn.Module, found: list[float]) -> None:
    if any(found) and not (isinstance(network, Network) and network.shift_logits(torch.tensor(found))):
        raise AssertionError("class weights are taken back from networks alone that can do it")


def _pooled(network: torch.nn.Module, weight: float) -> torch.nn.Module:
    return LogPool(network, weight).eval() if weight and isinstance(network, Network) else network
