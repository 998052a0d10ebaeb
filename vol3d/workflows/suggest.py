"""A scan, a model and what is painted so far → the planes to paint next, and a label file to paint them in."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d import io
from vol3d.bundle import ModelBundle
from vol3d.config import DataConfig, LabelsConfig, Task
from vol3d.errors import ConfigError, ModelError
from vol3d.io.formats import split_suffix
from vol3d.report import RECORD
from vol3d.report.layout import length_text
from vol3d.report.suggestion import suggestion_png
from vol3d.sampling.suggestions import PlaneGain, suggest_planes
from vol3d.volume import Volume
from vol3d.workflows.allocator import freed_memory_kept
from vol3d.workflows.at_once import array_bytes, settings_at_once
from vol3d.workflows.device import exact, pick_device
from vol3d.workflows.listener import Listener, Quiet
from vol3d.workflows.models import open_model
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.pixel_channels import prepare
from vol3d.workflows.protected import refuse_to_replace
from vol3d.workflows.results import PAINT_TAG
from vol3d.workflows.scan import read_scan
from vol3d.workflows.sides import require_no_sides
from vol3d.workflows.sources import Source, Spacing
from vol3d.workflows.to_paint import find_painted, labels_beside
from vol3d.workflows.uncertainty import EVERY_FLIP, labels_and_uncertainty

_AXES = "xyz"
_UNLIKE = 1.5  # planes across two axes whose sizes differ by more have costs worth a word


@dataclass(frozen=True)
class SuggestOptions:
    """How to choose. reach_mm: how far a painted plane tells about its neighbourhood, None takes a fifth of the extent.

    per_voxel: the gain per voxel to paint counts, not per plane. tta: average over flips of the whole volume. meaning:
    what the codes of the labels mean, None takes what the run knows.
    """

    axes: Sequence[str] = tuple(_AXES)
    reach_mm: float | None = None
    per_voxel: bool = False
    tta: bool = False
    max_memory_gb: float | None = None
    device: str = "auto"
    overwrite: bool = False
    preview: bool = True
    data: DataConfig = field(default_factory=DataConfig)
    meaning: LabelsConfig | None = None


@dataclass(frozen=True)
class Suggestion:
    """One plane to paint. axis, index: of the file, as `vol3d info` counts its axes, from 0.

    gain: the share of all the uncertainty that it is expected to settle, 0 … 1. uncertainty: its mean in the plane.
    distance_mm: how far the plane's voxels lie from paint, in the median; None where nothing is painted. voxels: to
    paint. picture: the PNG, or None.
    """

    axis: str
    index: int
    gain: float
    uncertainty: float
    distance_mm: float | None
    voxels: int
    reason: str
    picture: Path | None = None

    @property
    def name(self) -> str:
        """Such as z=12."""
        return f"{self.axis}={self.index}"


@dataclass(frozen=True, eq=False)
class Suggestions:
    """What `suggest` returns.

    planes: the best first; each gain is what remains after those before it. codes: unsigned (X, Y, Z): what was
    painted, the planes marked with `to_paint`, `unlabeled` elsewhere. names: code → name. path: the label file, or
    None. said: what was decided, a line each. learned_with: label files of the other scans that the model's run learned
    from, which going on with it takes as well; None where it takes this scan alone. task: the model's.
    other_unlabeled: codes that mean unlabeled in those files.
    """

    planes: tuple[Suggestion, ...]
    codes: NDArray[Any]
    names: dict[int, str]
    to_paint: int
    unlabeled: int
    path: str | None
    said: tuple[str, ...]
    learned_with: tuple[str, ...] | None = None
    task: Task = "semantic"
    other_unlabeled: tuple[int, ...] = ()

    def lines(self) -> list[str]:
        """What a person reads, a line each."""
        wide = max(len(plane.name) for plane in self.planes)
        ranked = [f"{rank}  {p.name:{wide}}  {p.reason}" for rank, p in enumerate(self.planes, 1)]
        return [*self.said, *ranked]


@freed_memory_kept()
def suggest(
    scan: Source,
    model: str | Path | ModelBundle | None = None,
    labels: Source | None = None,
    n: int = 3,
    output: str | Path | None = None,
    *,
    options: SuggestOptions | None = None,
    spacing_mm: Spacing = None,
    listener: Listener | None = None,
) -> Suggestions:
    """Find the `n` planes whose painting should help the model most (see `sampling.suggest_planes`).

    scan: a file, an array (X, Y, Z) or (C, X, Y, Z) with `spacing_mm`, or a `Volume`. model: a bundle, a model file, a
    run folder, or None for the newest run under ./runs. labels: what is painted so far; by default the labels that the
    run trained on with this scan, else nothing. output: the label file to paint in; by default a scan given as a file
    gets one beside it with `_paint` in its name, with a PNG for every plane, and an array is only answered.
    Raises `ConfigError`, `LabelError`, `ModelError`, `GeometryError` or `FileFormatError` on bad input, before the
    network runs; `ConfigError` where something would be overwritten.
    """
    choice, tell = options or SuggestOptions(), listener or Quiet()
    axes = _axes(choice.axes)
    if n < 1:
        raise ConfigError(f"expected to suggest one slice or more, found {n}")
    bundle, run = _opened(model, tell)
    if choice.tta:
        require_no_sides(bundle.labels.names)
    target = _target(scan, output)
    if target is not None:
        refuse_to_replace(target, "the scan", [scan])
        _require_room(target, choice)
    volume = read_scan(scan, choice.data, bundle, spacing_mm, tell)
    painted = find_painted(scan, volume, bundle, run, labels, choice.meaning, choice.data, spacing_mm)
    tell.note(painted.said)
    axes = _with_slices(axes, volume)
    if target is not None:
        io.require_kept(target, volume.affine, volume.name)
        painted.refuse_to_drop(target, bundle.labels)
    prepared, image = prepare(volume, bundle)
    device, asked = (
        exact(pick_device(choice.device)),
        PredictOptions(uncertainty=True, max_memory_gb=choice.max_memory_gb),
    )
    _, x, y, z = image.shape
    arrays = array_bytes(volume.array.nbytes, volume.shape, (x, y, z), bundle, asked, device)
    classes, maps = labels_and_uncertainty(
        bundle,
        image,
        prepared.undo,
        device,
        settings_at_once(volume.name, arrays, asked, device),
        tell,
        flip_axes=EVERY_FLIP if choice.tta else (),
    )
    entropy = maps[0]
    found = suggest_planes(
        entropy,
        classes,
        painted.labeled,
        volume.spacing_mm,
        n,
        axes=axes,
        reach_mm=choice.reach_mm,
        per_voxel=choice.per_voxel,
    )
    if not found:
        raise ModelError(f"{volume.name}: the model is sure of every voxel, so that no slice promises any gain")
    said = _decided(found, n, volume, axes, choice)
    names = {c.code: c.name for c in bundle.labels.classes} if bundle.task.scheme is None else {}
    codes, names, mark, rest = painted.marked(
        [(plane.axis, plane.index) for plane in found], names, wide=bundle.task.scheme is not None
    )
    mean = float(entropy.mean(dtype=np.float64))
    planes = [_suggestion(plane, mean) for plane in found]
    if target is not None:
        io.write_labels(target, codes, volume, names=names, overwrite=choice.overwrite)
        if choice.preview:
            _remove_old(target)
            for rank, plane in enumerate(planes):
                path = _picture(target, rank + 1, plane)
                at = (found[rank].axis, found[rank].index)
                if 1 in (n for axis, n in enumerate(volume.shape) if axis != at[0]):
                    continue  # of a scan of one slice it is a line
                title = f"{rank + 1}: {plane.name} of {volume.shape[at[0]]}, gain {100 * plane.gain:.2g} %"
                suggestion_png(path, volume.array, volume.affine, at, classes, entropy, bundle.labels, title=title)
                planes[rank] = replace(plane, picture=path)
    others = labels_beside(scan, run)
    more = tuple(code for code in bundle.labels.unlabeled if code not in {mark, rest}) if others else ()
    return Suggestions(tuple(planes), codes, names, mark, rest, target, said, others, bundle.task.kind, more)


def _suggestion(plane: PlaneGain, mean: float) -> Suggestion:
    """A plane with the reasons for it in words. mean: uncertainty of the whole scan."""
    away = f"{length_text(plane.distance_mm)} from paint, " if math.isfinite(plane.distance_mm) else ""
    reason = (
        f"settles {100 * plane.gain:.2g} % of the uncertainty (mean {plane.uncertainty:.2f} here, {mean:.2f} in the "
        f"scan), {away}{plane.voxels} voxels to paint"
    )
    distance = plane.distance_mm if math.isfinite(plane.distance_mm) else None
    return Suggestion(_AXES[plane.axis], plane.index, plane.gain, plane.uncertainty, distance, plane.voxels, reason)


def _decided(
    found: list[PlaneGain], n: int, volume: Volume, axes: tuple[int, ...], choice: SuggestOptions
) -> tuple[str, ...]:
    """What was decided for the user, a line each."""
    said = []
    sizes = {axis: math.prod(volume.shape) // volume.shape[axis] for axis in axes if volume.shape[axis] > 1}
    if choice.per_voxel:
        said.append("chosen by gain per voxel to paint")
    elif max(sizes.values()) > _UNLIKE * min(sizes.values()):
        named = ", ".join(f"{_AXES[axis]} {size}" for axis, size in sizes.items())
        said.append(f"chosen by gain per slice, whatever its size (voxels: {named}); --per-voxel counts voxels instead")
    if len(found) < n:
        said.append(f"{len(found)} of {n} slices: no other promises any gain")
    return tuple(said)


def _axes(letters: Sequence[str]) -> tuple[int, ...]:
    strange = [letter for letter in letters if letter not in tuple(_AXES)]
    if strange or not letters:
        raise ConfigError(f"expected axes among x, y and z, found {', '.join(map(str, strange)) or 'none'}")
    return tuple(sorted({_AXES.index(letter) for letter in letters}))


def _with_slices(axes: tuple[int, ...], volume: Volume) -> tuple[int, ...]:
    """The axes along which there is more than one voxel, and so something to choose."""
    found = tuple(axis for axis in axes if volume.shape[axis] > 1)
    if not found:
        named = " and ".join(_AXES[axis] for axis in axes)
        raise ConfigError(f"{volume.name} is one voxel thick along {named}, so that there is no slice to choose")
    return found


def _opened(model: str | Path | ModelBundle | None, tell: Listener) -> tuple[ModelBundle, Path | None]:
    """The model and the run folder it lies in, if it does."""
    bundle, folder = open_model(model, tell)
    run = folder if folder is not None and (folder / RECORD).is_file() else None
    if bundle.task.kind == "regression":
        raise ConfigError("this model predicts values, whose uncertainty it does not know; suggest needs classes")
    return bundle, run


def _target(scan: Source, output: str | Path | None) -> str | None:
    if output is not None:
        return str(output)
    return io.default_output(str(scan), PAINT_TAG) if isinstance(scan, (str, Path)) else None


def _require_room(target: str, choice: SuggestOptions) -> None:
    io.require_writable(target, choice.overwrite)
    old = _old_pictures(target)
    if choice.preview and old and not choice.overwrite:
        raise ConfigError(f"{old[0]} exists already. Give --overwrite, --no-preview, or another name with -o.")


def _picture(target: str, rank: int, plane: Suggestion) -> Path:
    path = io.split_name(target)[0]
    return path.with_name(f"{split_suffix(path)[0]}_{rank}_{plane.axis}{plane.index}.png")


def _old_pictures(target: str) -> list[Path]:
    """Pictures that an earlier call made for this label file."""
    path = io.split_name(target)[0]
    if not path.parent.is_dir():
        return []
    name = re.compile(rf"{re.escape(split_suffix(path)[0])}_\d+_[xyz]\d+\.png")
    return sorted(entry for entry in path.parent.iterdir() if name.fullmatch(entry.name))


def _remove_old(target: str) -> None:
    for picture in _old_pictures(target):
        picture.unlink()
