"""Where the pictures of a preview stand on its page, in inches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vol3d.report.planes import Plane

_WIDE, _HIGH = 10.0, 15.0  # what all columns and all rows may take
_ROW_HIGH = 4.2  # the tallest row
_NARROWEST = 3.6  # of all columns together: titles and legend need room
_LONGEST_ASPECT = 8.0  # thinner planes are widened, and say so
LEFT, RIGHT, GAP = 0.44, 0.16, 0.14
COLUMN_TITLE, TITLE, LEGEND_LINE = 0.34, 0.40, 0.26


@dataclass(frozen=True)
class Layout:
    """Inches. widths, heights: of the picture in every column; the tallest gives the row its height.

    stretched: columns that are not to scale. top, bottom: room above and below all rows.
    """

    widths: tuple[float, ...]
    heights: tuple[float, ...]
    stretched: tuple[bool, ...]
    rows: int
    top: float
    bottom: float

    @property
    def row(self) -> float:
        """Height of a row."""
        return max(self.heights)

    @property
    def width(self) -> float:
        """Width of the page."""
        return max(_NARROWEST, LEFT + sum(self.widths) + GAP * (len(self.widths) - 1) + RIGHT)

    @property
    def height(self) -> float:
        """Height of the page."""
        return self.top + self.rows * self.row + (self.rows - 1) * GAP + self.bottom

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a picture, as fractions of the page."""
        left = LEFT + sum(self.widths[:column]) + GAP * column
        bottom = self.middle(row) + self.row / 2 - self.heights[column]
        return (
            left / self.width,
            bottom / self.height,
            self.widths[column] / self.width,
            self.heights[column] / self.height,
        )

    def middle(self, row: int) -> float:
        """Inches from the page's lower edge to the middle of a row."""
        return self.height - self.top - row * (self.row + GAP) - self.row / 2


def lay_out(planes: list[Plane], rows: int, titled: bool, legend_lines: int) -> Layout:
    """One scale for all planes, as large as the page allows; very thin planes are widened."""
    sizes = [_drawable(plane.width_mm, plane.height_mm) for plane in planes]
    tallest = max(high for _, high, _ in sizes)
    scale = min(
        _WIDE / sum(wide for wide, _, _ in sizes),
        _ROW_HIGH / tallest,
        _HIGH / max(rows, 1) / tallest,
    )
    return Layout(
        tuple(wide * scale for wide, _, _ in sizes),
        tuple(high * scale for _, high, _ in sizes),
        tuple(odd for _, _, odd in sizes),
        rows,
        COLUMN_TITLE + (TITLE if titled else 0.06),
        0.18 + LEGEND_LINE * legend_lines,
    )


def _drawable(width: float, height: float) -> tuple[float, float, bool]:
    """Width and height of aspect at most 8, and whether that took a stretch."""
    longest = max(width, height) / _LONGEST_ASPECT
    stretched = min(width, height) < longest * (1 - 1e-6)
    return max(width, longest), max(height, longest), stretched


def nice_length(length: float) -> float:
    """The largest 1, 2 or 5 × 10ⁿ not above `length` (> 0)."""
    power = 10.0 ** math.floor(math.log10(length))
    return max(step * power for step in (1, 2, 5) if step * power <= length * (1 + 1e-9))


def length_text(millimetres: float) -> str:
    """A length for people: nm, µm or mm, whichever reads best."""
    for unit, size in (("mm", 1.0), ("µm", 1e-3)):
        if millimetres >= size * (1 - 1e-9):
            return f"{millimetres / size:.4g} {unit}"
    return f"{millimetres / 1e-6:.4g} nm"
