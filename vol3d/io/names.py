"""File names: `FILE.h5:DATASET`, folders and globs, and the name of an output."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from vol3d.errors import ConfigError, FileFormatError
from vol3d.io.formats import FORMATS, SUFFIXES, split_suffix
from vol3d.io.kinds import Location

_HOLDERS = tuple(suffix for entry in FORMATS if entry.datasets for suffix in entry.suffixes)
_INSIDE = re.compile(
    rf"(?P<file>.+?(?:{'|'.join(map(re.escape, _HOLDERS))})):(?P<dataset>.*)", re.IGNORECASE | re.DOTALL
)
_ODD = re.compile(r"[*?\[]")


def split_name(name: str) -> tuple[Path, str | None]:
    """`a.h5:raw` → (a.h5, "raw"); any other name → (path, None). Raises `ConfigError` for an empty dataset."""
    match = _INSIDE.fullmatch(str(name))
    if match is None:
        return Path(name), None
    dataset = match["dataset"].strip("/")
    if not dataset or ".." in dataset.split("/"):
        raise ConfigError(f"{name}: expected a dataset after the colon, such as {match['file']}:raw")
    return Path(match["file"]), dataset


def locate(name: str, default_dataset: str) -> Location:
    """Where `name` points; an HDF5 file named without a dataset gets `default_dataset`."""
    path, dataset = split_name(name)
    holder = split_suffix(path)[1].lower() in _HOLDERS
    return Location(str(name), path, dataset or (default_dataset if holder else None))


def place_of(name: str, default_dataset: str = "raw") -> tuple[Path, str | None]:
    """The file that a name leads to, links followed, and the dataset in it: equal for names of one volume."""
    location = locate(name, default_dataset)
    return location.path.resolve(), location.dataset


def is_volume(name: str) -> bool:
    """Whether the suffix is one of a volume."""
    return bool(split_suffix(split_name(name)[0])[1])


def find(patterns: Sequence[str]) -> list[str]:
    """The volumes that files, folders and globs name, sorted within each pattern, none twice.

    A folder stands for the volumes directly in it. `*.h5:raw` takes that dataset of each file.
    Raises `FileFormatError` for a pattern that matches no volume.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        path, dataset = split_name(pattern)
        try:
            matches = _matches(path, pattern)
        except OSError as error:
            raise FileFormatError(f"{pattern}: cannot be looked up ({error.strerror}). Check the path.") from error
        if not matches:
            raise FileFormatError(
                f"{pattern}: no volume found there. Give a file, a folder or a quoted glob; volumes end in "
                f"{', '.join(SUFFIXES)}."
            )
        found |= dict.fromkeys(f"{match}:{dataset}" if dataset else str(match) for match in matches)
    return list(found)


def default_output(scan: str, tag: str = "_seg", dataset: str = "label") -> str:
    """The name of a result beside its scan: scan.nii.gz → scan_seg.nii.gz, f.h5:raw → f_seg.h5:label."""
    location = locate(scan, dataset)
    stem, suffix = split_suffix(location.path)
    beside = str(location.path.with_name(f"{stem}{tag}{suffix}"))
    return f"{beside}:{dataset}" if location.dataset else beside


def preview_path(volume: str | Path) -> Path:
    """The picture beside a volume: scan_seg.nii.gz → scan_seg.png, f.h5:label → f.png."""
    path = split_name(str(volume))[0]
    return path.with_name(f"{split_suffix(path)[0]}.png")


def _matches(path: Path, pattern: str) -> list[Path]:
    if path.is_dir():
        entries = [path / entry.name for entry in path.iterdir() if entry.is_file()]
    elif path.exists():
        if not is_volume(str(path)):
            raise FileFormatError(f"{pattern}: unknown kind of file. Volumes end in {', '.join(SUFFIXES)}.")
        return [path]
    elif _ODD.search(str(path)):
        entries = [Path(entry) for entry in glob.glob(str(path), recursive=True) if Path(entry).is_file()]  # noqa: PTH207
    else:
        raise FileFormatError(f"{pattern}: no such file{_near(path)}.")
    return sorted(entry for entry in entries if is_volume(str(entry)) and not entry.name.startswith("."))


def _near(path: Path) -> str:
    """A hint at a file with the same stem."""
    stem = split_suffix(path)[0]
    try:
        beside = sorted(
            entry.name for entry in path.parent.iterdir() if is_volume(str(entry)) and split_suffix(entry)[0] == stem
        )
    except OSError:
        return f"; the folder {path.parent} cannot be read"
    return f"; {beside[0]} lies beside it" if beside else ". Check the path"
