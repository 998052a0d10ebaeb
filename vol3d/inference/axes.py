"""Tiles along one axis. Pure arithmetic, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from vol3d.errors import ModelError


@dataclass(frozen=True)
class Span:
    """One tile along one axis: what it reads and the voxels it answers for.

    The input may leave the volume on both sides (the volume is mirrored there); the output lies inside it.
    """

    start: int
    size: int
    output_start: int
    output_size: int


@dataclass(frozen=True)
class Axis:
    """What a network asks of one axis of a volume, in voxels.

    length: of the volume. margin: input − output of the network, even. stride: its total stride. smallest: its
    smallest valid input; the others follow at multiples of the stride. overlap: None where outputs lie side by side,
    else the part of a tile that it shares with the next one at least, and outputs are blended.
    """

    length: int
    margin: int
    stride: int
    smallest: int
    overlap: float | None = None

    @property
    def whole(self) -> int:
        """The smallest valid input whose output covers the axis."""
        return self.at_least(self.length + self.margin)

    def at_least(self, size: int) -> int:
        """The smallest valid input of at least `size`."""
        return self.smallest + max(0, -(-(size - self.smallest) // self.stride)) * self.stride

    def sizes(self) -> range:
        """Every valid input from the smallest useful one to the whole."""
        least = self.smallest
        if self.smallest - self.margin < self.stride:  # would step by 0: useful only where one tile covers the axis
            least = min(self.at_least(self.margin + self.stride), self.whole)
        return range(least, self.whole + 1, self.stride)

    def accept(self, size: int, letter: str) -> int:
        """A size somebody asked for, cut down to what the axis needs; raises `ModelError` on an invalid one."""
        if self.overlap is not None:
            return min(self.at_least(size), self.whole)
        sizes = self.sizes()
        if size > self.whole and (size - self.smallest) % self.stride == 0:
            return self.whole
        if size in sizes:
            return size
        below = [n for n in sizes if n < size][-1:]
        near = " or ".join(str(n) for n in (*below, self.at_least(max(size, sizes[0]))))
        raise ModelError(
            f"a tile of {size} voxels along {letter} does not fit the network (margin {self.margin}, total stride "
            f"{self.stride}); take {near}"
        )

    def spans(self, size: int) -> tuple[Span, ...]:
        """Tiles with an input of `size` (the last one may be smaller) whose outputs cover the axis, in order.

        Side by side: outputs begin at multiples of the stride and touch; what a tile answers beyond that is dropped.
        Blended: inputs begin at multiples of the stride, spread evenly, and overlap.
        """
        return self._side_by_side(size) if self.overlap is None else self._blended(size, self.overlap)

    def _side_by_side(self, size: int) -> tuple[Span, ...]:
        answered = size - self.margin
        step = answered // self.stride * self.stride
        before = self.margin // 2
        spans, start = [], 0
        while start + answered < self.length:
            spans.append(Span(start - before, size, start, step))
            start += step
        left = self.length - start
        spans.append(Span(start - before, self.at_least(left + self.margin), start, left))
        return tuple(spans)

    def _blended(self, size: int, overlap: float) -> tuple[Span, ...]:
        step = max(int(size * (1 - overlap)) // self.stride, 1) * self.stride
        spare = self.whole - size
        gaps = -(-spare // step)
        starts = [gap * spare // gaps // self.stride * self.stride for gap in range(gaps + 1)] if gaps else [0]
        return tuple(Span(start, size, start, min(size, self.length - start)) for start in starts)
