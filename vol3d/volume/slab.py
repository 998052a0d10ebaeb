"""A slab: a run of whole planes across the first axis. What inference hands on, so that no full logit volume exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Slab:
    """Planes start … start + values.shape[1] − 1 across X.

    values: float32 (K, x, Y, Z), class probabilities. Logits, or class indices int16 (1, x, Y, Z), where the producer
    says so.
    """

    start: int
    values: NDArray[Any]

    @property
    def stop(self) -> int:
        """One past the last plane."""
        return self.start + int(self.values.shape[1])
