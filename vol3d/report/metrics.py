"""`metrics.csv`: one line per logged iteration, safe to go on with after an interruption."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vol3d.errors import FileFormatError, ResourceError

COLUMNS = (
    "iteration",
    "loss",
    "learning_rate",
    "gradient_norm",
    "seconds",
    "samples_per_second",
    "validation",
)
Row = Any  # a dictionary, or an object with attributes, of numbers and None; what it lacks is None


class MetricsFile:
    """A `metrics.csv` that grows by whole lines.

    history: the rows of a run so far, which replace whatever the file holds: a resumed run begins with the rows up to
    its checkpoint, and what was logged after it, whole or torn, is gone. columns: names in order.
    No file stays open between rows; every row has left the process before `add` returns.
    Raises `ResourceError` where the file cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], history: Iterable[Row] = (), columns: Sequence[str] = COLUMNS
    ) -> None:
        from vol3d.io import atomic

        self.path = Path(path)
        self.columns = tuple(columns)
        text = _line(self.columns) + "".join(self._cells(row) for row in history)
        with atomic.replace(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def add(self, row: Row) -> None:
        """Append one row; None and NaN leave an empty cell, columns that are not there are passed over."""
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._cells(row))
        except OSError as error:
            raise ResourceError(
                f"{self.path} cannot be written: {error.strerror or error}. Free space or choose another folder."
            ) from error

    def _cells(self, row: Row) -> str:
        return _line([_text(value_of(row, name)) for name in self.columns])


def value_of(row: Row, name: str) -> float | None:
    """A value of a row, None where it has none."""
    value: float | None = row.get(name) if isinstance(row, Mapping) else getattr(row, name, None)
    return value


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float | None]]:
    """Rows of a `metrics.csv`, None where a cell is empty; a torn last line is left out.

    Raises `FileFormatError` where the file is missing or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileFormatError(f"{path} is missing. Name the metrics.csv of a run.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} cannot be read as a table of metrics: {error}") from error
    lines = [cells for cells in csv.reader(io.StringIO(text[: text.rfind("\n") + 1])) if cells]
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(lines[0]):
            raise FileFormatError(f"{path}, line {number}: expected {len(lines[0])} cells, found {len(cells)}")
        try:
            values = [float(cell) if cell else None for cell in cells]
        except ValueError as error:
            raise FileFormatError(f"{path}, line {number}: expected numbers, found {cells}") from error
        rows.append(dict(zip(lines[0], values, strict=True)))
    return rows


def _text(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return repr(value) if isinstance(value, int) else repr(float(value))


def _line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
