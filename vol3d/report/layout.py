"""Where the pictures of a preview stand on its page, in inches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vol3d.report.planes import Plane

_WIDE, _HIGH = 10.0, 15.0  # what all columns and all rows may take
_ROW_HIGH = 4.2  # the tallest row
_NARROWEST = 3.6  # of a page: title and legend need room
_LONGEST_ASPECT = 8.0  # thinner planes are widened, and say so
_SMALLEST = 7.0  # planes smaller than the largest by more than this are enlarged, and say so
_WORTH_STACKING = 1.15
LEFT, RIGHT, GAP = 0.44, 0.16, 0.14
PICTURE_TITLE, NOTE, TITLE, LEGEND_LINE = 0.32, 0.15, 0.40, 0.26


@dataclass(frozen=True)
class Place:
    """One picture within a row. left: from the page's edge; down: from the row's upper edge; inches.

    note: what is not true to scale about it, or empty.
    """

    left: float
    down: float
    width: float
    height: float
    note: str


@dataclass(frozen=True)
class Layout:
    """A page of equal rows. places: of the planes, in their order. row: height of a row. top, bottom: above, below."""

    places: tuple[Place, ...]
    rows: int
    row: float
    top: float
    bottom: float

    @property
    def width(self) -> float:
        """Width of the page."""
        return max(_NARROWEST, max(place.left + place.width for place in self.places) + RIGHT)

    @property
    def height(self) -> float:
        """Height of the page."""
        return self.top + self.rows * self.row + (self.rows - 1) * GAP + self.bottom

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a picture, as fractions of the page."""
        place = self.places[column]
        bottom = self.middle(row) + self.row / 2 - place.down - place.height
        return (
            place.left / self.width,
            bottom / self.height,
            place.width / self.width,
            place.height / self.height,
        )

    def middle(self, row: int) -> float:
        """Inches from the page's lower edge to the middle of a row."""
        return self.height - self.top - row * (self.row + GAP) - self.row / 2


def lay_out(planes: list[Plane], rows: int, titled: bool, legend_lines: int) -> Layout:
    """One scale for all planes, as large as the page allows.

    Planes stand side by side, or, where that makes them clearly larger, the second above the third. Very thin planes
    are widened and very small ones enlarged.
    """
    sizes = _drawable(planes)
    noted = NOTE if any(note for _, _, note in sizes) else 0.0
    highest = min(_ROW_HIGH, _HIGH / max(rows, 1))
    across = sum(wide for wide, _, _ in sizes)
    beside = min(_WIDE / across, highest / max(high for _, high, _ in sizes))
    places, row = _beside(sizes, beside)
    if len(sizes) == 3:
        (wide, high, _), (wide_b, high_b, _), (wide_c, high_c, _) = sizes
        between = PICTURE_TITLE + noted
        stacked = min(
            _WIDE / (wide + max(wide_b, wide_c)),
            highest / high,
            max(highest - between, 0.01) / (high_b + high_c),
        )
        if stacked > _WORTH_STACKING * beside:
            places, row = _stacked(sizes, stacked, between)
    return Layout(
        places,
        rows,
        row,
        PICTURE_TITLE + noted + (TITLE if titled else 0.06),
        0.18 + LEGEND_LINE * legend_lines,
    )


def _beside(sizes: list[tuple[float, float, str]], scale: float) -> tuple[tuple[Place, ...], float]:
    places, left = [], LEFT
    for wide, high, note in sizes:
        places.append(Place(left, 0.0, wide * scale, high * scale, note))
        left += wide * scale + GAP
    return tuple(places), max(place.height for place in places)


def _stacked(sizes: list[tuple[float, float, str]], scale: float, between: float) -> tuple[tuple[Place, ...], float]:
    first, upper, lower = ((wide * scale, high * scale, note) for wide, high, note in sizes)
    left = LEFT + first[0] + GAP
    places = (
        Place(LEFT, 0.0, *first),
        Place(left, 0.0, *upper),
        Place(left, upper[1] + between, *lower),
    )
    return places, max(place.down + place.height for place in places)


def _drawable(planes: list[Plane]) -> list[tuple[float, float, str]]:
    """Width and height in mm that can be shown, and what had to be changed for it."""
    largest = max(max(plane.width_mm, plane.height_mm) for plane in planes)
    sizes = []
    for plane in planes:
        longest = max(plane.width_mm, plane.height_mm)
        zoom = max(1.0, largest / _SMALLEST / longest)
        thinnest = longest / _LONGEST_ASPECT
        note = "not to scale" if plane.is_thinner_than(_LONGEST_ASPECT) else "enlarged" if zoom > 1 else ""
        sizes.append((zoom * max(plane.width_mm, thinnest), zoom * max(plane.height_mm, thinnest), note))
    return sizes


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
