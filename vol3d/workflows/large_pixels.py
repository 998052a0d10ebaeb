"""The channels of a pixel classifier for a scan that is larger than the memory: on disk, part by part."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vol3d import io
from vol3d.baselines.by_box import ByBox
from vol3d.baselines.pixel_classifier import PixelClassifier, log_probabilities
from vol3d.errors import ResourceError
from vol3d.transforms import PreparedByBox
from vol3d.transforms.crop import ReadByBox
from vol3d.volume import Box
from vol3d.workflows.listener import Listener

_EDGES = (320, 256, 192, 128, 64)  # of the parts, in voxels; the larger, the less is computed twice
_FIRST, _SECOND = "pixels-1", "pixels-2"


@dataclass(frozen=True, eq=False)
class WithChannels:
    """An image and, as its further channels, the logarithms of the class probabilities that a classifier gave."""

    image: ReadByBox
    logs: io.BlockFile

    @property
    def ndim(self) -> int:
        """4."""
        return 4

    @property
    def shape(self) -> tuple[int, ...]:
        """(C + K, X, Y, Z)."""
        channels, *size = self.image.shape
        return (channels + self.logs.shape[0], *size)

    def read(self, box: Box) -> NDArray[np.float32]:
        """The voxels of a box inside the volume, (C + K, *box.size)."""
        return np.concatenate([self.image.read(box), self.logs.read(box)])


@contextmanager
def with_channels(
    prepared: PreparedByBox,
    classifier: PixelClassifier | None,
    output: str,
    key: str,
    memory_bytes: float,
    tell: Listener,
) -> Iterator[ReadByBox]:
    """A scan as a model with a pixel classifier takes it, whose answers are kept beside the output.

    They stay where the body raises, for the next run with the same key. memory_bytes: what they may take while they are
    made. Raises `ResourceError` where the disk has no room for them.
    """
    if classifier is None:
        yield prepared
        return
    asked = by_box(prepared, classifier)
    edge = edge_of(asked, memory_bytes)
    parts = list(parts_of(asked.shape, edge))
    key = f"{key}-{edge}"
    with (
        io.block_file(output, _FIRST, key, (asked.told, *asked.shape)) as first,
        io.block_file(output, _SECOND, key, (classifier.classes, *asked.shape)) as second,
    ):
        _require_room(output, first, second, len(parts))
        if second.parts < len(parts):
            work = 2 * len(parts)
            _fill(first, parts, lambda box: asked.first(box).numpy(), lambda done: _tell(tell, done, work))
            _fill(
                second,
                parts,
                lambda box: log_probabilities(asked.second(box, first.read)).numpy(),
                lambda done: _tell(tell, len(parts) + done, work),
            )
        io.forget_block_file(output, _FIRST)
        yield WithChannels(prepared, second)
    io.forget_block_file(output, _SECOND)


def by_box(prepared: PreparedByBox, classifier: PixelClassifier) -> ByBox:
    """A classifier that is asked about a scan which is read box by box."""
    _, x, y, z = prepared.shape
    a, b, c = prepared.affine.spacing.tolist()
    return ByBox(classifier, (x, y, z), (a, b, c), prepared.read)


def edge_of(asked: ByBox, memory_bytes: float) -> int:
    """The edge of the largest parts that fit into the memory; the smallest where none does."""
    for edge in _EDGES:
        middle = tuple(max(0, (n - edge) // 2) for n in asked.shape)
        if asked.bytes_of(Box(middle, (edge,) * 3).clip(asked.shape)) <= memory_bytes:
            return edge
    return _EDGES[-1]


def parts_of(shape: tuple[int, int, int], edge: int) -> Iterator[Box]:
    """Cubes that cover a volume, in order."""
    for start in itertools.product(*(range(0, n, edge) for n in shape)):
        yield Box(start, (edge,) * 3).clip(shape)


def _fill(
    file: io.BlockFile, parts: list[Box], make: Callable[[Box], NDArray[np.float32]], told: Callable[[int], None]
) -> None:
    for number, box in enumerate(parts[file.parts :], file.parts):
        told(number)
        x, y, z = box.start
        file.write((x, y, z), make(box))


def _tell(tell: Listener, done: int, total: int) -> None:
    tell.progress("pixel classifier", done, total, {})


def _require_room(output: str, first: io.BlockFile, second: io.BlockFile, parts: int) -> None:
    missing = (1 - first.parts / parts) * first.room if second.parts < parts else 0.0
    missing += (1 - second.parts / parts) * second.room
    folder = io.split_name(output)[0].resolve().parent
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise ResourceError(
            f"{output}: what the model's pixel classifier says of a scan of {'×'.join(map(str, second.shape[1:]))} "
            f"voxels takes {missing / 1e9:.2g} GB on disk for a while, {free / 1e9:.2g} GB are free in {folder}. Free "
            "some, or choose another folder with -o."
        )
