"""How a training went, as a picture: loss, validation score and learning rate over the iterations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vol3d.report import figure as paper
from vol3d.report.metrics import Row, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
_SMOOTH_PART = 0.04  # of the run: how far smoothing looks back
_LOG_SPAN = 20.0  # the loss gets a logarithmic axis where it falls by more than this
_MOST_POINTS = 4000


def curves_png(
    path: str | os.PathLike[str],
    rows: Sequence[Row],
    *,
    title: str = "",
    score_name: str = "validation mean IoU",
    marks: Sequence[tuple[int, str]] = (),
) -> Path:
    """Write loss (raw and smoothed), validation score and learning rate over iterations. Returns the path.

    rows: objects or dictionaries with `iteration` and, where known, `loss`, `validation` and `learning_rate`, as
    training logs them or `read_metrics` gives them; None and NaN leave a gap. Panels without any value are left out.
    marks: (iteration, text) for moments such as the start of another stage.
    """
    loss, score, rate = (_series(rows, name) for name in ("loss", "validation", "learning_rate"))
    panels = [(loss, 2.6, _draw_loss)]
    if len(score):
        panels.append((score, 1.9, lambda axes, points: _draw_score(axes, points, score_name)))
    if len(rate):
        panels.append((rate, 1.0, _draw_rate))
    top, bottom, gap, left, right, width = 0.62 if title else 0.26, 0.52, 0.22, 0.86, 0.26, 8.0
    height = top + bottom + sum(high for _, high, _ in panels) + gap * (len(panels) - 1)
    drawing = paper.new_figure(width, height)
    if title:
        style = {"ha": "left", "va": "top", "fontsize": 12, "fontweight": "bold"}
        paper.write(drawing, left / width, 1 - 0.15 / height, paper.shorten(title, 78), **style)
    limits = _limits(rows)
    upper = height - top
    for number, (points, high, draw) in enumerate(panels):
        box = (left / width, (upper - high) / height, (width - left - right) / width, high / height)
        axes = drawing.add_axes(box)
        paper.quiet_axes(axes)
        axes.set_xlim(*limits)
        draw(axes, points)
        last = number == len(panels) - 1
        axes.tick_params(labelbottom=last)
        _draw_marks(axes, marks, named=number == 0)
        if last:
            axes.set_xlabel("iteration", fontsize=9, color=paper.INK, family=paper.FONT)
        upper -= high + gap
    drawing.align_ylabels()
    return paper.save_png(drawing, path)


def smooth(values: Floats, window: float) -> Floats:
    """Exponential average that forgets over `window` values and starts at the first one; float64 (n,)."""
    keep = np.exp(-1.0 / max(window, 1e-9))
    out = np.empty(len(values))
    average, weight = 0.0, 0.0
    for number, value in enumerate(values):
        average = keep * average + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        out[number] = average / weight
    return out


def _series(rows: Sequence[Row], name: str) -> Floats:
    """Points (iteration, value) that are finite; float64 (n, 2), by iteration."""
    pairs = [(value_of(row, "iteration"), value_of(row, name)) for row in rows]
    points = np.array([(a, b) for a, b in pairs if a is not None and b is not None], dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[np.argsort(points[:, 0], kind="stable")]


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    known = (value_of(row, "iteration") for row in rows)
    iterations = [value for value in known if value is not None]
    if not iterations:
        return (0.0, 1.0)
    room = max(0.01 * (max(iterations) - min(iterations)), 0.5)
    return (min(iterations) - room, max(iterations) + room)


def _thin(points: Floats) -> Floats:
    """Every n-th point, so that a long run stays a small picture."""
    return points[:: max(1, -(-len(points) // _MOST_POINTS))]


def _name(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, fontsize=9, color=paper.INK, family=paper.FONT)


def _draw_loss(axes: Axes, points: Floats) -> None:
    _name(axes, "training loss")
    if not len(points):
        paper.write(axes, 0.5, 0.5, "nothing logged yet", transform=axes.transAxes, ha="center", color=paper.FAINT)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    averaged = np.column_stack([points[:, 0], smooth(points[:, 1], _SMOOTH_PART * len(points))])
    few = len(points) < 30
    axes.plot(*_thin(points).T, color=paper.ACCENT, alpha=0.28, linewidth=0.8, marker="o" if few else "", markersize=3)
    axes.plot(*_thin(averaged).T, color=paper.ACCENT, linewidth=1.8)
    positive = points[:, 1] > 0
    if positive.all() and averaged[:, 1].max() > _LOG_SPAN * averaged[:, 1].min():
        axes.set_yscale("log")
    else:
        low, high = np.percentile(points[:, 1], [0, 99.5])  # a few spikes must not flatten the rest
        room = 0.06 * max(high - low, 0.5 * abs(high) * (low == high), 1e-12)
        axes.set_ylim(low - room, high + room)
    style = {"transform": axes.transAxes, "ha": "right", "va": "top", "fontsize": 9, "color": paper.ACCENT}
    paper.write(axes, 0.995, 0.97, f"{averaged[-1, 1]:.4g} at the end, smoothed", **style)


def _draw_score(axes: Axes, points: Floats, name: str) -> None:
    _name(axes, name)
    axes.plot(*points.T, color=paper.SECOND, linewidth=1.6, marker="o", markersize=3.5)
    best = points[np.argmax(points[:, 1])]
    axes.plot(*best, color=paper.SECOND, marker="o", markersize=8, fillstyle="none", markeredgewidth=1.4)
    low, high = points[:, 1].min(), points[:, 1].max()
    room = 0.12 * max(high - low, 0.02)
    axes.set_ylim(low - room, high + room)
    style = {"transform": axes.transAxes, "ha": "right", "va": "bottom", "fontsize": 9, "color": paper.SECOND}
    paper.write(axes, 0.995, 0.05, f"best {best[1]:.3f} at iteration {best[0]:.0f}", **style)


def _draw_rate(axes: Axes, points: Floats) -> None:
    _name(axes, "learning rate")
    axes.plot(*_thin(points).T, color=paper.FAINT, linewidth=1.5, marker="o" if len(points) < 3 else "", markersize=3)
    axes.set_ylim(0, max(1.1 * points[:, 1].max(), 1e-12))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.yaxis.get_offset_text().set_fontsize(8)


def _draw_marks(axes: Axes, marks: Sequence[tuple[int, str]], *, named: bool) -> None:
    for iteration, text in marks:
        axes.axvline(iteration, color=paper.FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
        if named:
            style = {"transform": axes.get_xaxis_transform(), "fontsize": 8, "color": paper.FAINT}
            paper.write(axes, iteration, 1.02, text, ha="center", va="bottom", **style)
