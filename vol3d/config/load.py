"""YAML → `Config`. Errors name the key's path, and the key that was probably meant."""

from __future__ import annotations

import difflib
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from vol3d.config.networks import NETWORKS
from vol3d.config.schema import Config
from vol3d.errors import ConfigError


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a YAML file into a `Config`; overrides are `a.b=value` strings. Raises `ConfigError`.

    Only plain YAML values are read: no tags, no expressions, no imports.
    """
    return parse_config(read_mapping(path), overrides, str(path))


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked. Raises `ConfigError` where there is none."""
    path = Path(path)
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file. Give the path of a YAML file, or -i and -l.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file ({_one_line(error)}). Give a YAML file.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected keys and values at the top, found {type(value).__name__}")
    return value


def parse_config(mapping: dict[str, Any], overrides: tuple[str, ...] = (), source: str = "configuration") -> Config:
    """A mapping → `Config`, with `a.b=value` overrides applied first. Raises `ConfigError`."""
    try:
        merged = _copy(mapping)
    except RecursionError as error:
        raise ConfigError(f"{source}: a part of it holds itself; write it out instead") from error
    for text in overrides:
        _override(merged, text)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error)}") from error


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration, for editors."""
    return Config.model_json_schema()


def _override(mapping: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set expects section.key=value, found {text!r}")
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML: {_one_line(error)}") from error
    node = mapping
    for key in keys[:-1]:
        child = node.get(key)
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {text}: {key} holds a value, not keys")
        node = child
    node[keys[-1]] = parsed


def _copy(value: Any) -> Any:  # noqa: ANN401  a YAML tree
    if isinstance(value, dict):
        return {str(key): _copy(child) for key, child in value.items()}
    return value


def _explain(error: ValidationError) -> str:
    parts = []
    for fault in error.errors():
        keys = tuple(str(key) for key in fault["loc"])
        where = ".".join(keys[:1] + keys[2:] if keys[:1] == ("network",) else keys) or "top level"  # without its kind
        if fault["type"] == "extra_forbidden":
            parts.append(f"unknown key {where!r}{_did_you_mean(keys)}")
        else:
            found = "" if isinstance(fault["input"], dict) else f", found {str(fault['input'])[:60]!r}"
            parts.append(f"{where}: {fault['msg'].removeprefix('Value error, ')}{found}")
    return "; ".join(dict.fromkeys(parts))


def _did_you_mean(keys: tuple[str, ...]) -> str:
    section = _section(keys[:-1])
    if section is None:
        return ""
    known = list(section.model_fields)
    near = difflib.get_close_matches(keys[-1], known, 1)
    return f". Did you mean {near[0]!r}?" if near else f". Known keys: {', '.join(known)}."


def _section(keys: tuple[str, ...]) -> type[BaseModel] | None:
    """The section class that a path of keys leads to."""
    section: type[BaseModel] = Config
    for key in keys:
        if key in NETWORKS:
            section = NETWORKS[key]
        if key not in section.model_fields:
            continue  # an index of a list, or the name of a union's member
        found = _model_in(section.model_fields[key].annotation)
        if found is None:
            return None
        section = found
    return section


def _model_in(annotation: object) -> type[BaseModel] | None:
    if (
        isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
        and not isinstance(annotation, types.GenericAlias)
    ):
        return annotation
    for part in typing.get_args(annotation):
        found = _model_in(part)
        if found is not None:
            return found
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
