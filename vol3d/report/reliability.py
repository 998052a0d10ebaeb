"""Reliability diagrams: how often a network is right against how sure it says it is, before and after calibration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vol3d.metrics import Reliability
from vol3d.report import figure as paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE, _LOW = 2.9, 0.8  # inches: a diagram, and the histogram under it
_LEFT, _RIGHT, _GAP, _BETWEEN, _UNDER, _OVER = 0.72, 0.22, 0.62, 0.2, 0.5, 0.36
_GAP_FILL = 0.22


def reliability_png(
    path: str | os.PathLike[str],
    before: Reliability,
    after: Reliability | None = None,
    *,
    title: str = "",
    names: tuple[str, str] = ("as trained", "calibrated"),
) -> Path:
    """Write the reliability diagram of `before`, and beside it that of `after`. Returns the path.

    Bars: accuracy in every bin of confidence; red: what lies between it and the bin's mean confidence. On the dashed
    line confidence is accuracy. Below: the part of the voxels in every bin. Source: Guo et al. 2017, figure 1.
    """
    panels = list(zip((before, after), names, strict=True))[: 1 if after is None else 2]
    top = _OVER + (0.36 if title else 0.0)
    width = _LEFT + len(panels) * _SIDE + (len(panels) - 1) * _GAP + _RIGHT
    height = top + _SIDE + _BETWEEN + _LOW + _UNDER
    drawing = paper.new_figure(width, height)
    if title:
        style = {"ha": "left", "va": "top", "fontsize": 12, "fontweight": "bold"}
        paper.write(drawing, _LEFT / width, 1 - 0.12 / height, paper.shorten(title, int(width * 9)), **style)
    for number, (found, name) in enumerate(panels):
        if found is None:
            continue
        left = (_LEFT + number * (_SIDE + _GAP)) / width
        upper = drawing.add_axes((left, (_UNDER + _LOW + _BETWEEN) / height, _SIDE / width, _SIDE / height))
        lower = drawing.add_axes((left, _UNDER / height, _SIDE / width, _LOW / height))
        for axes in (upper, lower):
            paper.quiet_axes(axes)
            axes.set_xlim(0, 1)
        _draw_diagram(upper, found, name)
        _draw_histogram(lower, found)
        if number == 0:
            _name(upper, "accuracy")
            _name(lower, "part of voxels")
    drawing.align_ylabels()
    return paper.save_png(drawing, path)


def _draw_diagram(axes: Axes, found: Reliability, name: str) -> None:
    paper.write(axes, 0, 1.03, name, transform=axes.transAxes, ha="left", va="bottom", fontsize=10)
    axes.set_ylim(0, 1)
    axes.tick_params(labelbottom=False)
    if not found.voxels:
        paper.write(axes, 0.5, 0.5, "no labeled voxel", transform=axes.transAxes, ha="center", color=paper.FAINT)
        return
    some = found.counts > 0
    bins = len(found.counts)
    middles, wide = (np.arange(bins)[some] + 0.5) / bins, 0.92 / bins
    accuracy, confidence = found.accuracy[some], found.confidence[some]
    axes.bar(middles, accuracy, wide, color=paper.ACCENT, label="accuracy")
    low, high = np.minimum(accuracy, confidence), np.maximum(accuracy, confidence)
    fill = (paper.SECOND, _GAP_FILL)
    style: dict[str, Any] = {"facecolor": fill, "edgecolor": paper.SECOND, "linewidth": 0.8}
    axes.bar(middles, high - low, wide, bottom=low, label="gap to confidence", **style)
    axes.plot([0, 1], [0, 1], color=paper.FAINT, linewidth=1, linestyle=(0, (4, 3)))
    legend = axes.legend(
        loc="upper left",
        title=f"ECE {100 * found.expected_calibration_error:.2f} %\nNLL {found.negative_log_likelihood:.3f}",
        alignment="left",
        frameon=False,
        prop={"family": paper.FONT, "size": 8},
        title_fontproperties={"family": paper.FONT, "size": 10, "weight": "bold"},
        labelcolor=paper.INK,
    )
    legend.get_title().set_color(paper.INK)


def _draw_histogram(axes: Axes, found: Reliability) -> None:
    axes.set_xlabel("confidence", fontsize=9, color=paper.INK, family=paper.FONT)
    if not found.voxels:
        return
    bins, parts = len(found.counts), found.counts / found.voxels
    axes.bar((np.arange(bins) + 0.5) / bins, parts, 0.92 / bins, color=paper.FAINT)
    axes.set_ylim(0, 2.0 * float(parts.max()))  # the words stand over the bars
    for value, text, color in (
        (float(found.sums[1, 0].sum()), "mean confidence", paper.SECOND),
        (float(found.sums[2, 0].sum()), "accuracy", paper.ACCENT),
    ):
        at = value / found.voxels
        axes.axvline(at, color=color, linewidth=1.4)
        line = 0.80 if text == "accuracy" else 0.58
        style = {"transform": axes.transAxes, "fontsize": 8, "color": color}
        paper.write(axes, 0.03, line, f"{text} {100 * at:.1f} %", ha="left", va="bottom", **style)


def _name(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, fontsize=9, color=paper.INK, family=paper.FONT)
