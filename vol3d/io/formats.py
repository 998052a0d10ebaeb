"""The one table of formats: suffix ─► reader, header reader, writer. To add a format, add a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vol3d.errors import FileFormatError
from vol3d.io import hdf5, hdf5_write, itk, nifti, nifti_write, tiff, tiff_write
from vol3d.io.kinds import Content, Facts, Location, ReadOptions
from vol3d.volume import Volume


@dataclass(frozen=True)
class Format:
    """One file format.

    read: a volume. describe: its header only. write: into a temporary file of the same suffix.
    datasets: whether a file holds several volumes, named `FILE:DATASET`. sidecar: whether class names need one.
    sizes_only: whether of a grid only the size of its voxels can be written.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Location, ReadOptions], Volume]
    describe: Callable[[Location], Facts | None]
    write: Callable[[Path, Location, Content], None]
    datasets: bool = False
    sidecar: bool = False
    sizes_only: bool = False


_TIFF = (".ome.tiff", ".ome.tif", ".tiff", ".tif")
FORMATS = (
    Format("NIfTI", (".nii.gz", ".nii"), nifti.read, nifti.describe, nifti_write.write),
    Format("HDF5", (".h5", ".hdf5", ".hdf"), hdf5.read, hdf5.describe, hdf5_write.write, datasets=True),
    Format("NRRD", (".nrrd",), itk.read, itk.describe, itk.write),
    Format("MetaImage", (".mha", ".mhd"), itk.read, itk.describe, itk.write, sidecar=True),
    Format("TIFF", _TIFF, tiff.read, tiff.describe, tiff_write.write, sidecar=True, sizes_only=True),
)
SUFFIXES = tuple(suffix for entry in FORMATS for suffix in entry.suffixes)


def split_suffix(path: Path) -> tuple[str, str]:
    """File name without its known suffix, and that suffix as written (empty where unknown)."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)], path.name[-len(suffix) :]
    return path.name, ""


def format_of(path: Path, name: str) -> Format:
    """The row for a file's suffix. Raises `FileFormatError` where there is none."""
    suffix = split_suffix(path)[1].lower()
    for entry in FORMATS:
        if suffix in entry.suffixes:
            return entry
    raise FileFormatError(f"{name}: unknown kind of file. Volumes end in {', '.join(SUFFIXES)}.")
