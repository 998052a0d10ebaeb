"""HDF5 for MONAI: `LoadImaged(keys, reader=vol3d.io.HDF5Reader)`. The only module of this room that needs MONAI."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from vol3d.io.formats import format_of
from vol3d.io.names import is_volume, split_name
from vol3d.io.reading import read
from vol3d.volume import Volume

Names = str | PathLike[str] | Sequence[str | PathLike[str]]


class HDF5Reader(ImageReader):
    """Reads `FILE.h5` or `FILE.h5:DATASET`, stored as ZYX or CZYX.

    dataset: for files named without one. channel: take only this one. nan: replaces NaN and Inf.
    Images come as (X, Y, Z), or (C, X, Y, Z) for several channels, with their affine in RAS mm and, for
    `EnsureChannelFirst`, the place of the channel axis. Several files are joined as channels; they need one grid.
    """

    def __init__(self, dataset: str = "raw", channel: int | None = None, nan: float | None = None) -> None:
        super().__init__()
        self.dataset, self.channel, self.nan = dataset, channel, nan

    def verify_suffix(self, filename: Names) -> bool:
        """Whether every name is one of an HDF5 file."""
        return all(is_volume(name) and format_of(split_name(name)[0], name).datasets for name in _listed(filename))

    def read(self, data: Names, **kwargs: Any) -> list[Volume]:  # noqa: ANN401  MONAI's signature
        """The volumes of one or several files. Raises `FileFormatError` and its siblings."""
        options = {"channel": self.channel, "nan": self.nan} | kwargs
        return [read(self._named(name), **options) for name in _listed(data)]

    def get_data(self, img: Volume | Sequence[Volume]) -> tuple[NDArray[Any], dict[str, Any]]:
        """The array and its metadata: affine, original_affine, spatial_shape, space, original_channel_dim."""
        volumes = [img] if isinstance(img, Volume) else list(img)
        first = volumes[0]
        for other in volumes[1:]:
            first.require_same_grid(other)
        joined = first.array if len(volumes) == 1 else np.concatenate([volume.array for volume in volumes])
        several = len(joined) > 1
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: first.affine.matrix.copy(),
            MetaKeys.ORIGINAL_AFFINE: first.affine.matrix.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(first.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if several else float("nan"),
        }
        return (joined if several else joined[0]), meta

    def _named(self, name: str) -> str:
        path, dataset = split_name(name)
        return name if dataset else f"{path}:{self.dataset}"


def _listed(names: Names) -> list[str]:
    return [fspath(name) for name in ([names] if isinstance(names, str | PathLike) else names)]
