"""TensorBoard, where it is installed."""

from __future__ import annotations

import os
from importlib import util
from typing import Protocol


class Board(Protocol):
    """What a run tells TensorBoard."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """One point of a curve."""

    def close(self) -> None:
        """Write what is left and close the files."""


def open_tensorboard(folder: str | os.PathLike[str]) -> Board | None:
    """A writer of event files into `folder`, or None where the extra `tensorboard` is not installed."""
    if util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    board: Board = SummaryWriter(os.fspath(folder))
    return board
