"""A scan and a model → a label map on the scan's own grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d import inference, io
from vol3d.bundle import ModelBundle
from vol3d.errors import ConfigError, ResourceError
from vol3d.inference.forward import Image
from vol3d.report import preview_png
from vol3d.transforms import PreparedByBox, PreparedImage, Preprocessing, Undo
from vol3d.volume import LabelTable, Slab, Volume
from vol3d.workflows.allocator import freed_memory_kept, keep_less
from vol3d.workflows.at_once import (
    OBJECT_VOLUMES,
    array_bytes,
    has_large_tiles,
    held_twice,
    plans_at_once,
    settings_at_once,
)
from vol3d.workflows.device import Device, exact, memory_bytes, pick_device
from vol3d.workflows.drawn import Drawn, find_drawn, with_drawn, write_provenance
from vol3d.workflows.listener import Listener, Quiet
from vol3d.workflows.models import open_model
from vol3d.workflows.outcomes import Outcome, outcome
from vol3d.workflows.outputs import PredictOptions, require_room, target_of
from vol3d.workflows.pixel_channels import prepare
from vol3d.workflows.precision import Trial, require_precision, tell_trial, tried
from vol3d.workflows.scan import read_scan
from vol3d.workflows.sides import require_no_sides
from vol3d.workflows.sources import Source, Spacing
from vol3d.workflows.uncertainty import UncertainPass, require_probabilities, write_uncertainty
from vol3d.workflows.unlike import intensities_unlike_training, unlike_training


@dataclass(frozen=True, eq=False)
class Prediction:
    """What `predict` returns.

    codes: (X, Y, Z) on the scan's grid: unsigned class codes; object numbers where objects are told apart; float32
    values of a regression. table: of the network's outputs. probabilities: float32 (K, X, Y, Z) or None. path: the
    written file, None where nothing was written. preview: the PNG beside it. warnings: what `predict` warned of.
    uncertainty: float32 (2, X, Y, Z), normalised entropy and mutual information, or None. drawn: bool (X, Y, Z), the
    voxels drawn by hand, or None where nobody asked. trial: how another precision than float32 did, None where none was
    asked for.
    """

    codes: NDArray[Any]
    table: LabelTable
    probabilities: NDArray[np.float32] | None
    path: str | None
    preview: Path | None
    warnings: tuple[str, ...]
    uncertainty: NDArray[np.float32] | None = None
    drawn: NDArray[np.bool_] | None = None
    trial: Trial | None = None


@freed_memory_kept()
def predict(
    scan: Source,
    model: str | Path | ModelBundle | None = None,
    output: str | Path | None = None,
    *,
    options: PredictOptions | None = None,
    spacing_mm: Spacing = None,
    listener: Listener | None = None,
) -> Prediction:
    """Segment one scan.

    scan: a file, an array (X, Y, Z) or (C, X, Y, Z) with `spacing_mm`, or a `Volume`. model: a bundle, a model file, a
    run folder, or None for the newest run under ./runs. output: the label map to write; by default a scan given as a
    file is written beside itself with `_seg` in its name, and an array is only returned.
    Raises `ModelError` where the scan does not fit the model, `FileFormatError` where the output exists.
    """
    choice, tell = options or PredictOptions(), listener or Quiet()
    bundle, run = open_model(model, tell)
    choice = replace(choice, run=run or choice.run)
    target = target_of(scan, output, bundle)
    if target is not None:
        require_room(target, choice, [scan])
    require_possible(bundle, choice)
    device = exact(pick_device(choice.device))
    require_precision(bundle, choice, device)
    if choice.prune is not None:
        bundle = bundle.pruned(choice.prune)
    volume = read_scan(scan, choice.data, bundle, spacing_mm, tell)
    if target is not None:
        io.require_kept(target, volume.affine, volume.name)
    drawn = _drawn(scan, volume, bundle, choice, spacing_mm)
    warnings = tuple(unlike_training(volume, bundle.training_range))
    network = bundle.build(device.name)
    require_memory(volume, bundle, choice)
    prepared, image = _prepared(volume, bundle, choice, device)
    warnings += tuple(intensities_unlike_training(prepared.statistics, bundle.training_range))
    for text in warnings:
        tell.warn(f"{volume.name}: {text}")
    found, trial = _answers(network, bundle, image, prepared.undo, volume, choice, device, tell)
    if drawn is not None:
        found = with_drawn(found, drawn, bundle.labels)
    if found.said:
        tell.note(f"{volume.name}: {found.said}")
    preview = None
    if target is not None:
        preview = _write(target, found, drawn, volume, bundle, choice, tell)
    kept = None if drawn is None else drawn.mask
    return Prediction(
        found.array, bundle.labels, found.probabilities, target, preview, warnings, found.uncertainty, kept, trial
    )


def _prepared(
    volume: Volume, bundle: ModelBundle, choice: PredictOptions, device: Device
) -> tuple[PreparedImage | PreparedByBox, Image]:
    """The scan, and as the network sees it: made tile by tile where that can be, so that it is not held a second time.

    A GPU would wait for that.
    """
    found = None
    if not held_twice(bundle, choice, device):
        found = Preprocessing.from_json(bundle.preprocessing).apply_by_box(io.HeldScan(volume))
    if found is None:
        return prepare(volume, bundle)
    found = found.without_samples()
    return found, found


def _answers(  # noqa: PLR0913, PLR0917 RUF100  what goes in, and how
    network: Any,  # noqa: ANN401  as in `tile_plans`
    bundle: ModelBundle,
    image: Image,
    undo: Undo,
    volume: Volume,
    choice: PredictOptions,
    device: Device,
    tell: Listener,
) -> tuple[Outcome, Trial | None]:
    """What the network makes of a prepared scan (where it is unsure, if that is asked for); how its precision did."""
    _, x, y, z = image.shape
    arrays = array_bytes(volume.array.nbytes, volume.shape, (x, y, z), bundle, choice, device)
    tiling = settings_at_once(volume.name, arrays, choice, device)
    if choice.uncertainty:
        unsure = UncertainPass([(bundle, network)], image, device, tiling, tell)
        found = outcome(bundle, unsure.slabs, undo, volume, probabilities=choice.probabilities)
        return replace(found, uncertainty=unsure.maps(undo)), None
    plans = plans_at_once(network, (x, y, z), bundle, choice, device, tiling)
    names = bundle.labels.names
    quicker, precision, trial = tried(network, image, plans, choice.precision, device, names)
    tell_trial(trial, volume.name, tell)
    apart = has_large_tiles(plans)

    def passed(done: int, total: int) -> None:
        if apart:
            keep_less()
        tell.progress("predicting", done, total, {})

    def slabs(bare: bool) -> Iterator[Slab]:
        return inference.predict_axes(
            quicker,
            image,
            plans,
            flip_axes=(0, 1, 2) if choice.tta else (),
            device=device.name,
            precision=precision,
            logits=bare,
            temperature=1.0 if bare else bundle.temperature,
            progress=passed,
        )

    return outcome(bundle, slabs, undo, volume, probabilities=choice.probabilities), trial


def require_possible(bundle: ModelBundle, choice: PredictOptions) -> None:
    """Raise `ConfigError` where the model has no answers of the kind that is asked for."""
    if choice.probabilities and bundle.task.kind == "regression":
        raise ConfigError("this model predicts values, which have no class probabilities; leave --probabilities out")
    if choice.tta:
        require_no_sides(bundle.labels.names)
    if choice.uncertainty:
        require_probabilities([(bundle, None)])


def require_memory(volume: Volume, bundle: ModelBundle, choice: PredictOptions) -> None:
    """Raise `ResourceError` before hours of work where objects could not be told apart in the memory at hand.

    They are made of the class probabilities of the whole volume.
    """
    if bundle.task.scheme is None:
        return
    needed = 4.0 * math.prod(volume.shape) * (len(bundle.labels) + OBJECT_VOLUMES)
    allowed = memory_bytes(Device("cpu"), choice.max_memory_gb)
    if needed > allowed:
        raise ResourceError(
            f"{volume.name}: telling objects apart takes about {needed / 1e9:.2g} GB, since it looks at the whole "
            f"volume; {allowed / 1e9:.2g} GB are allowed. Allow more with --max-memory, or cut the scan into parts."
        )


def _write(
    target: str,
    found: Outcome,
    drawn: Drawn | None,
    volume: Volume,
    bundle: ModelBundle,
    choice: PredictOptions,
    tell: Listener,
) -> Path | None:
    """Write what was predicted and all that goes with it; returns the picture."""
    if found.array.dtype.kind == "f":
        io.write_image(target, found.array[None], volume, overwrite=choice.overwrite)
    else:
        smallest = bundle.task.kind == "semantic"  # object numbers keep their 16 or 32 bits
        io.write_labels(target, found.array, volume, names=found.names, overwrite=choice.overwrite, smallest=smallest)
    if found.probabilities is not None:
        where = io.default_output(target, "_probabilities")
        channel_names = [c.name for c in bundle.labels.classes]
        io.write_image(where, found.probabilities, volume, overwrite=choice.overwrite, channel_names=channel_names)
        tell.note(f"class probabilities: {where}")
    if drawn is not None and choice.provenance:
        tell.note(f"drawn or predicted: {write_provenance(target, drawn.mask, volume, overwrite=choice.overwrite)}")
    if found.uncertainty is not None:
        shown = write_uncertainty(target, found.uncertainty, volume, overwrite=choice.overwrite, preview=choice.preview)
        tell.note(f"uncertainty: {shown[0]}" + (f", picture {shown[1]}" if shown[1] else ""))
    if not choice.preview:
        return None
    path = io.preview_path(io.split_name(target)[0])
    preview_png(path, volume.array, volume.affine, [("scan", None), ("prediction", found.shown)], found.table)
    return path


def _drawn(
    scan: Source, volume: Volume, bundle: ModelBundle, choice: PredictOptions, spacing_mm: Spacing
) -> Drawn | None:
    """What was drawn by hand on the scan, where anybody asks for it."""
    if not (choice.keep_drawn or choice.provenance):
        return None
    return find_drawn(
        scan, volume, bundle, run=choice.run, labels=choice.drawn, meaning=choice.drawn_meaning, spacing_mm=spacing_mm
    )
