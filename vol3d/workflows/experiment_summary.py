"""What an experiment found: mean and spread over its trainings, as JSON, as lines and as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vol3d.report.boxplot import Panel, boxplot_png
from vol3d.report.experiment_rows import ExperimentRow
from vol3d.report.learning_curve import MEAN, Curve, CurvePoint, learning_curve_png, percent
from vol3d.volume import LabelTable
from vol3d.workflows.evaluations import mean_and_sd, number
from vol3d.workflows.experiment_kinds import TABLES, PlannedRow, Table

TITLES: dict[Table, str] = {
    "folds": "Scored on held-out slices",
    "slices": "By number of annotated slices",
    "volumes": "Scored on left-out volumes",
}


@dataclass(frozen=True)
class Arm:
    """Trainings that differ only in fold, volume or seed, and what they scored.

    part: their set of slices, empty where there is none. network: in words. planned: how many there will be.
    """

    table: Table
    part: str
    network: str
    rows: tuple[ExperimentRow, ...]
    planned: int

    @property
    def name(self) -> str:
        """What the trainings have in common."""
        return f"{self.part}, {self.network}" if self.part else self.network

    def iou(self, code: int) -> tuple[float, float]:
        """Mean and standard deviation of a class's IoU."""
        return mean_and_sd([row.iou[code] for row in self.rows])

    def of(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a column."""
        return mean_and_sd([float(getattr(row, name)) for row in self.rows])


def arms(planned: Sequence[PlannedRow], rows: Sequence[ExperimentRow]) -> list[Arm]:
    """The rows grouped by what is compared, in the planned order; groups without any row are left out."""
    found = {row.key: row for row in rows}
    groups: dict[tuple[Table, str, str], list[str]] = {}
    for row in planned:
        part = row.part if row.table == "slices" else ""
        groups.setdefault((row.table, part, row.variant.name), []).append(row.key)
    made = [
        Arm(*common, tuple(found[key] for key in keys if key in found), len(keys)) for common, keys in groups.items()
    ]
    return [arm for arm in made if arm.rows]


def summary_json(found: Sequence[Arm], table: LabelTable) -> list[dict[str, Any]]:
    """Every arm with means and standard deviations (n − 1); undefined values are null."""
    return [
        {
            "table": arm.table,
            "name": arm.name,
            "trainings": len(arm.rows),
            "planned": arm.planned,
            "mean_iou": _pair(arm.of("mean_iou")),
            "mean_iou_without_background": _pair(arm.of("mean_iou_without_background")),
            "classes": [{"code": c.code, "name": c.name, "iou": _pair(arm.iou(c.code))} for c in table.classes],
            **{key: _pair(arm.of(key)) for key in ("iterations", "training_s", "labeled_share", "scored_voxels")},
        }
        for arm in found
    ]


def table_cells(found: Sequence[Arm], table: LabelTable) -> list[list[str]]:
    """A heading, then a line per arm; a network that all of them have in common is left out."""
    one = len({arm.network for arm in found}) == 1
    head = [
        "labels" if one and found[0].part else "network",
        "rows",
        "labeled",
        "iterations",
        *table.names,
        "mean IoU",
        "without background",
    ]
    lines = [
        [
            arm.part if one and arm.part else arm.name,
            str(len(arm.rows)) if len(arm.rows) == arm.planned else f"{len(arm.rows)} of {arm.planned}",
            percent(arm.of("labeled_share")[0]),
            f"{arm.of('iterations')[0]:.0f}",
            *(_spread(arm.iou(code)) for code in table.codes.tolist()),
            _spread(arm.of("mean_iou")),
            _spread(arm.of("mean_iou_without_background")),
        ]
        for arm in found
    ]
    return [head, *lines]


def draw(folder: Path, planned: Sequence[PlannedRow], found: Sequence[Arm], table: LabelTable) -> list[Path]:
    """Write a picture per table: learning curves of sets of slices, else a box per class and network."""
    written = []
    for kind in TABLES:
        here = [arm for arm in found if arm.table == kind]
        if here:
            path = folder / f"{kind}.png"
            if kind == "slices":
                rows = {row.key: row for arm in here for row in arm.rows}
                written.append(learning_curve_png(path, _curves(planned, rows, table), title=TITLES[kind]))
            else:
                written.append(boxplot_png(path, [_panel(arm, table) for arm in here], title=TITLES[kind]))
    return written


def _panel(arm: Arm, table: LabelTable) -> Panel:
    groups = [(name, tuple(row.iou[code] for row in arm.rows)) for code, name in _distinct(table).items()]
    return Panel(f"{arm.name}: IoU", (*groups, (MEAN, tuple(row.mean_iou for row in arm.rows))))


def _curves(planned: Sequence[PlannedRow], rows: dict[str, ExperimentRow], table: LabelTable) -> list[Curve]:
    """A curve per volume and network."""
    grouped: dict[str, dict[str, list[ExperimentRow]]] = {}
    for row in planned:
        if row.key in rows:
            volume = row.part.partition(" of ")[2]
            title = f"{volume}: {row.variant.name}" if volume else row.variant.name
            grouped.setdefault(title, {}).setdefault(row.part, []).append(rows[row.key])
    return [Curve(title, tuple(_point(found, table) for found in sets.values())) for title, sets in grouped.items()]


def _point(rows: Sequence[ExperimentRow], table: LabelTable) -> CurvePoint:
    values = {name: tuple(row.iou[code] for row in rows) for code, name in _distinct(table).items()}
    slices = sum(int(count) for count in rows[0].slices.split(","))
    share = math.fsum(row.labeled_share for row in rows) / len(rows)
    return CurvePoint(slices, share, values | {MEAN: tuple(row.mean_iou for row in rows)})


def _distinct(table: LabelTable) -> dict[int, str]:
    """Code → name; with the code in it where another line of the picture has that name."""
    names = [*table.names, MEAN]
    return {one.code: one.name if names.count(one.name) == 1 else f"{one.name} ({one.code})" for one in table.classes}


def _pair(both: tuple[float, float]) -> dict[str, float | None]:
    return {"mean": number(both[0]), "sd": number(both[1])}


def _spread(both: tuple[float, float]) -> str:
    mean, sd = both
    if math.isnan(mean):
        return "–"
    return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"
