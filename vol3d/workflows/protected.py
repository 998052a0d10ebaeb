"""What no output may replace, whatever else may be overwritten: scans and labels that went in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vol3d import io
from vol3d.errors import ConfigError
from vol3d.workflows.sources import Source


def refuse_to_replace(target: str, what: str, inputs: Iterable[Source | None], dataset: str = "raw") -> None:
    """Raise `ConfigError` where an output is one of the files (or datasets of an HDF5 file) that something is made of.

    what: the inputs in words. dataset: theirs by default. Arrays and None are passed over.
    """
    place = io.place_of(target, "label")
    for source in inputs:
        if isinstance(source, (str, Path)) and io.place_of(str(source), dataset) == place:
            raise ConfigError(f"{target} is {what}, which is never overwritten. Give another name with -o.")


def refuse_inputs_within(folder: Path, inputs: Iterable[Source]) -> None:
    """Raise `ConfigError` where a folder that is to be replaced holds a file that is needed."""
    root = folder.resolve()
    for source in inputs:
        if isinstance(source, (str, Path)) and root in io.place_of(str(source))[0].parents:
            raise ConfigError(
                f"{source} lies in {folder}, which --overwrite would replace. Move it out, or name another folder."
            )
