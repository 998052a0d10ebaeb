"""Reading HDF5: datasets stored as ZYX or CZYX, with `element_size_um` for the voxel size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import FileFormatError, GeometryError
from vol3d.io import class_names
from vol3d.io.budget import bytes_text
from vol3d.io.hdf5_links import datasets, resolve
from vol3d.io.kinds import Facts, Location, ReadOptions, choose_channel
from vol3d.volume import Affine, Volume

ELEMENT_SIZE, AFFINE, CLASS_NAMES, CHANNEL_NAMES = "element_size_um", "vol3d_affine", "class_names", "channel_names"
_USUAL = ("raw", "label", "weight")


def read(location: Location, options: ReadOptions) -> Volume:
    """All channels of a dataset, or the one asked for, as a `Volume` (C, X, Y, Z) (a view of the stored order).

    Without `element_size_um` and without our own affine the voxels count as 1 mm cubes, and
    attributes["spacing_assumed"] is True. Raises `FileFormatError`, `GeometryError`, `ResourceError`.
    """
    with opened(location) as file:
        dataset = found(file, location)
        shape, channels = shape_of(dataset, location.name)
        check_type(dataset, location.name)
        wanted = None if options.channel is None else choose_channel(location.name, channels, options.channel)
        several = dataset.ndim == 4
        stored_shape = dataset.shape if wanted is None or not several else dataset.shape[1:]
        dtype = dataset.dtype.newbyteorder("=")
        size = int(np.prod(stored_shape, dtype=object)) * dtype.itemsize
        options.budget.require(location.name, size + _chunk_bytes(dataset))
        require_stored(dataset, location.name)
        stored = np.empty(stored_shape, dtype=dtype)
        dataset.read_direct(stored, source_sel=np.s_[wanted] if several and wanted is not None else None)
        affine, attributes = affine_of(dataset, file, location.name), _attributes(dataset)
        if affine is None:
            attributes["spacing_assumed"] = True
    if dtype == np.bool_:
        stored = stored.view(np.uint8)
    if several and wanted is not None:
        attributes["channel"] = wanted
        attributes.pop("channel_names", None)
    return Volume(to_xyz(stored, shape), affine or Affine(np.eye(4)), location.name, None, attributes)


def describe(location: Location) -> Facts | None:
    """What the dataset's header says; None where the file has no such dataset. Raises `FileFormatError`."""
    with opened(location) as file:
        inside = resolve(file, location.dataset or "", location.name)
        if inside is None or not hasattr(inside, "dtype"):
            return None
        shape, channels = shape_of(inside, location.name)
        affine, attributes = affine_of(inside, file, location.name), _attributes(inside)
        if affine is None:
            attributes["spacing_assumed"] = True
        order = {2: "yx", 3: "zyx", 4: "czyx"}[inside.ndim]
        return Facts(shape, channels, inside.dtype.name, affine or Affine(np.eye(4)), order, None, attributes)


def listing(location: Location) -> list[dict[str, Any]]:
    """Every dataset of the file: path, stored shape and dtype. Raises `FileFormatError`."""
    with opened(location) as file:
        return [
            {"name": path, "stored_shape": list(node.shape or ()), "dtype": str(node.dtype)}
            for path, node in sorted(datasets(file).items())
        ]


def usual_dataset(location: Location) -> str | None:
    """The dataset that `info` describes where none is named: raw, label, weight, or the only one."""
    names = [entry["name"] for entry in listing(location)]
    usual = [name for name in _USUAL if name in names]
    return usual[0] if usual else (names[0] if len(names) == 1 else None)


def holds(path: Path, dataset: str) -> bool:
    """Whether the file has something at `dataset`. Raises `FileFormatError` where it is no HDF5 file."""
    location = Location(f"{path}:{dataset}", path, dataset)
    with opened(location) as file:
        return resolve(file, dataset, location.name) is not None


def default_affine(element_size_um: NDArray[np.float64]) -> Affine:
    """The affine of voxel sizes (Z, Y, X) in µm: +x right, +y anterior, +z superior, origin 0."""
    return Affine.from_spacing(element_size_um[::-1] / 1000)


@contextmanager
def opened(location: Location) -> Iterator[Any]:
    """The file, open for reading; HDF5's own errors become `FileFormatError`."""
    with faults_named(location.name), open_file(location) as file:
        yield file


def open_file(location: Location, **options: int) -> Any:  # noqa: ANN401  h5py is untyped
    """The file, open for reading; to be closed. options: of `h5py.File`."""
    import h5py

    return h5py.File(location.path, "r", locking="best-effort", **options)


