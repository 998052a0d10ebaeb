"""A picture of one held-out slice: the scan, what was drawn, what was predicted, and where the two differ."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError
from vol3d.report import figure as paper
from vol3d.report import marks
from vol3d.report.overlay import paint_classes, to_gray, zoom
from vol3d.report.planes import Plane, planes_through
from vol3d.volume import Affine, LabelTable, is_background

_NAMES = ("scan", "drawn", "predicted", "errors")
_KINDS = (
    ("right", (64, 64, 64)),
    ("missed (drawn, predicted background)", (58, 134, 255)),
    ("too much (predicted, drawn background)", (255, 145, 0)),
    ("another class", (214, 40, 110)),
)
_WIDTH, _TALLEST, _GAP, _SIDE = 10.6, 4.4, 0.14, 0.16  # inches: all pictures, the tallest one, between, at the edges
_TITLE, _NAME, _LINE, _FOOT = 0.42, 0.26, 0.26, 0.12
_SLIM = 8.0  # thinner slices are widened
_WINDOW = (0.5, 99.7)  # percentiles shown as black and white
_STRONG = 0.85


@dataclass(frozen=True)
class _Page:
    """Inches. columns of pictures, each wide × high; lines of legend below."""

    columns: int
    wide: float
    high: float
    lines: int

    @property
    def width(self) -> float:
        return max(2 * _SIDE + self.columns * self.wide + (self.columns - 1) * _GAP, 6.4)

    @property
    def height(self) -> float:
        rows = len(_NAMES) // self.columns
        return _TITLE + rows * (self.high + _NAME) + (rows - 1) * _GAP / 2 + _LINE * self.lines + _FOOT

    def box(self, number: int) -> tuple[float, float, float, float]:
        row, column = divmod(number, self.columns)
        left = _SIDE + column * (self.wide + _GAP)
        top = _TITLE + _NAME + row * (self.high + _NAME + _GAP / 2)
        return (
            left / self.width,
            1 - (top + self.high) / self.height,
            self.wide / self.width,
            self.high / self.height,
        )


def slice_png(  # noqa: PLR0913, PLR0917 RUF100  a picture and all that is in it
    path: str | os.PathLike[str],
    image: NDArray[Any],
    affine: Affine,
    plane: tuple[int, int],
    drawn: NDArray[Any],
    labeled: NDArray[np.bool_],
    predicted: NDArray[Any],
    table: LabelTable,
    *,
    title: str = "",
) -> Path:
    """Write one slice four times: bare, with the drawn classes, with the predicted ones, and their errors.

    image: (X, Y, Z) or (C, X, Y, Z); the mean of its channels is shown. plane: axis and index of this grid. drawn,
    predicted: class indices of `table`, (X, Y, Z), looked at only where `labeled`; the rest is faded. The slice is
    turned to closest RAS in its physical proportions; one more than eight times as long as wide is drawn wider, says so
    and has no scale bar. Raises `GeometryError` where shapes differ, the plane is outside or a mere line.
    """
    channels = image if image.ndim == 4 else image[None]
    cut = _plane(path, channels.shape[1:], plane, affine, (drawn, labeled, predicted))
    known = cut.cut(labeled, affine)
    truth, answer = (np.where(known, cut.cut(array, affine), 0) for array in (drawn, predicted))
    gray = _gray(cut.cut(channels, affine))
    kinds = _kinds(truth, answer, table)
    seen = sorted({int(k) for k in np.unique(np.concatenate([truth[known], answer[known]]))})
    legend = marks.legend_of(table, seen, False) + ([] if known.all() else [marks.Entry("not scored", "#d4d7dc")])
    errors = [marks.Entry(_KINDS[k][0], _rgb(_KINDS[k][1])) for k in np.unique(kinds[known]) if k]
    page, lines = _lay_out(cut, legend, errors)
    down = max(1, min(12, round(page.high * paper.DPI / gray.shape[0])))
    over = max(1, min(12, round(page.wide * paper.DPI / gray.shape[1])))
    big, mask = zoom(gray, down, over), zoom(known, down, over)
    colors = np.array([c.color for c in table.classes], dtype=np.uint8)
    filled = np.array([not is_background(c.name) for c in table.classes])
    line = 2 if min(down, over) >= 3 else 1
    pictures = [
        big,
        *(paint_classes(big, zoom(found, down, over), mask, colors, filled, line=line) for found in (truth, answer)),
        _errors(big, zoom(kinds, down, over), mask),
    ]
    drawing = paper.new_figure(page.width, page.height)
    style = {"ha": "left", "va": "top", "fontsize": 11, "fontweight": "bold"}
    paper.write(
        drawing, _SIDE / page.width, 1 - 0.12 / page.height, paper.shorten(title, int(page.width * 10)), **style
    )
    for number, picture in enumerate(pictures):
        axes = drawing.add_axes(page.box(number))
        axes.set_axis_off()
        axes.imshow(picture, aspect="auto", interpolation="antialiased")
        marks.letters(axes, cut)
        name = _NAMES[number]
        if number == 0 and cut.is_thinner_than(_SLIM):
            name = f"{name} (not to scale)"
        elif number == 0:
            marks.scale_bar(axes, cut)
        left, bottom, _, high = page.box(number)
        paper.write(drawing, left, bottom + high + 0.06 / page.height, name, ha="left", va="bottom")
    _draw_legend(drawing, page, lines)
    return paper.save_png(drawing, path)


def _plane(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    plane: tuple[int, int],
    affine: Affine,
    arrays: tuple[NDArray[Any], ...],
) -> Plane:
    axis, index = plane
    for array in arrays:
        if array.shape != shape:
            raise GeometryError(f"{path}: expected labels and prediction of the image's {shape}, found {array.shape}")
    if not 0 <= index < shape[axis]:
        raise GeometryError(f"{path}: expected a plane of a grid of {shape}, found {'xyz'[axis]}={index}")
    x, y, z = (index if a == axis else 0 for a in range(3))
    planes = planes_through((x, y, z), (shape[0], shape[1], shape[2]), affine)
    found = next((cut for cut in planes if cut.axis == axis), None)
    if found is None:
        raise GeometryError(f"{path}: plane {'xyz'[axis]}={index} of a grid of {shape} is a mere line; take another")
    return found


def _gray(channels: NDArray[Any]) -> NDArray[np.float32]:
    """Float32 (rows, columns, 3), 0 … 1, by the intensities of this very slice."""
    grays = []
    for channel in channels:
        finite = channel[np.isfinite(channel)]
        low, high = np.percentile(finite, _WINDOW) if finite.size else (0.0, 1.0)
        grays.append(to_gray(channel, float(low), float(high)))
    return np.stack([np.mean(grays, axis=0, dtype=np.float32)] * 3, axis=-1)


def _kinds(truth: NDArray[Any], answer: NDArray[Any], table: LabelTable) -> NDArray[np.uint8]:
    """Which of `_KINDS` every voxel is."""
    nothing = np.array([is_background(c.name) for c in table.classes])
    wrong = truth != answer
    kinds = np.where(nothing[answer], 1, np.where(nothing[truth], 2, 3))
    return np.where(wrong, kinds, 0).astype(np.uint8)


def _errors(picture: NDArray[np.float32], kinds: NDArray[np.uint8], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    colors = np.array([color for _, color in _KINDS], dtype=np.uint8)
    nothing = np.zeros(len(_KINDS), dtype=bool)
    faded = paint_classes(picture, kinds, known, colors, nothing)  # unlabeled voxels fade as in the other pictures
    wrong = (kinds > 0) & known
    mixed = _STRONG * colors[kinds] + (1 - _STRONG) * faded
    return np.where(wrong[..., None], np.rint(mixed), faded).astype(np.uint8)


def _lay_out(cut: Plane, *legends: list[marks.Entry]) -> tuple[_Page, list[list[marks.Entry]]]:
    """Four, two or one picture in a row, whichever makes them largest; lines of the legends."""
    longest = max(cut.width_mm, cut.height_mm)
    wide, high = (max(side, longest / _SLIM) for side in (cut.width_mm, cut.height_mm))
    options = []
    for columns in (4, 2, 1):
        room = (_WIDTH - (columns - 1) * _GAP) / columns
        scale = min(room / wide, _TALLEST / (len(_NAMES) // columns) ** 0.5 / high)
        options.append((scale * (1 + 0.1 * columns), columns, scale))  # a row is easier to compare
    _, columns, scale = max(options)
    bare = _Page(columns, wide * scale, high * scale, 0)
    lines: list[list[marks.Entry]] = []
    for legend in legends:
        for number, entry in enumerate(legend):
            if number and sum(e.inches for e in (*lines[-1], entry)) <= bare.width - 2 * _SIDE:
                lines[-1].append(entry)
            else:
                lines.append([entry])
    return _Page(columns, bare.wide, bare.high, len(lines)), lines


def _draw_legend(drawing: Any, page: _Page, lines: list[list[marks.Entry]]) -> None:  # noqa: ANN401  a Figure
    from matplotlib.patches import Rectangle

    for row, line in enumerate(lines):
        middle = _FOOT / 2 + _LINE * (len(lines) - row - 0.5)
        left = _SIDE
        for entry in line:
            if entry.color is not None:
                corner = (left / page.width, (middle - 0.07) / page.height)
                size = (0.14 / page.width, 0.14 / page.height)
                edge = paper.FAINT if isinstance(entry.color, str) else entry.color
                box = Rectangle(corner, *size, facecolor=entry.color, edgecolor=edge, linewidth=0.8)
                box.set_transform(drawing.transFigure)
                drawing.add_artist(box)
            x = (left + (0.22 if entry.color is not None else 0)) / page.width
            paper.write(drawing, x, middle / page.height, entry.name, va="center_baseline", ha="left")
            left += entry.inches


def _rgb(color: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(value / 255 for value in color)
