"""Scores of all classes as a table: for a terminal with rich, and as plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.table import Table

_METRICS = ("IoU", "Dice", "precision", "recall")
_HEAD = ("class", "code", "voxels", *_METRICS)


class Score(Protocol):
    """What a row needs; `vol3d.metrics.ClassScore` has it. voxels: of the class in the reference. nan: undefined."""

    @property
    def name(self) -> str:
        """Class name."""

    @property
    def code(self) -> int:
        """Code in label files."""

    @property
    def voxels(self) -> int:
        """Labeled voxels of the class in the reference."""

    @property
    def iou(self) -> float:
        """Intersection over union."""

    @property
    def dice(self) -> float:
        """Dice coefficient."""

    @property
    def precision(self) -> float:
        """Part of the prediction that is right."""

    @property
    def recall(self) -> float:
        """Part of the reference that was found."""


def scores_table(scores: Sequence[Score], *, background: int | None = None, title: str | None = None) -> Table:
    """A rich table: a row per class, then the mean over the classes where a metric is defined.

    background: code of a class; gives a second mean without it. Undefined values show as –.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows, means = _rows(scores, background)
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for number, name in enumerate(_HEAD):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number > 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    table.add_section()
    for row in means:
        table.add_row(*(Text(cell, style="bold") for cell in row))
    return table


def plain_table(scores: Sequence[Score], *, background: int | None = None) -> str:
    """The same table as plain lines, without colours or boxes; ends without a newline."""
    rows, means = _rows(scores, background)
    lines = [list(_HEAD), *rows, *means]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    drawn = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    rule = "-" * len(drawn[0])
    return "\n".join([drawn[0], rule, *drawn[1 : 1 + len(rows)], rule, *drawn[1 + len(rows) :]])


def _rows(scores: Sequence[Score], background: int | None) -> tuple[list[list[str]], list[list[str]]]:
    rows = [
        [" ".join(s.name.split()), str(s.code), f"{s.voxels:,}", *(_number(get(s)) for get in _GETTERS)] for s in scores
    ]
    means = [_mean_row("mean", scores)]
    others = [s for s in scores if s.code != background]
    if background is not None and len(others) < len(scores):
        means.append(_mean_row("mean without background", others))
    return rows, means


_GETTERS: tuple[Callable[[Score], float], ...] = (
    lambda s: s.iou,
    lambda s: s.dice,
    lambda s: s.precision,
    lambda s: s.recall,
)


def _mean_row(name: str, scores: Sequence[Score]) -> list[str]:
    total = sum(s.voxels for s in scores)
    return [name, "", f"{total:,}", *(_number(_mean([get(s) for s in scores])) for get in _GETTERS)]


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
