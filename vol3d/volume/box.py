"""An axis-aligned box of voxels: start and size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """Voxels start … start + size − 1 along every axis. start may be negative: the box may leave the volume."""

    start: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Box:
        """The box of a whole array of `shape`."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def stop(self) -> tuple[int, ...]:
        """One past the last voxel along every axis."""
        return tuple(a + n for a, n in zip(self.start, self.size, strict=True))

    @property
    def voxels(self) -> int:
        """Number of voxels; 0 where any size is not positive."""
        count = 1
        for n in self.size:
            count *= max(n, 0)
        return count

    def slices(self) -> tuple[slice, ...]:
        """Index an array with it. Only for boxes inside the array: clip first."""
        if min(self.start) < 0:
            raise ValueError(f"box starts at {self.start}: clip it to the array before slicing")
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def clip(self, shape: tuple[int, ...]) -> Box:
        """The part inside an array of `shape`; size 0 where nothing is inside."""
        start = tuple(min(max(a, 0), n) for a, n in zip(self.start, shape, strict=True))
        stop = tuple(min(max(b, 0), n) for b, n in zip(self.stop, shape, strict=True))
        return Box(start, tuple(max(b - a, 0) for a, b in zip(start, stop, strict=True)))

    def grow(self, by: tuple[int, ...]) -> Box:
        """Wider by `by` voxels on both sides of every axis (narrower if negative)."""
        return Box(
            tuple(a - m for a, m in zip(self.start, by, strict=True)),
            tuple(n + 2 * m for n, m in zip(self.size, by, strict=True)),
        )

    def shift(self, by: tuple[int, ...]) -> Box:
        """Moved by `by` voxels."""
        return Box(tuple(a + d for a, d in zip(self.start, by, strict=True)), self.size)
