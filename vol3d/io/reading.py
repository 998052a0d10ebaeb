"""Reading volumes: images, labels, weights, and what a header says, whatever the format."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import ConfigError, FileFormatError, LabelError, ResourceError
from vol3d.io import hdf5, voxels
from vol3d.io.budget import Budget
from vol3d.io.formats import format_of
from vol3d.io.kinds import Facts, Location, ReadOptions, Xform
from vol3d.io.names import locate
from vol3d.volume import Volume

_AXES = "xyz"


def read(
    path: str,
    *,
    channel: int | None = None,
    nan: float | None = None,
    xform: Xform | None = None,
    max_bytes: int | None = None,
) -> Volume:
    """An image as a `Volume` (C, X, Y, Z). Stored dtypes are kept unless the file asks for scaling.

    path: a file, or `FILE.h5:DATASET` (default dataset: raw). channel: take this one, counted from 0; HDF5 and TIFF
    give all their channels without it, other formats refuse. nan: replaces NaN and Inf, which are refused otherwise.
    xform: which NIfTI geometry to trust where sform and qform disagree. max_bytes: memory budget, default what is free.
    Raises `FileFormatError`, `GeometryError`, `ResourceError`, `ConfigError`.
    """
    volume = _load(locate(path, "raw"), channel, xform, max_bytes)
    voxels.require_finite(volume.array, nan, volume.name)
    return volume


def read_labels(path: str, *, xform: Xform | None = None, max_bytes: int | None = None) -> Volume:
    """Label codes as a `Volume` (1, X, Y, Z) in the smallest unsigned dtype; default HDF5 dataset: label.

    attributes["class_names"]: {"code": name} where the file keeps names. Raises `LabelError` for values that are no
    whole numbers ≥ 0 (2.9999 counts as 3), and what `read` raises.
    """
    volume = _single(_load(locate(path, "label"), None, xform, max_bytes), "labels")
    codes = voxels.to_codes(volume.array, volume.name)
    return Volume(codes, volume.affine, volume.name, volume.forms, volume.attributes)


def read_weights(path: str, *, xform: Xform | None = None, max_bytes: int | None = None) -> Volume:
    """Loss weights per voxel as a float32 `Volume` (1, X, Y, Z), finite and ≥ 0; default HDF5 dataset: weight.

    Raises what `read` raises.
    """
    volume = _single(_load(locate(path, "weight"), None, xform, max_bytes), "weights")
    voxels.require_finite(volume.array, None, volume.name)
    weights = voxels.require_weights(volume.array, volume.name)
    return Volume(weights, volume.affine, volume.name, volume.forms, volume.attributes)


def read_target(path: str, *, xform: Xform | None = None, max_bytes: int | None = None) -> Volume:
    """Values per voxel to regress on, as a float32 `Volume` (1, X, Y, Z); default HDF5 dataset: values, else label.

    NaN stays: nobody measured that voxel. Raises `FileFormatError` for values that are infinite in float32, and what
    `read` raises.
    """
    location = locate(path, "values")
    if location.dataset == "values" and location.path.is_file() and not hdf5.holds(location.path, "values"):
        location = locate(path, "label")
    volume = _single(_load(location, None, xform, max_bytes), "targets")
    values = require_target(volume.array, volume.name)
    return Volume(values, volume.affine, volume.name, volume.forms, volume.attributes)


def require_target(array: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Values as float32, NaN kept. Raises `FileFormatError` where one is infinite or too large for float32."""
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = array.astype(np.float32, copy=False)
    count = int(np.count_nonzero(np.isinf(values)))
    if count:
        raise FileFormatError(
            f"{name} has {count} voxel(s) that are infinite or beyond 3.4e38; expected numbers, or NaN where nobody "
            f"measured. Mend the file."
        )
    return values


def info(path: str) -> dict[str, Any]:
    """Facts of a volume from its header alone, as plain JSON values. Voxels are neither read nor checked.

    shape, spacing_mm, orientation and axes count along X, Y, Z of the array in memory; `stored_order` is the file's.
    """
    location = locate(path, "")
    entry = format_of(location.path, location.name)
    _require_file(location)
    facts: dict[str, Any] = {"name": location.name, "format": entry.name}
    try:
        if entry.datasets:
            facts["datasets"] = hdf5.listing(location)
            dataset = location.dataset or hdf5.usual_dataset(location)
            location = Location(location.name, location.path, dataset)
        described = entry.describe(location)
    except OSError as error:
        raise _unreadable(location, error) from error
    if location.dataset:
        facts["dataset"] = location.dataset
    if described is not None:
        facts |= _plain(described)
    elif locate(path, "").dataset:
        raise FileFormatError(f"{location.path} has no dataset {location.dataset!r}. See `vol3d info {location.path}`.")
    return facts


def _load(location: Location, channel: int | None, xform: Xform | None, max_bytes: int | None) -> Volume:
    if xform not in (None, "sform", "qform"):
        raise ConfigError(f"xform is sform or qform, found {xform!r}")
    entry = format_of(location.path, location.name)
    _require_file(location)
    try:
        return entry.read(location, ReadOptions(Budget.of(max_bytes), channel, xform))
    except MemoryError as error:
        raise ResourceError(f"{location.name} does not fit into memory. Crop it or use a larger machine.") from error
    except OSError as error:
        raise _unreadable(location, error) from error


def _require_file(location: Location) -> None:
    try:
        if location.path.is_file():
            return
        found = "is a folder" if location.path.is_dir() else "does not exist"
    except OSError as error:
        raise _unreadable(location, error) from error
    raise FileFormatError(f"{location.name}: the file {found}. Check the path.")


def _unreadable(location: Location, error: OSError) -> FileFormatError:
    return FileFormatError(
        f"{location.name} cannot be read: {error.strerror or error}. Check the file and its permissions."
    )


def _single(volume: Volume, what: str) -> Volume:
    if volume.channels != 1:
        raise LabelError(
            f"{volume.name} has {volume.channels} channels; {what} have one. Name another file or dataset."
        )
    return volume


def _plain(facts: Facts) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "shape": list(facts.shape),
        "channels": facts.channels,
        "dtype": facts.dtype,
        "stored_order": facts.stored_order,
    }
    if facts.held is not None:
        plain["dtype_in_memory"] = facts.held
    if facts.affine is not None:
        spacing, codes = [float(v) for v in facts.affine.spacing], facts.affine.codes
        plain |= {"spacing_mm": spacing, "orientation": codes, "affine": facts.affine.matrix.tolist()}
        plain["axes"] = [
            {"axis": axis, "size": size, "spacing_mm": step, "towards": letter}
            for axis, size, step, letter in zip(_AXES, facts.shape, spacing, codes, strict=True)
        ]
    if facts.forms is not None:
        forms = facts.forms
        plain |= {
            "qform_code": forms.qform_code,
            "sform_code": forms.sform_code,
            "qform": None if forms.qform is None else forms.qform.tolist(),
            "sform": None if forms.sform is None else forms.sform.tolist(),
            "units": {1: "m", 2: "mm", 3: "µm"}.get(forms.units & 7, "unknown"),
        }
    if facts.problems:
        plain["problems"] = list(facts.problems)
    return plain | facts.attributes
