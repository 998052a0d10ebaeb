"""2.5-D: one 2-D network goes through the volume slice by slice across several axes, and its answers are averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vol3d.errors import ModelError
from vol3d.inference.forward import Image, Runner
from vol3d.inference.predict import Progress, require_mask, stream, tiles_for
from vol3d.inference.tiles import TilePlan
from vol3d.volume import Slab


def predict_axes(  # noqa: PLR0913  what `predict_slabs` takes, and the flips
    network: nn.Module,
    image: Image,
    plans: Sequence[TilePlan],
    *,
    flip_axes: Sequence[int] = (),
    device: str | torch.device = "cpu",
    precision: str = "float32",
    needed: NDArray[np.bool_] | None = None,
    logits: bool = False,
    temperature: float = 1.0,
    first_plane: int = 0,
    progress: Progress | None = None,
) -> Iterator[Slab]:
    """`predict_slabs`, averaged with equal weights over `plans` that go through the volume across different axes.

    plans: of `plan_axes`; their order changes nothing, one plan gives what `predict_slabs` gives. flip_axes: average
    over all flips of the volume along these axes as well, as `predict_flips` does; a plan leaves out the axis its
    network does not see, along which a flip changes nothing. needed: voxels outside it get the mean of what the plans
    say, 0 from a plan of which no tile answered. image: an array, or what is read box by box. first_plane: where to
    begin. progress: voxels of all plans together.

    One slab stream per plan runs as far as the next planes need it, so that memory stays flat: a tile's planes and a
    slab per plan. Raises what `predict_slabs` raises, `ModelError` for plans that do not fit each other.
    """
    ordered = sorted(_checked(plans), key=lambda plan: plan.seen)
    if flip_axes:
        ordered = [plan.flipped(flip_axes) for plan in ordered]
    require_mask(needed, ordered[0])
    runner = Runner(network, image, ordered[0], torch.device(device), precision, temperature=temperature)
    return _averaged(runner, ordered, needed, progress, logits=logits, first_plane=first_plane)


def _checked(plans: Sequence[TilePlan]) -> Sequence[TilePlan]:
    facts = {(plan.shape, plan.classes, plan.dimensions) for plan in plans}
    if len(facts) != 1:
        raise ModelError(f"expected plans of one network for one volume, found {len(facts)} kinds among {len(plans)}")
    if len({plan.seen for plan in plans}) != len(plans):
        raise ModelError(
            f"expected plans across different axes, found {[plan.planes for plan in plans]}; give each once"
        )
    return plans


def _averaged(
    runner: Runner,
    plans: list[TilePlan],
    needed: NDArray[np.bool_] | None,
    progress: Progress | None,
    *,
    logits: bool,
    first_plane: int,
) -> Iterator[Slab]:
    waiting = [sum(tile.input.voxels for tile in tiles_for(plan, needed, first_plane)) for plan in plans]
    total = SharedMeter(progress, waiting)
    streams = [
        stream(runner, plan, needed, total.part(n), logits=logits, first_plane=first_plane)
        for n, plan in enumerate(plans)
    ]
    for parts in in_step(streams):
        mean = parts[0].values.copy()
        for count, part in enumerate(parts[1:], 2):
            mean += (part.values - mean) / count  # stays where it is, to the last bit, where all agree
        yield Slab(parts[0].start, mean)


def in_step(streams: list[Iterator[Slab]]) -> Iterator[list[Slab]]:
    """The slabs of all streams, cut at each other's borders so that they cover the same planes."""
    slabs = [next(one) for one in streams]
    while True:
        stop = min(slab.stop for slab in slabs)
        yield [Slab(slab.start, slab.values[:, : stop - slab.start]) for slab in slabs]
        for n, slab in enumerate(slabs):
            if slab.stop > stop:
                slabs[n] = Slab(stop, slab.values[:, stop - slab.start :])
                continue
            following = next(streams[n], None)
            if following is None:  # all streams end with the volume
                return
            slabs[n] = following


class SharedMeter:
    """Adds up what several streams report."""

    def __init__(self, report: Progress | None, totals: Sequence[int]) -> None:
        self._report, self._parts = report, [(0, total) for total in totals]

    def part(self, number: int) -> Progress | None:
        """What stream `number` is to report to."""
        report = self._report
        if report is None:
            return None

        def heard(done: int, total: int) -> None:
            self._parts[number] = (done, total)
            report(sum(part[0] for part in self._parts), sum(part[1] for part in self._parts))

        return heard
