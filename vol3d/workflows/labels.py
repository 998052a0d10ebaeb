"""What the codes of a label file mean: which are classes, and which voxels somebody annotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vol3d.config import LabelsConfig, TaskSpec
from vol3d.errors import LabelError
from vol3d.volume import LabelTable, SparseLabels, Volume, is_background, value_counts
from vol3d.workflows.partial import Codes, choices, not_painted, refuse_painted, say_choice, sets_of, split_choices

_MOST = 0.5
_AXES = "xyz"
TO_PAINT = "to paint"  # names a code that marks slices for somebody to paint; until then nobody has
UNLABELED_NAMES = {"unlabeled", "unlabelled", "ignore", "unknown", TO_PAINT}


@dataclass(frozen=True)
class LabelMeaning:
    """The classes of a task and how annotated voxels are told from the others.

    table: what the network answers. said: one line for the user. spec: what becomes of the answers. sets: class indices
    of every set of classes that a voxel may be known to be one of.
    """

    table: LabelTable
    config: LabelsConfig
    said: str
    spec: TaskSpec = field(default_factory=TaskSpec)
    sets: tuple[Codes, ...] = ()

    def sparse(self, volume: Volume, weight: NDArray[np.float32] | None = None) -> SparseLabels:
        """The labels of one file: (1, X, Y, Z) codes → class indices, mask and sets.

        Raises `LabelError` on strange codes.
        """
        codes = volume.array[0]
        mask = annotated_planes(volume, self.config)
        partial = split_choices(volume, mask, self.config, self.table, self.sets) if self.sets else None
        if partial is not None:
            mask = partial == 0 if mask is None else mask & (partial == 0)
        if mask is not None:  # elsewhere a code means nothing, or not one class
            codes = np.where(mask, codes, self.table.codes[0].astype(self.table.code_dtype))
        classes, labeled = self.table.encode(codes, volume.name)
        labeled = labeled if mask is None else labeled & mask
        labels = SparseLabels(classes, labeled, volume.affine, volume.name, weight, partial)
        refuse_painted(labels, self.config, self.table)
        return labels

    def prepared(self, labels: SparseLabels, spacing_mm: Sequence[float]) -> SparseLabels:  # noqa: ARG002, PLR6301 RUF100
        """The labels as they are: the network answers classes."""
        return labels

    def target(self, volume: Volume) -> None:
        """Nothing: classes are all there is to learn."""


def annotated_planes(volume: Volume, config: LabelsConfig) -> NDArray[np.bool_] | None:
    """Mask (X, Y, Z) of the slices that were declared annotated, None where nothing was declared.

    Raises `LabelError` where a slice lies outside the volume.
    """
    if not config.annotated_slices:
        return None
    mask = np.zeros(volume.shape, dtype=bool)
    for letter, indices in config.annotated_slices.items():
        axis = _AXES.index(letter)
        for index in indices:
            if index >= volume.shape[axis]:
                raise LabelError(
                    f"{volume.name}: slice {letter}={index} does not exist: {letter} runs from 0 to "
                    f"{volume.shape[axis] - 1}. `vol3d info` prints the axes."
                )
            mask[(slice(None),) * axis + (index,)] = True
    return mask


def code_counts(volume: Volume, mask: NDArray[np.bool_] | None = None) -> dict[int, int]:
    """Voxels per code, of all voxels or of those in `mask`."""
    values = volume.array[0] if mask is None else volume.array[0][mask]
    codes, counts = value_counts(values)
    return {int(code): int(count) for code, count in zip(codes, counts, strict=True)}


def stored_names(volume: Volume) -> dict[int, str]:
    """Class names kept in the label file, code → name."""
    return {int(code): str(name) for code, name in volume.attributes.get("class_names", {}).items()}


def other_name(one: dict[int, str], other: dict[int, str]) -> tuple[int, str] | None:
    """A code that both name, differently, and its name in `one`; None where there is none.

    Names that say nothing, such as class 3 or background, contradict none, nor do those of unlabeled codes.
    """
    for code in sorted(one.keys() & other.keys()):
        names = one[code], other[code]
        same = names[0].strip().casefold() == names[1].strip().casefold()
        if not (same or any(says_nothing(name, code) for name in names)):
            return code, one[code]
    return None


def says_nothing(name: str, code: int) -> bool:
    """Whether a name of a code is one that anything may have: class 3 of code 3, background, unlabeled."""
    plain = name.strip().casefold()
    return plain in {*UNLABELED_NAMES, f"class {code}"} or is_background(plain)


def marks(volumes: list[Volume]) -> set[int]:
    """Codes that label files themselves name "to paint": marks that nobody has painted over yet."""
    return {code for volume in volumes for code, name in stored_names(volume).items() if name.lower() == TO_PAINT}


def unlabeled_codes(volumes: list[Volume], config: LabelsConfig) -> tuple[int, ...]:
    """Codes that mean unlabeled: as configured, else those a label file itself names so; marks to paint always do."""
    if config.unlabeled or config.dense:
        return (*config.unlabeled, *sorted(marks(volumes) - set(config.unlabeled)))
    named = {
        code for volume in volumes for code, name in stored_names(volume).items() if name.lower() in UNLABELED_NAMES
    }
    return tuple(sorted(named - config.one_of.keys()))


def decide(volumes: list[Volume], config: LabelsConfig) -> LabelMeaning:
    """Find out what the codes mean, or refuse with the choices where only the user can know.

    volumes: label files (1, X, Y, Z) of codes. Raises `LabelError` where one code covers most of a volume and nobody
    said whether it is a class or unlabeled, and where no voxel is labeled at all.
    """
    totals, unlabeled = labeled_counts(volumes, config)
    table = _table(totals, volumes, config, unlabeled)
    if len(table) < 2:
        only = table.classes[0]
        raise LabelError(
            f"{volumes[0].name}: expected at least two classes among labeled voxels, found only code {only.code}. "
            f"Background must be annotated too: paint it, or say --dense if 0 is background everywhere."
        )
    return meaning_of(table, volumes, config)


def meaning_of(table: LabelTable, volumes: list[Volume], config: LabelsConfig) -> LabelMeaning:
    """What the codes of `volumes` mean to a network that answers the classes of `table`."""
    sets = sets_of([volume.name for volume in volumes], config, table)
    said = [_say(table, config, table.unlabeled)]
    said += [f"code {code}: {say_choice(members)}" for code, members in config.one_of.items()]
    for volume in volumes:
        hidden, background = not_painted(volume.name, config), int(table.codes[0])
        if hidden:
            meant = say_choice(choices(volume.name, config, background)[background])
            said.append(f"{volume.name}: code {background} is {meant}")
    return LabelMeaning(table, config, "; ".join(said), sets=sets)


def labeled_counts(volumes: list[Volume], config: LabelsConfig) -> tuple[dict[int, int], tuple[int, ...]]:
    """(voxels of every code over all labeled voxels, the codes that mean unlabeled); raises as `decide` does."""
    unlabeled = unlabeled_codes(volumes, config)
    totals: dict[int, int] = {}
    for volume in volumes:
        counts = code_counts(volume, annotated_planes(volume, config))
        _refuse_names_of_others(volume, counts, volumes, config)
        stated = max(counts, key=lambda found: counts[found]) in config.one_of or bool(not_painted(volume.name, config))
        said = tuple(code for code in unlabeled if code not in marks([volume]))  # marks say nothing of other codes
        if not (stated or explained(counts, said, config)):
            refuse_ambiguous_code(volume, counts, said)
        labeled = {code: count for code, count in counts.items() if code not in unlabeled and code not in config.one_of}
        if not labeled and len(volumes) == 1:
            raise LabelError(
                f"{volume.name}: expected labeled voxels, found none: every voxel holds code "
                f"{', '.join(map(str, sorted(counts)))}, which means "
                f"{'no class for certain' if config.one_of else 'unlabeled'}. Paint some slices, or mend --unlabeled."
            )
        for code, count in labeled.items():
            totals[code] = totals.get(code, 0) + count
    if not totals:
        names = ", ".join(v.name for v in volumes)
        raise LabelError(f"{names}: expected labeled voxels, found none. Paint some slices, or mend --unlabeled.")
    return totals, unlabeled


def _refuse_names_of_others(
    volume: Volume, counts: dict[int, int], volumes: list[Volume], config: LabelsConfig
) -> None:
    """Raise `LabelError` where a code means unlabeled by the names of other files alone, and this one holds it."""
    own = unlabeled_codes([volume], config)
    for other in volumes:
        for code in set(unlabeled_codes([other], config)) - {*own}:
            if code in counts:
                here, there = stored_names(volume).get(code), stored_names(other)[code]
                called = f"{volume.name}, which holds it too, " + (f"calls it {here!r}" if here else "does not name it")
                raise LabelError(
                    f"{other.name} names code {code} {there!r}, and {called}. Say --unlabeled {code} if it means "
                    "unlabeled in all files, or give it another number in one of them."
                )


def explained(counts: dict[int, int], unlabeled: tuple[int, ...], config: LabelsConfig) -> bool:
    """Whether somebody said what the codes of a label file mean: outright, or by an unlabeled code that occurs."""
    return config.dense or bool(config.annotated_slices) or any(code in counts for code in unlabeled)


def refuse_ambiguous_code(volume: Volume, counts: dict[int, int], unlabeled: tuple[int, ...] = ()) -> None:
    """Raise `LabelError` where one code covers most of a label file that nobody has explained."""
    code = max(counts, key=lambda found: counts[found])
    share = counts[code] / sum(counts.values())
    if share <= _MOST:
        return
    absent = f"unlabeled code {unlabeled[0]} does not occur, " if unlabeled else ""
    start = f"{volume.name}: {absent}code {code} covers {100 * share:.1f} % of the voxels"
    if code == 0:
        raise LabelError(
            f"{start}, and background is not the same as unlabeled. Say which it is: --unlabeled 0 (0 means nobody "
            f"annotated), --annotated-slices z=10,20 (in those slices 0 is background), or --dense (0 is background "
            f"everywhere)."
        )
    raise LabelError(
        f"{start}; does it mean unlabeled? Say --unlabeled {code} (nobody annotated there), or --dense (it is a class)."
    )


def _table(
    totals: dict[int, int], volumes: list[Volume], config: LabelsConfig, unlabeled: tuple[int, ...]
) -> LabelTable:
    names: dict[int, str] = {}
    for volume in volumes:
        own = {code: name for code, name in stored_names(volume).items() if code in totals or config.classes}
        other = None if config.classes else other_name(names, own)
        if other is not None:
            raise LabelError(
                f"{volume.name} calls code {other[0]} {own[other[0]]!r}, another label file calls it {other[1]!r}. "
                "Give classes the same codes in all files, or name them in the configuration (labels.classes)."
            )
        names |= own
    if config.classes:
        names |= {c.code: c.name for c in config.classes}
        return LabelTable.from_codes([c.code for c in config.classes], unlabeled, names)
    return LabelTable.from_codes(list(totals), unlabeled, names)


def _say(table: LabelTable, config: LabelsConfig, unlabeled: tuple[int, ...]) -> str:
    classes = ", ".join(f"{c.code} {c.name}" for c in table.classes[:12]) + (" …" if len(table) > 12 else "")
    return f"{len(table)} classes: {classes}; {say_coverage(config, unlabeled)}"


def say_coverage(config: LabelsConfig, unlabeled: tuple[int, ...]) -> str:
    """In words: which voxels are annotated."""
    parts = []
    if unlabeled:
        parts.append(f"unlabeled: code {', '.join(map(str, unlabeled))}")
    if config.annotated_slices:
        slices = " ".join(f"{a}={','.join(map(str, i))}" for a, i in config.annotated_slices.items())
        parts.append(f"annotated slices {slices} (0-based, axes as in `vol3d info`), everything else unlabeled")
    elif not unlabeled:
        parts.append("every voxel annotated")
    return "; ".join(parts)
