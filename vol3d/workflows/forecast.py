"""What a prediction will take, before it is begun: memory from the plan, time from one tile that is run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.optimize
import torch
from numpy.typing import NDArray

from vol3d import io
from vol3d.baselines.by_box import ByBox
from vol3d.baselines.pixel_classifier import PixelClassifier, classify
from vol3d.baselines.reduced import reduced_shape, reduced_spacing
from vol3d.bundle import ModelBundle
from vol3d.inference.blend import Canvas, IndexCanvas
from vol3d.inference.forward import Runner
from vol3d.inference.predict import blending, canvas_for
from vol3d.inference.tiles import Tile, TilePlan
from vol3d.transforms import Preprocessing
from vol3d.transforms.statistics import Statistics, sampling_steps
from vol3d.volume import Affine, Box, Volume
from vol3d.workflows.allocator import freed_memory_kept, freed_memory_returned
from vol3d.workflows.at_once import array_bytes, held_twice, plans_at_once, settings_at_once, stored_bytes
from vol3d.workflows.device import Device, exact, memory_bytes, pick_device
from vol3d.workflows.large import bytes_left, gathered_bytes, held_bytes, is_too_large, plan_in_parts
from vol3d.workflows.large_pixels import by_box, disk_bytes, largest_part, parts_of
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.pixel_channels import classifying_bytes
from vol3d.workflows.precision import require_precision
from vol3d.workflows.predict import require_possible
from vol3d.workflows.scan import require_channels
from vol3d.workflows.tiling import PROGRAM_BYTES

Size = tuple[int, int, int]
_MOST_RUNS, _TIMED_SHARE, _TIMED_SECONDS = 99, 0.02, (1.0, 10.0)  # timed: a share of what is to come, from, to
_TRIED, _TRIED_IN_PARTS, _WARM_UP = 96, 128, 16  # voxels along an axis of the block that a pixel classifier is timed on
_WRITTEN_PER_SECOND = 4e7  # voxels of a label map, compressed
_UNPACKED_PER_SECOND, _READ_PER_SECOND = 2e8, 1e9  # bytes of a scan that is compressed, and that is not


@dataclass(frozen=True)
class Forecast:
    """What is to be expected. bytes: peak memory of the process. seconds: of the command, on this machine, busy as now.

    disk: bytes beside the output, for a while. started: whether starting the program is among the seconds.
    """

    name: str
    shape: Size
    in_parts: bool
    tile: Size
    tiles: int
    redundancy: float
    bytes: float
    seconds: float
    device: str
    disk: float = 0.0
    started: bool = False

    def lines(self) -> list[str]:
        """For people."""
        size, tile = ("×".join(map(str, n)) for n in (self.shape, self.tile))
        way = "in parts" if self.in_parts else "at once"
        minutes = self.seconds / 60
        told = f"{self.seconds:.0f} s" if self.seconds < 100 else f"{minutes:.{int(minutes < 10)}f} min"
        beside = "starting included" if self.started else "beside starting"
        return [
            f"{self.name}: {size} voxels, {way}",
            f"tiles: {self.tiles} of {tile}, {self.redundancy:.2f} voxels through the network for each of the scan",
            f"memory: about {self.bytes / 1e9:.2g} GB"
            + (f"; on disk, for a while, {self.disk / 1e9:.2g} GB beside the output" if self.disk else ""),
            f"time: about {told} on {self.device} in float32, {beside} (one tile was timed)",
        ]


def _refuse(
    scan: str, facts: dict[str, Any], bundle: ModelBundle, output: str, choice: PredictOptions, device: Device
) -> None:
    """Raise what `predict` raises for a model, a scan and options that do not go together."""
    require_precision(bundle, choice, device)
    require_possible(bundle, choice)
    chosen = choice.data.channel is not None or bundle.training_range.get("channel") is not None
    require_channels(scan, 1 if chosen else int(facts.get("channels", 1)), bundle)
    io.require_kept(output, Affine(np.asarray(facts["affine"])), scan)


def forecast(scan: str, bundle: ModelBundle, output: str, choice: PredictOptions, *, starting: float = 0.0) -> Forecast:
    """Plan the prediction of a scan and run one of its tiles; nothing is written.

    Of the scan the header is read alone, the tile is empty. starting: seconds that begin with the program, to be added.
    Memory is that of prediction without uncertainty. Raises what `predict` raises for such a scan.
    """
    if choice.prune is not None:
        bundle = bundle.pruned(choice.prune)
    facts = io.info(scan)
    if "affine" not in facts:  # reading tells what is wrong with it, or which of two affines holds
        facts["affine"] = io.read(scan, channel=choice.data.channel, xform=choice.data.xform).affine.matrix
    device = exact(pick_device(choice.device))
    _refuse(scan, facts, bundle, output, choice, device)
    network = bundle.build(device.name)
    in_parts = is_too_large(scan, output, bundle, choice)
    left = bytes_left(scan, choice, held_bytes(scan, facts, bundle)) if in_parts else 0.0  # before a tile is run
    affine = Affine(np.asarray(facts["affine"]))
    x, y, z = facts["shape"]
    shape = Preprocessing.from_json(bundle.preprocessing).shape_of(affine, (x, y, z))
    if in_parts:
        arrays = held_bytes(scan, facts, bundle)
        plans = plan_in_parts(network, shape, bundle, choice, device, left)
    else:
        arrays = array_bytes(stored_bytes(facts, bundle), (x, y, z), shape, bundle, choice, device)
        settings = settings_at_once(scan, arrays, choice, device)
        plans = plans_at_once(network, shape, bundle, choice, device, settings)
    if choice.tta or choice.uncertainty:
        plans = tuple(plan.flipped() for plan in plans)
    image = np.broadcast_to(np.float32(0), (bundle.network_channels, *shape))
    through = sum(plan.voxels for plan in plans) / math.prod(shape)
    by_tile = in_parts or not held_twice(bundle, choice, device)
    seconds = starting + math.prod(shape) / _WRITTEN_PER_SECOND
    seconds += _reading(scan, facts) * (1.0 + through if in_parts and io.reads_by_box(scan) else 1.0)
    seconds += _preparing(scan, facts, bundle, through if by_tile else 1.0)
    with freed_memory_returned() if in_parts else freed_memory_kept():
        seconds += sum(_predicting(network, image, plan, device) for plan in plans)
    disk, running = 0.0, _together(plans)
    if in_parts:
        running = max(running, gathered_bytes((x, y, z), output, bundle))
    if bundle.classifier is not None:
        spacing = affine.orientation.apply_spacing(affine.spacing).tolist()
        if in_parts:
            asked = by_box(bundle.classifier, shape, spacing, _noise(bundle.classifier.channels), left)
            part = largest_part(asked, left)
            with freed_memory_returned():
                seconds += _classifying_in_parts(asked, part)
            running, disk = max(running, asked.bytes_of(part)), disk_bytes(bundle.classifier, shape)
        else:
            with freed_memory_kept():
                seconds += _classifying(bundle.classifier, shape, spacing)
            running = max(running, classifying_bytes(bundle.classifier, shape))
    held = PROGRAM_BYTES + arrays + running
    if in_parts:
        held = min(held, memory_bytes(Device("cpu"), choice.max_memory_gb))
    largest = max(plans, key=lambda plan: math.prod(plan.size))
    return Forecast(
        scan,
        shape,
        in_parts,
        largest.size,
        sum(len(plan.tiles) for plan in plans),
        through,
        held,
        seconds,
        device.name,
        disk,
        starting > 0,
    )


def _together(plans: Sequence[TilePlan]) -> float:
    """Bytes that plans take which run by turns: the largest tile, and the unfinished planes of all of them."""
    waiting = [float(plan.budget.buffer_bytes(plan.thickness, plan.axes)) for plan in plans]
    return sum(waiting) + max(plan.bytes - planes for plan, planes in zip(plans, waiting, strict=True))


def _reading(scan: str, facts: dict[str, Any]) -> float:
    """Seconds that reading a scan once takes, about."""
    path = io.split_name(scan)[0]
    rate = _UNPACKED_PER_SECOND if path.suffix.lower() == ".gz" else _READ_PER_SECOND
    return float(math.prod(facts["shape"]) * facts["channels"] * np.dtype(facts["dtype"]).itemsize / rate)


def _preparing(scan: str, facts: dict[str, Any], bundle: ModelBundle, times: float) -> float:
    """Seconds that a scan's statistics take, and scaling it so many times, from a block of noise."""
    shape = tuple(facts["shape"])
    block = tuple(min(n, _TRIED) for n in shape)
    noise = 100 * np.random.default_rng(0).random((bundle.in_channels, *block), dtype=np.float32)
    tried = Volume(noise.astype(np.dtype(facts["dtype"])), Affine(np.asarray(facts["affine"])), scan)
    begin = time.perf_counter()
    for channel in tried.array:
        Statistics.of(channel, (1.0, 99.0))
    told = time.perf_counter() - begin
    begin = time.perf_counter()
    Preprocessing.from_json(bundle.preprocessing).apply(tried)
    scaled = max(time.perf_counter() - begin - told, 0.0)  # it asks for statistics as well
    sampled = math.prod(-(-n // step) for n, step in zip(shape, sampling_steps(shape), strict=True))
    return told * sampled / math.prod(block) + times * scaled * math.prod(shape) / math.prod(block)


def _predicting(network: Any, image: NDArray[Any], plan: TilePlan, device: Device) -> float:  # noqa: ANN401  any module
    """Seconds that a plan will take, from its middle tile."""
    tile = plan.tiles[len(plan.tiles) // 2]
    runner = Runner(network, image, plan, torch.device(device.name), device.precision)
    run = partial(_run, runner, tile, plan, canvas_for(plan, tile.output.start[0], runner.dtype))
    first = _seconds(run)
    others = plan.voxels / tile.input.voxels - 1
    return first if len(plan.tiles) == 1 else first + others * _later_seconds(run, others)


def _later_seconds(run: Callable[[], None], others: float) -> float:
    """The median of some runs; the more is to come, the longer: one alone is off by what else the machine does.

    others: how many runs are to come.
    """
    least, most = _TIMED_SECONDS
    taken = [_seconds(run)]
    enough = min(max(_TIMED_SHARE * others * taken[0], least), most)
    while sum(taken) < enough and len(taken) < _MOST_RUNS:
        taken.append(_seconds(run))
    return statistics.median(taken)


def _seconds(run: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _run(runner: Runner, tile: Tile, plan: TilePlan, canvas: Canvas | IndexCanvas) -> None:
    """One tile, from the image to the planes that it adds to."""
    for answer in runner.answers([tile], plan, logits=plan.indices):
        canvas.add(tile.output, answer.wait(), blending(tile, plan, runner.dtype))


def _classifying(classifier: PixelClassifier, shape: Size, spacing_mm: Sequence[float]) -> float:
    """Seconds that the pixel classifier will take, from a block of noise. shape, spacing_mm: of the scan."""
    whole, edges = reduced_shape(shape, classifier.reduction), reduced_spacing(spacing_mm, classifier.reduction)
    block = tuple(min(n, _TRIED) for n in whole)
    noise = torch.rand((classifier.channels, *block), generator=torch.Generator().manual_seed(0))
    begin = time.perf_counter()
    classify(classifier, noise, edges, keep_bytes=4e9)
    return (time.perf_counter() - begin) * math.prod(whole) / math.prod(block)


def _classifying_in_parts(asked: ByBox, part: Box) -> float:
    """As `_classifying`, in parts of the size of `part`: from two that are no larger, one of them in a corner.

    A part takes time for its voxels, and for all that lie around it and are looked at, of which a corner has less.
    """
    size = tuple(min(n, _TRIED_IN_PARTS) for n in part.size)
    x, y, z = ((n - m) // 2 for n, m in zip(asked.shape, size, strict=True))
    middle, corner = Box((x, y, z), size), Box((0, 0, 0), size)
    warm_up = corner.clip((_WARM_UP,) * 3)
    taken = []
    for tried in (warm_up, corner, middle):
        begin = time.perf_counter()
        asked.first(tried)
        asked.second(tried, _noise(asked.told))
        taken.append(time.perf_counter() - begin)

    def work(boxes: Iterable[Box]) -> NDArray[np.float64]:
        return np.array([(box.voxels, asked.looked_at(box)) for box in boxes], dtype=np.float64)

    rates, _ = scipy.optimize.nnls(work((corner, middle)), np.array(taken[1:]))
    return float((work(parts_of(asked.shape, max(part.size))) @ rates).sum())


def _noise(channels: int) -> Callable[[Box], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return lambda box: rng.random((channels, *box.size), dtype=np.float32)
