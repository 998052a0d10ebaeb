"""A volume through a network: tiles in, slabs of class probabilities out, memory flat along X."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vol3d.errors import GeometryError
from vol3d.inference.blend import Canvas, IndexCanvas, weights
from vol3d.inference.forward import Image, Runner, too_large
from vol3d.inference.tiles import Tile, TilePlan
from vol3d.volume import Box, Slab

Progress = Callable[[int, int], None]
_weights = lru_cache(maxsize=8)(weights)
_log = logging.getLogger(__name__)


def predict_slabs(  # noqa: PLR0913  what goes in, and how, by name
    network: nn.Module,
    image: Image,
    plan: TilePlan,
    *,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    needed: NDArray[np.bool_] | None = None,
    logits: bool = False,
    temperature: float = 1.0,
    progress: Progress | None = None,
) -> Iterator[Slab]:
    """Class probabilities of a whole volume, plane by plane.

    network: any module (N, C, *S) → logits (N, K, *S − margin); a copy of it is moved to `device` and run in evaluation
    mode. image: (C, X, Y, Z), preprocessed. plan: of `plan_tiles` for this network and shape. precision: float32, bf16
    or fp16. needed: bool (X, Y, Z); tiles that add to no such voxel are left out. Needed voxels get exactly what they
    get without it; the others get what the tiles that ran say, or 0 for every class where none did. logits: hand on
    what the network answers, blended, without a softmax: logits, or the values of a regression. temperature: what
    logits are divided by before the softmax; without a softmax it changes nothing. progress: told the voxels that went
    through the network, and how many will in all (which may change on a re-plan).

    Yields slabs that cover planes 0 … X − 1 in order, values float32 (K, x, Y, Z), float64 from a float64 network. A
    plan of `indices` yields the most probable classes instead, int16 (1, x, Y, Z), in a fraction of the memory.
    Where a tile is too large for the memory, the planes not yet handed on are planned anew with smaller tiles.
    Raises `ModelError` for NaN or infinite logits and for an image or network that does not fit the plan,
    `ResourceError` where not even the smallest tile fits.
    """
    require_mask(needed, plan)
    runner = Runner(network, image, plan, torch.device(device), precision, temperature=temperature)
    return stream(runner, plan, needed, progress, logits=logits)


def require_mask(needed: NDArray[np.bool_] | None, plan: TilePlan) -> None:
    """Raise `GeometryError` for a mask of another shape than the volume's."""
    if needed is not None and needed.shape != plan.shape:
        raise GeometryError(f"expected a mask of shape {plan.shape}, found {needed.shape}")


def stream(
    runner: Runner,
    plan: TilePlan,
    needed: NDArray[np.bool_] | None,
    progress: Progress | None,
    *,
    logits: bool,
    first_plane: int = 0,
) -> Iterator[Slab]:
    """The slabs of `plan` from a plane on, of smaller tiles after it where they turn out too large."""
    finished, meter = first_plane, _Meter(progress)
    while finished < plan.shape[0]:
        tiles = tiles_for(plan, needed, finished)
        meter.expect(tiles)
        try:
            for slab in _sweep(runner, plan, tiles, finished, meter, logits=logits):
                finished = slab.stop
                yield slab
        except RuntimeError as error:
            if not too_large(error):
                raise
            size, cause = "×".join(map(str, plan.size)), str(error).partition("\n")[0]
            _log.warning("tiles of %s voxels are too large (%s): going on with smaller ones", size, cause)
        if finished < plan.shape[0]:
            plan = plan.smaller()
            runner.release()


def _sweep(
    runner: Runner, plan: TilePlan, tiles: list[Tile], start: int, meter: _Meter, *, logits: bool
) -> Iterator[Slab]:
    """Slabs from plane `start` on: all planes before the next tile's are finished, since tiles come in their order."""
    canvas = canvas_for(plan, start, runner.dtype)
    for answer in runner.answers(tiles, plan, logits=logits or plan.indices):
        values, box = answer.wait(), answer.tile.output
        yield from canvas.finish(box.start[0])
        canvas.add(box, values, blending(answer.tile, plan, runner.dtype))
        meter.passed(answer.tile)
    yield from canvas.finish(plan.shape[0])


class _Meter:
    """Counts the voxels that went through the network, and tells `report` about them."""

    def __init__(self, report: Progress | None) -> None:
        self._report, self._done, self._total = report, 0, 0

    def expect(self, tiles: list[Tile]) -> None:
        self._total = self._done + sum(tile.input.voxels for tile in tiles)

    def passed(self, tile: Tile) -> None:
        self._done += tile.input.voxels
        if self._report is not None:
            self._report(self._done, self._total)


def tiles_for(plan: TilePlan, needed: NDArray[np.bool_] | None, finished: int = 0) -> list[Tile]:
    """Tiles that answer a needed voxel in planes from `finished` on."""
    return [tile for tile in _unfinished(plan, finished) if needed is None or needed[tile.output.slices()].any()]


def _unfinished(plan: TilePlan, finished: int) -> Iterator[Tile]:
    """Tiles that answer planes from `finished` on, their outputs cut down to those."""
    for tile in plan.tiles:
        box = tile.output
        late = max(finished - box.start[0], 0)
        if late < box.size[0]:
            cut = Box((box.start[0] + late, *box.start[1:]), (box.size[0] - late, *box.size[1:]))
            yield replace(tile, output=cut)


def canvas_for(plan: TilePlan, start: int, dtype: torch.dtype) -> Canvas | IndexCanvas:
    """What the answers of a plan's tiles are gathered on, from plane `start` on."""
    if plan.indices:
        return IndexCanvas(plan.thickness, plan.shape, start)
    return Canvas(plan.classes, plan.thickness, plan.shape, start, dtype)


def blending(tile: Tile, plan: TilePlan, dtype: torch.dtype) -> Tensor | None:
    """Blending weights of a tile's output, None where tiles lie side by side."""
    if not any(plan.blended):
        return None
    offset = tile.output.shift(tuple(-start for start in tile.input.start))
    return _weights(tile.input.size, plan.blended, dtype)[offset.slices()]
