"""`results.csv` of an experiment: one line per training that was scored, safe to go on with after an interruption."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vol3d.errors import FileFormatError, ResourceError

_IOU = "iou_"


@dataclass(frozen=True)
class ExperimentRow:
    """One training and its scores.

    key: what tells it from all other rows. table: folds, slices or volumes; part: which of them. slices: numbers of
    slices across x, y, z such as `3,3,2`, empty where it is no set of slices. batchnorm: yes, no, or empty where the
    network has another normalization. training_s, row_s: seconds of the training, and with predicting and scoring.
    labeled_voxels, labeled_share: what trained, and its part of all voxels of the volumes it lies in. scored_voxels:
    how many were compared. iou: by class code; nan where the class is neither predicted nor there.
    """

    key: str
    table: str
    part: str
    slices: str
    dimensions: int
    batchnorm: str
    seed: int
    iterations: int
    training_s: float
    row_s: float
    labeled_voxels: int
    labeled_share: float
    scored_voxels: int
    mean_iou: float
    mean_iou_without_background: float
    config_hash: str
    iou: Mapping[int, float]


_PLAIN = tuple(field.name for field in fields(ExperimentRow) if field.name != "iou")
_TYPES = {field.name: str(field.type) for field in fields(ExperimentRow)}


class RowsFile:
    """A CSV file that grows by whole lines; each is on the disk before `add` returns. codes: of the classes.

    A torn last line of an interrupted writer is dropped. Raises `FileFormatError` where the file holds something else,
    `ResourceError` where it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], codes: Sequence[int]) -> None:
        from vol3d.io import atomic

        self.path = Path(path)
        self._columns = (*_PLAIN, *(f"{_IOU}{code}" for code in codes))
        self.rows: list[ExperimentRow] = self._read() if self.path.is_file() else []
        text = _line(self._columns) + "".join(self._cells(row) for row in self.rows)
        with atomic.replace(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def add(self, row: ExperimentRow) -> None:
        """Append one row."""
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._cells(row))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ResourceError(
                f"{self.path} cannot be written: {error.strerror or error}. Free space or choose another folder."
            ) from error
        self.rows.append(row)

    def _cells(self, row: ExperimentRow) -> str:
        values = [getattr(row, name) for name in _PLAIN]
        values += [row.iou.get(int(name.removeprefix(_IOU)), math.nan) for name in self._columns[len(_PLAIN) :]]
        return _line([_text(value) for value in values])

    def _read(self) -> list[ExperimentRow]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileFormatError(f"{self.path} cannot be read as results of an experiment: {error}") from error
        lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
        if lines and tuple(lines[0]) != self._columns:
            raise FileFormatError(
                f"{self.path}: expected the columns {', '.join(self._columns)}, found {', '.join(lines[0])}. "
                "Go on in another folder."
            )
        return [self._row(number, cells) for number, cells in enumerate(lines[1:], start=2)]

    def _row(self, number: int, cells: list[str]) -> ExperimentRow:
        if len(cells) != len(self._columns):
            raise FileFormatError(
                f"{self.path}, line {number}: expected {len(self._columns)} cells, found {len(cells)}"
            )
        named = dict(zip(self._columns, cells, strict=True))
        try:
            plain: dict[str, Any] = {name: _value(named[name], _TYPES[name]) for name in _PLAIN}
            iou = {int(name.removeprefix(_IOU)): _number(named[name]) for name in self._columns[len(_PLAIN) :]}
        except ValueError as error:
            raise FileFormatError(f"{self.path}, line {number}: {error}") from error
        return ExperimentRow(**plain, iou=iou)


def _value(cell: str, kind: str) -> str | float:
    return cell if kind == "str" else int(cell) if kind == "int" else _number(cell)


def _number(cell: str) -> float:
    return float(cell) if cell else math.nan


def _text(value: str | float) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value)


def _line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
