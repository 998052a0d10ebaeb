"""Reads a volume at the places of a sampling grid: linear for images, nearest for classes and masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vol3d.errors import ConfigError, GeometryError
from vol3d.transforms.mirror import fold

Mode = Literal["linear", "nearest"]
_CHUNK = 1 << 15  # places at a time on a CPU: what they need stays in its cache
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def resample(array: Tensor | NDArray[Any], grid: Tensor, mode: Mode) -> Tensor:
    """Values of `array` (C, X, Y, Z) at voxel coordinates `grid` (3, *size); Tensor (C, *size) on the grid's device.

    linear: float32. nearest: the array's dtype, halves go up. Voxel centres have whole-numbered coordinates
    (`align_corners`); beyond the border the volume is mirrored without repeating the edge, at any distance, and a
    one-voxel axis is replicated. Only voxels the grid needs are read; whole coordinates give the voxel exactly.
    Raises `GeometryError` for wrong shapes, `ConfigError` for another mode.
    """
    if mode not in ("linear", "nearest"):
        raise ConfigError(f"expected mode 'linear' or 'nearest', found {mode!r}")
    if array.ndim != 4 or 0 in array.shape or grid.ndim != 4 or grid.shape[0] != 3:
        raise GeometryError(
            f"expected an array (channels, x, y, z) and a grid (3, x, y, z), "
            f"found {tuple(array.shape)} and {tuple(grid.shape)}"
        )
    if not isinstance(array, Tensor):
        if not _shareable(array):
            return _from_block(array, grid, mode)
        array = torch.from_numpy(array)
    source = array.as_subclass(Tensor).to(grid.device)
    read = _linear if mode == "linear" else _nearest
    places = grid.as_subclass(Tensor).reshape(3, -1)
    count = places.shape[1]
    result = torch.empty(
        (source.shape[0], count), dtype=torch.float32 if mode == "linear" else source.dtype, device=grid.device
    )
    chunk = _CHUNK if grid.device.type == "cpu" else max(count, 1)
    lines = [_Line(channel) for channel in source]
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        folded = [fold(places[axis, part], length) for axis, length in enumerate(source.shape[1:])]
        read(lines, folded, result[:, part])
    return result.reshape(source.shape[0], *grid.shape[1:])


class _Line:
    """One channel as a line of memory: `at(index)` reads it, `strides` tell how far the neighbours are."""

    def __init__(self, channel: Tensor) -> None:
        self.dtype = channel.dtype
        self.shape = tuple(channel.shape)
        self.strides = tuple(channel.stride())
        span = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        line = channel.as_strided((span,), (1,))
        self.line = line.view(_SIGNED[self.dtype]) if self.dtype in _SIGNED else line

    def at(self, index: Tensor) -> Tensor:
        values = self.line.index_select(0, index)
        return values.view(self.dtype) if self.dtype in _SIGNED else values


def _offset(line: _Line, voxels: list[Tensor]) -> Tensor:
    """Where the voxels stand in the line; whole-numbered coordinates, float → int64 (n,)."""
    x, y, z = (voxel.to(torch.int64) * step for voxel, step in zip(voxels, line.strides, strict=True))
    return x.add_(y).add_(z)


def _nearest(lines: list[_Line], folded: list[Tensor], result: Tensor) -> None:
    shape = lines[0].shape
    voxels = [(c + 0.5).floor_().clamp_(max=n - 1) for c, n in zip(folded, shape, strict=True)]
    index = _offset(lines[0], voxels)
    for line, values in zip(lines, result, strict=True):
        values.copy_(line.at(index))


def _linear(lines: list[_Line], folded: list[Tensor], result: Tensor) -> None:
    shape = lines[0].shape
    lower = [c.floor().clamp_(max=max(n - 2, 0)) for c, n in zip(folded, shape, strict=True)]
    fx, fy, fz = (c - low for c, low in zip(folded, lower, strict=True))
    index = _offset(lines[0], lower)
    dx, dy, dz = (step if n > 1 else 0 for n, step in zip(shape, lines[0].strides, strict=True))
    corners = {shift: index + shift for shift in {x + y + z for x in (0, dx) for y in (0, dy) for z in (0, dz)}}

    def along_z(at: Callable[[int], Tensor], shift: int) -> Tensor:
        return at(shift).lerp(at(shift + dz), fz)

    def along_y(at: Callable[[int], Tensor], shift: int) -> Tensor:
        return along_z(at, shift).lerp_(along_z(at, shift + dy), fy)

    for line, values in zip(lines, result, strict=True):

        def at(shift: int, line: _Line = line) -> Tensor:
            return line.at(corners[shift]).to(torch.float32)

        torch.lerp(along_y(at, 0), along_y(at, dx), fx, out=values)


def _shareable(array: NDArray[Any]) -> bool:
    """Whether torch can look at the array's memory as it stands."""
    forward = all(step >= 0 and step % array.itemsize == 0 for step in array.strides)
    return bool(array.flags.writeable and array.flags.aligned and array.dtype.isnative and forward)


def _from_block(array: NDArray[Any], grid: Tensor, mode: Mode) -> Tensor:
    """The same for memory torch cannot look at: copy the block that the grid touches, and read from that."""
    folded = torch.stack([fold(axis, n) for axis, n in zip(grid.as_subclass(Tensor), array.shape[1:], strict=True)])
    low = folded.amin(dim=(1, 2, 3)).floor()
    high = folded.amax(dim=(1, 2, 3)).ceil()
    box = tuple(slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
    block = np.array(array[(slice(None), *box)], dtype=array.dtype.newbyteorder("="), order="C")
    return resample(torch.from_numpy(block), folded - low[:, None, None, None], mode)
