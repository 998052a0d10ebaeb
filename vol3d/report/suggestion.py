"""A picture of one plane that is worth painting: the scan, what was predicted there, and where that is unsure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError
from vol3d.report import figure as paper
from vol3d.report import marks
from vol3d.report.overlay import paint_classes, to_gray, zoom
from vol3d.report.planes import Plane, planes_through
from vol3d.volume import Affine, LabelTable, is_background

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = ("scan", "prediction", "uncertainty")
_SIDE, _LARGEST = 3.6, 11.2  # inches: of a picture's longer side, of all pictures in a row
_EDGE, _GAP, _OVER, _NAME, _BAR, _LINE = 0.16, 0.14, 0.42, 0.26, 0.42, 0.26  # inches
_LONGEST_ASPECT = 8.0
_WINDOW = (0.5, 99.7)  # percentiles shown as black and white
_HEAT = "magma"


def suggestion_png(
    path: str | os.PathLike[str],
    image: NDArray[Any],
    affine: Affine,
    plane: tuple[int, int],
    classes: NDArray[Any],
    entropy: NDArray[Any],
    table: LabelTable,
    *,
    title: str = "",
) -> Path:
    """Write one plane three times: bare, with the predicted classes, and as heat of the uncertainty. Returns the path.

    image: (X, Y, Z) or (C, X, Y, Z), the mean of its channels is shown. plane: axis and index of the stored grid.
    classes: class indices (X, Y, Z) of `table`. entropy: (X, Y, Z), 0 … 1. The plane is turned to closest RAS in its
    physical proportions; where it is more than eight times as long as wide it is drawn wider, says so, and has no scale
    bar. Raises `GeometryError` where the arrays differ in shape or the plane is not in them.
    """
    channels = image if image.ndim == 4 else image[None]
    shape = channels.shape[1:]
    axis, index = plane
    if not shape == classes.shape == entropy.shape:
        raise GeometryError(
            f"{path}: image {shape}, classes {classes.shape} and uncertainty {entropy.shape} must lie on one grid"
        )
    if not 0 <= index < shape[axis]:
        raise GeometryError(f"{path}: plane {'xyz'[axis]}={index} is not in a grid of {shape}")
    cut = _plane(axis, index, shape, affine)
    wide, high = _size(cut)
    seen = cut.cut(classes, affine)
    legend = marks.legend_of(table, sorted(int(k) for k in np.unique(seen)), False)
    room = min(_LARGEST, 3 * _SIDE)
    lines = _legend_rows(legend, room)
    across = 3 if 3 * wide + 2 * _GAP <= _LARGEST else 1
    down = 3 // across
    width = 2 * _EDGE + across * wide + (across - 1) * _GAP + _BAR
    width = max(width, 5.2)
    height = _OVER + down * (high + _NAME) + _EDGE + _LINE * len(lines)
    drawing = paper.new_figure(width, height)
    style = {"ha": "left", "va": "top", "fontsize": 11, "fontweight": "bold"}
    paper.write(drawing, _EDGE / width, 1 - 0.12 / height, paper.shorten(title, int(width * 10)), **style)
    pictures = _pictures(channels, cut, affine, seen, entropy, table, (wide, high))
    for number, picture in enumerate(pictures):
        left = _EDGE + (number % across) * (wide + _GAP)
        top = _OVER + _NAME + (number // across) * (high + _NAME)
        axes = drawing.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
        axes.set_axis_off()
        heat: dict[str, Any] = {"cmap": _HEAT, "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
        shown = axes.imshow(picture, aspect="auto", interpolation="antialiased", **heat)
        stretched = cut.is_thinner_than(_LONGEST_ASPECT)
        _name(axes, f"{_TITLES[number]} (not to scale)" if stretched and not number else _TITLES[number])
        marks.letters(axes, cut)
        if number == 0 and not stretched:
            marks.scale_bar(axes, cut)
        if heat:
            box = ((left + wide + 0.06) / width, 1 - (top + high) / height, 0.09 / width, high / height)
            bar = drawing.colorbar(shown, cax=drawing.add_axes(box), ticks=[0, 0.5, 1])
            bar.ax.tick_params(labelsize=7, length=2, pad=1, labelfontfamily=paper.FONT, colors=paper.INK)
            bar.outline.set_visible(False)
    _write_legend(drawing, lines, width, height)
    return paper.save_png(drawing, path)


def _plane(axis: int, index: int, shape: tuple[int, ...], affine: Affine) -> Plane:
    x, y, z = (index if a == axis else 0 for a in range(3))
    planes = planes_through((x, y, z), (shape[0], shape[1], shape[2]), affine)
    found = next((plane for plane in planes if plane.axis == axis), None)
    if found is None:
        raise GeometryError(f"plane {'xyz'[axis]}={index} of a grid of {shape} is a mere line")
    return found


def _size(plane: Plane) -> tuple[float, float]:
    """Inches of one picture; very thin planes are widened."""
    longest = max(plane.width_mm, plane.height_mm)
    thinnest = longest / _LONGEST_ASPECT
    side = 2 * _SIDE if min(plane.width_mm, plane.height_mm) < longest / 3 else _SIDE
    return side * max(plane.width_mm, thinnest) / longest, side * max(plane.height_mm, thinnest) / longest


def _pictures(
    channels: NDArray[Any],
    plane: Plane,
    affine: Affine,
    classes: NDArray[Any],
    entropy: NDArray[Any],
    table: LabelTable,
    inches: tuple[float, float],
) -> list[NDArray[Any]]:
    """The scan and the prediction as colours (rows, columns, 3), the uncertainty as numbers (rows, columns)."""
    rows, columns = classes.shape
    down = max(1, min(12, round(inches[1] * paper.DPI / rows)))
    over = max(1, min(12, round(inches[0] * paper.DPI / columns)))
    grays = []
    for channel in plane.cut(channels, affine):
        low, high = np.percentile(channel[np.isfinite(channel)], _WINDOW) if np.isfinite(channel).any() else (0, 1)
        grays.append(to_gray(channel, float(low), float(high)))
    gray = zoom(np.stack([np.mean(grays, axis=0)] * 3, axis=-1), down, over)
    colors = np.array([c.color for c in table.classes], dtype=np.uint8)
    filled = np.array([not is_background(c.name) for c in table.classes])
    line = 2 if min(down, over) >= 3 else 1
    tinted = paint_classes(gray, zoom(classes, down, over), None, colors, filled, line=line)
    return [gray, tinted, zoom(plane.cut(entropy, affine), down, over)]


def _name(axes: Axes, text: str) -> None:
    style: dict[str, Any] = {"fontsize": 9, "color": paper.INK, "family": paper.FONT, "ha": "left", "va": "bottom"}
    axes.annotate(text, (0, 1), (0, 4), "axes fraction", textcoords="offset points", **style)


def _legend_rows(entries: list[marks.Entry], room: float) -> list[list[marks.Entry]]:
    """Entries broken into lines of at most `room` inches."""
    lines: list[list[marks.Entry]] = []
    for entry in entries:
        if lines and sum(known.inches for known in lines[-1]) + entry.inches <= room:
            lines[-1].append(entry)
        else:
            lines.append([entry])
    return lines


def _write_legend(figure: Figure, lines: list[list[marks.Entry]], width: float, height: float) -> None:
    """Swatches and names at the bottom."""
    from matplotlib.patches import Rectangle

    for number, line in enumerate(lines):
        middle = _EDGE / 2 + _LINE * (len(lines) - number - 0.5)
        left = _EDGE
        for entry in line:
            indent = 0.0 if entry.color is None else 0.22
            if entry.color is not None:
                corner = (left / width, (middle - 0.07) / height)
                box = Rectangle(corner, 0.14 / width, 0.14 / height, transform=figure.transFigure, linewidth=0.8)
                box.set_facecolor(entry.color)
                box.set_edgecolor(paper.FAINT)
                figure.add_artist(box)
            style = {"va": "center_baseline", "ha": "left", "fontsize": 9}
            paper.write(figure, (left + indent) / width, middle / height, entry.name, **style)
            left += entry.inches
