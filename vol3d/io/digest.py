"""SHA-256 of a file, for provenance."""

from __future__ import annotations

import hashlib

from vol3d.errors import FileFormatError
from vol3d.io.names import split_name


def sha256(path: str) -> str:
    """Hex SHA-256 of the whole file; of `FILE.h5:DATASET` too, the whole file counts. Raises `FileFormatError`."""
    try:
        with split_name(path)[0].open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
