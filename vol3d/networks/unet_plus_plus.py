"""U-Net++ (Zhou, Siddiquee, Tajbakhsh, Liang 2018, arXiv 1807.10165)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vol3d.config import UNetPlusPlusConfig
from vol3d.networks.blocks import Concatenation, ConvBlock, InterpolatedUp, transposed_up
from vol3d.networks.nd import LAYERS
from vol3d.networks.network import Network, Outputs


class UNetPlusPlus(Network):
    """Nested dense skips: (N, C, *S) → logits (N, K, *S).

    Node X[i, j] at level i joins X[i, 0] … X[i, j − 1] and the up-sampled X[i + 1, j − 1]; a convolution of size 1 on
    X[0, j] is head j. With deep supervision there are heads 1 … L − 1; training mode answers them all, the last
    one first. Evaluation answers the last (mode `fast`) or their mean (`accurate`): the paper averages probabilities,
    therefore the logits are the logarithm of the mean of the heads' softmaxed probabilities; with one class, which is
    regression, they are the plain mean.

    prune d: only the nodes with i + j ≤ d are there, which is all that head d needs, and it answers alone. The strides
    that inputs are padded to remain those of the whole network, so that the answer is exactly the whole network's.

    Weights are named `nodes.i_j`, `ups.i_j` (what goes up into node i, j) and `scores.j`. Defaults, dimensions 2,
    normalization `none`, no deep supervision: the paper's 9.04 M parameters.
    """

    def __init__(self, config: UNetPlusPlusConfig, in_channels: int, classes: int) -> None:
        super().__init__(config, in_channels, classes)
        layers, widths, pooling = LAYERS[config.dimensions], config.widths, config.level_pooling
        self.depth = config.prune or config.levels - 1
        self.nodes, self.ups, self.scores = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.pools = nn.ModuleList(layers.max_pool(size) for size in pooling[: self.depth])
        self.concatenation = Concatenation()
        for column in range(self.depth + 1):
            for level in range(self.depth + 1 - column):
                width = widths[level]
                if column == 0:
                    channels = widths[level - 1] if level else in_channels
                else:
                    channels = (column + 1) * width
                    self.ups[_name(level, column)] = _up(config, level)
                self.nodes[_name(level, column)] = ConvBlock(
                    channels,
                    (width,) * config.convolutions,
                    config.level_kernels[level],
                    config.normalization,
                    padded=True,
                )
        every = config.deep_supervision and config.prune is None
        self.columns = tuple(range(self.depth, 0, -1)) if every else (self.depth,)
        for column in self.columns:
            self.scores[str(column)] = layers.convolution(widths[0], classes, 1)

    @property
    def heads(self) -> int:
        """How many logits `forward` answers in training mode."""
        return len(self.columns)

    @property
    def local(self) -> bool:
        """Whether an answer depends on its surroundings alone."""
        return self.config.normalization in {"none", "batch"}

    def maps(self, image: Tensor) -> Outputs:
        """Logits of an image of a size the strides divide."""
        rows: list[list[Tensor]] = []  # rows[i][j] is X[i, j]
        for level in range(self.depth + 1):
            entering = self.pools[level - 1](rows[-1][0]) if level else image
            rows.append([self.nodes[_name(level, 0)](entering)])
        for column in range(1, self.depth + 1):
            for level in range(self.depth + 1 - column):
                name = _name(level, column)
                up = self.ups[name](rows[level + 1][column - 1])
                rows[level].append(self.nodes[name](self.concatenation(*rows[level], up)))
        if not self.training and self.config.mode == "fast":
            return self._head(rows[0], self.depth)
        logits = tuple(self._head(rows[0], column) for column in self.columns)
        if len(logits) == 1:
            return logits[0]
        return logits if self.training else mean_answer(logits)

    def _head(self, row: Sequence[Tensor], column: int) -> Tensor:
        logits: Tensor = self.scores[str(column)](row[column])
        return logits


def mean_answer(heads: Sequence[Tensor]) -> Tensor:
    """One answer for several: logits (N, K, *S) whose softmax is the mean of the softmaxes; the mean where K = 1."""
    if heads[0].shape[1] == 1:
        return sum(heads[1:], heads[0]) / len(heads)
    summed = heads[0].log_softmax(1)
    for head in heads[1:]:
        summed = torch.logaddexp(summed, head.log_softmax(1))
    return summed - math.log(len(heads))


def _name(level: int, column: int) -> str:
    return f"{level}_{column}"


def _up(config: UNetPlusPlusConfig, level: int) -> nn.Module:
    """From level + 1 to `level`."""
    channels, width, factor = config.widths[level + 1], config.widths[level], config.level_pooling[level]
    if config.up == "transposed":
        return transposed_up(channels, width, factor, bias=True)
    return InterpolatedUp(channels, width, factor, bias=True, trimmed=False)
