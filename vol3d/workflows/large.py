"""A scan that is larger than the memory → its label map: read, predicted and written box by box, and taken up again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d import inference, io
from vol3d.baselines.reduced import reduced_shape
from vol3d.bundle import ModelBundle
from vol3d.config import InferenceConfig
from vol3d.errors import ResourceError
from vol3d.report import preview_png
from vol3d.transforms import PreparedByBox, Preprocessing
from vol3d.transforms.boxes import stored_box
from vol3d.version import __version__
from vol3d.volume import Affine, Box
from vol3d.workflows.allocator import freed_memory_returned
from vol3d.workflows.at_once import array_bytes, stored_bytes
from vol3d.workflows.device import Device, exact, memory_bytes, pick_device
from vol3d.workflows.large_pixels import with_channels
from vol3d.workflows.listener import Listener
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.precision import Trial, require_precision, tell_trial, tried
from vol3d.workflows.predict import Prediction, predict, require_possible
from vol3d.workflows.scan import as_learned, require_channels
from vol3d.workflows.tiling import PLANNED_SHARE, PROGRAM_BYTES, model_plans
from vol3d.workflows.unlike import intensities_unlike_training, unlike_training

_WRITTEN_PLANES = 64  # at a time: what the chunks of an output hold
_CACHED_BYTES, _BLOCK_BYTES = 1.7e8, 1e8  # HDF5's chunks and what is read of them; a block that is written
_SMALL_BYTES = 1e8
_TILE_BYTES = 2.5e8  # a modest one
_PREVIEW_VOXELS = 4_000_000


@dataclass(frozen=True)
class LargePrediction:
    """path: the label map. preview: the picture, of every n-th voxel, or None. planes_before: found from earlier.

    trial: how another precision than float32 did, None where none was asked for.
    """

    path: str
    preview: Path | None
    planes_before: int
    trial: Trial | None = None


def _said_bytes(shape: tuple[int, int, int], bundle: ModelBundle) -> float:
    """What both stages of a pixel classifier say of a scan that is held in memory."""
    if bundle.classifier is None:
        return 0.0
    return 8.0 * bundle.classifier.classes * math.prod(reduced_shape(shape, bundle.classifier.reduction))


def obstacle(bundle: ModelBundle, choice: PredictOptions) -> str | None:
    """Why a scan cannot be predicted box by box; None where it can."""
    asked = {
        "--probabilities": choice.probabilities,
        "--uncertainty": choice.uncertainty,
        "--keep-drawn": choice.keep_drawn,
        "--provenance": choice.provenance,
    }
    if bundle.task.kind != "semantic":
        return f"the model's task is {bundle.task.kind}"
    if bundle.preprocessing.get("spacing_mm") is not None:
        return "the model resamples scans to one spacing, which takes all of it"
    return next((f"{flag} is asked for" for flag, wanted in asked.items() if wanted), None)


def held_bytes(scan: str, facts: Mapping[str, Any], bundle: ModelBundle) -> float:
    """What a scan takes that is predicted box by box, as it is read: nothing from HDF5, else all of it.

    facts: of `io.info`.
    """
    return 0.0 if io.reads_by_box(scan) else stored_bytes(facts, bundle)


def gathered_bytes(shape: tuple[int, int, int], output: str, bundle: ModelBundle) -> float:
    """What labels take while they are written: nothing into HDF5, else all of them, twice."""
    return 0.0 if io.reads_by_box(output) else 2.0 * math.prod(shape) * bundle.labels.code_dtype.itemsize


def is_too_large(scan: str, output: str, bundle: ModelBundle, choice: PredictOptions) -> bool:
    """Whether a scan has to be predicted box by box, since it does not fit into the memory that is allowed, or free.

    Beside the arrays the program and one modest tile are counted, and what a pixel classifier says; a small scan is
    not worth it. Raises `ResourceError` where a scan has to be predicted so and cannot.
    """
    facts = io.info(scan)
    shape = facts.get("shape", (0, 0, 0))
    arrays = array_bytes(stored_bytes(facts, bundle), shape, shape, bundle, choice, pick_device(choice.device))
    needed = arrays + PROGRAM_BYTES + _TILE_BYTES + _said_bytes(shape, bundle)
    allowed = io.available_memory() if choice.max_memory_gb is None else 1e9 * choice.max_memory_gb
    if arrays < _SMALL_BYTES or needed <= allowed:
        return False
    why, held = obstacle(bundle, choice), held_bytes(scan, facts, bundle)
    gathered = gathered_bytes(shape, output, bundle)
    in_parts = PROGRAM_BYTES + held + (_beside_bytes(scan) + max(_TILE_BYTES, gathered)) / PLANNED_SHARE
    if why is None and held + gathered and in_parts > allowed:
        why = f"that still takes {in_parts / 1e9:.2g} GB, since the scan or the output is no HDF5 file"
    if why is None:
        return True
    raise ResourceError(
        f"{scan}: takes about {needed / 1e9:.2g} GB at once, {allowed / 1e9:.2g} GB are there for it, and it cannot be "
        f"predicted in parts: {why}. Allow more with --max-memory, or cut the scan."
    )


def predict_file(
    scan: str, bundle: ModelBundle, output: str, choice: PredictOptions, tell: Listener
) -> LargePrediction | Prediction:
    """Segment a scan in a file: at once where it fits into the memory, else in parts. See `predict`."""
    if is_too_large(scan, output, bundle, choice):
        return predict_large(scan, bundle, output, choice, tell)
    return predict(scan, bundle, output, options=choice, listener=tell)


@freed_memory_returned()
def predict_large(
    scan: str, bundle: ModelBundle, output: str, choice: PredictOptions, tell: Listener
) -> LargePrediction:
    """Segment a scan box by box: one in an HDF5 file without ever holding all of it, another as it is stored.

    What is finished is kept beside the output; after a crash or Ctrl-C the same command goes on from there. The labels
    are those that `predict` gives. Freed memory goes back to the system: kept, it would grow past what is allowed.
    Raises what `predict` raises.
    """
    device = exact(pick_device(choice.device))
    require_precision(bundle, choice, device)
    require_possible(bundle, choice)
    if choice.prune is not None:
        bundle = bundle.pruned(choice.prune)
    network = bundle.build(device.name)
    reading = as_learned(scan, choice.data, bundle, tell)
    left = bytes_left(scan, choice, held_bytes(scan, io.info(scan), bundle))  # before chunks of it are kept
    with io.opened_scan(scan, channel=reading.channel, nan=reading.nan, xform=reading.xform) as source:
        require_channels(source.name, source.channels, bundle)
        io.require_kept(output, source.affine, source.name)
        prepared = Preprocessing.from_json(bundle.preprocessing).apply_by_box(source)
        if prepared is None:
            raise AssertionError("an obstacle to prediction in parts")
        frame = source.frame
        for text in (
            *unlike_training(frame, bundle.training_range),
            *intensities_unlike_training(prepared.statistics, bundle.training_range),
        ):
            tell.warn(f"{source.name}: {text}")
        key = _key(scan, bundle, choice)
        planned = plan_in_parts(network, prepared.shape[1:], bundle, choice, device, left)
        with (
            io.spooled(output, f"{key} {choice.precision}", prepared.shape[1:], bundle.labels.code_dtype) as spool,
            with_channels(prepared, bundle.classifier, output, key, left, tell) as image,
        ):
            before = spool.planes
            if before:
                tell.note(f"{source.name}: going on after plane {before} of {spool.shape[0]}")
            wanted = choice.precision if before < spool.shape[0] else "float32"
            quicker, precision, trial = tried(network, image, planned, wanted, device, bundle.labels.names)
            tell_trial(trial, source.name, tell)
            slabs = inference.predict_axes(
                quicker,
                image,
                planned,
                flip_axes=(0, 1, 2) if choice.tta else (),
                device=device.name,
                precision=precision,
                temperature=bundle.temperature,
                first_plane=before,
                progress=lambda done, total: tell.progress("predicting", done, total, {}),
            )
            try:
                for slab in slabs if before < spool.shape[0] else ():
                    found = slab.values[0] if planned[0].indices else slab.values.argmax(axis=0)
                    spool.append(bundle.labels.decode(found))
            except KeyboardInterrupt:
                tell.note(
                    f"{source.name}: {spool.planes} of {spool.shape[0]} planes are kept; the same command goes on"
                )
                raise
            names = {c.code: c.name for c in bundle.labels.classes}
            runs = _turned_back(spool, prepared)
            io.write_label_runs(output, runs, spool.dtype, frame, names=names, overwrite=choice.overwrite)
            preview = _preview(output, spool, prepared, bundle) if choice.preview else None
    return LargePrediction(output, preview, before, trial)


def plan_in_parts(
    network: Any,  # noqa: ANN401  as in `tile_plans`
    shape: tuple[int, int, int],
    bundle: ModelBundle,
    choice: PredictOptions,
    device: Device,
    memory_bytes: float,
) -> tuple[inference.TilePlan, ...]:
    """Tiles that fit into the memory that is left. shape: as the network sees the scan."""
    settings = InferenceConfig(tile=choice.tile, overlap=choice.overlap, max_memory_gb=memory_bytes / 1e9)
    return model_plans(network, shape, bundle, device, settings, indices=not choice.tta)


def bytes_left(name: str, choice: PredictOptions, held: float = 0.0) -> float:
    """What is allowed beside what the process takes already, and `held` bytes that it will.

    name: of the scan; raises `ResourceError` for nothing.
    """
    allowed, taken = memory_bytes(Device("cpu"), choice.max_memory_gb), io.resident_bytes() + held
    left = PLANNED_SHARE * (allowed - taken) - _beside_bytes(name)
    if left <= 0:
        raise ResourceError(
            f"{name}: {allowed / 1e9:.2g} GB are less than the program itself takes, with what it holds of the scan "
            f"({(taken + _beside_bytes(name) / PLANNED_SHARE) / 1e9:.2g} GB). Allow more with --max-memory."
        )
    return left


def _beside_bytes(scan: str) -> float:
    """What reading and writing box by box take."""
    return _CACHED_BYTES + _BLOCK_BYTES if io.reads_by_box(scan) else _BLOCK_BYTES


def _key(scan: str, bundle: ModelBundle, choice: PredictOptions) -> str:
    """Of all that the labels depend on but the precision: the scan's file, the model, and how it is used."""
    header = bundle.header()
    path, dataset = io.split_name(scan)
    states = [part.stat() for part in io.files_of(path)]
    told = [
        str(path.resolve()),
        dataset,
        [(state.st_size, state.st_mtime_ns) for state in states],
        header,
        choice.data.model_dump(mode="json"),
        choice.tta,
        choice.tile,
        choice.overlap,
        __version__,
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _turned_back(spool: io.Spool, prepared: PreparedByBox) -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
    """The codes in runs of planes, on the scan's own grid."""
    for start, codes in spool.runs(_WRITTEN_PLANES):
        box = stored_box(Box((start, 0, 0), codes.shape), prepared.orientation, prepared.source.shape)
        yield box.slices(), prepared.orientation.undo(codes)


def _preview(output: str, spool: io.Spool, prepared: PreparedByBox, bundle: ModelBundle) -> Path:
    """A picture of every n-th voxel."""
    further = 1
    while math.prod(-(-n // further) for n in prepared.seen.shape[1:]) > _PREVIEW_VOXELS:
        further += 1
    x, y, z = (step * further for step in prepared.steps)
    image = prepared.seen[:, ::further, ::further, ::further]
    planes = [codes[(-start) % x :: x, ::y, ::z].copy() for start, codes in spool.runs(_WRITTEN_PLANES)]
    indices, _ = bundle.labels.encode(np.concatenate(planes))
    affine = Affine(prepared.affine.matrix @ np.diag([x, y, z, 1.0]))
    path = io.preview_path(io.split_name(output)[0])
    layers: list[tuple[str, NDArray[Any] | None]] = [("scan", None), ("prediction", indices)]
    title = "" if max(x, y, z) == 1 else f"every {x}th, {y}th and {z}th voxel along R, A and S; planes are counted so"
    return preview_png(path, image, affine, layers, bundle.labels, title=title)
