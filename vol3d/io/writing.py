"""Writing volumes on the grid of a scan: never half a file, never over an old one unless asked to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import ConfigError, GeometryError, LabelError, ResourceError
from vol3d.io import atomic, class_names, hdf5, hdf5_write, voxels
from vol3d.io.formats import format_of
from vol3d.io.kinds import Content, Location
from vol3d.io.names import locate
from vol3d.volume import Affine, Volume


def write_labels(
    path: str,
    codes: NDArray[Any],
    like: Volume,
    *,
    names: dict[int, str] | None,
    overwrite: bool = False,
    smallest: bool = True,
) -> Path:
    """Store label codes (X, Y, Z), unsigned, with the geometry of `like`; default HDF5 dataset: label.

    smallest: take the smallest unsigned dtype, else the one that `codes` has. names: code → class name, kept in the
    file, or in a JSON side-car for MetaImage and TIFF. Raises `GeometryError` for another shape or a grid that the
    format cannot keep, `LabelError` for other dtypes, `ConfigError`, `ResourceError`, `FileFormatError`.
    """
    if codes.dtype.kind not in "ub":
        raise LabelError(f"{path}: expected unsigned label codes, found {codes.dtype}. Convert them first.")
    codes = codes.view(np.uint8) if codes.dtype == np.bool_ else codes
    if codes.shape != like.shape:
        raise GeometryError(f"{path}: expected labels of the scan's shape {like.shape}, found {codes.shape}")
    dtype = voxels.smallest_unsigned(codes) if smallest else codes.dtype
    content = Content(codes[np.newaxis], dtype, like, names)
    return _store(locate(path, "label"), content, overwrite)


def write_label_runs(
    path: str,
    runs: Iterable[tuple[tuple[slice, ...], NDArray[Any]]],
    dtype: np.dtype[Any],
    like: Volume,
    *,
    names: dict[int, str] | None,
    overwrite: bool = False,
) -> Path:
    """As `write_labels`, of codes that come piece by piece: a box (slices along X, Y, Z) and what is in it.

    Together the boxes cover the grid of `like`, whose array is not looked at. Into HDF5 they go one by one, for other
    formats they are gathered in memory.
    """
    location = locate(path, "label")
    if not format_of(location.path, location.name).datasets:
        codes = np.zeros(like.shape, dtype=dtype)
        for box, values in runs:
            codes[box] = values
        return _store(location, Content(codes[np.newaxis], dtype, like, names), overwrite)
    _require_writable(location, overwrite)
    content = Content(like.array[:1], dtype, like, names)
    with _alone(location), atomic.replace(location.path) as temporary:
        hdf5_write.write_runs(temporary, location, content, runs)
    return location.path


def write_image(
    path: str,
    array: NDArray[Any],
    like: Volume,
    *,
    overwrite: bool = False,
    channel_names: Sequence[str] | None = None,
) -> Path:
    """Store an image or probabilities (C, X, Y, Z) with the geometry of `like`; default HDF5 dataset: raw.

    The dtype is kept (float16 becomes float32, bool uint8). Raises as `write_labels` does.
    """
    if array.ndim != 4 or array.shape[1:] != like.shape:
        raise GeometryError(f"{path}: expected an array of shape (channels, {like.shape}), found {array.shape}")
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise GeometryError(f"{path}: expected real numbers of at most 8 bytes, found {array.dtype}")
    if channel_names is not None and len(channel_names) != len(array):
        raise ConfigError(f"{path}: {len(array)} channels need as many names, found {len(channel_names)}")
    stored: dict[str, Any] = {"bool": np.uint8, "float16": np.float32}
    dtype = np.dtype(stored.get(array.dtype.name, array.dtype))
    named = None if channel_names is None else tuple(channel_names)
    return _store(locate(path, "raw"), Content(array, dtype, like, None, named), overwrite)


def require_writable(path: str, overwrite: bool = False, *, dataset: str = "label") -> None:
    """Refuse an output early: unknown suffix, existing file or dataset, missing or protected folder.

    dataset: the default for an HDF5 file named without one. Raises `FileFormatError`, `ConfigError`, `ResourceError`.
    """
    _require_writable(locate(path, dataset), overwrite)


def require_kept(path: str, affine: Affine, name: str) -> None:
    """Raise `GeometryError` where the format of `path` would lose the orientation or the origin of a grid.

    name: of the scan that has it.
    """
    if affine.sizes_only or not format_of(locate(path, "label").path, path).sizes_only:
        return
    origin = ", ".join(f"{v:.6g}" for v in affine.matrix[:3, 3])
    raise GeometryError(
        f"{path}: this format keeps the size of voxels alone, and {name} has an orientation or an origin too "
        f"({affine.codes}, {origin} mm). Write another one with -o, such as .nii.gz."
    )


def _require_writable(location: Location, overwrite: bool, *, named: bool = True) -> None:
    """As `require_writable`. named: whether names of classes are written too."""
    entry = format_of(location.path, location.name)
    path = location.path
    try:
        if path.is_dir():
            raise ConfigError(f"{location.name} is a folder. Give the name of a file in it.")
        if not path.parent.is_dir():
            raise ConfigError(f"{location.name}: the folder {path.parent} does not exist. Create it first.")
        present = path.exists()
    except OSError as error:
        raise ResourceError(f"{location.name} cannot be written: {error.strerror}. Choose another name.") from error
    if present and location.dataset:
        present = hdf5.holds(path, location.dataset)
    elif entry.sidecar and class_names.read_sidecar(path):
        present = True
    if named and entry.sidecar and class_names.is_foreign(path):
        raise ConfigError(
            f"{class_names.sidecar(path)} exists already and is not of vol3d, which would write the names of "
            "classes there. Move it, or give another name with -o."
        )
    if present and not overwrite:
        found = f"{path}:{location.dataset}" if location.dataset else location.name
        raise ConfigError(f"{found} exists already. Give --overwrite, or another name with -o.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ResourceError(f"{location.name}: the folder {path.parent} is write-protected. Choose another folder.")


def _alone(location: Location) -> AbstractContextManager[None]:
    """Of a file that holds several datasets no two are written at a time: each is written into a copy of the file."""
    return atomic.locked(Path(os.path.realpath(location.path)).parent) if location.dataset else nullcontext()


def _store(location: Location, content: Content, overwrite: bool) -> Path:
    _require_writable(location, overwrite, named=bool(content.class_names))
    require_kept(location.name, content.like.affine, content.like.name)
    entry = format_of(location.path, location.name)
    with _alone(location), atomic.replace(location.path) as temporary:
        entry.write(temporary, location, content)
        if entry.sidecar:  # old names must never stand beside new codes, nor go before those are there
            class_names.write_sidecar(location.path, None)
    if entry.sidecar and content.class_names:
        class_names.write_sidecar(location.path, content.class_names)
    return location.path
