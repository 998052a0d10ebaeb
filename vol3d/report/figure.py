"""A blank figure and its way to a file: matplotlib's object interface on the Agg canvas, no global state."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1d2430"  # text and lines
FAINT = "#7b8494"  # what is read second
GRID = "#e4e7ec"
ACCENT = "#1f6fb2"
SECOND = "#c8553d"
FONT = "DejaVu Sans"  # comes with matplotlib: a figure looks the same everywhere
DPI = 150
_WRITABLE = dict.fromkeys(range(32), " ")


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """An empty white figure with its own Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write the figure as PNG, whole or not at all; returns the path."""
    from vol3d.io import atomic

    target = Path(path)
    with atomic.replace(target) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")
    return target


def write(place: Figure | Axes, x: float, y: float, text: str, **style: Any) -> None:  # noqa: ANN401  passed on
    """Put literal text (no mathematics in `$`) on a figure or axes; signs the font lacks become □."""
    full: dict[str, Any] = {"color": INK, "fontsize": 9, "family": FONT, "parse_math": False} | style
    place.text(x, y, printable(text), **full)


def printable(text: str) -> str:
    """`text` without control signs, each sign that the font lacks replaced by □."""
    if text.isascii():
        return text.translate(_WRITABLE)
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    known = FT2Font(findfont(FontProperties(family=FONT))).get_charmap()
    return "".join(sign if ord(sign) in known else "□" for sign in text.translate(_WRITABLE))


def shorten(text: str, length: int) -> str:
    """At most `length` signs, the middle left out."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + "…" + text[len(text) - tail :]


def quiet_axes(axes: Axes, spines: Iterable[str] = ("left", "bottom")) -> None:
    """Thin axes on white: light grid, no box, small text."""
    for name, spine in axes.spines.items():
        spine.set_visible(name in spines)
        spine.set_color(FAINT)
        spine.set_linewidth(0.8)
    axes.tick_params(colors=INK, labelsize=8, length=3, width=0.8, color=FAINT, labelfontfamily=FONT)
    axes.grid(visible=True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
