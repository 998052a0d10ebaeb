"""The channels of a pixel classifier for a scan that is larger than the memory: on disk, part by part."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from vol3d import io
from vol3d.baselines.by_box import PIECE_BYTES, ByBox, Read
from vol3d.baselines.pixel_classifier import PixelClassifier, log_probabilities, told_of
from vol3d.baselines.reduced import Enlarged, read_reduced, reduced_shape, reduced_spacing
from vol3d.errors import ResourceError
from vol3d.transforms import PreparedByBox
from vol3d.transforms.crop import ReadByBox
from vol3d.volume import Box
from vol3d.workflows.channels import WithChannels
from vol3d.workflows.listener import Listener

_EDGES = (320, 256, 192, 128, 64)  # of the parts, in voxels; the larger, the less is read and smoothed twice
_PIECE_SHARE, _LEAST_PIECE = 0.05, 4e6
_FIRST, _SECOND = "pixels-1", "pixels-2"


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
        _forget(output)
        yield prepared
        return
    factors, (_, *size) = classifier.reduction, prepared.shape
    asked = by_box(classifier, size, prepared.affine.spacing.tolist(), read_reduced(prepared, factors), memory_bytes)
    parts = list(parts_of(asked.shape, max(largest_part(asked, memory_bytes).size)))
    told = _Told(tell, 2 * len(parts))
    with io.block_file(output, _SECOND, key, (classifier.classes, *asked.shape)) as second:
        if second.missing_bytes:
            with io.block_file(output, _FIRST, key, (asked.told, *asked.shape)) as first:
                _require_room(output, first, second)
                try:
                    _fill(first, parts, lambda box: asked.first(box).numpy(), told)
                    _fill(second, parts, lambda box: log_probabilities(asked.second(box, first.read)).numpy(), told)
                except KeyboardInterrupt:
                    tell.note("what the pixel classifier has said is kept; the same command goes on")
                    raise
        io.forget_block_file(output, _FIRST)
        x, y, z = size
        yield WithChannels(prepared, Enlarged(second, factors, (x, y, z)))
    _forget(output)


def disk_bytes(classifier: PixelClassifier, shape: tuple[int, int, int]) -> float:
    """What the answers take on disk for a while, about. shape: of the scan, as the network sees it."""
    voxels = math.prod(reduced_shape(shape, classifier.reduction))
    return 4.0 * (classifier.classes + told_of(classifier.classes)) * voxels


def by_box(
    classifier: PixelClassifier, shape: Sequence[int], spacing_mm: Sequence[float], image: Read, memory_bytes: float
) -> ByBox:
    """A classifier that is asked about a scan box by box, on its own grid. shape, spacing_mm: of the scan.

    image: reads boxes of that grid.
    """
    factors = classifier.reduction
    own, edges = reduced_shape(shape, factors), reduced_spacing(spacing_mm, factors)
    return ByBox(classifier, own, edges, image, piece_bytes(memory_bytes))


def piece_bytes(memory_bytes: float) -> float:
    """What a classifier's features may take of the memory."""
    return max(_LEAST_PIECE, min(PIECE_BYTES, _PIECE_SHARE * memory_bytes))


def largest_part(asked: ByBox, memory_bytes: float) -> Box:
    """The largest part, in the middle of the volume, that fits into the memory; the smallest where none does."""
    parts = [Box(tuple(max(0, (n - edge) // 2) for n in asked.shape), (edge,) * 3).clip(asked.shape) for edge in _EDGES]
    return next((part for part in parts if asked.bytes_of(part) <= memory_bytes), parts[-1])


def parts_of(shape: tuple[int, int, int], edge: int) -> Iterator[Box]:
    """Cubes that cover a volume, in order."""
    for start in itertools.product(*(range(0, n, edge) for n in shape)):
        yield Box(start, (edge,) * 3).clip(shape)


class _Told:
    """Counts the parts that are done."""

    def __init__(self, tell: Listener, total: int) -> None:
        self._tell, self._done, self._total = tell, 0, total

    def __call__(self) -> None:
        self._tell.progress("pixel classifier", self._done, self._total, {})
        self._done += 1


def _fill(
    file: io.BlockFile, parts: list[Box], make: Callable[[Box], NDArray[np.float32]], told: Callable[[], None]
) -> None:
    """Write what is not there yet."""
    for box in parts:
        told()
        if not file.has(box):
            x, y, z = box.start
            file.write((x, y, z), make(box))


def _forget(output: str) -> None:
    for name in (_FIRST, _SECOND):
        io.forget_block_file(output, name)


def _require_room(output: str, first: io.BlockFile, second: io.BlockFile) -> None:
    missing = first.missing_bytes + second.missing_bytes
    folder = io.split_name(output)[0].resolve().parent
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise ResourceError(
            f"{output}: what the model's pixel classifier says of a scan of {'×'.join(map(str, second.shape[1:]))} "
            f"voxels takes {missing / 1e9:.2g} GB on disk for a while, {free / 1e9:.2g} GB are free in {folder}. Free "
            "some, or choose another folder with -o."
        )
