"""Which input sizes a network takes and what it gives back, from its configuration alone. Needs no torch.

Per axis, a valid U-Net of L levels whose deepest output has b voxels takes T·b + i voxels and gives T·b + o, where T is
the product of all pooling sizes (the total stride). Its margin is i − o, its valid sizes are those with b large enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vol3d.config import AnyNetworkConfig, MonaiConfig, UNetConfig
from vol3d.errors import ModelError
from vol3d.networks.monai_names import monai_stride

Sizes = tuple[int, ...]
_AXES = "XYZ"


@dataclass(frozen=True)
class NetworkGeometry:
    """Sizes of a network, in voxels along every axis (X, Y, Z in memory order; X, Y for two dimensions).

    margin: input − output, split evenly on both sides (always even); 0 for same padding. Output voxel o is right for
    input voxel o + margin / 2. total_stride: product of the pooling sizes; tiles of a valid network start at its
    multiples. smallest: smallest valid input. padded: convolutions are padded (`same`), so every input size is valid;
    the network then fills the last stretch up to `padded_size` itself and crops it away again.
    """

    margin: Sizes
    total_stride: Sizes
    smallest: Sizes
    padded: bool

    @property
    def dimensions(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.margin)

    def is_valid(self, size: Sequence[int]) -> bool:
        """Whether the network takes an input of this size."""
        self._require_axes(size)
        return all(self._fits(axis, n) for axis, n in enumerate(size))

    def output_size(self, size: Sequence[int]) -> Sizes:
        """Output size of an input of `size`. Raises `ModelError` naming the nearest valid sizes."""
        if not self.is_valid(size):
            raise ModelError(self._explain(size))
        return tuple(n - m for n, m in zip(size, self.margin, strict=True))

    def input_size(self, output_at_least: Sequence[int]) -> Sizes:
        """The smallest valid input whose output has at least this size."""
        self._require_axes(output_at_least)
        return tuple(self._at_least(axis, n + self.margin[axis]) for axis, n in enumerate(output_at_least))

    def largest_input(self, at_most: Sequence[int]) -> Sizes:
        """The largest valid input not larger than `at_most` on any axis. Raises `ModelError` where none is."""
        self._require_axes(at_most)
        if any(n < least for n, least in zip(at_most, self.smallest, strict=True)):
            raise ModelError(
                f"no valid input fits into {_times(at_most)} voxels: the network needs at least {_times(self.smallest)}"
            )
        return tuple(self._at_most(axis, n) for axis, n in enumerate(at_most))

    def padded_size(self, size: Sequence[int]) -> Sizes:
        """The size that is computed for an input of `size`: for same padding the next multiples of the total stride.

        An input that would shrink to a single voxel is given two per axis, since one voxel has no statistics.
        """
        self._require_axes(size)
        if not self.padded:
            return tuple(size)
        deepest = [max(1, -(-n // stride)) for n, stride in zip(size, self.total_stride, strict=True)]
        if math.prod(deepest) == 1:
            deepest = [2] * len(deepest)
        return tuple(n * stride for n, stride in zip(deepest, self.total_stride, strict=True))

    def rule(self, axis: int) -> str:
        """The valid sizes along one axis in words, such as `n ≡ 4 (mod 8), n ≥ 92`."""
        stride, least = self.total_stride[axis], self.smallest[axis]
        if self.padded or stride == 1:
            return f"n ≥ {least}"
        return f"n ≡ {least % stride} (mod {stride}), n ≥ {least}"

    def _fits(self, axis: int, n: int) -> bool:
        least = self.smallest[axis]
        return n >= least and (self.padded or (n - least) % self.total_stride[axis] == 0)

    def _at_least(self, axis: int, n: int) -> int:
        least, step = self.smallest[axis], 1 if self.padded else self.total_stride[axis]
        return least + max(0, -(-(n - least) // step)) * step

    def _at_most(self, axis: int, n: int) -> int:
        least, step = self.smallest[axis], 1 if self.padded else self.total_stride[axis]
        return least + (n - least) // step * step

    def _explain(self, size: Sequence[int]) -> str:
        faults = []
        for axis, n in enumerate(size):
            if self._fits(axis, n):
                continue
            near = [self._at_least(axis, n)]
            if n > self.smallest[axis]:
                near.insert(0, self._at_most(axis, n))
            faults.append(f"{_AXES[axis]}: found {n}, nearest valid {' or '.join(map(str, near))} ({self.rule(axis)})")
        return f"the network cannot take an input of {_times(size)} voxels; {'; '.join(faults)}"

    def _require_axes(self, size: Sequence[int]) -> None:
        if len(size) != self.dimensions:
            raise ModelError(f"expected a size along {self.dimensions} axes, found {_times(size)}")


def network_geometry(config: AnyNetworkConfig) -> NetworkGeometry:
    """The sizes of the network that `config` describes, without building it."""
    stride = monai_stride(config) if isinstance(config, MonaiConfig) else config.total_stride
    if not isinstance(config, UNetConfig) or config.padding == "same":
        return NetworkGeometry((0,) * config.dimensions, stride, (1,) * config.dimensions, padded=True)
    margins, smallest = [], []
    for axis, step in enumerate(stride):
        lost = [
            len(level) * (kernel[axis] - 1) for level, kernel in zip(config.encoder, config.level_kernels, strict=True)
        ]
        pooling = [level[axis] for level in config.level_pooling]
        taken, given = _offsets(lost, pooling, interpolated=config.up == "interpolate")
        deepest = max(1, -(-(1 - given) // step))
        margins.append(taken - given)
        smallest.append(step * deepest + taken)
    return NetworkGeometry(tuple(margins), stride, tuple(smallest), padded=False)


def _offsets(lost: list[int], pooling: list[int], *, interpolated: bool) -> tuple[int, int]:
    """Input and output size along one axis where the deepest output has 0 voxels (both are then T·b larger for b).

    lost: voxels that the convolutions of every level take away. An interpolating up-convolution loses half a coarse
    voxel on both sides, where it would have to extrapolate.
    """
    taken, given = lost[-1], 0
    for cut, factor in zip(reversed(lost[:-1]), reversed(pooling), strict=True):
        taken = taken * factor + cut
        given = given * factor - (2 * (factor // 2) if interpolated else 0) - cut
    return taken, given


def _times(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
