"""A scan, read as a model takes it."""

from __future__ import annotations

from pathlib import Path

from vol3d import io
from vol3d.bundle import ModelBundle
from vol3d.config import DataConfig
from vol3d.errors import ModelError
from vol3d.volume import Volume
from vol3d.workflows.listener import Listener
from vol3d.workflows.sources import Source, Spacing, image_volume


def read_scan(scan: Source, data: DataConfig, bundle: ModelBundle, spacing_mm: Spacing, tell: Listener) -> Volume:
    """The scan: of several channels the one that the model learned from, unless another was chosen in `data`.

    Raises `ModelError` where it has not the channels that the model expects.
    """
    volume = image_volume(scan, as_learned(scan, data, bundle, tell), spacing_mm)
    require_channels(volume.name, volume.channels, bundle)
    return volume


def require_channels(name: str, channels: int, bundle: ModelBundle) -> None:
    """Raise `ModelError` where a scan has not the channels that a model expects."""
    if channels != bundle.in_channels:
        remedy = (
            "Select one with --channel 0." if bundle.in_channels == 1 else "Give the scan the model was trained for."
        )
        raise ModelError(
            f"{name} has {channels} channel{'s'[: channels > 1]}; the model expects {bundle.in_channels}. {remedy}"
        )


def as_learned(scan: Source, data: DataConfig, bundle: ModelBundle, tell: Listener) -> DataConfig:
    """How to read a scan: of several channels the one that the model learned from, unless another was chosen."""
    learned = bundle.training_range.get("channel")
    if data.channel is not None or learned is None:
        return data
    if isinstance(scan, (str, Path)):
        several = io.info(str(scan)).get("channels", 1) > 1
    else:
        array = scan.array if isinstance(scan, Volume) else scan
        several = array.ndim == 4 and len(array) > 1
    if not several:
        return data
    tell.note(f"channel {learned}, as in training (choose another with --channel)")
    return data.model_copy(update={"channel": learned})
