"""Scores of any task, per case and class: as lines for a terminal and as a CSV file."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vol3d.report.figure import shorten

_GAP = "  "
_LONGEST_NAME = 30


@dataclass(frozen=True)
class Metric:
    """One column. key: its name in CSV files; a length ends in its unit. heading: in tables. form: of its numbers."""

    key: str
    heading: str
    form: str = ".3f"


@dataclass(frozen=True)
class ScoreRow:
    """The scores of one class of one case, by metric key.

    code: of the class, None where a task has no classes. values: nan where undefined, inf where nothing was there to
    measure to. spread: standard deviations, for a mean over cases.
    """

    case: str
    code: int | None
    name: str
    values: Mapping[str, float]
    spread: Mapping[str, float] = field(default_factory=dict)


def score_table(
    rows: Sequence[ScoreRow], metrics: Sequence[Metric], means: Sequence[ScoreRow] = (), *, width: int = 100
) -> str:
    """Plain lines of at most `width` signs where names allow it; ends without a newline.

    The columns case and class appear where the rows have more than one case, and classes. What does not fit beside
    them goes on in further tables below. means: shown under a rule. Undefined values are –, infinite ones ∞.
    """
    everything = [*rows, *means]
    lead = _lead_columns(everything, bool(means) or len({row.case for row in rows}) > 1)
    columns = [[m.heading, *(_cell(row, m) for row in everything)] for m in metrics]
    blocks = [_draw([*lead, *block], len(lead), len(rows)) for block in _fitting(lead, columns, width)]
    return "\n\n".join(blocks)


def scores_csv(path: str | os.PathLike[str], rows: Sequence[ScoreRow], metrics: Sequence[Metric]) -> Path:
    """Write a line per case and class: case, code, class, then the metrics by their keys. Returns the path.

    Undefined values are empty cells, infinite ones `inf`. UTF-8, written whole or not at all.
    """
    from vol3d.io import atomic

    target = Path(path)
    with atomic.replace(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "code", "class", *(m.key for m in metrics)])
        for row in rows:
            code = "" if row.code is None else row.code
            writer.writerow([row.case, code, row.name, *(_plain(row.values.get(m.key, math.nan)) for m in metrics)])
    return target


def _lead_columns(rows: Sequence[ScoreRow], several: bool) -> list[list[str]]:
    columns = []
    if several:
        columns.append(["case", *(_short(row.case) for row in rows)])
    if any(row.code is not None or row.name for row in rows):
        columns.append(["class", *(_short(row.name) for row in rows)])
        columns.append(["code", *("" if row.code is None else str(row.code) for row in rows)])
    return columns


def _fitting(lead: list[list[str]], columns: list[list[str]], width: int) -> list[list[list[str]]]:
    """The columns in groups that fit beside the leading ones."""
    start = sum(_widest(column) + len(_GAP) for column in lead) - len(_GAP)
    blocks: list[list[list[str]]] = []
    used = width + 1
    for column in columns:
        needed = _widest(column) + len(_GAP)
        if used + needed > width:
            blocks.append([])
            used = start
        blocks[-1].append(column)
        used += needed
    return blocks


def _draw(columns: list[list[str]], left: int, rows: int) -> str:
    """Aligned lines: the first `left` columns but codes to the left, a rule under the head and above the means."""
    widths = [_widest(column) for column in columns]
    lines = []
    for cells in zip(*columns, strict=True):
        placed = [
            cell.ljust(size) if number < left and columns[number][0] != "code" else cell.rjust(size)
            for number, (cell, size) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append(_GAP.join(placed))
    rule = "-" * len(lines[0])
    means = lines[1 + rows :]
    return "\n".join([lines[0], rule, *lines[1 : 1 + rows], *([rule, *means] if means else [])])


def _cell(row: ScoreRow, metric: Metric) -> str:
    value = row.values.get(metric.key, math.nan)
    if metric.key not in row.spread:
        return _number(value, metric.form)
    form = metric.form.replace(".0f", ".1f")  # counts are whole, their mean is not
    return f"{_number(value, form)} ± {_number(row.spread[metric.key], form)}"


def _number(value: float, form: str) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return format(value, form)


def _plain(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(value) if isinstance(value, int) else repr(float(value))


def _short(name: str) -> str:
    return shorten(" ".join(name.split()), _LONGEST_NAME)


def _widest(column: list[str]) -> int:
    return max(len(cell) for cell in column)
