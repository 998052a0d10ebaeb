"""The warp of a patch on a CPU, compiled: row by row, without a sampling grid or a displacement field.

Every row along Z gets its coordinates in a buffer that stays in the processor's cache: the affine part, plus the spline
through the control points, which was summed over X once per plane and over Y once per row before. Image, classes and
weight are read from these coordinates in the same pass.

What a patch is placed by, in all of them: voxel p of the patch is read at matrix · (p − anchor) + target + d(p), with
d(p) the sum of vectors[:, i, j, k] · along_x[x, i] · along_y[y, j] · along_z[k, z]. matrix (3, 3), anchor and target
(3,): float64. vectors (3, gx, gy, gz) and the shares along the axes: float32. Beyond the border everything is mirrored.
All arrays are contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vol3d.transforms.compiled import Array, compiled

Whole = Any  # int32, uint64: which one matters to the compiler alone
Placed = tuple[Array, Array, Array, Array, Array, Array, Array]
Buffers = tuple[Array, Array, Array]


@compiled
def warp_patch(
    image: Array,
    classes: Array,
    weight: Array,
    placed: Placed,
    begin: tuple[int, int, int],
    patch: Array,
    found: Array,
    trust: Array,
) -> None:
    """Read a patch of `image` (linear), `classes` and `weight` (nearest, in the box of `found` that starts at `begin`).

    image: (C, X, Y, Z). classes, weight: (X, Y, Z). Into patch: float32 (C, *size); found and trust: the sizes of the
    box, classes 0 where trust is 0; empty ones where nothing but the image is wanted.
    """
    _, _, _, _, along_x, along_y, _ = placed
    planes, plane, lines, line = _sums(placed)
    buffers = _buffers(patch.shape[3])
    rows, _, places = buffers
    for x in range(patch.shape[1]):
        _weigh(planes, along_x[x], plane)
        for y in range(patch.shape[2]):
            _weigh(lines, along_y[y], line)
            _image_row(x, y, image, placed, line, buffers, patch)
            i, j = x - begin[0], y - begin[1]
            if 0 <= i < found.shape[0] and 0 <= j < found.shape[1]:
                _nearest(classes.shape, rows, begin[2], found.shape[2], places)
                _labels(classes, weight, places, found[i, j], trust[i, j])


@compiled
def warp_pair(
    image: Array, codes: Array, placed: Placed, begin: tuple[int, int, int], patch: Array, found: Array
) -> None:
    """`warp_patch` of an image and `warp_nearest` of codes (D, X, Y, Z) on its grid, in one pass."""
    _, _, _, _, along_x, along_y, _ = placed
    planes, plane, lines, line = _sums(placed)
    buffers = _buffers(patch.shape[3])
    rows, _, places = buffers
    for x in range(patch.shape[1]):
        _weigh(planes, along_x[x], plane)
        for y in range(patch.shape[2]):
            _weigh(lines, along_y[y], line)
            _image_row(x, y, image, placed, line, buffers, patch)
            i, j = x - begin[0], y - begin[1]
            if 0 <= i < found.shape[1] and 0 <= j < found.shape[2]:
                _nearest(codes.shape[1:], rows, begin[2], found.shape[3], places)
                for channel in range(codes.shape[0]):
                    _copy(codes[channel], places, found[channel, i, j])


@compiled
def warp_nearest(codes: Array, placed: Placed, begin: tuple[int, int, int], found: Array) -> None:
    """The same of codes alone: (C, X, Y, Z) into found (C, x, y, z), the box of the patch that starts at `begin`."""
    _, _, _, _, along_x, along_y, along_z = placed
    planes, plane, lines, line = _sums(placed)
    size = found.shape[1:]
    rows, _, places = _buffers(along_z.shape[1])
    for x in range(size[0]):
        _weigh(planes, along_x[begin[0] + x], plane)
        for y in range(size[1]):
            _weigh(lines, along_y[begin[1] + y], line)
            _coordinates(begin[0] + x, begin[1] + y, placed, line, along_z, codes.shape[1:], rows)
            _nearest(codes.shape[1:], rows, begin[2], size[2], places)
            for channel in range(codes.shape[0]):
                _copy(codes[channel], places, found[channel, x, y])


@compiled
def _image_row(x: int, y: int, image: Array, placed: Placed, line: Array, buffers: Buffers, patch: Array) -> None:
    """One row of the image, linear; its coordinates stay in the buffers."""
    rows, fractions, places = buffers
    _coordinates(x, y, placed, line, placed[6], image.shape[1:], rows)
    _below(image.shape[1:], rows, fractions, places)
    for channel in range(image.shape[0]):
        _linear(image[channel], fractions, places, patch[channel, x, y])


@compiled
def _sums(placed: Placed) -> tuple[Array, Array, Array, Array]:
    """The vectors, (3, gx, gy · gz); room for their sum over X, also as (3, gy, gz), and for that over Y, (3, gz)."""
    vectors = placed[3]
    _, gx, gy, gz = vectors.shape
    plane = np.empty((3, gy * gz), dtype=np.float32)
    return vectors.reshape(3, gx, gy * gz), plane, plane.reshape(3, gy, gz), np.empty((3, gz), dtype=np.float32)


@compiled
def _buffers(length: int) -> Buffers:
    """Of one row: coordinates and fractions (3, length), float32; where voxels stand in memory, (length,)."""
    rows, fractions = np.empty((3, length), dtype=np.float32), np.empty((3, length), dtype=np.float32)
    return rows, fractions, np.empty(length, dtype=np.uint64)  # unsigned: no index counts from the end


@compiled
def _weigh(values: Array, shares: Array, result: Array) -> None:
    """result[c, i] = Σ shares[p] · values[c, p, i]."""
    for component in range(3):
        for i in range(result.shape[1]):
            result[component, i] = 0
        for point in range(len(shares)):
            share = shares[point]
            for i in range(result.shape[1]):
                result[component, i] += share * values[component, point, i]


@compiled
def _coordinates(
    x: int, y: int, placed: Placed, line: Array, along_z: Array, shape: tuple[int, int, int], rows: Array
) -> None:
    """Where the voxels of one row of the patch are read: mirrored coordinates along every axis of the volume."""
    matrix, anchor, target, _, _, _, _ = placed
    before = np.float32(anchor[2])
    for axis in range(3):
        row = rows[axis]
        start = np.float32(matrix[axis, 0] * (x - anchor[0]) + matrix[axis, 1] * (y - anchor[1]) + target[axis])
        step = np.float32(matrix[axis, 2])
        for z in range(len(row)):
            row[z] = start + step * (np.float32(z) - before)
        for point in range(along_z.shape[0]):
            vector, shares = line[axis, point], along_z[point]
            for z in range(len(row)):
                row[z] += vector * shares[z]
        last, beyond = np.float32(shape[axis] - 1), False
        for z in range(len(row)):
            beyond |= not (np.float32(0) <= row[z] <= last)
        if beyond:
            _fold(row, last)


@compiled
def _fold(row: Array, last: np.float32) -> None:
    """Mirror coordinates into 0 … last."""
    if last == 0:
        row[:] = 0
        return
    period = np.float32(2) * last
    for z in range(len(row)):
        turned = row[z] - period * np.floor(row[z] / period)
        turned = min(max(turned, np.float32(0)), period)
        row[z] = min(turned, period - turned)


@compiled
def _below(shape: tuple[int, int, int], rows: Array, fractions: Array, places: Array) -> None:
    """The voxel below every coordinate, as its place in a channel's memory, and the fractions above it."""
    last_x, last_y = np.int32(max(shape[0] - 2, 0)), np.int32(max(shape[1] - 2, 0))
    last_z = np.int32(max(shape[2] - 2, 0))
    for z in range(len(places)):
        a, b, c = rows[0, z], rows[1, z], rows[2, z]
        i, j, k = min(np.int32(a), last_x), min(np.int32(b), last_y), min(np.int32(c), last_z)
        fractions[0, z] = a - np.float32(i)
        fractions[1, z] = b - np.float32(j)
        fractions[2, z] = c - np.float32(k)
        places[z] = _place(i, j, k, shape)


