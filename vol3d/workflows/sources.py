"""What a user may hand to a workflow: a file name, an array, or a `Volume`; always a `Volume` afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d import io
from vol3d.config import DataConfig
from vol3d.errors import ConfigError, GeometryError
from vol3d.io.reading import read_target, require_target
from vol3d.io.voxels import require_weights
from vol3d.volume import Affine, Volume

Source = str | Path | NDArray[Any] | Volume
Spacing = Sequence[float] | None


def image_volume(source: Source, data: DataConfig, spacing_mm: Spacing = None, max_bytes: int | None = None) -> Volume:
    """An image as a `Volume`. Arrays are (X, Y, Z) or (C, X, Y, Z) and take `spacing_mm` (3 numbers, default 1)."""
    if isinstance(source, (str, Path)):
        return io.read(str(source), channel=data.channel, nan=data.nan, xform=data.xform, max_bytes=max_bytes)
    volume = _from_array(source, spacing_mm, "image array")
    if volume.array.dtype.kind not in "biuf":
        remedy = "Take its magnitude." if volume.array.dtype.kind == "c" else "Convert it."
        raise ConfigError(f"{volume.name}: expected real numbers, found dtype {volume.array.dtype}. {remedy}")
    if data.channel is not None:
        if data.channel >= volume.channels:
            raise ConfigError(f"{volume.name} has {volume.channels} channels; channel {data.channel} does not exist")
        volume = _with_array(volume, volume.array[data.channel : data.channel + 1])
    return _without_nan(volume, data.nan)


def label_volume(source: Source, data: DataConfig, spacing_mm: Spacing = None) -> Volume:
    """A label map as a `Volume` (1, X, Y, Z) of unsigned codes."""
    if isinstance(source, (str, Path)):
        return io.read_labels(str(source), xform=data.xform)
    volume = _from_array(source, spacing_mm, "label array")
    array = volume.array
    if volume.channels != 1:
        raise GeometryError(f"{volume.name} has {volume.channels} channels; labels have one")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise ConfigError(f"{volume.name}: expected integer label codes, found dtype {array.dtype}; round them first")
    if array.dtype.kind == "i":
        if int(array.min()) < 0:
            raise ConfigError(f"{volume.name}: label codes must not be negative, found {int(array.min())}")
        array = array.astype(f"u{array.dtype.itemsize}")
    return _with_array(volume, array)


def target_volume(source: Source, data: DataConfig, spacing_mm: Spacing = None) -> Volume:
    """Values per voxel to regress on, as a float32 `Volume` (1, X, Y, Z); NaN stays and means unlabeled.

    Raises `FileFormatError` for infinite values, `GeometryError` for more than one channel.
    """
    if isinstance(source, (str, Path)):
        return read_target(str(source), xform=data.xform)
    volume = _from_array(source, spacing_mm, "target array")
    if volume.channels != 1:
        raise GeometryError(f"{volume.name} has {volume.channels} channels; a target has one")
    if volume.array.dtype.kind not in "biuf":
        raise ConfigError(f"{volume.name}: expected real numbers, found dtype {volume.array.dtype}")
    return _with_array(volume, require_target(volume.array, volume.name))


def weight_volume(source: Source, data: DataConfig, spacing_mm: Spacing = None) -> Volume:
    """Loss weights per voxel as a float32 `Volume` (1, X, Y, Z), finite and ≥ 0.

    Raises `FileFormatError` for others, `GeometryError` for more than one channel.
    """
    if isinstance(source, (str, Path)):
        return io.read_weights(str(source), xform=data.xform)
    volume = _from_array(source, spacing_mm, "weight array")
    if volume.channels != 1:
        raise GeometryError(f"{volume.name} has {volume.channels} channels; weights have one")
    if volume.array.dtype.kind not in "biuf":
        raise ConfigError(f"{volume.name}: expected real numbers, found dtype {volume.array.dtype}")
    return _with_array(volume, require_weights(_without_nan(volume, None).array, volume.name))


def source_name(source: Source) -> str:
    """What its volume will be called."""
    return source.name if isinstance(source, Volume) else str(source) if isinstance(source, (str, Path)) else "an array"


def require_arrays(spacing_mm: Spacing, *sources: object) -> None:
    """Raise `ConfigError` where a spacing is given and none of the sources is an array: anything else has its own."""
    given = [one for source in sources for one in (source if isinstance(source, (list, tuple)) else [source])]
    if spacing_mm is not None and not any(isinstance(one, np.ndarray) or hasattr(one, "__array__") for one in given):
        raise ConfigError(
            "spacing_mm is the voxel size of arrays; files and Volumes have their own. Leave it out; to a file that "
            "lacks it, add it (HDF5: the attribute element_size_um, z, y, x; TIFF: in Fiji, Image ▸ Properties)."
        )


def content_hash(source: Source) -> str:
    """SHA-256 of a file's bytes or an array's values: what a run records instead of a path."""
    if isinstance(source, (str, Path)):
        return io.sha256(str(source))
    array = source.array if isinstance(source, Volume) else source
    digest = hashlib.sha256(f"{array.shape}{array.dtype.str}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _from_array(source: NDArray[Any] | Volume, spacing_mm: Spacing, name: str) -> Volume:
    if isinstance(source, Volume):
        return source
    array = np.asarray(source)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4:
        raise GeometryError(f"{name}: expected shape (X, Y, Z) or (channels, X, Y, Z), found {array.shape}")
    return Volume(array, Affine.from_spacing((1.0, 1.0, 1.0) if spacing_mm is None else tuple(spacing_mm)), name)


def _with_array(volume: Volume, array: NDArray[Any]) -> Volume:
    return Volume(array, volume.affine, volume.name, volume.forms, volume.attributes)


def _without_nan(volume: Volume, replacement: float | None) -> Volume:
    if volume.array.dtype.kind != "f":
        return volume
    finite = np.isfinite(volume.array)
    if finite.all():
        return volume
    if replacement is None:
        count = int((~finite).sum())
        raise ConfigError(f"{volume.name}: {count} voxels are NaN or Inf. Replace them with `nan=VALUE` (--nan VALUE).")
    return _with_array(volume, np.where(finite, volume.array, np.asarray(replacement, volume.array.dtype)))
