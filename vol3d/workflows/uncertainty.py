"""Where a prediction is unsure: entropy and mutual information on the scan's own grid, from the pass that predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d import inference, io
from vol3d.bundle import ModelBundle
from vol3d.config import InferenceConfig
from vol3d.errors import ConfigError, ModelError
from vol3d.inference import Member
from vol3d.inference.forward import Image
from vol3d.report import uncertainty_png
from vol3d.transforms import Undo
from vol3d.volume import Slab, Volume
from vol3d.workflows.device import Device
from vol3d.workflows.listener import Listener
from vol3d.workflows.sides import tell_sides
from vol3d.workflows.tiling import model_plans

CHANNELS = ("entropy", "mutual information")  # of an uncertainty map, both 0 … 1
TAG = "_uncertainty"
EVERY_FLIP = (0, 1, 2)


class UncertainPass:
    """One pass of all members over a prepared scan: probabilities for `outcome`, uncertainty kept beside them.

    bundles: models of the same classes, each with its temperature and the network that `build` made of it. image: as
    these networks see it, all channels, for `predict_axes`. flip_axes: axes along which the whole volume is flipped
    too, which makes members of a single model; without flips it has nothing to disagree with but its own overlapping
    tiles and planes, and the mutual information says little. Models whose classes tell left from right are not flipped.
    Raises `ConfigError` for a regression, which has no probabilities; `ModelError` for models of different classes.
    """

    def __init__(
        self,
        bundles: Sequence[tuple[ModelBundle, Any]],
        image: Image,
        device: Device,
        settings: InferenceConfig,
        tell: Listener,
        *,
        flip_axes: Sequence[int] = EVERY_FLIP,
    ) -> None:
        require_probabilities(bundles)
        _, x, y, z = image.shape
        self._members = [
            Member(
                network,
                model_plans(network, (x, y, z), bundle, device, settings),
                bundle.temperature,
            )
            for bundle, network in bundles
        ]
        self._image, self._device, self._tell = image, device, tell
        sided = any(tell_sides(bundle.labels.names) for bundle, _ in bundles)
        self._flip_axes = () if sided else tuple(flip_axes)
        if sided and flip_axes:
            tell.note("not averaged over flips: the classes tell left from right")
        self._kept: list[Slab] = []

    def slabs(self, bare: bool = False) -> Iterator[Slab]:
        """The members' mean probabilities, slab by slab: what `outcome` asks for.

        bare: must be False; bare answers have no probabilities.
        """
        if bare:
            raise ConfigError("bare answers of a network have no uncertainty; ask for probabilities")
        self._kept.clear()
        found = inference.predict_uncertainty(
            self._members,
            self._image,
            flip_axes=self._flip_axes,
            device=self._device.name,
            precision=self._device.precision,
            progress=lambda done, total: self._tell.progress("predicting", done, total, {}),
        )
        for slab in found:
            entropy = slab.entropy
            both = np.stack([entropy, np.clip(entropy - slab.expected_entropy, 0, 1)])
            self._kept.append(Slab(slab.start, both.astype(np.float32, copy=False)))
            yield Slab(slab.start, slab.probabilities)

    def maps(self, undo: Undo) -> NDArray[np.float32]:
        """`CHANNELS` on the scan's grid, float32 (2, X, Y, Z), once `slabs` was gone through to its end.

        Where the scan was resampled they are interpolated linearly. Raises `GeometryError` before that end.
        """
        return undo.probabilities(self._kept, len(CHANNELS))


def labels_and_uncertainty(
    bundle: ModelBundle,
    image: Image,
    undo: Undo,
    device: Device,
    settings: InferenceConfig,
    tell: Listener,
    *,
    flip_axes: Sequence[int] = EVERY_FLIP,
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """(class indices (X, Y, Z), `CHANNELS` float32 (2, X, Y, Z)) on the scan's grid, from one pass over the members."""
    found = UncertainPass([(bundle, bundle.build(device.name))], image, device, settings, tell, flip_axes=flip_axes)
    labels = undo.labels(found.slabs(), len(bundle.labels))
    return labels, found.maps(undo)


def uncertainty_path(target: str) -> str:
    """Where the uncertainty of the prediction `target` goes: scan_seg.nii.gz → scan_seg_uncertainty.nii.gz."""
    return io.default_output(target, TAG)


def require_uncertainty_room(target: str, *, overwrite: bool, preview: bool) -> None:
    """Before hours of work: raise where the map or its picture is there already or cannot be written."""
    path = uncertainty_path(target)
    io.require_writable(path, overwrite)
    picture = io.preview_path(path)
    if preview and picture.exists() and not overwrite:
        raise ConfigError(f"{picture} exists already. Give --overwrite, --no-preview, or another name with -o.")


def write_uncertainty(
    target: str, maps: NDArray[np.float32], volume: Volume, *, overwrite: bool = False, preview: bool = True
) -> tuple[str, Path | None]:
    """Write maps (2, X, Y, Z) beside the prediction `target`, and a picture of them; returns (map, picture or None)."""
    path = uncertainty_path(target)
    io.write_image(path, maps, volume, overwrite=overwrite, channel_names=CHANNELS)
    if not preview:
        return path, None
    return path, uncertainty_png(io.preview_path(path), volume.array, volume.affine, maps, CHANNELS)


def require_probabilities(bundles: Sequence[tuple[ModelBundle, Any]]) -> None:
    """Raise `ConfigError` for a regression, `ModelError` for models of different classes."""
    if any(bundle.task.kind == "regression" for bundle, _ in bundles):
        raise ConfigError("this model predicts values, which have no class probabilities; leave --uncertainty out")
    if len({tuple(bundle.labels.codes) for bundle, _ in bundles}) != 1:
        raise ModelError("expected models of the same classes, found different ones; predict with each alone")
