"""The learning rate over time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then polynomial decay to a small floor; a pure function of the iteration.

    iterations: length of the whole run. warmup_fraction: part of it that warms up, 0…1. power: 0 keeps the rate,
    1 decays linearly. floor: what is left at the end, as a fraction.
    Source of the decay: the "poly" policy of Chen et al. 2018 (DeepLab, arXiv 1606.00915).
    """

    iterations: int
    warmup_fraction: float = 0.05
    power: float = 0.9
    floor: float = 0.01

    def __post_init__(self) -> None:
        if self.iterations < 1 or not 0 <= self.warmup_fraction <= 1 or self.power < 0 or not 0 <= self.floor <= 1:
            raise ValueError(f"expected iterations ≥ 1, fractions in 0…1 and power ≥ 0, found {self}")

    @property
    def warmup(self) -> int:
        """Iterations of warm-up."""
        return round(self.iterations * self.warmup_fraction)

    def factor(self, iteration: int) -> float:
        """What to multiply the learning rate by in `iteration` (0-based); in (0, 1] for a positive floor."""
        if iteration < self.warmup:
            return (iteration + 1) / self.warmup
        left = 1 - (iteration - self.warmup) / max(self.iterations - self.warmup, 1)
        return self.floor + (1 - self.floor) * float(max(left, 0.0) ** self.power)
