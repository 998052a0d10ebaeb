"""Codes that leave a choice: voxels known to be of one of several classes, classes that nobody painted in a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from vol3d import io
from vol3d.config import LabelsConfig, Task
from vol3d.errors import LabelError
from vol3d.io.formats import split_suffix
from vol3d.volume import LabelTable, SparseLabels, Volume

Codes = tuple[int, ...]


def choices(name: str, config: LabelsConfig, background: int) -> dict[int, Codes]:
    """Codes of the label file `name` that leave a choice: code → class codes it may stand for, ascending.

    These are the codes of `one_of`, and the background code where `not_painted` says that classes may hide in it.
    background: the smallest code of a class. Raises `LabelError` where it is itself named as not painted.
    """
    found = {code: tuple(sorted(set(members))) for code, members in config.one_of.items()}
    hidden = not_painted(name, config)
    if background in hidden:
        raise LabelError(
            f"--not-painted {name}: code {background} is the background, in which other classes may hide; name "
            f"those classes instead"
        )
    if hidden:
        found[background] = tuple(sorted({background, *hidden}))
    return found


def not_painted(name: str, config: LabelsConfig) -> Codes:
    """Codes of the classes that nobody painted in the label file `name`, ascending; none where nothing was said."""
    matching = [codes for pattern, codes in config.not_painted.items() if is_file(name, pattern)]
    return tuple(sorted({code for codes in matching for code in codes}))


def is_file(name: str, pattern: str) -> bool:
    """Whether `pattern` means the file `name`: its name with or without suffix, a glob, or the end of its path."""
    path, _ = io.split_name(name)
    bare = path.with_name(split_suffix(path)[0]) if path.name else path
    return any(found.match(pattern) for found in (PurePath(name), path, bare))


def sets_of(names: Iterable[str], config: LabelsConfig, table: LabelTable) -> tuple[Codes, ...]:
    """All sets that voxels of these label files are known to be in: class indices of each, ascending.

    Raises `LabelError` for codes that are no classes, and for a set of all classes, which would say nothing.
    """
    background = int(table.codes[0])
    found: dict[Codes, None] = {}
    for name in names:
        for code, members in choices(name, config, background).items():
            option = f"--one-of {code}" if code in config.one_of else f"--not-painted {name}"
            found[_indices(members, table, option)] = None
    return tuple(found)


def split_choices(
    volume: Volume, mask: NDArray[np.bool_] | None, config: LabelsConfig, table: LabelTable, sets: Sequence[Codes]
) -> NDArray[np.unsignedinteger] | None:
    """K + s where a voxel is only known to be of set s, 0 elsewhere, (X, Y, Z); None where no voxel is.

    mask: the voxels that count, None for all. sets: as `sets_of` finds them.
    """
    codes, largest = volume.array[0], len(table) + len(sets) - 1
    partial = None
    for code, members in choices(volume.name, config, int(table.codes[0])).items():
        here = codes == code if mask is None else (codes == code) & mask
        if here.any():
            partial = np.zeros(codes.shape, np.min_scalar_type(largest)) if partial is None else partial
            partial[here] = len(table) + sets.index(_indices(members, table, f"code {code}"))
    return partial


def refuse_painted(labels: SparseLabels, config: LabelsConfig, table: LabelTable) -> None:
    """Raise `LabelError` where a class was painted after all in a file that is said to lack it."""
    hidden = not_painted(labels.name, config)
    if not hidden:
        return
    counts = labels.counts(len(table))
    for code, count in zip(table.codes.tolist(), counts.tolist(), strict=True):
        if code in hidden and count:
            raise LabelError(
                f"{labels.name} holds {count} voxels of code {code}, which --not-painted says nobody painted there; "
                f"leave {code} out of it"
            )


def refuse_choices(config: LabelsConfig, task: Task) -> None:
    """Raise `LabelError` where a task cannot learn from or be scored with codes that leave a choice."""
    if task != "semantic" and (config.one_of or config.not_painted):
        option = "--one-of" if config.one_of else "--not-painted"
        raise LabelError(f"{option} is for a class per voxel (task semantic), found task {task}; leave it out")


def require_meant(names: Sequence[str], config: LabelsConfig) -> None:
    """Raise `LabelError` where `not_painted` names a file that is none of `names`: it would have no effect."""
    for pattern in config.not_painted:
        if not any(is_file(name, pattern) for name in names):
            known = ", ".join(short_name(name, names) for name in names[:8])
            raise LabelError(f"--not-painted {pattern}: no label file of that name; expected one of {known}")


def unseen_classes(labels: Sequence[SparseLabels], config: LabelsConfig, table: LabelTable) -> str | None:
    """A warning, with the option to give, where a class occurs in some label files only; None where all is well.

    In the others the background may hide it, unless nobody annotated background there. Files that `not_painted`
    speaks of, if only to say that everything was painted, are left out.
    """
    counts = [part.counts(len(table)) for part in labels]
    names = [part.name for part in labels]
    absent: dict[int, list[str]] = {}
    for name, found in zip(names, counts, strict=True):
        if not found[0] or any(is_file(name, pattern) for pattern in config.not_painted):
            continue
        for index in range(1, len(table)):
            if not found[index] and any(other[index] for other in counts):
                absent.setdefault(index, []).append(short_name(name, names))
    if not absent:
        return None
    absent = dict(sorted(absent.items()))
    said = ", ".join(
        f"{table.classes[index].code} {table.classes[index].name} not in {', '.join(files)}"
        for index, files in absent.items()
    )
    files = [file for file in (short_name(name, names) for name in names) if any(file in f for f in absent.values())]
    options = [
        f"{file}={','.join(str(table.classes[index].code) for index, found in absent.items() if file in found)}"
        for file in files
    ]
    return (
        f"some classes occur in some label files only: {said}. If nobody painted them there, code "
        f"{table.classes[0].code} of those files may hide them: say --not-painted {' '.join(options)}; if they truly "
        f"have none: --not-painted {' '.join(f'{file}=' for file in files)}"
    )


def open_codes(volume: Volume, mask: NDArray[np.bool_], config: LabelsConfig, *others: Volume) -> dict[int, Codes]:
    """Codes of one label file that leave a choice: code → class codes, as `choices`, without a table of classes.

    mask: bool (X, Y, Z), False where nobody annotated. others: volumes of class codes, such as a prediction. The
    smallest of all codes, or of the classes as configured, is the background.
    """
    if not (config.one_of or config.not_painted):
        return {}
    classes = {c.code for c in config.classes}
    if not classes:
        found = [np.unique(volume.array[0][mask]), *(np.unique(other.array[0]) for other in others)]
        classes = {int(code) for codes in found for code in codes} - config.one_of.keys()
    return choices(volume.name, config, min(classes, default=0))


def undecided(volume: Volume, mask: NDArray[np.bool_], config: LabelsConfig, *others: Volume) -> NDArray[np.bool_]:
    """Voxels of a label file that leave a choice, so that they are no ground truth; bool (X, Y, Z), or one False.

    Arguments as of `open_codes`.
    """
    codes = list(open_codes(volume, mask, config, *others))
    return np.isin(volume.array[0], codes) if codes else np.zeros((1, 1, 1), dtype=bool)


def say_choice(codes: Codes) -> str:
    """(0, 1, 3) → "0, 1 or 3"."""
    return f"{', '.join(map(str, codes[:-1]))} or {codes[-1]}"


def short_name(name: str, names: Sequence[str]) -> str:
    """What means this file and none of the others: its name without suffix, with its folder, or all of it."""
    path, _ = io.split_name(name)
    bare = split_suffix(path)[0]
    for short in (bare, path.name, f"{path.parent.name}/{bare}"):
        if sum(is_file(other, short) for other in names) == 1 and is_file(name, short):
            return short
    return name


def _indices(codes: Codes, table: LabelTable, option: str) -> Codes:
    known = table.codes.tolist()
    strange = [code for code in codes if code not in known]
    if strange:
        raise LabelError(
            f"{option}: code {strange[0]} is no class; expected some of {', '.join(map(str, known))}. Paint it "
            f"somewhere, or name it in labels.classes."
        )
    if len(codes) == len(known):
        raise LabelError(
            f"{option}: {say_choice(codes)} are all classes there are, which says nothing about a voxel; declare "
            f"the code unlabeled, or leave the file out"
        )
    return tuple(known.index(code) for code in codes)
