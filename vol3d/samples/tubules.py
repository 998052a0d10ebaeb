"""A tangle of tubules: smooth random space curves that wind around one another, and which voxel lies in which part.

Lengths here are in voxels of the finest spacing, called units, so that anisotropic grids get round tubules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_STEP = 1.5  # units between two points of a centreline
_TURN = 0.14  # radians per step: the tightest bend has a radius of 11 units
_SQUEEZE = 0.92  # neighbours may come this close, as a fraction of touching walls
_SIGHT = 36.0  # units within which a growing tip feels the others: more than two outer radii and its look ahead
_OWN_SKIP = 18  # newest points of a tubule that it does not avoid: it is still leaving them


@dataclass(frozen=True, eq=False)
class Tubule:
    """A hollow tube. points: float64 (n, 3) centreline. lumen: float64 (n,) inner radius. wall: thickness; in units."""

    points: Floats
    lumen: Floats
    wall: float


@dataclass(frozen=True, eq=False)
class Tangle:
    """Which tubule every voxel is nearest to.

    depth: float32 (X, Y, Z), units from the inner surface of the nearest tubule (negative inside it, inf far away).
    owner: int16 (X, Y, Z), its number, −1 far away. classes: uint8 (X, Y, Z), 0 inside tubule, 1 wall, 2 background.
    """

    depth: NDArray[np.float32]
    owner: NDArray[np.int16]
    classes: NDArray[np.uint8]
    tubules: int


def grow(extent: Floats, rng: np.random.Generator, tries: int = 24) -> list[Tubule]:
    """Tubules until `tries` seeds in a row found no room. extent: (3,) size of the box in units."""
    tubules: list[Tubule] = []
    taken = np.empty((0, 4))  # x, y, z, outer radius of every point so far
    failures = 0
    while failures < tries:
        lumen, wall = rng.uniform(4.6, 6.6), rng.uniform(3.4, 4.4)
        points = _wander(extent, lumen + wall, taken, rng)
        if len(points) < 12:
            failures += 1
            continue
        phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(30, 60)
        radius = lumen * (1 + 0.12 * np.sin(np.arange(len(points)) * _STEP * 2 * np.pi / period + phase))
        tubules.append(Tubule(points, np.maximum(radius, 4.2), wall))
        taken = np.vstack([taken, np.column_stack([points, np.full(len(points), lumen + wall)])])
    return tubules


def _wander(extent: Floats, outer: float, taken: Floats, rng: np.random.Generator) -> Floats:
    """A centreline grown both ways from a seed that just clears the others; (n, 3), empty without room."""
    seeds = rng.uniform(-2.0, extent + 2.0, size=(96, 3))
    room = _clearance(seeds, taken, outer)
    free = np.flatnonzero(room >= 0)
    if not len(free):
        return np.empty((0, 3))
    seed = seeds[free[np.argmin(room[free])]]
    heading = _unit(rng.normal(size=3))
    there = _walk(seed, heading, extent, outer, taken, rng)
    own = np.column_stack([there[_OWN_SKIP:], np.full(max(len(there) - _OWN_SKIP, 0), outer)])
    back = _walk(seed, -heading, extent, outer, np.vstack([taken, own]), rng)
    return np.vstack([back[:0:-1], there])


def _walk(
    seed: Floats, heading: Floats, extent: Floats, outer: float, taken: Floats, rng: np.random.Generator
) -> Floats:
    """Steps from the seed until the curve is stuck or has left the box by its own width; (n, 3), the seed first."""
    path = [seed]
    bend = np.zeros(3)
    longest = int(4 * extent.max() / _STEP)
    while len(path) < longest:
        here = path[-1]
        bend = 0.85 * bend + 0.5 * rng.normal(size=3)
        turns = np.vstack([bend, rng.normal(scale=1.5, size=(23, 3))])
        turns /= np.maximum(np.linalg.norm(turns, axis=1, keepdims=True), 1.0)
        headings = heading + _TURN * turns
        headings /= np.linalg.norm(headings, axis=1, keepdims=True)
        old = np.asarray(path[:-_OWN_SKIP]).reshape(-1, 3)
        others = np.vstack([taken, np.column_stack([old, np.full(len(old), outer)])])
        others = others[np.abs(others[:, :3] - here).max(axis=1) < _SIGHT]
        near = _clearance(here + 2 * _STEP * headings, others, outer)
        ahead = _clearance(here + 6 * _STEP * headings, others, outer)
        cost = -np.minimum(near, 1.0) * 3 - np.minimum(ahead, 2.0) + 0.5 * np.linalg.norm(turns - bend, axis=1)
        best = int(np.argmin(cost))
        if near[best] < 0:
            break
        heading = headings[best]
        path.append(here + _STEP * heading)
        if (path[-1] < -outer).any() or (path[-1] > extent + outer).any():
            break
    return np.asarray(path)


def _clearance(points: Floats, taken: Floats, outer: float) -> Floats:
    """Units between a tubule of radius `outer` at each point and the nearest wall; negative where they overlap."""
    if not len(taken):
        return np.full(len(points), np.inf)
    distances = np.linalg.norm(points[:, None, :] - taken[None, :, :3], axis=2)
    room: Floats = (distances - _SQUEEZE * (taken[None, :, 3] + outer)).min(axis=1)
    return room


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector))
    return vector / length


def fill(tubules: list[Tubule], shape: tuple[int, int, int], step: Floats) -> Tangle:
    """Classes on a grid. shape: (X, Y, Z). step: (3,) units per voxel; voxel i has its centre at (i + ½) · step."""
    first = np.full(shape, np.inf, dtype=np.float32)
    second = np.full(shape, np.inf, dtype=np.float32)
    owner = np.full(shape, -1, dtype=np.int16)
    wall = np.zeros(shape, dtype=np.float32)
    for number, tubule in enumerate(tubules):
        depth = _depth(tubule, shape, step)
        closer = depth < first
        second = np.where(closer, first, np.minimum(second, depth))
        first = np.minimum(first, depth)
        owner[closer] = number
        wall[closer] = tubule.wall
    classes = np.full(shape, 2, dtype=np.uint8)
    classes[first < wall] = 1
    classes[(first < 0) & (second > first + 3.0)] = 0  # between two squeezed tubules there is always a wall
    return Tangle(first, owner, classes, len(tubules))


def _depth(tubule: Tubule, shape: tuple[int, int, int], step: Floats) -> NDArray[np.float32]:
    """Units from the inner surface of one tubule, inf beyond the reach of its wall; float32 (X, Y, Z)."""
    depth = np.full(shape, np.inf, dtype=np.float32)
    middle = (tubule.points[1:] + tubule.points[:-1]) / 2
    points = np.vstack([tubule.points, middle])
    radii = np.concatenate([tubule.lumen, (tubule.lumen[1:] + tubule.lumen[:-1]) / 2])
    for point, radius in zip(points, radii, strict=True):
        reach = radius + tubule.wall + 1
        low = np.clip(np.ceil((point - reach) / step - 0.5), 0, shape).astype(int)
        high = np.clip(np.floor((point + reach) / step + 0.5), 0, shape).astype(int)
        if (low >= high).any():
            continue
        x, y, z = (((np.arange(a, b) + 0.5) * s - p) ** 2 for a, b, s, p in zip(low, high, step, point, strict=True))
        distance = np.sqrt(x[:, None, None] + y[:, None] + z) - radius
        box = depth[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        np.minimum(box, distance, out=box, casting="same_kind")
    return depth
