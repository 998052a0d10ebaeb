"""What several commands make of their options."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vol3d.errors import ConfigError

if TYPE_CHECKING:
    from vol3d.config import InstancesConfig


def require_only(options: Namespace, *allowed: str) -> None:
    """Without a kind an experiment can only be resumed, as it was planned."""
    others = [name for name in _given(options) if name not in (*allowed, "command", "debug")]
    if options.resume is None or others:
        flags = "".join(f", --{name.replace('_', '-')}" for name in others)
        raise ConfigError(
            f"say which experiment: folds, slices, batchnorm, dimensions, volumes or paper; only --resume FOLDER goes "
            f"without{flags and f', found {flags[2:]}'}"
        )


def _given(options: Namespace) -> list[str]:
    """Names of the options that say something; 0 does, too."""
    return [name for name, value in vars(options).items() if value is not None and value is not False and value != []]


def require_drawn(options: Namespace) -> None:
    """Raise `ConfigError` where options tell what drawn labels mean, and no drawn labels are asked for."""
    names = ("unlabeled", "annotated_slices", "dense", "one_of", "not_painted")
    given = [f"--{name.replace('_', '-')}" for name in names if name in _given(options)]
    if given and options.keep_drawn is None and options.provenance is None:
        raise ConfigError(
            f"{', '.join(given)}: tells what drawn labels mean, and goes with --keep-drawn or --provenance alone"
        )


def require_files(*named: Sequence[str] | None) -> None:
    """Raise `FileFormatError` for a file that is not there, before what takes seconds to import."""
    from vol3d import io

    for names in named:
        io.find(names or ())


def require_alone(options: Namespace) -> None:
    """A resumed run is what it was: refuse everything that would have to change it."""
    given = [name for name in _given(options) if name not in {"command", "resume", "debug"}]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"--resume goes on with a run as it was planned; leave out {flags}, or train a new run")


def network(options: Namespace) -> dict[str, Any] | None:
    """What --network, --dimensions and --width say; None where they say nothing."""
    given = {"plan": options.network, "dimensions": options.dimensions, "width": options.width}
    return {key: value for key, value in given.items() if value is not None} or None


def instances(options: Namespace) -> InstancesConfig | None:
    """What --divisor and --things say; None where they say nothing."""
    from vol3d.config import InstancesConfig

    given = {"divisor": options.divisor, "things": options.things}
    chosen = {key: value for key, value in given.items() if value is not None}
    return InstancesConfig(**chosen) if chosen else None


def drawn_labels(options: Namespace) -> str | None:
    """The label file of --keep-drawn or --provenance; None: those of the run."""
    given = {value for value in (options.keep_drawn, options.provenance) if value}
    if len(given) > 1:
        raise ConfigError("--keep-drawn and --provenance name different files; what is drawn is in one of them")
    return given.pop() if given else None


def meaning(options: Namespace) -> dict[str, Any]:
    """What the codes of the labels mean: a part of the configuration."""
    from vol3d.workflows.label_options import parse_annotated_slices, parse_not_painted, parse_one_of

    if options.dense and options.annotated_slices:
        raise ConfigError("give --dense or --annotated-slices, not both")
    given: dict[str, Any] = {}
    if options.unlabeled:
        given["unlabeled"] = tuple(options.unlabeled)
    if options.annotated_slices:
        given["annotated_slices"] = parse_annotated_slices(options.annotated_slices)
    if options.dense:
        given["dense"] = True
    if options.one_of:
        given["one_of"] = parse_one_of(options.one_of)
    if options.not_painted:
        given["not_painted"] = parse_not_painted(options.not_painted)
    return given


def reading(options: Namespace) -> dict[str, Any]:
    """How images are read: a part of the configuration."""
    given = {"channel": options.channel, "nan": options.nan, "xform": options.xform}
    return {key: value for key, value in given.items() if value is not None}
