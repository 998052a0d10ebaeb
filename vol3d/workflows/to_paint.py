"""Label files with marks to paint: what is painted so far, and the same file with some planes marked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d import io, report
from vol3d.bundle import ModelBundle
from vol3d.config import Config, DataConfig, LabelsConfig, parse_config
from vol3d.errors import ConfigError, LabelError, Vol3dError
from vol3d.io.names import locate
from vol3d.volume import LabelTable, Volume, is_background
from vol3d.workflows.drawn import meaning_in_run
from vol3d.workflows.labels import (
    TO_PAINT,
    UNLABELED_NAMES,
    annotated_planes,
    code_counts,
    explained,
    marks,
    refuse_ambiguous_code,
    stored_names,
    unlabeled_codes,
)
from vol3d.workflows.sources import Source, Spacing, label_volume

_UNLABELED = "unlabeled"


@dataclass(frozen=True, eq=False)
class Painted:
    """What somebody painted of a scan so far.

    codes: unsigned (X, Y, Z), as in the label file. labeled: bool, same, True where somebody painted. names: code →
    class name. unlabeled: the codes that mean nobody did. said: one line for the user.
    """

    codes: NDArray[Any]
    labeled: NDArray[np.bool_]
    names: dict[int, str] = field(default_factory=dict)
    unlabeled: tuple[int, ...] = ()
    said: str = ""

    def marked(
        self, planes: Iterable[tuple[int, int]], classes: dict[int, str], *, wide: bool = False
    ) -> tuple[NDArray[Any], dict[int, str], int, int]:
        """(codes, names, the code for to paint, the code for unlabeled), with `planes` (axis, index) marked.

        What is painted stays; elsewhere every voxel is unlabeled, or in one of the planes to be painted. Both codes are
        the highest free ones of 8 bits, or of 16 or 32 where those are needed; an unlabeled code of the file is kept.
        classes: codes that a class has or may get, and their names. wide: take 16 bits at least, for object numbers.
        """
        marked = {code for code, name in self.names.items() if name.lower() == TO_PAINT}
        kept = [code for code in self.unlabeled if code not in marked]
        classes = {code: name for code, name in (classes | self.names).items() if code not in {*marked, *kept}}
        taken = {int(code) for code in np.unique(self.codes[self.labeled])} | classes.keys()
        spare = {bits: 2**bits - len({*taken, *kept}) for bits in (8, 16, 32) if not (wide and bits == 8)}
        largest = max([*taken, *kept], default=0)
        top = next(2**bits - 1 for bits, free in spare.items() if largest < 2**bits and free > 1)
        free = (code for code in range(top, -1, -1) if code not in taken and code not in kept)
        rest = kept[0] if kept else next(free)
        mark = next(free)
        codes = np.where(self.labeled, self.codes, rest).astype(np.min_scalar_type(max(mark, rest, *taken, 0)))
        for axis, index in planes:
            where = (slice(None),) * axis + (index,)
            codes[where] = np.where(self.labeled[where], codes[where], mark)
        return codes, classes | {rest: _UNLABELED, mark: TO_PAINT}, mark, rest

    def refuse_to_drop(self, target: str, table: LabelTable) -> None:
        """Raise `LabelError` where the file `target`, which is to be replaced, holds what is painted there alone.

        table: the model's classes. Anything but labels on the same grid is passed over, and so is background alone, and
        the codes that this would mark with, should a painting tool have dropped their names.
        """
        if not locate(target, "label").path.is_file():
            return
        try:
            there = io.read_labels(target)
        except Vol3dError:
            return
        if there.shape != self.codes.shape:
            return
        names = stored_names(there)
        open_ = {code for code, name in names.items() if name.lower() in UNLABELED_NAMES} | set(self.unlabeled)
        open_ |= {0, *(one.code for one in table.classes if is_background(one.name))}
        open_ |= {*self.marked([], {one.code: one.name for one in table.classes})[2:]}
        painted = ~np.isin(there.array[0], sorted(open_))
        lost = int(np.count_nonzero(painted & ~self.labeled))
        if lost:
            raise LabelError(
                f"{target} holds {lost} painted voxels that are not among those that count as painted here. Give it "
                f"with -l (and say what its codes mean), or another name for the output with -o."
            )


def find_painted(
    scan: Source,
    volume: Volume,
    bundle: ModelBundle,
    run: Path | None,
    labels: Source | None,
    meaning: LabelsConfig | None,
    data: DataConfig,
    spacing_mm: Spacing = None,
) -> Painted:
    """What is painted of a scan: in `labels`, else in the labels that the run trained on with this scan, else nothing.

    volume: the scan. run: the folder of the model's run, None where there is none. meaning: what the codes mean, None
    takes what the run knows (of labels that it did not learn from which codes are unlabeled, but no slices). data: how
    the scan is read, and thus the labels.
    Raises `LabelError` where only the user can know what a code means, `GeometryError` for labels on another grid.
    """
    config = None if run is None else _config_of(run)
    if labels is None and config is not None:
        labels = _labels_of(scan, config)
        if labels is not None and not io.split_name(str(labels))[0].is_file():
            raise ConfigError(
                f"{run}: the labels that this run had of the scan, {labels}, are gone. Name the present ones with -l."
            )
    if labels is None:
        nothing = np.zeros(volume.shape, dtype=np.uint8)
        return Painted(nothing, nothing.astype(bool), {}, bundle.labels.unlabeled, "nothing is painted of this scan")
    given = meaning or meaning_in_run(labels, run)[0]
    drawn = label_volume(labels, config.data if config is not None and data.xform is None else data, spacing_mm)
    volume.require_same_grid(drawn)
    planes = annotated_planes(drawn, given)
    counts = code_counts(drawn, planes)
    unlabeled = unlabeled_codes([drawn], given) or tuple(c for c in bundle.labels.unlabeled if c in counts)
    stated = tuple(code for code in unlabeled if code not in marks([drawn]))
    if not explained(counts, stated, given) and not given.one_of and not given.not_painted:
        refuse_ambiguous_code(drawn, counts, stated)
    labeled = ~np.isin(drawn.array[0], unlabeled)
    labeled = labeled if planes is None else labeled & planes
    if labeled.all():
        raise LabelError(f"{drawn.name}: every voxel is labeled, so that nothing is left to paint; mend --unlabeled")
    said = f"painted so far: {100 * labeled.mean():.2f} % of the voxels, in {drawn.name}"
    return Painted(drawn.array[0], labeled, stored_names(drawn), unlabeled, said)


def labels_beside(scan: Source, run: Path | None) -> tuple[str, ...] | None:
    """The label files of the other scans that a run learned from; None where going on takes this scan alone.

    That is so where it is none of the run's scans, and where slices were declared, which means nothing in a file with
    marks.
    """
    config = None if run is None else _config_of(run)
    pairs = [] if config is None else _pairs(scan, config)
    if len(pairs) > 1 and config is not None and config.labels.annotated_slices:
        return None
    return tuple(drawn for drawn, own in pairs if not own) if any(own for _, own in pairs) else None


def _config_of(run: Path) -> Config:
    record = report.read_record(run)
    if "config" not in record:
        raise ConfigError(f"{run}: run.json lacks the configuration; name the labels with -l, the model file with -m")
    return parse_config(record["config"], source=str(run / report.RECORD))


def _labels_of(scan: Source, config: Config) -> str | None:
    """The label file that a run had beside this scan; None where the scan is none of its images."""
    return next((drawn for drawn, is_of_scan in _pairs(scan, config) if is_of_scan), None)


def _pairs(scan: Source, config: Config) -> list[tuple[str, bool]]:
    """The label files of a run, and whether each is that of this scan."""
    here = io.place_of(str(scan)) if isinstance(scan, (str, Path)) else None
    pairs = zip(config.data.images, config.data.labels, strict=False)
    return [(drawn, here is not None and io.place_of(image) == here) for image, drawn in pairs]
