"""A scan whose voxels are read box by box: from an HDF5 file as they are needed, else from a copy in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.io import hdf5, voxels
from vol3d.io.formats import format_of
from vol3d.io.kinds import Location, Xform, choose_channel
from vol3d.io.names import locate
from vol3d.io.reading import read
from vol3d.volume import Affine, Box, Volume

_CHUNK_CACHE_BYTES = 1 << 26
_CACHE_SLOTS = 10_007  # a prime, well above the number of chunks that fit
_READ_AT_ONCE = 1 << 25  # bytes


class StoredScan:
    """An open dataset. shape: (X, Y, Z). channels: those that are read. affine: of the grid. name: for messages."""

    def __init__(self, file: Any, location: Location, channel: int | None, nan: float | None) -> None:  # noqa: ANN401
        self._dataset = hdf5.found(file, location)
        self.name, self._nan = location.name, nan
        self.shape, stored = hdf5.shape_of(self._dataset, self.name)
        hdf5.check_type(self._dataset, self.name)
        self._wanted = None if channel is None else choose_channel(self.name, stored, channel)
        self.channels = stored if self._wanted is None else 1
        self._voxel_bytes = int(self._dataset.dtype.itemsize) * self.channels
        affine = hdf5.affine_of(self._dataset, file, self.name)
        self.affine = affine or Affine(np.eye(4))
        self._attributes = {"spacing_assumed": True} if affine is None else {}
        hdf5.require_stored(self._dataset, self.name)

    @property
    def frame(self) -> Volume:
        """The scan's grid, without its voxels."""
        return Volume(_no_voxels(self.shape), self.affine, self.name, None, self._attributes)

    @property
    def quick(self) -> bool:
        """Whether a small box is read quickly: compressed chunks, all of which is unpacked, are small."""
        chunks = self._dataset.chunks
        packed = self._dataset.compression is not None
        return not packed or int(np.prod(chunks)) * int(self._dataset.dtype.itemsize) <= _CHUNK_CACHE_BYTES / 8

    @property
    def block(self) -> tuple[int, int, int]:
        """A box (X, Y, Z) of some 32 MB that is read at no extra cost: whole chunks, or whole planes across Z."""
        x, y, z = self.shape
        chunks = self._dataset.chunks
        if chunks is None or self._dataset.ndim < 3:
            planes = max(1, _READ_AT_ONCE // max(1, x * y * self._voxel_bytes))
            return (x, y, min(z, planes))
        size = [min(n, c) for n, c in zip((x, y, z), chunks[::-1], strict=False)]
        for axis, extent in enumerate((x, y, z)):  # longer along X, then Y, then Z
            room = _READ_AT_ONCE // max(1, int(np.prod(size)) * self._voxel_bytes)
            size[axis] = min(extent, size[axis] * max(1, room))
        return (size[0], size[1], size[2])

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box inside the scan, (C, *box.size), as stored; NaN and Inf replaced or refused."""
        x, y, z = box.slices()
        channels = slice(None) if self._wanted is None else self._wanted
        with hdf5.faults_named(self.name):
            stored = self._dataset[{2: (y, x), 3: (z, y, x), 4: (channels, z, y, x)}[self._dataset.ndim]]
        if stored.dtype == np.bool_:
            stored = stored.view(np.uint8)
        native = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("="))
        return hdf5.to_xyz(voxels.require_finite(native, self._nan, self.name), box.size)


class FileScan:
    """As `StoredScan`, of a file that is opened when it is read: by every process for itself."""

    def __init__(self, location: Location, channel: int | None, nan: float | None) -> None:
        self._location, self._channel, self._nan = location, channel, nan
        self._opened: tuple[int, Any, StoredScan] | None = None  # by which process, the file, its dataset
        scan = self._scan()
        self.name, self.shape, self.channels, self.affine = scan.name, scan.shape, scan.channels, scan.affine
        self.frame, self.block, self.quick = scan.frame, scan.block, scan.quick

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box inside the scan, (C, *box.size), as stored; NaN and Inf replaced or refused."""
        return self._scan().read(box)

    def _scan(self) -> StoredScan:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = None  # what another process opened is not read
            file = _open(self._location)
            with hdf5.faults_named(self._location.name):
                self._opened = (os.getpid(), file, StoredScan(file, self._location, self._channel, self._nan))
        return self._opened[2]


class HeldScan:
    """A scan that is in memory as it was read; handed out as `StoredScan` does."""

    quick = True

    def __init__(self, volume: Volume) -> None:
        self._array = volume.array
        self.name, self.affine = volume.name, volume.affine
        self.shape, self.channels = volume.shape, volume.channels
        self.frame = replace(volume, array=_no_voxels(volume.shape))

    @property
    def block(self) -> tuple[int, int, int]:
        """Planes across Z, in which these formats lie."""
        x, y, z = self.shape
        return (x, y, min(z, max(1, _READ_AT_ONCE // (x * y * self._array.dtype.itemsize * self.channels))))

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box inside the scan, (C, *box.size), as stored; a view."""
        return self._array[(slice(None), *box.slices())]


def reads_by_box(path: str) -> bool:
    """Whether a scan can be read box by box without ever holding all of it: HDF5 can."""
    location = locate(path, "")
    return format_of(location.path, location.name).datasets


@contextmanager
def opened_scan(
    path: str, *, channel: int | None = None, nan: float | None = None, xform: Xform | None = None
) -> Iterator[StoredScan | HeldScan]:
    """A scan for reading box by box: a dataset of an HDF5 file, which stays open, or a file that is read at once.

    Raises what `read` raises.
    """
    if not reads_by_box(path):
        yield HeldScan(read(path, channel=channel, nan=nan, xform=xform))
        return
    location = locate(path, "raw")
    with _open(location) as file:
        with hdf5.faults_named(location.name):
            scan = StoredScan(file, location, channel, nan)
        yield scan  # what fails while it is used is no fault of the file


def scan_by_box(
    path: str, *, channel: int | None = None, nan: float | None = None, xform: Xform | None = None
) -> FileScan | HeldScan:
    """As `opened_scan`, for as long as it is needed: an HDF5 file is opened and closed by itself."""
    if reads_by_box(path):
        return FileScan(locate(path, "raw"), channel, nan)
    return HeldScan(read(path, channel=channel, nan=nan, xform=xform))


def _open(location: Location) -> Any:  # noqa: ANN401  an h5py.File
    with hdf5.faults_named(location.name):
        return hdf5.open_file(location, rdcc_nbytes=_CHUNK_CACHE_BYTES, rdcc_nslots=_CACHE_SLOTS)


def _no_voxels(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Zeros (1, X, Y, Z) that take no memory."""
    return np.broadcast_to(np.uint8(0), (1, *shape))
