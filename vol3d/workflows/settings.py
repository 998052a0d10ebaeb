"""A config file, options and overrides → one `Config`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vol3d.config import Config, parse_config, read_mapping
from vol3d.errors import ConfigError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_MEMORY = {"": 1.0, "g": 1.0, "gb": 1.0, "gib": 1.0, "m": 1e-3, "mb": 1e-3, "mib": 1e-3, "t": 1e3, "tb": 1e3}

Options = dict[str, Any]


def settle(config: Config | str | Path | dict[str, Any] | None, options: Options, overrides: Sequence[str]) -> Config:
    """One `Config` from a file (or mapping), then `options`, then `a.b=value` overrides; later ones win.

    options: nested keys as in the configuration; None means: not given. Paths inside a file are relative to it.
    """
    source = "configuration"
    if isinstance(config, Config):
        mapping = config.model_dump(mode="json", exclude_unset=True)
    elif isinstance(config, dict):
        mapping = config
    elif config is None:
        mapping = {}
    else:
        source = str(config)
        mapping = _anchor_paths(read_mapping(config), Path(config).parent)
    merged = _merge(mapping, _one_length(_one_meaning(options)))
    return parse_config(_yield_to(merged, overrides), tuple(overrides), source)


def given_options(options: Options, **others: object) -> list[str]:
    """Names of what somebody gave, nested options and others: not None, False or empty; 0 does say something."""
    nested = {key: value for section in options.values() if isinstance(section, dict) for key, value in section.items()}
    plain = {key: value for key, value in options.items() if not isinstance(value, dict)}
    given = {**plain, **nested, **others}
    return [
        name
        for name, value in given.items()
        if value is not None and value is not False and not (isinstance(value, (str, tuple, list, dict)) and not value)
    ]


def _one_length(options: Options) -> Options:
    """An option for the length of a run replaces whichever of the two the file had."""
    training = options.get("training", {})
    given = [key for key in ("iterations", "time_budget_s") if training.get(key) is not None]
    if len(given) == 1:
        other = "time_budget_s" if given[0] == "iterations" else "iterations"
        return {**options, "training": {**training, other: _CLEAR}}
    return options


def _one_meaning(options: Options) -> Options:
    """An option for what the labels mean replaces whichever of the two ways the file had."""
    labels = options.get("labels", {})
    for key, other in (("dense", "annotated_slices"), ("annotated_slices", "dense")):
        if labels.get(key) and not labels.get(other):
            return {**options, "labels": {**labels, other: _CLEAR}}
    return options


def _yield_to(mapping: Options, overrides: Sequence[str]) -> Options:
    """The same without the length that an override replaces."""
    for key, other in (("iterations", "time_budget_s"), ("time_budget_s", "iterations")):
        if any(text.partition("=")[0].strip() == f"training.{key}" for text in overrides):
            mapping = _merge(mapping, {"training": {other: _CLEAR}})
    return mapping


_CLEAR = object()
_LEAVES = {"annotated_slices", "one_of", "not_painted"}  # mappings that are one value


def _merge(base: Options, over: Options) -> Options:
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            continue
        if value is _CLEAR:
            merged.pop(key, None)
        elif key == "network":
            merged[key] = _network(base.get(key), value)
        elif isinstance(value, dict) and key not in _LEAVES:
            child = merged.get(key)
            if not (child is None or isinstance(child, dict)):
                raise ConfigError(f"configuration: {key}: expected keys and values, found {str(child)[:60]!r}")
            merged[key] = _merge(child or {}, value)
        else:
            merged[key] = value
    return {key: value for key, value in merged.items() if value != {} or key in base}


def _network(base: Any, chosen: Options) -> Options:  # noqa: ANN401  whatever a file has there
    """A network as options choose it, over what a file says. Raises `ConfigError` where they do not go together."""
    described = isinstance(base, dict) and "plan" not in base and base.get("kind") != "planned"
    if described and "plan" not in chosen:
        raise ConfigError(
            f"the config describes its network in full, so {', '.join(f'--{key}' for key in chosen)} would have to "
            "change it: mend the config, or choose a network of another size with --network"
        )
    if base is None or described:
        return {"plan": "unet", **chosen}
    if not isinstance(base, (str, dict)):
        raise ConfigError(f"configuration: network: expected a kind or keys and values, found {str(base)[:60]!r}")
    return {**({"plan": base} if isinstance(base, str) else base), **chosen}


def _anchor_paths(mapping: Options, folder: Path) -> Options:
    network = mapping.get("network")
    if isinstance(network, dict) and isinstance(network.get("encoder_weights"), str):
        file = str((folder / network["encoder_weights"]).absolute())
        mapping = {**mapping, "network": {**network, "encoder_weights": file}}
    data = mapping.get("data")
    if not isinstance(data, dict):
        return mapping
    anchored = dict(data)
    for key in ("images", "labels", "weights"):
        if isinstance(data.get(key), list):
            anchored[key] = [
                str(folder / name) if isinstance(name, str) and not Path(name).is_absolute() else name
                for name in data[key]
            ]
    return {**mapping, "data": anchored}


def parse_duration(text: str) -> float:
    """`90`, `90s`, `10m`, `1.5h` → seconds. Raises `ConfigError` on anything else."""
    return _quantity(text, _UNITS, "a duration such as 90s, 10m or 1.5h")


def parse_memory(text: str) -> float:
    """`8`, `8GB`, `500MB` → GB (10⁹ bytes). Raises `ConfigError` on anything else."""
    return _quantity(text, _MEMORY, "an amount of memory such as 8GB or 500MB")


def _quantity(text: str, units: dict[str, float], expected: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)", text.strip())
    if match is None or match[2].lower() not in units or float(match[1]) <= 0:
        raise ConfigError(f"expected {expected}, found {text!r}")
    return float(match[1]) * units[match[2].lower()]
