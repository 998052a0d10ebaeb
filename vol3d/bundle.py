"""A trained model in one file: everything `predict` needs, as safetensors + JSON. No code, no pickle, no paths.

Knows torch and `networks`, both imported when weights are first touched; `read_header` needs neither.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from vol3d.bundle_header import FORMAT, KEY, Entries, read_header, read_model_head, require_temperature, write_tensors
from vol3d.config import AnyNetworkConfig, NetworkConfig, TaskSpec, UNetPlusPlusConfig
from vol3d.errors import ConfigError, LabelError, ModelError
from vol3d.instances.scheme import InstanceScheme
from vol3d.io.atomic import replace
from vol3d.volume import LabelTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vol3d.baselines.pixel_classifier import PixelClassifier

_CLASSIFIER = "pixel_classifier."  # begins the names of its weights
_STATISTICS = ("running", "reestimate", "current")
_MOST_ENTRIES = 512  # of a network's description, all lists together
_LARGEST_NUMBER = 1 << 16
_PATH = re.compile(r"[/\\]|^~|\.(nii|gz|h5|hdf5|nrrd|mha|mhd|tiff?|zarr|dcm|ya?ml|json|csv|safetensors|png)$", re.I)


__all__ = ["ModelBundle", "read_header"]


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """A network and all that goes with it.

    network: its specification; in_channels: of the image; weights: name → CPU tensor. preprocessing: what was done to
    the images, JSON. labels: the network's outputs in their order. statistics: which ones BatchNorm uses at test time.
    training_range: spacing, orientation and intensities seen in training, JSON. provenance: hashes and versions, JSON;
    never paths. task: what becomes of the outputs. temperature: what logits are divided by before the softmax, so that
    probabilities are as often right as they say; 1 where nothing was calibrated. classifier: a pixel classifier whose
    answer counts beside the network's, or None; pool_weight: how much, see `LogPool`.
    Raises `ModelError` where the parts do not fit each other.
    """

    network: AnyNetworkConfig
    in_channels: int
    weights: dict[str, Tensor]
    preprocessing: dict[str, Any]
    labels: LabelTable
    statistics: str = "running"
    training_range: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    task: TaskSpec = field(default_factory=TaskSpec)
    temperature: float = 1.0
    classifier: PixelClassifier | None = None
    pool_weight: float = 0.0

    def __post_init__(self) -> None:
        name = "this model"
        if self.statistics not in _STATISTICS:
            raise ModelError(f"{name}: expected statistics {', '.join(_STATISTICS)}, found {self.statistics!r}")
        found = {key: (str(value.dtype), tuple(value.shape)) for key, value in self.tensors().items()}
        _require_same(found, self._expected(), name)
        _require_finite(self.tensors(), name)
        for part in ("preprocessing", "training_range", "provenance"):
            _require_no_paths(getattr(self, part), part)
        if getattr(self.network, "encoder_weights", None) is not None:
            raise ModelError("network.encoder_weights of a model must be empty: its weights are in the model itself")
        _require_task(self.task, self.network, len(self.labels), name)
        require_temperature(self.temperature, name)
        _require_pool_weight(self.pool_weight, self.classifier, name)

    @property
    def network_channels(self) -> int:
        """How many channels `build` takes: the image's, and a logarithm for every class of the pixel classifier."""
        return self.in_channels + (0 if self.classifier is None else self.classifier.classes)

    def tensors(self) -> dict[str, Tensor]:
        """All weights by the names they have in the file: the network's, then the pixel classifier's."""
        if self.classifier is None:
            return self.weights
        own = {f"{_CLASSIFIER}{name}": value for name, value in self.classifier.state_dict().items()}
        return self.weights | own

    def _expected(self) -> Entries:
        return _expected(self.network, self.in_channels, len(self.labels), self.classifier)

    @property
    def weights_sha256(self) -> str:
        """Hex SHA-256 over names, shapes and values of all weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.tensors().items()):
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
            "task": self.task.to_json(),
            "temperature": float(self.temperature),
            "pixel_classifier": None if self.classifier is None else self.classifier.to_json(),
            "pool_weight": float(self.pool_weight),
            "weights_sha256": self.weights_sha256,
        }

    def save(self, path: str | Path) -> Path:
        """Write to `path` (`.safetensors`), atomically. Raises `ConfigError` on another suffix, `ResourceError`."""
        path = Path(path)
        if path.suffix.lower() != ".safetensors":
            raise ConfigError(f"{path}: a model's name must end in .safetensors")
        with replace(path) as temporary:
            write_tensors(temporary, self.tensors(), KEY, self.header())
        return path

    @classmethod
    def load(cls, path: str | Path) -> ModelBundle:
        """Read a model. Its header must describe exactly the tensors of its network, before any is read.

        Raises `ModelError` on every other file: a pickle is recognised and never executed.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        header, found = read_model_head(path)  # has looked at its temperature
        config, labels, channels = _network(header, path), _labels(header, path), header["in_channels"]
        classifier = _classifier(header, channels, len(labels), path)
        _require_same(found, _expected(config, channels, len(labels), classifier), str(path))
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}.") from error
        _require_finite(weights, str(path))
        parts = ("preprocessing", "statistics", "training_range", "provenance")
        kept = {part: header[part] for part in parts} | _numbers(header, path)
        own = {key: weights.pop(key) for key in [key for key in weights if key.startswith(_CLASSIFIER)]}
        if classifier is not None:
            classifier.to_empty(device="cpu").load_state_dict(
                {key.removeprefix(_CLASSIFIER): value for key, value in own.items()}
            )
        bundle = cls(config, channels, weights, labels=labels, task=_task(header, path), classifier=classifier, **kept)
        if bundle.weights_sha256 != header["weights_sha256"]:
            raise ModelError(f"{path} is corrupt: its weights are not those that were saved. Copy or train it again.")
        return bundle

    def pruned(self, depth: int) -> ModelBundle:
        """The same model cut down to a U-Net++ of `depth` levels below the first. Raises `ModelError` on others.

        Its temperature is 1: the one it had was that of other logits.
        """
        from vol3d.networks import prune

        if not isinstance(self.network, UNetPlusPlusConfig):
            raise ModelError(f"only a U-Net++ can be pruned; this model is of kind {self.network.kind}")
        network, weights = prune(self.network, self.weights, depth)
        return dataclasses.replace(self, network=network, weights=weights, temperature=1.0)

    def build(self, device: torch.device | str = "cpu") -> nn.Module:
        """The network on `device`, with these weights, in evaluation mode; pooled with the pixel classifier, if any.

        It takes `network_channels` channels: those that `workflows.pixel_channels.prepare` gives.
        """
        from vol3d.networks import LogPool, build, use_current_statistics

        network = build(self.network, self.in_channels, len(self.labels))
        network.load_state_dict(self.weights)
        if self.statistics == "current":
            use_current_statistics(network)
        whole = network if self.classifier is None else LogPool(network, self.pool_weight)
        return whole.to(device).eval()


