"""A trained model in one file: everything `predict` needs, as safetensors + JSON. No code, no pickle, no paths.

Knows torch and `networks`, both imported when weights are first touched; `read_header` needs neither.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from vol3d.bundle_header import FORMAT, KEY, Entries, read_header, read_model_head, write_tensors
from vol3d.config import UNetConfig
from vol3d.errors import ConfigError, LabelError, ModelError
from vol3d.io.atomic import replace
from vol3d.volume import LabelTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_STATISTICS = ("running", "reestimate", "current")
_MOST_LAYERS = 256
_LARGEST_WIDTH = 1 << 16
_PATH = re.compile(r"[/\\]|^~|\.(nii|gz|h5|hdf5|nrrd|mha|mhd|tiff?|zarr|dcm|ya?ml|json|csv|safetensors|png)$", re.I)


__all__ = ["ModelBundle", "read_header"]


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """A network and all that goes with it.

    network: its specification; in_channels: of the image; weights: name → CPU tensor. preprocessing: what was done to
    the images, JSON. labels: the classes in the order of the network's outputs. statistics: which ones BatchNorm uses
    at test time. training_range: spacing, orientation and intensities seen in training, JSON. provenance: hashes and
    versions, JSON; never paths. Raises `ModelError` where the parts do not fit each other.
    """

    network: UNetConfig
    in_channels: int
    weights: dict[str, Tensor]
    preprocessing: dict[str, Any]
    labels: LabelTable
    statistics: str = "running"
    training_range: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = "this model"
        if self.statistics not in _STATISTICS:
            raise ModelError(f"{name}: expected statistics {', '.join(_STATISTICS)}, found {self.statistics!r}")
        found = {key: (str(value.dtype), tuple(value.shape)) for key, value in self.weights.items()}
        _require_same(found, _expected(self.network, self.in_channels, len(self.labels)), name)
        _require_finite(self.weights, name)
        for part in ("preprocessing", "training_range", "provenance"):
            _require_no_paths(getattr(self, part), part)

    @property
    def weights_sha256(self) -> str:
        """Hex SHA-256 over names, shapes and values of all weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.weights.items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def header(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values."""
        return {
            "format": FORMAT,
            "network": self.network.model_dump(mode="json"),
            "in_channels": self.in_channels,
            "labels": self.labels.to_json(),
            "preprocessing": self.preprocessing,
            "statistics": self.statistics,
            "training_range": self.training_range,
            "provenance": self.provenance,
            "weights_sha256": self.weights_sha256,
        }

    def save(self, path: str | Path) -> Path:
        """Write to `path` (`.safetensors`), atomically. Raises `ConfigError` on another suffix, `ResourceError`."""
        path = Path(path)
        if path.suffix.lower() != ".safetensors":
            raise ConfigError(f"{path}: a model's name must end in .safetensors")
        with replace(path) as temporary:
            write_tensors(temporary, self.weights, KEY, self.header())
        return path

    @classmethod
    def load(cls, path: str | Path) -> ModelBundle:
        """Read a model. Its header must describe exactly the tensors of its network, before any is read.

        Raises `ModelError` on every other file: a pickle is recognised and never executed.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        header, found = read_model_head(path)
        config, labels, channels = _network(header, path), _labels(header, path), header["in_channels"]
        _require_same(found, _expected(config, channels, len(labels)), str(path))
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}.") from error
        _require_finite(weights, str(path))
        parts = ("preprocessing", "statistics", "training_range", "provenance")
        bundle = cls(config, channels, weights, labels=labels, **{part: header[part] for part in parts})
        if bundle.weights_sha256 != header["weights_sha256"]:
            raise ModelError(f"{path} is corrupt: its weights are not those that were saved. Copy or train it again.")
        return bundle

    def build(self, device: torch.device | str = "cpu") -> nn.Module:
        """The network on `device`, with these weights, in evaluation mode."""
        from vol3d.networks import build, use_current_statistics

        network = build(self.network, self.in_channels, len(self.labels))
        network.load_state_dict(self.weights)
        if self.statistics == "current":
            use_current_statistics(network)
        return network.to(device).eval()


def _network(header: Mapping[str, Any], path: str | Path) -> UNetConfig:
    try:
        config = UNetConfig.model_validate_json(json.dumps(header["network"]), strict=True)
    except ValidationError as error:
        raise ModelError(f"{path} describes no network that this version knows: {_one_line(error)}") from error
    widths = [width for level in config.encoder for width in level]
    if max(len(config.encoder), *widths, header["in_channels"]) > _LARGEST_WIDTH or len(widths) > _MOST_LAYERS:
        raise ModelError(f"{path} describes a network of {len(widths)} layers up to {max(widths)} wide: refused")
    return config


def _labels(header: Mapping[str, Any], path: str | Path) -> LabelTable:
    try:
        return LabelTable.from_json(header["labels"])
    except LabelError as error:
        raise ModelError(f"{path}: {error}") from error


def _expected(config: UNetConfig, in_channels: int, classes: int) -> Entries:
    """Name → (dtype, shape) of the network's weights and buffers; allocates nothing."""
    import torch

    from vol3d.networks import UNet

    parts = config.model_dump(exclude={"kind"})
    try:
        with torch.device("meta"):
            network = UNet(in_channels, classes, **parts)
    except (RuntimeError, ValueError, OverflowError, TypeError) as error:
        raise ModelError(f"the network of the model cannot be built: {_one_line(error)}") from error
    return {name: (str(value.dtype), tuple(value.shape)) for name, value in network.state_dict().items()}


def _require_same(found: Entries, expected: Entries, name: str) -> None:
    if found == expected:
        return
    key = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))[0]
    raise ModelError(
        f"{name}: weights and network differ: {key[:100]!r} should be {_show(expected.get(key))}, is "
        f"{_show(found.get(key))}. Train it again, or give the model as it was saved."
    )


def _require_finite(weights: Mapping[str, Tensor], name: str) -> None:
    for key, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(f"{name}: {key!r} holds NaN or Inf; such a model predicts nothing. Train it again.")


def _require_no_paths(value: object, part: str) -> None:
    left = [(part, value)]
    while left:
        where, item = left.pop()
        if isinstance(item, Mapping):
            left += [pair for key, child in item.items() for pair in ((where, key), (f"{where}.{key}", child))]
        elif isinstance(item, list | tuple):
            left += [(where, child) for child in item]
        elif isinstance(item, str) and _PATH.search(item):
            raise ModelError(f"{where} of a model must not name files or folders, found {item[:60]!r}. Use a hash.")


def _show(entry: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if entry is None else f"{entry[0].removeprefix('torch.')} {entry[1]}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
