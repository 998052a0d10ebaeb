"""SHA-256 of a file, for provenance."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vol3d.errors import FileFormatError
from vol3d.io.itk_header import files_of
from vol3d.io.names import split_name


def sha256(path: str) -> str:
    """Hex SHA-256 of the whole file; of `FILE.h5:DATASET` too, the whole file counts.

    Of a MetaImage header and its file of voxels: that of both digests. Raises `FileFormatError`.
    """
    try:
        found = [_digest(file) for file in files_of(split_name(path)[0])]
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
