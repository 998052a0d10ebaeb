"""How scores scatter over cases, as a picture: a panel per metric, a box per class, every case a point."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vol3d.report import figure as paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEWEST_FOR_A_BOX = 3
_LEFT, _RIGHT, _HIGH = 0.72, 0.2, 2.1  # inches: beside the panels, and the height of one
_OVER, _UNDER = 0.32, 0.46  # inches over a panel (its title) and under it (names of the boxes)
_BOX = 0.55  # inches
_BESIDE = np.array([0.0, 0.24, -0.24, 0.12, -0.12])  # box widths that neighbouring points lie from the middle
_LONGEST_LABEL = 22


@dataclass(frozen=True)
class Panel:
    """One metric. groups: (name, value of every case) per box; nan where undefined. bounded: a score of at most 1."""

    title: str
    groups: tuple[tuple[str, tuple[float, ...]], ...]
    bounded: bool = True


def boxplot_png(path: str | os.PathLike[str], panels: Sequence[Panel], *, title: str = "") -> Path:
    """Write a picture of the panels, one below the other. Returns the path.

    A box runs from the lower to the upper quartile with the median in it, its whiskers to the farthest case within
    1.5 box lengths; fewer than three cases are points alone. Cases that are undefined or infinite cannot be drawn:
    their number stands under the box.
    """
    boxes = max((len(panel.groups) for panel in panels), default=1)
    names = [name for panel in panels for name, _ in panel.groups]
    room = max((len(paper.shorten(name, _LONGEST_LABEL)) for name in names), default=1)
    slot = max(0.75, 0.075 * room + 0.2)  # inches that a box and its name take
    width = min(max(3.6, _LEFT + _RIGHT + slot * boxes), 16.0)
    crowded = width < _LEFT + _RIGHT + slot * boxes
    under = _UNDER + (0.07 * room if crowded else 0.0)
    top = 0.36 if title else 0.0
    height = top + len(panels) * (_OVER + _HIGH + under)
    drawing = paper.new_figure(width, height)
    if title:
        style = {"ha": "left", "va": "top", "fontsize": 12, "fontweight": "bold"}
        paper.write(drawing, 0.2 / width, 1 - 0.14 / height, paper.shorten(title, int(width * 9)), **style)
    inside = width - _LEFT - _RIGHT
    bottom = height - top
    for panel in panels:
        bottom -= _OVER + _HIGH
        axes = drawing.add_axes((_LEFT / width, bottom / height, inside / width, _HIGH / height))
        paper.quiet_axes(axes)
        _draw_panel(axes, panel, min(0.6, _BOX * len(panel.groups) / inside), crowded=crowded)
        bottom -= under
    return paper.save_png(drawing, path)


def _draw_panel(axes: Axes, panel: Panel, box: float, *, crowded: bool) -> None:
    paper.write(axes, 0, 1.03, panel.title, transform=axes.transAxes, ha="left", va="bottom", fontsize=10)
    labels, known = [], []
    for place, (name, values) in enumerate(panel.groups):
        drawn = [value for value in values if math.isfinite(value)]
        labels.append(_label(name, len(values), len(drawn)))
        known += drawn
        if len(drawn) >= _FEWEST_FOR_A_BOX:
            _draw_box(axes, place, drawn, box)
        style: dict[str, Any] = {
            "s": 15,
            "color": paper.SECOND,
            "alpha": 0.8,
            "linewidths": 0.5,
            "edgecolors": "white",
            "zorder": 4,
        }
        axes.scatter(place + box * _spread(drawn), drawn, **style)
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.6, len(panel.groups) - 0.4)
    slanted: dict[str, Any] = {"rotation": 90, "va": "top", "ha": "center"} if crowded else {}
    axes.set_xticks(range(len(labels)), labels, fontsize=8, family=paper.FONT, parse_math=False, **slanted)
    axes.set_ylim(*_limits(known, panel.bounded))
    if not known:
        style = {"transform": axes.transAxes, "ha": "center", "va": "center", "color": paper.FAINT}
        paper.write(axes, 0.5, 0.5, "no case has a finite value", **style)
        axes.set_yticks([])


def _draw_box(axes: Axes, place: int, values: list[float], width: float) -> None:
    line = {"color": paper.ACCENT, "linewidth": 1.2}
    axes.boxplot(
        values,
        positions=[place],
        widths=width,
        showfliers=False,  # every case is drawn as a point anyway
        patch_artist=True,
        boxprops={"facecolor": paper.ACCENT + "26", "edgecolor": paper.ACCENT, "linewidth": 1.2},
        medianprops=line | {"linewidth": 2.0},
        whiskerprops=line,
        capprops=line,
        manage_ticks=False,
        zorder=3,
    )


def _spread(values: list[float]) -> NDArray[np.float64]:
    """Offsets of the points from the middle of their box, so that equal values stay apart; by their order alone."""
    offsets = np.zeros(len(values))
    offsets[np.argsort(values, kind="stable")] = _BESIDE[np.arange(len(values)) % len(_BESIDE)]
    return offsets


def _label(name: str, cases: int, drawn: int) -> str:
    short = paper.printable(paper.shorten(" ".join(name.split()), _LONGEST_LABEL))
    if not cases:
        return f"{short}\nnot measured"
    return f"{short}\n{cases - drawn} not drawn" if drawn < cases else short


def _limits(values: list[float], bounded: bool) -> tuple[float, float]:
    """A score shows the whole of 0 to 1 unless all cases lie in its upper part; a distance starts at 0."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if bounded:
        floor = 0.0 if low >= 0 else low - 0.05
        steps = (0.9, 0.8, 0.5)
        return (next((step for step in steps if low >= step + 0.02), floor) - 0.01, max(1.0, high) + 0.01)
    room = 0.06 * max(high - min(low, 0.0), 1e-12)
    return (0.0 if low >= 0 else low - room, high + room)
