"""The small values that readers and writers hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import FileFormatError
from vol3d.io.budget import Budget
from vol3d.volume import Affine, StoredForms, Volume

Xform = Literal["sform", "qform"]


@dataclass(frozen=True)
class Location:
    """Where a volume lies. name: as the user gave it. dataset: inside an HDF5 file, else None."""

    name: str
    path: Path
    dataset: str | None = None


@dataclass(frozen=True)
class ReadOptions:
    """What a reader is asked for. channel: one channel only. xform: which geometry to trust. budget: memory."""

    budget: Budget
    channel: int | None = None
    xform: Xform | None = None


@dataclass(frozen=True, eq=False)
class Facts:
    """What the header alone says. shape: (X, Y, Z). problems: reasons for which reading would be refused.

    held: the dtype of the voxels once they are read, where it is another than the stored one.
    """

    shape: tuple[int, int, int]
    channels: int
    dtype: str
    affine: Affine | None
    stored_order: str
    forms: StoredForms | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    held: str | None = None


@dataclass(frozen=True, eq=False)
class Content:
    """What a writer stores. array: (C, X, Y, Z), stored as `dtype`, on the grid of `like`.

    class_names: name of every label code, or None. channel_names: one per channel, or None.
    """

    array: NDArray[Any]
    dtype: np.dtype[Any]
    like: Volume
    class_names: dict[int, str] | None = None
    channel_names: tuple[str, ...] | None = None


def choose_channel(name: str, channels: int, wanted: int | None) -> int:
    """The channel to read from a file of which only one can be taken. Raises `FileFormatError`."""
    if wanted is None:
        if channels == 1:
            return 0
        raise FileFormatError(
            f"{name} has {channels} channels (or time points); one is expected. "
            f"Select one with --channel 0 … {channels - 1}."
        )
    if not 0 <= wanted < channels:
        raise FileFormatError(f"{name} has {channels} channel(s), numbered from 0; channel {wanted} is not among them.")
    return wanted
