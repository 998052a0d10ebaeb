"""Files ↔ `Volume`: the only code that permutes axes between a stored order and (C, X, Y, Z).

May import `volume` and `errors`, NumPy, nibabel, h5py, tifffile and SimpleITK (each when a file needs it); MONAI only
in `monai_reader`, which loads when `HDF5Reader` is first asked for.
"""

from typing import TYPE_CHECKING, Any

from vol3d.io import atomic
from vol3d.io.blocks import BlockFile, block_file, forget_block_file
from vol3d.io.boxes import FileScan, HeldScan, StoredScan, opened_scan, reads_by_box, scan_by_box
from vol3d.io.budget import available_memory, resident_bytes
from vol3d.io.digest import sha256
from vol3d.io.itk_header import files_of
from vol3d.io.names import default_output, find, is_volume, place_of, preview_path, split_name
from vol3d.io.pairs import pair
from vol3d.io.reading import info, read, read_labels, read_target, read_weights
from vol3d.io.spool import Spool, spooled
from vol3d.io.writing import require_kept, require_writable, write_image, write_label_runs, write_labels

if TYPE_CHECKING:
    from vol3d.io.monai_reader import HDF5Reader

__all__ = [
    "BlockFile",
    "FileScan",
    "HDF5Reader",
    "HeldScan",
    "Spool",
    "StoredScan",
    "atomic",
    "available_memory",
    "block_file",
    "default_output",
    "files_of",
    "find",
    "forget_block_file",
    "info",
    "is_volume",
    "opened_scan",
    "pair",
    "place_of",
    "preview_path",
    "read",
    "read_labels",
    "read_target",
    "read_weights",
    "reads_by_box",
    "require_kept",
    "require_writable",
    "resident_bytes",
    "scan_by_box",
    "sha256",
    "split_name",
    "spooled",
    "write_image",
    "write_label_runs",
    "write_labels",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  any attribute may be asked for
    if name == "HDF5Reader":
        from vol3d.io.monai_reader import HDF5Reader

        return HDF5Reader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
