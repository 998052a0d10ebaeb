"""Several predictions and references → scores per case, their mean and spread, a CSV file and a box plot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vol3d import io
from vol3d.errors import ConfigError, LabelError, ResourceError
from vol3d.io.formats import split_suffix
from vol3d.report.boxplot import Panel, boxplot_png
from vol3d.report.scores import scores_csv
from vol3d.volume import Volume
from vol3d.workflows.case_evaluations import CaseEvaluations
from vol3d.workflows.evaluate import Scoring, scored
from vol3d.workflows.listener import Listener, Quiet
from vol3d.workflows.object_evaluations import PanopticEvaluation
from vol3d.workflows.partial import require_meant
from vol3d.workflows.sources import Source, Spacing, source_name

_UNBOUNDED = ("hausdorff_95_mm", "mae", "rmse")
_GLOB = "*?["


def is_several(source: Source) -> bool:
    """Whether a name stands for several volumes: a folder, or a glob that is not itself the name of a file."""
    if not isinstance(source, (str, Path)):
        return False
    path, _ = io.split_name(str(source))
    return path.is_dir() or (not path.exists() and any(sign in str(path) for sign in _GLOB))


def evaluate_cases(
    predictions: Sequence[Source],
    references: Sequence[Source],
    scoring: Scoring,
    *,
    leave_out: Sequence[Source] | None = None,
    spacing_mm: Spacing = None,
    listener: Listener | None = None,
) -> CaseEvaluations:
    """Score several predictions, each against its own reference.

    predictions, references: files, folders and globs, paired by name as for training; or arrays and Volumes, paired by
    their order. leave_out: labels whose labeled voxels do not count, paired with the predictions likewise.
    Raises as `evaluate` does, `ConfigError` where something is unpaired, `LabelError` where the cases do not agree
    which classes are things.
    """
    tell = listener or Quiet()
    first, second = _paired(predictions, references, "references")
    third: list[Source | None] = [None] * len(first)
    if leave_out is not None:
        third = [*_paired(first, leave_out, "files to leave out")[1]]
    require_meant([source_name(source) for source in (*second, *third) if source is not None], scoring.labels)
    found = []
    for number, (prediction, reference, drawn) in enumerate(zip(first, second, third, strict=True)):
        found.append(scored(prediction, reference, scoring, leave_out=drawn, spacing_mm=spacing_mm))
        tell.progress("evaluating", number + 1, len(first), {})
    result = CaseEvaluations(case_names(first), tuple(found))
    _require_same_things(result)
    return result


def case_names(sources: Sequence[Source]) -> tuple[str, ...]:
    """A name for every case: the file's without its suffix, with as much of its folders as tells the cases apart."""
    if not all(isinstance(source, (str, Path)) for source in sources):
        names = [source.name if isinstance(source, Volume) else "" for source in sources]
        if len(set(names)) == len(names) and all(names):
            return tuple(names)
        return tuple(f"case {number}" for number in range(1, len(sources) + 1))
    files = [io.split_name(str(source)) for source in sources]
    stems = [(path.with_name(split_suffix(path)[0]), dataset) for path, dataset in files]
    for depth in range(1, 1 + max(len(path.parts) for path, _ in stems)):
        short = ["/".join(path.parts[-depth:]) for path, _ in stems]
        if len(set(short)) == len(short):
            return tuple(short)
    return tuple(str(source) for source in sources)


def require_room(csv: str | None, plot: str | None, overwrite: bool) -> None:
    """Before any work: raise where the CSV file or the plot has another suffix, exists or cannot be written."""
    for name, suffix, flag in ((csv, ".csv", "--csv"), (plot, ".png", "--plot")):
        if name is None:
            continue
        path = Path(name)
        if path.suffix.lower() != suffix:
            raise ConfigError(f"{flag} {name}: expected a name that ends in {suffix}")
        if path.is_dir():
            raise ConfigError(f"{name} is a folder. Give the name of a file in it.")
        if not path.parent.is_dir():
            raise ConfigError(f"{name}: the folder {path.parent} does not exist. Create it first.")
        if path.exists() and not overwrite:
            raise ConfigError(f"{name} exists already. Give --overwrite, or another name with {flag}.")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise ResourceError(f"{name}: the folder {path.parent} is write-protected. Choose another folder.")


def write_scores(
    result: CaseEvaluations, csv: str | None = None, plot: str | None = None, *, overwrite: bool = False
) -> list[Path]:
    """Write the CSV file (a line per case and class) and the box plot (a box per class); returns what was written.

    Raises `ConfigError` where a file exists already and is not to be replaced.
    """
    require_room(csv, plot, overwrite)
    written = []
    if csv is not None:
        written.append(scores_csv(csv, result.rows, result.metrics))
    if plot is not None:
        count = len(result.cases)
        written.append(boxplot_png(plot, _panels(result), title=f"{count} case{'s'[: count > 1]}"))
    return written


def _paired(first: Sequence[Source], second: Sequence[Source], what: str) -> tuple[list[Source], list[Source]]:
    everything = [*first, *second]
    if not first or not second:
        raise ConfigError(f"expected at least one prediction and its {what}, found {len(first)} and {len(second)}")
    if all(isinstance(source, (str, Path)) for source in everything):
        pairs = io.pair(io.find([str(s) for s in first]), io.find([str(s) for s in second]))
        return [prediction for prediction, _ in pairs], [reference for _, reference in pairs]
    if len(first) != len(second):
        raise ConfigError(f"{len(first)} predictions but {len(second)} {what}; give one each")
    return list(first), list(second)


def _panels(result: CaseEvaluations) -> list[Panel]:
    titles = {m.key: m.heading for m in result.metrics}
    rows = result.rows
    classes = list(dict.fromkeys((row.code, row.name) for row in result.means()))
    panels = []
    for key in result.cases[0].plotted:
        groups = []
        for code, name in classes:
            values = tuple(row.values[key] for row in rows if row.code == code and key in row.values)
            groups.append((name if code is not None else titles[key], values))
        panels.append(Panel(titles[key], tuple(groups), key not in _UNBOUNDED))
    return panels


def _require_same_things(result: CaseEvaluations) -> None:
    """Raise where a class is a thing in one case and stuff in another: their scores have no common mean."""
    seen: dict[int, tuple[bool, str]] = {}
    for name, case in zip(result.names, result.cases, strict=True):
        if not isinstance(case, PanopticEvaluation):
            continue
        for code in case.scores:
            kind, other = seen.setdefault(code, (code in case.things, name))
            if kind != (code in case.things):
                with_numbers, without = (other, name) if kind else (name, other)
                raise LabelError(
                    f"class {code} has instance numbers in {with_numbers} but none in {without}. Say which classes "
                    f"are things: --things CODES."
                )
