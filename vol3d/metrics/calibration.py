"""Whether a network is as often right as it says: reliability, its summaries, and one temperature that mends it.

A network is calibrated where, of all voxels it gives a confidence of 0.8, it is right in 80 %. Sums run in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError, LabelError, ModelError

BINS = 15
TEMPERATURES = (0.05, 20.0)  # what a temperature may be
_BLOCK_VALUES = 1 << 22  # probabilities that are looked at together
_LEAST = float(np.finfo(np.float32).tiny)  # below it float32 has no logarithm worth the name
_TOLERANCE = 1e-3  # of the sum of probabilities
_STARTS = 25  # temperatures tried before the best is refined
_WORTH = 1e-9  # nats per voxel that a temperature must gain
_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy over labeled voxels, in 15 bins of equal width. Additive.

    sums: float64 (3, 1 + K, 15): the voxels' weights, their weights × confidence, and the weights of those where the
    class was right; first for the most probable class (its confidence is its probability, ties go to the lower index),
    then for every class by itself (confidence: its probability). Bin b holds confidences in (b/15, (b+1)/15], the
    first one 0 as well. squared, log_loss: sums over voxels of weight × squared error, and × −log probability.
    """

    sums: _Floats
    squared: float = 0.0
    log_loss: float = 0.0

    def __post_init__(self) -> None:
        sums = np.array(self.sums, dtype=np.float64)
        if sums.ndim != 3 or sums.shape[0] != 3 or sums.shape[1] < 2 or sums.shape[2] != BINS:
            raise LabelError(f"expected sums of shape (3, 1 + classes, {BINS}), found {sums.shape}")
        sums.flags.writeable = False
        object.__setattr__(self, "sums", sums)

    @classmethod
    def empty(cls, classes: int) -> Reliability:
        """Of `classes` classes, before anything was counted."""
        return cls(np.zeros((3, 1 + classes, BINS)))

    @classmethod
    def of(cls, probabilities: NDArray[Any], classes: NDArray[Any], weight: NDArray[Any] | None = None) -> Reliability:
        """Count every voxel by its weight.

        probabilities: (K, ...), adding up to 1. classes: class indices 0…K−1, integers (...). weight: (...), bool
        (labeled) or real ≥ 0; None: 1 everywhere. What stands where the weight is 0 has no influence. Raises
        `GeometryError` on different shapes; `LabelError` where a voxel that counts has an index that is no class, or
        answers that are no probabilities.
        """
        shapes = [probabilities.shape[1:], classes.shape, *([] if weight is None else [weight.shape])]
        if len(set(shapes)) != 1 or not classes.ndim:
            raise GeometryError(f"expected probabilities, classes and weights of one grid, found {shapes}")
        total = cls.empty(len(probabilities))
        planes = max(1, _BLOCK_VALUES // max(1, math.prod(probabilities.shape[2:]) * len(probabilities)))
        for start in range(0, len(classes), planes):
            block = slice(start, start + planes)
            weights = np.ones(classes[block].shape) if weight is None else weight[block].astype(np.float64)
            chosen = weights != 0
            if chosen.any():
                total += _count(probabilities[:, block][:, chosen], classes[block][chosen], weights[chosen])
        return total

    def update(
        self, probabilities: NDArray[Any], classes: NDArray[Any], weight: NDArray[Any] | None = None
    ) -> Reliability:
        """These voxels and those of `of`, which see; a new value."""
        return self + Reliability.of(probabilities, classes, weight)

    def __add__(self, other: Reliability) -> Reliability:
        if self.classes != other.classes:
            raise LabelError(f"reliabilities of {self.classes} and of {other.classes} classes cannot be added")
        return Reliability(self.sums + other.sums, self.squared + other.squared, self.log_loss + other.log_loss)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self.sums.shape[1] - 1

    @property
    def counts(self) -> _Floats:
        """Weight of the voxels in every bin; (15,)."""
        return self.sums[0, 0]

    @property
    def voxels(self) -> float:
        """Weight of all voxels: their number where they weigh 1."""
        return float(self.counts.sum())

    @property
    def confidence(self) -> _Floats:
        """Mean confidence in every bin, nan in empty ones; (15,)."""
        return _ratio(self.sums[1, 0], self.counts)

    @property
    def accuracy(self) -> _Floats:
        """Part of the voxels in every bin where the most probable class is right, nan in empty ones; (15,)."""
        return _ratio(self.sums[2, 0], self.counts)

    @property
    def expected_calibration_error(self) -> float:
        """ECE: mean over voxels of their bin's |accuracy − confidence|; 0 … 1, nan without voxels.

        Source: Naeini et al. 2015; with 15 bins of the most probable class, Guo et al. 2017.
        """
        return self._error(0)

    @property
    def maximum_calibration_error(self) -> float:
        """MCE: the largest |accuracy − confidence| of a bin that is not empty (Naeini et al. 2015); nan without any."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nanmax(gaps)) if self.voxels else math.nan

    @property
    def class_calibration_errors(self) -> _Floats:
        """ECE of every class by itself, its probability against how often it is the class; (K,)."""
        return np.array([self._error(1 + k) for k in range(self.classes)])

    @property
    def classwise_calibration_error(self) -> float:
        """Mean ECE over classes (classwise-ECE of Kull et al. 2019)."""
        return float(self.class_calibration_errors.mean())

    @property
    def brier_score(self) -> float:
        """Mean squared distance of the probabilities to the truth, summed over classes (Brier 1950); 0 … 2."""
        return self.squared / self.voxels if self.voxels else math.nan

    @property
    def negative_log_likelihood(self) -> float:
        """Mean −log probability of the true class, in nats; a probability below 1.2e-38 counts as that."""
        return self.log_loss / self.voxels if self.voxels else math.nan

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back."""
        return {"sums": self.sums.tolist(), "squared": self.squared, "log_loss": self.log_loss}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Reliability:
        """The inverse of `to_json`. Raises `LabelError` on anything else."""
        try:
            sums = np.array(value["sums"], dtype=np.float64)
            return cls(sums, float(value["squared"]), float(value["log_loss"]))
        except (KeyError, TypeError, ValueError) as error:
            raise LabelError(f"expected a reliability as it was written down, found {str(value)[:100]}") from error

    def _error(self, row: int) -> float:
        weight, confidence, right = self.sums[:, row]
        return float(np.abs(right - confidence).sum() / weight.sum()) if weight.any() else math.nan


def tempered(logits: NDArray[Any], temperature: float) -> _Floats:
    """Class probabilities softmax(logits / temperature); float64 (K, ...).

    logits: (K, N) or (M, K, N), of M members whose probabilities are averaged.
    """
    members = logits[None] if logits.ndim == 2 else logits
    mean = np.zeros(members.shape[1:])
    for member in members:
        scaled = member / np.float64(temperature)
        scaled = np.exp(scaled - scaled.max(axis=0))
        mean += scaled / scaled.sum(axis=0) / len(members)
    return mean


def fit_temperature(logits: NDArray[Any], classes: NDArray[Any], labeled: NDArray[np.bool_] | None = None) -> float:
    """The temperature T > 0 at which softmax(logits / T) has the least negative log likelihood.

    logits: (K, N), or (M, K, N) of M members whose probabilities are averaged. classes: indices 0…K−1, integers (N,).
    labeled: bool (N,), None: all; what stands at other voxels has no influence. T lies between 0.05 and 20. It is 1
    where labels cannot tell: no voxel, one class only, every voxel right (any smaller T would look better still), or
    no T is better than 1. The most probable class of a single member is the same at every T.
    Source: Guo et al. 2017. Raises `GeometryError`, `LabelError`; `ModelError` for logits that are NaN or infinite.
    """
    from scipy.optimize import minimize_scalar

    members = logits[None] if logits.ndim == 2 else logits
    if members.ndim != 3 or classes.ndim != 1 or members.shape[2] != len(classes):
        raise GeometryError(f"expected logits (K, N) or (M, K, N) and N classes, found {logits.shape}, {classes.shape}")
    if labeled is not None:
        members, classes = members[..., labeled], classes[labeled]
    members, truth = members.astype(np.float64), _indices(classes, members.shape[1])
    if not np.isfinite(members).all():
        raise ModelError("expected finite logits to fit a temperature to, found NaN or Inf. Train the model again.")
    if len(np.unique(truth)) < 2 or (members.argmax(axis=1) == truth).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        return _log_loss(members, truth, math.exp(log_temperature))

    tried = np.linspace(math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]), _STARTS)
    best = int(np.argmin([loss(at) for at in tried]))
    bounds = (tried[max(best - 1, 0)], tried[min(best + 1, _STARTS - 1)])
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5})
    if loss(0.0) - float(found.fun) < _WORTH:
        return 1.0
    return float(np.clip(math.exp(found.x), *TEMPERATURES))


