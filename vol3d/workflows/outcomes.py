"""What becomes of a network's answers, by the task the model was made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.bundle import ModelBundle
from vol3d.config import ObjectRules
from vol3d.instances import InstanceRules, InstanceScheme, instances_from, join
from vol3d.transforms import Undo
from vol3d.volume import LabelClass, LabelTable, Slab, Volume, default_color

_COLORS = 12
_BINS = 8
Slabs = Callable[[bool], Iterator[Slab]]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A prediction on the scan's own grid.

    array: (X, Y, Z), what is written: unsigned codes or object numbers, float32 values of a regression. names: code →
    class name, kept in the file. shown, table: class indices (X, Y, Z) and what they are, for the picture.
    probabilities: float32 (K, X, Y, Z) or None. said: one line about it, or nothing.
    uncertainty: float32 (2, X, Y, Z) or None.
    """

    array: NDArray[Any]
    names: dict[int, str] | None
    shown: NDArray[Any]
    table: LabelTable
    probabilities: NDArray[np.float32] | None = field(default=None)
    said: str = ""
    uncertainty: NDArray[np.float32] | None = field(default=None)


def outcome(bundle: ModelBundle, slabs: Slabs, undo: Undo, volume: Volume, *, probabilities: bool) -> Outcome:
    """Make of the answers what the model's task asks for.

    slabs: runs the network over the prepared volume; its argument asks for bare answers instead of probabilities.
    """
    if bundle.task.kind == "regression":
        return _values(bundle, undo.probabilities(slabs(True), 1)[0])
    if bundle.task.kind == "semantic":
        return _classes(bundle, slabs, undo, probabilities=probabilities)
    return _objects(bundle, undo.probabilities(slabs(False), len(bundle.labels)), volume, probabilities=probabilities)


def _classes(bundle: ModelBundle, slabs: Slabs, undo: Undo, *, probabilities: bool) -> Outcome:
    classes = len(bundle.labels)
    kept = undo.probabilities(slabs(False), classes) if probabilities else None
    indices = undo.labels(slabs(False), classes) if kept is None else kept.argmax(axis=0)
    names = {c.code: c.name for c in bundle.labels.classes}
    return Outcome(bundle.labels.decode(indices), names, indices, bundle.labels, kept)


def _values(bundle: ModelBundle, answers: NDArray[np.float32]) -> Outcome:
    values = (answers.astype(np.float64) * bundle.task.sd + bundle.task.mean).astype(np.float32)
    low, high = (float(v) for v in np.percentile(values, (1, 99)))
    edges = np.linspace(low, high, _BINS + 1)[1:-1]
    shown = np.searchsorted(edges, values).astype(np.uint8)
    bounds = [low, *edges.tolist(), high]
    table = LabelTable(
        tuple(LabelClass(k, f"{bounds[k]:.3g} to {bounds[k + 1]:.3g}", _heat(k / (_BINS - 1))) for k in range(_BINS))
    )
    return Outcome(values, None, shown, table, said=f"values from {values.min():.4g} to {values.max():.4g}")


def _objects(
    bundle: ModelBundle, probabilities_: NDArray[np.float32], volume: Volume, *, probabilities: bool
) -> Outcome:
    scheme = InstanceScheme.from_json(bundle.task.scheme)
    rules = InstanceRules(**(bundle.task.rules or ObjectRules()).model_dump())
    codes, numbers = instances_from(probabilities_, scheme, volume.affine.spacing.tolist(), rules)
    array, names, said = numbers, None, ""
    if scheme.divisor is not None:
        divisor = scheme.divisor
        while divisor <= int(numbers.max()):
            divisor *= 10
        array = join(codes, numbers, divisor)
        names = {c.code * divisor: c.name for c in scheme.classes}
        said = f", written as class code × {divisor} + object number"
    shown = np.where(numbers > 0, (numbers.astype(np.int64) - 1) % _COLORS + 1, 0).astype(np.uint8)
    table = LabelTable(
        (
            LabelClass(0, "background", (64, 64, 64)),
            *(
                LabelClass(k, "" if k > 1 else "objects, a colour each", default_color(k))
                for k in range(1, _COLORS + 1)
            ),
        )
    )
    count = sum(len(np.unique(numbers[(codes == thing) & (numbers > 0)])) for thing in scheme.things)
    kept = probabilities_ if probabilities else None
    return Outcome(array, names, shown, table, kept, f"{count} object{'s'[: count != 1]}{said}")


def _heat(part: float) -> tuple[int, int, int]:
    """A colour for a value between 0 (blue) and 1 (red)."""
    return (round(255 * part), round(80 + 100 * (1 - abs(2 * part - 1))), round(255 * (1 - part)))