def _network(header: Mapping[str, Any], path: str | Path) -> AnyNetworkConfig:
    described = header["network"]
    _require_modest([described, header["in_channels"]], path)
    try:
        config: AnyNetworkConfig = TypeAdapter(NetworkConfig).validate_json(json.dumps(described), strict=True)
    except ValidationError as error:
        raise ModelError(f"{path} describes no network that this version knows: {_one_line(error)}") from error
    return config


def _require_modest(described: list[Any], path: str | Path) -> None:
    """Refuse a description that no machine could build: it would take its memory before it is found out."""
    left: list[Any] = list(described)
    count = 0
    while left:
        value = left.pop()
        count += 1
        children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        left += children
        if count + len(left) > _MOST_ENTRIES or (isinstance(value, int) and abs(value) > _LARGEST_NUMBER):
            found = f"{count + len(left)} entries or more" if children else str(value)[:20]
            raise ModelError(f"{path} describes a network with {found} where at most a few are sensible: refused")


def _task(header: Mapping[str, Any], path: str | Path) -> TaskSpec:
    described = header.get("task", {})  # absent: a class for every voxel
    if type(described) is not dict:
        raise ModelError(f"{path} is no whole model: expected 'task' in its header. Train it again.")
    try:
        return TaskSpec.model_validate_json(json.dumps(described), strict=True)
    except ValidationError as error:
        raise ModelError(f"{path} was made for no task that this version knows: {_one_line(error)}") from error


def _require_task(task: TaskSpec, network: AnyNetworkConfig, outputs: int, name: str) -> None:
    """Raise `ModelError` where a task does not go with its network."""
    if (network.dimensions == 2) != bool(task.planes):
        raise ModelError(f"{name}: a network of {network.dimensions} dimensions cannot go across axes {task.planes}")
    wanted = 1 if task.kind == "regression" else outputs
    if task.scheme is not None:
        wanted = len(InstanceScheme.from_json(task.scheme))
    if outputs != wanted:
        raise ModelError(f"{name}: expected {wanted} outputs for task {task.kind}, found {outputs}")


def _labels(header: Mapping[str, Any], path: str | Path) -> LabelTable:
    try:
        return LabelTable.from_json(header["labels"])
    except LabelError as error:
        raise ModelError(f"{path}: {error}") from error


def _classifier(header: Mapping[str, Any], channels: int, classes: int, path: str | Path) -> PixelClassifier | None:
    """The pixel classifier that a header describes, without its weights; nothing is allocated."""
    described = header.get("pixel_classifier")  # absent: there is none
    if described is None:
        return None
    import torch

    from vol3d.baselines.pixel_classifier import PixelClassifier

    with torch.device("meta"):
        return PixelClassifier.from_json(described, channels, classes, str(path))


def _numbers(header: Mapping[str, Any], path: str | Path) -> dict[str, float]:
    """Temperature and weight of the pixel classifier, where a header has them."""
    weight = header.get("pool_weight", 0.0)
    if type(weight) not in (int, float):
        raise ModelError(f"{path} is no whole model: expected 'pool_weight' in its header, a number. Train again.")
    return {"temperature": float(header.get("temperature", 1.0)), "pool_weight": float(weight)}


def _require_pool_weight(weight: float, classifier: PixelClassifier | None, name: str) -> None:
    if classifier is None and weight:
        raise ModelError(
            f"{name}: expected pool_weight 0 without a pixel classifier, found {weight:g}. Train it again."
        )
    if classifier is not None and not 0 < weight <= 1:
        raise ModelError(f"{name}: expected pool_weight above 0 and up to 1, found {weight:g}. Train it again.")


def _expected(config: AnyNetworkConfig, in_channels: int, classes: int, classifier: PixelClassifier | None) -> Entries:
    """Name → (dtype, shape) of all weights and buffers; allocates nothing."""
    from vol3d.networks import expected_tensors

    own: Entries = {}
    if classifier is not None:
        state = classifier.state_dict()
        own = {f"{_CLASSIFIER}{name}": (str(value.dtype), tuple(value.shape)) for name, value in state.items()}
    try:
        return expected_tensors(config, in_channels, classes) | own
    except (RuntimeError, ValueError, OverflowError, TypeError) as error:
        raise ModelError(f"the network of the model cannot be built: {_one_line(error)}") from error


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