def _log_loss(members: _Floats, truth: NDArray[np.int64], temperature: float) -> float:
    """Mean −log of the averaged probability of the true class; members (M, K, N), truth (N,)."""
    total = np.full(len(truth), -np.inf)
    for member in members:
        scaled = member / temperature
        highest = scaled.max(axis=0)
        norm = highest + np.log(np.exp(scaled - highest).sum(axis=0))
        total = np.logaddexp(total, scaled[truth, np.arange(len(truth))] - norm)
    return float(math.log(len(members)) - total.mean())


def _count(probabilities: NDArray[Any], classes: NDArray[Any], weights: _Floats) -> Reliability:
    """Of probabilities (K, n), classes (n,), weights (n,) > 0."""
    values, truth = probabilities.astype(np.float64), _indices(classes, len(probabilities))
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise LabelError(f"expected weights that are 0 or above, found {weights.min()}")
    wrong = ~(np.abs(values.sum(axis=0) - 1) <= _TOLERANCE) | ~(values >= 0).all(axis=0)
    if wrong.any():
        raise LabelError(
            f"expected probabilities that add up to 1 wherever a voxel counts, found {values[:, wrong][:4, 0].tolist()}"
        )
    top, voxels = values.argmax(axis=0), np.arange(len(truth))
    sums = [_binned(values[top, voxels], top == truth, weights)]
    sums += [_binned(value, truth == k, weights) for k, value in enumerate(values)]
    known = values[truth, voxels]
    squared = np.square(values).sum(axis=0) - 2 * known + 1
    log_loss = -np.log(np.maximum(known, _LEAST))
    return Reliability(np.stack(sums, axis=1), float(weights @ squared), float(weights @ log_loss))


def _binned(confidence: _Floats, right: NDArray[np.bool_], weights: _Floats) -> _Floats:
    """(weights, weights × confidence, weights of right ones) in every bin; (3, 15)."""
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    parts = (weights, weights * confidence, weights * right)
    return np.stack([np.bincount(bins, weights=part, minlength=BINS) for part in parts])


def _indices(classes: NDArray[Any], count: int) -> NDArray[np.int64]:
    if classes.dtype.kind not in "biu":
        raise LabelError(f"expected class indices of an integer dtype, found {classes.dtype}")
    if classes.size and (classes.min() < 0 or classes.max() >= count):
        worst = classes.min() if classes.min() < 0 else classes.max()
        raise LabelError(f"expected class indices 0 to {count - 1} where voxels are labeled, found {worst}")
    return classes.astype(np.int64)


def _ratio(part: _Floats, whole: _Floats) -> _Floats:
    ratio: _Floats = np.divide(part, whole, out=np.full(BINS, np.nan), where=whole > 0)
    return ratio
