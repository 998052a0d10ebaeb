"""What `evaluate` finds in several cases: every case, mean and spread; and the lines that a terminal shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vol3d.report.scores import Metric, ScoreRow, score_table
from vol3d.workflows.evaluations import CaseScores, mean_and_sd, number

_LEFT_TO_THE_CSV = ("voxels", "true_positives")  # of several cases, so that a table stays narrow


@dataclass(frozen=True)
class CaseEvaluations:
    """The scores of several cases. names: of the cases, one each."""

    names: tuple[str, ...]
    cases: tuple[CaseScores, ...]

    @property
    def rows(self) -> list[ScoreRow]:
        """A row per case and class."""
        return [row for name, case in zip(self.names, self.cases, strict=True) for row in case.rows(name)]

    def means(self) -> list[ScoreRow]:
        """Mean and standard deviation (n − 1; nan for one case) per class, over the cases where a score is defined.

        A mean over a case with an infinite distance is infinite: a class that was missed is not passed over.
        """
        grouped: dict[int | None, list[ScoreRow]] = {}
        for row in self.rows:
            grouped.setdefault(row.code, []).append(row)
        found = []
        for code in sorted(grouped, key=lambda c: -1 if c is None else c):
            group = grouped[code]
            both = {m.key: mean_and_sd([row.values.get(m.key, math.nan) for row in group]) for m in self.metrics}
            values = {key: mean for key, (mean, _) in both.items()}
            spread = {key: sd for key, (_, sd) in both.items() if not math.isnan(values[key])}
            found.append(ScoreRow("mean ± sd", code, group[0].name, values, spread))
        return found

    def summary(self) -> dict[str, tuple[float, float]]:
        """Mean over the cases, and standard deviation, of each case's means over its classes."""
        each = [case.summary() for case in self.cases]
        return {key: mean_and_sd([one[key] for one in each]) for key in each[0]}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Columns of a CSV file."""
        return self.cases[0].metrics

    def to_json(self) -> dict[str, Any]:
        """Every case, then mean and sd; undefined and infinite values are null."""
        means = self.means()
        return {
            "cases": [{"case": n} | case.to_json() for n, case in zip(self.names, self.cases, strict=True)],
            "mean": self._over_cases(means, [row.values for row in means], 0),
            "sd": self._over_cases(means, [row.spread for row in means], 1),
        }

    def _over_cases(
        self, means: Sequence[ScoreRow], values: Sequence[Mapping[str, float]], part: int
    ) -> dict[str, Any]:
        listed: list[dict[str, Any]] = [
            {m.key: number(one.get(m.key, math.nan)) for m in self.metrics} for one in values
        ]
        if means[0].code is None:
            return listed[0]
        counts = [sum(other.code == row.code for other in self.rows) for row in means]
        classes = [
            {"code": row.code, "name": row.name, "cases": count} | one
            for row, one, count in zip(means, listed, counts, strict=True)
        ]
        return {"classes": classes, **{key: number(both[part]) for key, both in self.summary().items()}}


def result_lines(result: CaseScores | CaseEvaluations) -> list[str]:
    """What a person reads on a terminal of 100 columns: the tables, then a line per mean."""
    if not isinstance(result, CaseEvaluations):
        lines = score_table(result.rows(""), result.shown).splitlines()
        lines += [f"compared voxels {result.voxels}", *_tolerance_line(result.rows(""))]
        return lines + [f"{_words(key)} {_digits(mean)}" for key, mean in result.summary().items()]
    columns = [m for m in result.cases[0].shown if m.key not in _LEFT_TO_THE_CSV]
    lines = score_table(result.rows, columns, result.means()).splitlines()
    lines += [f"cases {len(result.cases)}; undefined scores (–) are left out of means", *_tolerance_line(result.rows)]
    both = result.summary()
    return lines + [f"{_words(key)} {_digits(mean)} ± {_digits(sd)}" for key, (mean, sd) in both.items()]


def _tolerance_line(rows: Sequence[ScoreRow]) -> list[str]:
    """Within how many mm the surface Dice counts, where there is one."""
    known = [row.values["tolerance_mm"] for row in rows if "tolerance_mm" in row.values]
    if not known:
        return []
    low, high = (f"{value:.4g}" for value in (min(known), max(known)))
    return [f"surface Dice within {low}{'' if low == high else f' to {high}'} mm"]


def _words(key: str) -> str:
    """mean_iou_without_background → mean IoU without background."""
    names = {"iou": "IoU", "dice": "Dice", "pq": "PQ"}
    return " ".join(names.get(word, word) for word in key.split("_"))


def _digits(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"