@contextmanager
def faults_named(name: str) -> Iterator[None]:
    """HDF5's own errors in the body become `FileFormatError`; nothing but reading belongs into it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        cause = " ".join(str(error).split())[:200]
        raise FileFormatError(
            f"{name} cannot be read as HDF5: truncated, corrupt or of another format ({cause}). "
            "Copy or export it again."
        ) from error


def found(file: Any, location: Location) -> Any:  # noqa: ANN401  h5py is untyped
    """The dataset at a location. Raises `FileFormatError`, naming those that there are."""
    inside = resolve(file, location.dataset or "", location.name)
    if hasattr(inside, "dtype"):
        return inside
    names = list(datasets(file))
    some = ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "no dataset at all"
    example = f" Name one, such as {location.path}:{names[0]}." if names else ""
    raise FileFormatError(f"{location.path} has no dataset {location.dataset!r}; it holds {some}.{example}")


def shape_of(dataset: Any, name: str) -> tuple[tuple[int, int, int], int]:  # noqa: ANN401
    """(X, Y, Z) and how many channels. Raises `FileFormatError` for anything but ZYX, CZYX and YX."""
    stored: tuple[int, ...] = tuple(dataset.shape or ())
    if not 2 <= len(stored) <= 4 or 0 in stored:
        raise FileFormatError(f"{name} has shape {stored}; expected z, y, x or channel, z, y, x. Name another dataset.")
    sized = bool({ELEMENT_SIZE, AFFINE} & {*dataset.attrs, *dataset.file.attrs})
    last = (
        len(stored) == 4
        and stored[-1] <= 4
        and min(stored[1:3]) > 16
        and (stored[0] == 1 or (stored[0] > 4 and not sized))
    )
    if last or (len(stored) == 4 and stored[-1] <= 4 and stored[0] > 16):
        raise FileFormatError(
            f"{name} has shape {stored}, which looks like z, y, x, channel; expected channel, z, y, x. "
            "Store the channels first; a scan of one channel without that axis."
        )
    if len(stored) == 3 and stored[-1] in (3, 4) and min(stored[:2]) > 16 and not sized:
        raise FileFormatError(
            f"{name} has shape {stored}, which looks like a color picture y, x, channel; expected z, y, x. Store one "
            f"channel; a scan that is so thin along x gets the attribute {ELEMENT_SIZE} (z, y, x)."
        )
    z, y, x = stored[-3:] if len(stored) > 2 else (1, *stored)
    return (int(x), int(y), int(z)), int(stored[0]) if len(stored) == 4 else 1


def check_type(dataset: Any, name: str) -> None:  # noqa: ANN401
    """Raise `FileFormatError` for anything but real numbers."""
    if dataset.dtype.kind not in "biuf" or dataset.dtype.itemsize > 8:
        raise FileFormatError(f"{name} stores {dataset.dtype}; expected plain real numbers. Name another dataset.")


def require_stored(dataset: Any, name: str) -> None:  # noqa: ANN401
    """Raise `FileFormatError` for a dataset that was declared and never filled."""
    if dataset.id.get_storage_size() == 0:
        size = bytes_text(int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize)
        raise FileFormatError(f"{name} declares {size} of voxels and stores none of them. Export it again.")


def _chunk_bytes(dataset: Any) -> int:  # noqa: ANN401
    """What one compressed chunk takes while it is unpacked."""
    return int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize if dataset.chunks else 0


def to_xyz(stored: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """(…, Z, Y, X) → (C, X, Y, Z), a view."""
    x, y, z = shape
    return stored.reshape(-1, z, y, x).transpose(0, 3, 2, 1)


def affine_of(dataset: Any, file: Any, name: str) -> Affine | None:  # noqa: ANN401
    """Our own affine, else the voxel size of the dataset or of the whole file; None where neither is stored."""
    try:
        affine = None
        if AFFINE in dataset.attrs:
            affine = Affine(np.asarray(dataset.attrs[AFFINE], dtype=np.float64))
        sizes = dataset.attrs.get(ELEMENT_SIZE, file.attrs.get(ELEMENT_SIZE) if affine is None else None)
        if sizes is not None:
            sizes = np.asarray(sizes, dtype=np.float64).ravel()
            flat = sizes.size == 2 and dataset.ndim == 2
            stated = default_affine(np.array([1.0, *sizes]) if flat else sizes)
            _require_same_sizes(affine or stated, stated)
            affine = affine or stated
    except (GeometryError, ValueError, TypeError) as error:
        raise GeometryError(
            f"{name}: its attribute {ELEMENT_SIZE} or {AFFINE} is not a valid geometry ({error}). "
            f"Set {ELEMENT_SIZE} to three positive numbers (z, y, x)."
        ) from error
    return affine


def _require_same_sizes(affine: Affine, stated: Affine) -> None:
    """Raise `GeometryError` where somebody changed one of the two attributes and not the other."""
    if not np.allclose(affine.spacing, stated.spacing, rtol=1e-3):
        one, other = ("×".join(f"{1000 * edge:.6g}" for edge in found.spacing[::-1]) for found in (affine, stated))
        raise GeometryError(f"voxels of {one} µm in {AFFINE}, of {other} µm in {ELEMENT_SIZE}: delete the wrong one")


def _attributes(dataset: Any) -> dict[str, Any]:  # noqa: ANN401
    found: dict[str, Any] = {}
    if names := class_names.decode(dataset.attrs.get(CLASS_NAMES)):
        found["class_names"] = names
    if channels := class_names.decode_list(dataset.attrs.get(CHANNEL_NAMES)):
        found["channel_names"] = channels
    return found