@compiled
def _nearest(shape: tuple[int, int, int], rows: Array, first: int, count: int, places: Array) -> None:
    """The voxel nearest to every one of `count` coordinates from `first` on, as its place in memory; halves go up."""
    half = np.float32(0.5)
    last_x, last_y, last_z = np.int32(shape[0] - 1), np.int32(shape[1] - 1), np.int32(shape[2] - 1)
    for z in range(count):
        i = min(np.int32(rows[0, first + z] + half), last_x)
        j = min(np.int32(rows[1, first + z] + half), last_y)
        k = min(np.int32(rows[2, first + z] + half), last_z)
        places[z] = _place(i, j, k, shape)


@compiled
def _place(i: Whole, j: Whole, k: Whole, shape: tuple[int, int, int]) -> Whole:
    """(i · Y + j) · Z + k: a product of 32 bits, then one with a 64-bit result, so that both are vectorised."""
    column = np.int32(i * np.int32(shape[1]) + j)
    return np.uint64(np.int64(column) * np.int64(np.int32(shape[2])) + np.int64(k))


@compiled
def _linear(volume: Array, fractions: Array, places: Array, result: Array) -> None:
    """Trilinear values of one channel."""
    memory = volume.reshape(-1)
    nx, ny, nz = volume.shape
    dx, dy, dz = np.uint64(ny * nz if nx > 1 else 0), np.uint64(nz if ny > 1 else 0), np.uint64(1 if nz > 1 else 0)
    for z in range(len(result)):
        at, fx, fy, fz = places[z], fractions[0, z], fractions[1, z], fractions[2, z]
        a, b = np.float32(memory[at]), np.float32(memory[at + dz])
        c, d = np.float32(memory[at + dy]), np.float32(memory[at + dy + dz])
        at += dx
        e, f = np.float32(memory[at]), np.float32(memory[at + dz])
        g, h = np.float32(memory[at + dy]), np.float32(memory[at + dy + dz])
        a, c, e, g = a + fz * (b - a), c + fz * (d - c), e + fz * (f - e), g + fz * (h - g)
        a, e = a + fy * (c - a), e + fy * (g - e)
        result[z] = a + fx * (e - a)


@compiled
def _copy(codes: Array, places: Array, row: Array) -> None:
    """Codes of one row."""
    memory = codes.reshape(-1)
    for z in range(len(row)):
        row[z] = memory[places[z]]


@compiled
def _labels(classes: Array, weight: Array, places: Array, found: Array, trust: Array) -> None:
    """Classes and weight of one row of the output box."""
    codes, known = classes.reshape(-1), weight.reshape(-1)
    for z in range(len(found)):
        at = places[z]
        trust[z] = known[at]
        found[z] = codes[at] if known[at] != 0 else 0
