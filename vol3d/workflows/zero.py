"""What code 0 seems to be, background or unlabeled: the evidence in numbers. Only a user can know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.config import LabelsConfig
from vol3d.sampling.painting import Plane, across, runs, thin_planes
from vol3d.workflows.coverage import Painting
from vol3d.workflows.finding import Finding, plane_names, slices_option

_MOST = 0.5
_NEARLY_ALL = 0.95
_LIKELY = 0.8
_FILLED = 0.02  # of painted slices, by codes but 0


@dataclass(frozen=True)
class ZeroEvidence:
    """What 0 does in the planes that hold the other codes, or in the painted ones, and elsewhere.

    said: one line. held: the share of all other codes inside the planes. inside, outside: the share of 0 in the planes
    and in the rest; None where there is no such place. option: what to give if the numbers tell the truth, empty where
    somebody said what 0 means, or nothing is to be said.
    """

    said: str
    planes: tuple[Plane, ...] = ()
    held: float | None = None
    inside: float | None = None
    outside: float | None = None
    option: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "said": self.said,
            "slices": list(plane_names(self.planes)),
            "other_codes_in_slices": self.held,
            "zero_in_slices": self.inside,
            "zero_elsewhere": self.outside,
            "option": self.option,
        }


def zero_evidence(codes: NDArray[Any], painting: Painting, unlabeled: tuple[int, ...], *, stated: bool) -> ZeroEvidence:
    """What 0 seems to be. codes: (X, Y, Z) as stored. stated: whether somebody said what the codes mean."""
    zero = np.equal(codes, 0, out=np.empty(codes.shape, dtype=bool))
    share = float(zero.mean())
    if not share:
        return ZeroEvidence("0 does not occur")
    planes = list(painting.planes)
    others = None if planes else _others(codes, zero, unlabeled)
    held = None
    if others is not None:
        planes, held = thin_planes(others)
    inside, outside = _shares(zero, planes)
    numbers = ZeroEvidence("", tuple(planes), held, inside, outside)
    if 0 in unlabeled:
        return _with(numbers, f"0 is unlabeled, as stated{_behaves(numbers)}")
    if stated:
        return _with(numbers, f"0 is a class ({painting.names[0]}), as stated{_behaves(numbers, zero, painting)}")
    return _unstated(numbers, share)


def zero_findings(evidence: ZeroEvidence, unlabeled: tuple[int, ...], config: LabelsConfig) -> list[Finding]:
    """A warning where 0 was stated to be background everywhere, and the other codes lie in a few planes only."""
    held, planes = evidence.held, evidence.planes
    if evidence.option or 0 in unlabeled or config.annotated_slices or held is None or held < _NEARLY_ALL:
        return []  # not stated yet, or stated otherwise
    if not _several(planes):
        return []
    return [
        Finding(
            "warning",
            "zero",
            f"{100 * held:.4g} % of all other codes lie in {len(planes)} planes, but 0 counts as background everywhere",
            plane_names(planes),
            f"If nobody annotated the rest, say --annotated-slices {slices_option(planes)}",
        )
    ]


def looks_painted_by_slices(codes: NDArray[Any]) -> list[Plane]:
    """The slices that hold nearly all codes but 0, where 0 covers most of the volume and there are several; else none.

    codes: (X, Y, Z), of which nobody said what they mean. Slices with next to nothing in them are small flat things.
    """
    filled = np.not_equal(codes, 0, out=np.empty(codes.shape, dtype=bool))
    if filled.mean() >= _MOST:
        return []
    planes, held = thin_planes(filled)
    if held < _NEARLY_ALL or not _several(planes):
        return []
    share, _ = _shares(~filled, planes)
    return planes if share is not None and 1 - share >= _FILLED else []


def _several(planes: Sequence[Plane]) -> bool:
    """Whether planes lie in two places or more."""
    return sum(len(runs(i for a, i in planes if a == axis)) for axis in range(3)) > 1


def _others(codes: NDArray[Any], zero: NDArray[np.bool_], unlabeled: tuple[int, ...]) -> NDArray[np.bool_]:
    """What is neither 0 nor unlabeled."""
    others = ~zero
    for code in unlabeled:
        others &= codes != code
    return others


def _shares(zero: NDArray[np.bool_], planes: list[Plane]) -> tuple[float | None, float | None]:
    """The share of 0 inside the union of planes, and outside; None where there is no such place."""
    inside = np.zeros(zero.shape, dtype=bool)
    for plane in planes:
        inside[across(*plane)] = True
    size = int(np.count_nonzero(inside))
    here = int(np.count_nonzero(zero & inside))
    elsewhere = int(np.count_nonzero(zero)) - here
    return (here / size if size else None), (elsewhere / (zero.size - size) if planes and size < zero.size else None)


def _behaves(numbers: ZeroEvidence, zero: NDArray[np.bool_] | None = None, painting: Painting | None = None) -> str:
    """How 0 behaves in and off the planes, in numbers."""
    if numbers.inside is None:
        return ""
    said = f"; it fills {_percent(numbers.inside)} of {len(numbers.planes)} planes"
    if zero is not None and painting is not None and painting.planes:
        each = [float(zero[across(*plane)].mean()) for plane in numbers.planes]
        said += f" ({_percent(min(each))} to {_percent(max(each))} of each)"
    if numbers.outside is None:
        return said
    return (
        f"{said} and {_percent(numbers.outside)} of the rest" if numbers.outside else f"{said} and occurs nowhere else"
    )


def _unstated(numbers: ZeroEvidence, share: float) -> ZeroEvidence:
    percent = _percent(share)
    planes, held = numbers.planes, numbers.held or 0.0
    if share > _MOST and planes and held > _LIKELY and numbers.inside is not None:
        option = "--unlabeled 0" if numbers.inside < 0.01 else f"--annotated-slices {slices_option(planes)}"
        other = "" if option == "--unlabeled 0" else ", or --unlabeled 0 if it means unlabeled inside them too"
        return _with(
            numbers,
            f"0 fills {_percent(numbers.inside)} of the {len(planes)} planes that hold "
            f"{'all' if held == 1 else _percent(held) + ' of the'} other codes and {_percent(numbers.outside)} of the "
            f"rest: those look like annotated slices, so that 0 is unlabeled outside them: say {option}{other}; "
            f"only you know",
            option,
        )
    if share > _MOST:
        return _with(
            numbers,
            f"0 covers {percent}, and other codes are spread over the volume: 0 looks like background: say --dense if "
            f"all of it was annotated; only you know",
            "--dense",
        )
    return _with(numbers, f"0 covers {percent}: it looks like a class of its own")


def _with(numbers: ZeroEvidence, said: str, option: str = "") -> ZeroEvidence:
    return ZeroEvidence(said, numbers.planes, numbers.held, numbers.inside, numbers.outside, option)


def _percent(share: float | None) -> str:
    """61 %; never rounded to all or nothing."""
    value = 100 * (share or 0.0)
    return f"{value:.0f} %" if value in (0.0, 100.0) or 1 <= value <= 99 else f"{value:.4g} %"
