"""The experiments of Çiçek et al. 2016, section 4: which trainings each of them consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import ConfigError
from vol3d.workflows.experiment_splits import (
    ALL_SCORED,
    ALL_TRAIN,
    Counts,
    Mask,
    Planes,
    PlaneSplit,
    counts_text,
    dense_set,
    fold_splits,
    growing_sets,
    is_dense,
    pool_of,
    reserve,
    sparse_set,
)

Kind = Literal["folds", "slices", "batchnorm", "dimensions", "volumes", "paper"]
Table = Literal["folds", "slices", "volumes"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TABLES: tuple[Table, ...] = get_args(Table)
_PAPER_SETS: tuple[Counts, ...] = ((1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 5, 3))
_FOLDS = 3


@dataclass(frozen=True)
class Variant:
    """A network: its dimensions, and whether it has BatchNorm (None: another normalization, as configured)."""

    dimensions: Literal[2, 3] = 3
    batchnorm: bool | None = True

    @property
    def name(self) -> str:
        """In words."""
        norm = {True: "BatchNorm", False: "no BatchNorm", None: "normalization as configured"}[self.batchnorm]
        return f"{self.dimensions}-D, {norm}"


_PAPER_VARIANTS = (Variant(3, False), Variant(3, True), Variant(2, True))


@dataclass(frozen=True)
class Choices:
    """What is asked for; None: the default of the kind.

    folds: also every how-many-th annotated slice `slices` scores on. slices: numbers of slices across x, y, z of the
    file. seeds: how many trainings differ in nothing but their seed. batchnorm: with it, without it, or both.
    """

    kind: Kind
    folds: int | None = None
    slices: tuple[Counts, ...] = ()
    seeds: int = 3
    batchnorm: Literal["on", "off", "both"] | None = None
    dimensions: Literal[2, 3] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"expected an experiment among {', '.join(KINDS)}, found {self.kind!r}")
        if self.seeds < 1:
            raise ConfigError(f"--seeds: expected at least 1, found {self.seeds}")
        fixed = {"batchnorm": ("batchnorm", "paper"), "dimensions": ("dimensions", "paper")}
        for name, kinds in fixed.items():
            if self.kind in kinds and getattr(self, name) is not None:
                raise ConfigError(f"{self.kind} compares this itself; leave --{name} out")
        if self.kind == "volumes" and (self.folds is not None or self.slices):
            raise ConfigError("volumes leaves out one whole volume after another; leave --folds and --slices out")


@dataclass(frozen=True, eq=False)
class Subject:
    """What the labels of one volume are like, on the file's own grid.

    classes: class indices (X, Y, Z), and K + s where a voxel is only known to be of set s. labeled: where the class
    is known; known: where that or a set is; bool (X, Y, Z). background: the index of the background class, None where
    there is none.
    """

    name: str
    classes: NDArray[np.unsignedinteger]
    labeled: Mask
    known: Mask
    background: int | None

    @property
    def dense(self) -> bool:
        """Whether the labels are no slices."""
        return is_dense(self.known)

    def divided(self, split: PlaneSplit) -> tuple[Mask, Mask]:
        """(voxels that train, voxels that are scored), which have a certain class; bool (X, Y, Z)."""
        training, held = split.masks(self.known)
        return training, held & self.labeled

    @property
    def filled(self) -> Mask:
        """Labeled voxels of the foreground: not background or, where no class is, not the most frequent class."""
        skip = self.background
        if skip is None:
            skip = int(np.bincount(self.classes[self.labeled].ravel()).argmax())
        found = self.labeled & (self.classes != skip)
        return found if found.any() else self.labeled


@dataclass(frozen=True)
class PlannedRow:
    """One training and what it is scored on.

    part: which fold, set of slices, or volume. volumes: numbers of the volumes it needs, `splits` one each. slices:
    the set of slices that trains, where there is one.
    """

    table: Table
    part: str
    volumes: tuple[int, ...]
    splits: tuple[PlaneSplit, ...]
    variant: Variant
    seed: int
    slices: Counts | None = None

    @property
    def key(self) -> str:
        """What tells the row from all others."""
        return f"{self.table}: {self.part}, {self.variant.name}, seed {self.seed}"


@dataclass(frozen=True)
class PlannedExperiment:
    """All rows in order. said: notes for the user, a line each."""

    rows: tuple[PlannedRow, ...]
    said: tuple[str, ...] = ()


def plan_rows(choices: Choices, subjects: Sequence[Subject], base: Variant, first_seed: int) -> PlannedExperiment:
    """The rows that `choices` ask for on these volumes. base: the configured network. first_seed: of the seeds.

    Raises `ConfigError` where the data cannot give what is asked for.
    """
    if choices.kind == "paper":
        return _paper(choices, subjects, first_seed)
    variants = _variants(choices, base)
    table = _table(choices, subjects)
    return _rows(table, choices, subjects, variants, first_seed)


def _table(choices: Choices, subjects: Sequence[Subject]) -> Table:
    """How a comparison of networks is scored: on folds of annotated slices or, of dense labels, on all the rest."""
    if choices.kind in ("batchnorm", "dimensions"):
        return "slices" if all(one.dense for one in subjects) and choices.folds is None else "folds"
    return next(table for table in TABLES if table == choices.kind)


def _variants(choices: Choices, base: Variant) -> tuple[Variant, ...]:
    if choices.kind == "batchnorm":
        return (Variant(base.dimensions, False), Variant(base.dimensions, True))
    norms = {None: (base.batchnorm,), "on": (True,), "off": (False,), "both": (False, True)}[choices.batchnorm]
    dimensions: tuple[Literal[2, 3], ...] = (3, 2) if choices.kind == "dimensions" else (base.dimensions,)
    return tuple(Variant(size, norm) for size in dimensions for norm in norms)


def _paper(choices: Choices, subjects: Sequence[Subject], first_seed: int) -> PlannedExperiment:
    rows: list[PlannedRow] = []
    said: list[str] = []
    asked: tuple[tuple[Table, tuple[Variant, ...]], ...] = (
        ("folds", _PAPER_VARIANTS),
        ("slices", (Variant(3, True),)),
        ("volumes", _PAPER_VARIANTS),
    )
    for number, (table, variants) in enumerate(asked, start=1):
        try:
            found = _rows(table, choices, subjects, variants, first_seed)
        except ConfigError as error:
            said.append(f"left out: table {number}, {table}: {error}")
        else:
            rows += found.rows
            said += found.said
    if not rows:
        raise ConfigError(f"the data allow none of the paper's experiments. {said[0]}")
    return PlannedExperiment(tuple(rows), tuple(said))


def _rows(
    table: Table, choices: Choices, subjects: Sequence[Subject], variants: Sequence[Variant], first_seed: int
) -> PlannedExperiment:
    parts, said = {"folds": _folds, "slices": _slices, "volumes": _volumes}[table](choices, subjects)
    for part in parts:
        _require_both(part, subjects)
    rows = tuple(
        PlannedRow(table, part.name, part.volumes, part.splits, variant, first_seed + seed, part.slices)
        for part in parts
        for variant in variants
        for seed in range(choices.seeds)
    )
    return PlannedExperiment(rows, tuple(said))


@dataclass(frozen=True)
class _Part:
    """One division of the labels, before networks and seeds."""

    name: str
    volumes: tuple[int, ...]
    splits: tuple[PlaneSplit, ...]
    slices: Counts | None = None


def _folds(choices: Choices, subjects: Sequence[Subject]) -> tuple[list[_Part], list[str]]:
    folds = choices.folds or _FOLDS
    said = []
    if choices.slices and choices.kind != "paper" and not any(one.dense for one in subjects):
        raise ConfigError("folds take every annotated slice; --slices is for dense labels, leave it out")
    if len(choices.slices) > 1 and choices.kind != "paper":
        found = " ".join(map(counts_text, choices.slices))
        raise ConfigError(f"folds of dense labels need one set of slices, found --slices {found}")
    pools: list[Planes] = []
    for one in subjects:
        if one.dense:
            counts = choices.slices[-1] if choices.slices else _fitting(one)[-1]
            pools.append(dense_set(one.filled, counts))
            said.append(f"{one.name}: densely labeled; {counts_text(counts)} slices across x,y,z count as annotated")
        else:
            pools.append(pool_of(one.known))
    splits = fold_splits([one.known for one in subjects], folds, pools)
    everything = tuple(range(len(subjects)))
    return [_Part(f"fold {n} of {folds}", everything, split) for n, split in enumerate(splits, start=1)], said


def _slices(choices: Choices, subjects: Sequence[Subject]) -> tuple[list[_Part], list[str]]:
    parts: list[_Part] = []
    said: list[str] = []
    for number, one in enumerate(subjects):
        named = f" of {one.name}" if len(subjects) > 1 else ""
        if one.dense:
            if choices.folds is not None and choices.kind == "slices":
                raise ConfigError("dense labels are scored wherever no slice was taken; leave --folds out")
            few = _fitting(one)[-1:] if choices.kind in ("batchnorm", "dimensions") else _fitting(one)
            for counts in choices.slices or few:
                split = PlaneSplit(dense_set(one.filled, counts))
                parts.append(_Part(f"{counts_text(counts)} slices{named}", (number,), (split,), counts))
            continue
        pool, held = reserve(pool_of(one.known), choices.folds or _FOLDS)
        if not pool or not held:
            raise ConfigError(
                f"{one.name}: expected annotated slices (planes with half of their voxels labeled) to train and to "
                f"score on, found {len(pool) + len(held)}. Paint more slices, or give dense labels."
            )
        said.append(f"{one.name}: every row is scored on the same {len(held)} of {len(pool) + len(held)} slices")
        for counts in choices.slices or growing_sets(pool):
            split = PlaneSplit(sparse_set(pool, counts), held, pool)
            parts.append(_Part(f"{counts_text(counts)} slices{named}", (number,), (split,), counts))
    return parts, said


def _volumes(choices: Choices, subjects: Sequence[Subject]) -> tuple[list[_Part], list[str]]:  # noqa: ARG001  as above
    if len(subjects) < 2:
        raise ConfigError("leaving out one volume after another needs at least 2 volumes, found 1. Give more with -i.")
    everything = tuple(range(len(subjects)))
    parts = [
        _Part(f"without {left.name}", everything, tuple(ALL_SCORED if n == out else ALL_TRAIN for n in everything))
        for out, left in enumerate(subjects)
    ]
    return parts, []


def _fitting(one: Subject) -> list[Counts]:
    """The paper's sets of slices, as far as this volume has so many; none across an axis of one voxel."""
    found: list[Counts] = []
    for x, y, z in _PAPER_SETS:
        sizes = [count if one.labeled.shape[axis] > 1 else 0 for axis, count in enumerate((x, y, z))]
        try:
            dense_set(one.filled, (sizes[0], sizes[1], sizes[2]))
        except ConfigError:
            break
        found.append((sizes[0], sizes[1], sizes[2]))
    if not found:
        raise ConfigError(f"{one.name}: the labels are too small for slices across every axis; say which: --slices")
    return list(dict.fromkeys(found))


def _require_both(part: _Part, subjects: Sequence[Subject]) -> None:
    """Raise where a row would have nothing to learn from, or nothing to be scored on."""
    trains, scored = False, False
    for number, split in zip(part.volumes, part.splits, strict=True):
        training, score = subjects[number].divided(split)
        trains, scored = trains or bool(training.any()), scored or bool(score.any())
    if not trains or not scored:
        what = "to train on" if not trains else "to score on: the held slices hold none beside their crossings"
        raise ConfigError(f"{part.name}: no labeled voxel is left {what}. Paint more slices, or ask for fewer folds.")
