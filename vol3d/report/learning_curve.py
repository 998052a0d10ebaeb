"""How scores grow with annotation, as a picture: IoU against the number of annotated slices."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vol3d.report import figure as paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEAN = "mean"
_LINES = ("#2a9d8f", "#b5651d", "#7b5ea7", "#c2185b", "#4f772d", "#0f7c90", "#8d6e63", "#5c6bc0")
_LEFT, _WIDE, _BESIDE, _HIGH = 0.72, 5.2, 1.7, 2.7  # inches: before, of and beside a panel, and its height
_OVER, _UNDER = 0.52, 0.56  # inches over a panel (its title and the shares) and under it
_NAME_GAP = 0.055  # between two names at the right, of a panel's height
_LONGEST_NAME = 22
_FEWEST_INCHES = 0.42  # between two labels of an axis


@dataclass(frozen=True)
class CurvePoint:
    """The scores at one amount of annotation.

    slices: how many. share: part of all voxels that is labeled, 0 to 1. values: per line (a class's name, or `MEAN`),
    the score of every training; nan where undefined.
    """

    slices: int
    share: float
    values: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Curve:
    """One panel. points: in any order; `MEAN` is drawn bold."""

    title: str
    points: tuple[CurvePoint, ...]


def learning_curve_png(path: str | os.PathLike[str], curves: Sequence[Curve], *, title: str = "") -> Path:
    """Write a panel per curve, one below the other. Returns the path.

    A thin line per class, the mean bold; every point is the mean over the trainings, its bar one standard deviation to
    both sides (n − 1; none for a single training). Below stands the number of slices, above the labeled share.
    """
    top = 0.4 if title else 0.08
    width, height = _LEFT + _WIDE + _BESIDE, top + len(curves) * (_OVER + _HIGH + _UNDER)
    drawing = paper.new_figure(width, height)
    if title:
        style = {"ha": "left", "va": "top", "fontsize": 12, "fontweight": "bold"}
        paper.write(drawing, 0.2 / width, 1 - 0.14 / height, paper.shorten(title, int(width * 9)), **style)
    low = _lowest(curves)
    bottom = height - top
    for curve in curves:
        bottom -= _OVER + _HIGH
        axes = drawing.add_axes((_LEFT / width, bottom / height, _WIDE / width, _HIGH / height))
        paper.quiet_axes(axes)
        axes.set_ylim(low, 1.0)
        _draw(axes, curve)
        bottom -= _UNDER
    return paper.save_png(drawing, path)


def _draw(axes: Axes, curve: Curve) -> None:
    points = sorted(curve.points, key=lambda point: (point.slices, point.share))
    names = list(dict.fromkeys(name for point in points for name in point.values))
    classes = [name for name in names if name != MEAN]
    ends: list[tuple[float, str, str, bool]] = []
    for number, name in enumerate([*classes, *([MEAN] if MEAN in names else [])]):
        bold = name == MEAN
        color = paper.INK if bold else _LINES[number % len(_LINES)]
        known = [(p.slices, *_mean_and_sd(p.values.get(name, ()))) for p in points]
        known = [one for one in known if not math.isnan(one[1])]
        if not known:
            continue
        places, means, spreads = zip(*known, strict=True)
        axes.errorbar(
            places,
            means,
            yerr=spreads,
            color=color,
            linewidth=2.6 if bold else 1.1,
            elinewidth=1.6 if bold else 0.8,
            capsize=3 if bold else 2,
            marker="o",
            markersize=5 if bold else 3,
            zorder=4 if bold else 3,
        )
        ends.append((means[-1], paper.shorten(name, _LONGEST_NAME), color, bold))
    _name_lines(axes, ends)
    _name_axes(axes, points)
    paper.write(axes, 0, 1.1, curve.title, transform=axes.transAxes, ha="left", va="bottom", fontsize=10)


def _name_lines(axes: Axes, ends: Sequence[tuple[float, str, str, bool]]) -> None:
    """Each line's name at its right end, pushed apart where lines end close to each other."""
    low, high = axes.get_ylim()
    heights: list[float] = []
    for value, *_ in sorted(ends):
        heights.append(max((value - low) / (high - low), heights[-1] + _NAME_GAP if heights else 0.0))
    above = max(0.0, max(heights, default=0.0) - 1.0)
    for height, (_, name, color, bold) in zip(heights, sorted(ends), strict=True):
        style: dict[str, Any] = {"transform": axes.transAxes, "ha": "left", "va": "center", "color": color}
        style |= {"fontweight": "bold"} if bold else {}
        paper.write(axes, 1.02, height - above, name, **style)


def _name_axes(axes: Axes, points: Sequence[CurvePoint]) -> None:
    shares: dict[int, list[float]] = {}
    for point in points:
        shares.setdefault(point.slices, []).append(point.share)
    places = sorted(shares)
    room = max(0.06 * (places[-1] - places[0]), 0.5)
    axes.set_xlim(places[0] - room, places[-1] + room)
    named = _apart(places, _FEWEST_INCHES * (places[-1] - places[0] + 2 * room) / _WIDE)
    axes.set_xticks(named, [str(place) for place in named], family=paper.FONT)
    axes.set_xlabel("annotated slices", fontsize=9, color=paper.INK, family=paper.FONT)
    axes.set_ylabel("IoU", fontsize=9, color=paper.INK, family=paper.FONT)
    for place in named:
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8, "color": paper.FAINT}
        text = percent(sum(shares[place]) / len(shares[place]))
        paper.write(axes, place, 1.015, text, transform=axes.get_xaxis_transform(), **style)
    style = {"transform": axes.transAxes, "ha": "left", "va": "bottom", "fontsize": 8, "color": paper.FAINT}
    paper.write(axes, 1.02, 1.015, "of the voxels labeled", **style)


def _apart(places: Sequence[int], least: float) -> list[int]:
    """Those places whose labels do not touch; the first and the last are kept."""
    kept = [places[0]]
    for place in places[1:-1]:
        if place - kept[-1] >= least and places[-1] - place >= least:
            kept.append(place)
    return kept if places[-1] == kept[-1] else [*kept, places[-1]]


def percent(share: float) -> str:
    """A share between 0 and 1 for people."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _lowest(curves: Sequence[Curve]) -> float:
    """Where the axis begins: 0, or the next tenth below everything that is drawn, where that is far from 0."""
    drawn = []
    for curve in curves:
        for point in curve.points:
            for values in point.values.values():
                mean, spread = _mean_and_sd(values)
                drawn += [] if math.isnan(mean) else [mean - spread]
    least = min(drawn, default=0.0)
    return math.floor(10 * least) / 10 if least > 0.5 else min(0.0, least)


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of the values that are defined; nan without any, a spread of 0 for one."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, 0.0
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))
