"""A dataset in an HDF5 file whose voxels are read box by box: for scans that are larger than the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import FileFormatError
from vol3d.io import hdf5, voxels
from vol3d.io.kinds import Location, choose_channel
from vol3d.io.names import locate
from vol3d.volume import Affine, Box

_CHUNK_CACHE_BYTES = 1 << 26
_CACHE_SLOTS = 10_007  # a prime, well above the number of chunks that fit
_READ_AT_ONCE = 1 << 25  # bytes


class StoredScan:
    """An open dataset. shape: (X, Y, Z). channels: those that are read. affine: of the grid. name: for messages.

    itemsize: bytes of a stored voxel. attributes: see `hdf5.read`.
    """

    def __init__(self, file: Any, location: Location, channel: int | None, nan: float | None) -> None:  # noqa: ANN401
        self._dataset = hdf5.found(file, location)
        self.name, self._nan = location.name, nan
        self.shape, stored = hdf5.shape_of(self._dataset, self.name)
        hdf5.check_type(self._dataset, self.name)
        self._wanted = None if channel is None else choose_channel(self.name, stored, channel)
        self.channels = stored if self._wanted is None else 1
        self.itemsize = int(self._dataset.dtype.itemsize)
        affine = hdf5.affine_of(self._dataset, file, self.name)
        self.affine = affine or Affine(np.eye(4))
        if self._dataset.id.get_storage_size() == 0:
            raise FileFormatError(f"{self.name} declares voxels and stores none of them. Export it again.")

    @property
    def block(self) -> tuple[int, int, int]:
        """A box (X, Y, Z) of some 32 MB that is read at no extra cost: whole chunks, or whole planes across Z."""
        x, y, z = self.shape
        chunks = self._dataset.chunks
        if chunks is None or self._dataset.ndim < 3:
            planes = max(1, _READ_AT_ONCE // max(1, x * y * self.itemsize * self.channels))
            return (x, y, min(z, planes))
        size = [min(n, c) for n, c in zip((x, y, z), chunks[::-1], strict=False)]
        for axis, extent in enumerate((x, y, z)):  # longer along X, then Y, then Z
            room = _READ_AT_ONCE // max(1, int(np.prod(size)) * self.itemsize * self.channels)
            size[axis] = min(extent, size[axis] * max(1, room))
        return (size[0], size[1], size[2])

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box inside the scan, (C, *box.size), as stored; NaN and Inf replaced or refused."""
        x, y, z = box.slices()
        channels = slice(None) if self._wanted is None else self._wanted
        stored = self._dataset[{2: (y, x), 3: (z, y, x), 4: (channels, z, y, x)}[self._dataset.ndim]]
        if stored.dtype == np.bool_:
            stored = stored.view(np.uint8)
        stored = voxels.require_finite(np.ascontiguousarray(stored.astype(stored.dtype.newbyteorder("="), copy=False)),
                                       self._nan, self.name)  # fmt: skip
        array: NDArray[Any] = stored.reshape(-1, *box.size[::-1]).transpose(0, 3, 2, 1)
        return array


@contextmanager
def opened_scan(path: str, *, channel: int | None = None, nan: float | None = None) -> Iterator[StoredScan]:
    """A dataset of an HDF5 file, open for reading box by box. Raises what `hdf5.read` raises."""
    location = locate(path, "raw")
    with hdf5.opened(location, rdcc_nbytes=_CHUNK_CACHE_BYTES, rdcc_nslots=_CACHE_SLOTS) as file:
        yield StoredScan(file, location, channel, nan)
