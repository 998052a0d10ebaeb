"""Words and signs around the pictures of a preview: titles, orientation letters, scale bar, legend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vol3d.report import figure as paper
from vol3d.report.layout import LEFT, LEGEND_LINE, Layout, Place, length_text, nice_length
from vol3d.report.planes import Plane
from vol3d.volume import LabelTable, is_background

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PLANE_NAMES = ("sagittal", "coronal", "axial")
_MOST_ENTRIES = 30
_SIGN_INCHES = 0.078  # a sign of the legend's text, on average


@dataclass(frozen=True)
class Entry:
    """One class of the legend. color: of its swatch, None for a mere remark."""

    name: str
    color: str | tuple[float, ...] | None

    @property
    def inches(self) -> float:
        """Width of swatch, name and the gap behind them."""
        return 0.44 + _SIGN_INCHES * len(self.name)


def legend_of(table: LabelTable, shown: list[int], unlabeled: bool) -> list[Entry]:
    """Entries of the class indices in `shown` that have a name, then the unlabeled voxels."""
    classes = [table.classes[index] for index in shown if table.classes[index].name]
    entries = [
        Entry(paper.shorten(c.name, 28), "white" if is_background(c.name) else tuple(v / 255 for v in c.color))
        for c in classes[:_MOST_ENTRIES]
    ]
    if len(classes) > _MOST_ENTRIES:
        entries.append(Entry(f"… and {len(classes) - _MOST_ENTRIES} more", None))
    if unlabeled:
        entries.append(Entry("unlabeled", "#d4d7dc"))
    return entries


def legend_lines(entries: list[Entry], layout: Layout) -> list[list[Entry]]:
    """Entries broken into lines that fit the page, as columns of one width."""
    if not entries:
        return []
    room = layout.width - LEFT
    if sum(entry.inches for entry in entries) <= room:
        return [entries]
    columns = max(1, int(room / max(entry.inches for entry in entries)))
    return [entries[start : start + columns] for start in range(0, len(entries), columns)]


def draw_legend(figure: Figure, layout: Layout, lines: list[list[Entry]]) -> None:
    """Swatches and names below the pictures."""
    widest = max((entry.inches for line in lines for entry in line), default=0.0)
    for number, line in enumerate(lines):
        middle = layout.bottom - 0.12 - LEGEND_LINE * (number + 0.5)
        left = LEFT
        for entry in line:
            indent = 0.0
            if entry.color is not None:
                _swatch(figure, layout, left, middle, entry.color)
                indent = 0.22
            x, y = (left + indent) / layout.width, middle / layout.height
            paper.write(figure, x, y, entry.name, va="center_baseline", ha="left", fontsize=9)
            left += widest if len(lines) > 1 else entry.inches


def _swatch(figure: Figure, layout: Layout, left: float, middle: float, color: str | tuple[float, ...]) -> None:
    from matplotlib.patches import Rectangle

    box = Rectangle(
        (left / layout.width, (middle - 0.07) / layout.height),
        0.14 / layout.width,
        0.14 / layout.height,
        transform=figure.transFigure,
        facecolor=color,
        edgecolor=paper.FAINT if isinstance(color, str) else color,
        linewidth=0.8,
    )
    figure.add_artist(box)


def page_title(figure: Figure, layout: Layout, title: str) -> None:
    """The title over everything; nothing for an empty one."""
    if title:
        text = paper.shorten(title, int((layout.width - LEFT) * 9.5))
        place = (LEFT / layout.width, 1 - 0.14 / layout.height)
        paper.write(figure, *place, text, va="top", ha="left", fontsize=12, fontweight="bold")


def row_title(figure: Figure, layout: Layout, row: int, title: str) -> None:
    """A layer's title, upright beside its row."""
    text = paper.shorten(title, max(6, int(layout.row * 9)))
    place = (0.24 / layout.width, layout.middle(row) / layout.height)
    paper.write(figure, *place, text, rotation=90, ha="center", va="center", fontsize=10, fontweight="bold")


def picture_title(axes: Axes, plane: Plane, size: int, place: Place) -> None:
    """Which plane of the stored array this is, counted from 0, and what is not to scale; shorter where it is narrow."""
    where = f"{'xyz'[plane.axis]} = {plane.index}"
    long, middle = f"{_PLANE_NAMES[plane.world_axis]} · {where} of {size}", f"{where} of {size}"
    fitting = (text for text in (long, middle) if _SIGN_INCHES * len(text) <= place.width)
    lines = [next(fitting, where), *([f"({place.note})"] if place.note else [])]
    style: dict[str, Any] = {"fontsize": 9, "color": paper.INK, "family": paper.FONT, "ha": "center", "va": "bottom"}
    axes.annotate("\n".join(lines), (0.5, 1), (0, 5), "axes fraction", textcoords="offset points", **style)


def letters(axes: Axes, plane: Plane) -> None:
    """Orientation letters at the four sides, inside the picture."""
    for x, y, letter, ha, va, offset in (
        (0, 0.5, plane.left, "left", "center", (4, 0)),
        (1, 0.5, plane.right, "right", "center", (-4, 0)),
        (0.5, 1, plane.top, "center", "top", (0, -4)),
        (0.5, 0, plane.bottom, "center", "bottom", (0, 4)),
    ):
        _on_picture(axes, letter, (x, y), offset, ha=ha, va=va, fontsize=8, fontweight="bold")


def scale_bar(axes: Axes, plane: Plane) -> None:
    """A bar of a round length in the lower right corner."""
    from matplotlib.patches import Rectangle

    length = nice_length(plane.width_mm / 4)
    part = length / plane.width_mm
    right, low = 0.96, 0.045
    bar = Rectangle((right - part, low), part, 0.016, transform=axes.transAxes, facecolor="white", edgecolor="black")
    bar.set_linewidth(0.6)
    axes.add_patch(bar)
    place = (right - part / 2, low + 0.016)
    _on_picture(axes, length_text(length), place, (0, 2), ha="center", va="bottom", fontsize=8)


def _on_picture(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    offset: tuple[float, float],
    **style: Any,  # noqa: ANN401  passed on
) -> None:
    """White text with a dark rim, readable on any picture."""
    from matplotlib.patheffects import withStroke

    rim = [withStroke(linewidth=2.2, foreground="#000000b0")]
    style |= {"color": "white", "family": paper.FONT, "path_effects": rim}
    axes.annotate(text, place, offset, "axes fraction", textcoords="offset points", **style)
