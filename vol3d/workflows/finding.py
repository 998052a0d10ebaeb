"""What `check` has to say about labels: one finding, one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from vol3d.sampling.painting import Plane

Severity = Literal["problem", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")
AXES = "xyz"
_MOST_NAMED = 8


@dataclass(frozen=True)
class Finding:
    """severity: problem (`train` refuses), warning (it works, the result suffers) or note.

    kind: a fixed word for scripts. what: what was found. where: slices such as z=12, in the axes that `vol3d info`
    prints. remedy: what to do, empty where `what` says it.
    """

    severity: Severity
    kind: str
    what: str
    where: tuple[str, ...] = ()
    remedy: str = ""

    def line(self) -> str:
        """All of it in one line."""
        said = f"{self.what}. {self.remedy}" if self.remedy else self.what
        return ": ".join(part for part in (self.severity, " ".join(few(self.where)), said) if part)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return vars(self) | {"where": list(self.where)}


def plane_name(plane: Plane) -> str:
    """(2, 12) → z=12."""
    return f"{AXES[plane[0]]}={plane[1]}"


def plane_names(planes: Iterable[Plane]) -> tuple[str, ...]:
    """z=12 for each."""
    return tuple(plane_name(plane) for plane in planes)


def slices_option(planes: Iterable[Plane]) -> str:
    """Planes as `--annotated-slices` takes them: x=3,14 z=5."""
    given = sorted(planes)
    by_axis = {axis: [str(index) for a, index in given if a == axis] for axis in range(3)}
    return " ".join(f"{AXES[axis]}={','.join(found)}" for axis, found in by_axis.items() if found)


def percent(share: float) -> str:
    """12.34 %; with more digits where two would make it nothing or all."""
    text = f"{100 * share:.2f} %"
    rounded = text in {"0.00 %", "100.00 %"} and share not in {0.0, 1.0}
    return f"{100 * share:.6g} %" if rounded else text


def few(parts: Iterable[str]) -> list[str]:
    """The first eight, and … for more."""
    named = list(parts)
    return named[:_MOST_NAMED] + (["…"] if len(named) > _MOST_NAMED else [])
