"""What a scan takes that is predicted at once, and the tiles that there is room for beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vol3d.baselines.reduced import reduced_shape
from vol3d.bundle import ModelBundle
from vol3d.config import InferenceConfig
from vol3d.inference import TilePlan
from vol3d.workflows.device import Device
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.tiling import gb_for_tiles, model_plans

OBJECT_VOLUMES = 10  # float32 volumes beside the probabilities while objects are told apart, measured
_LABELS, _VALUES, _MAPS = 2.0, 20.0, 16.0  # bytes a voxel: codes and their copy, a regression's values, uncertainty
_LARGE = 2**21  # voxels of a tile that takes a tenth of a second and more
Size = tuple[int, int, int]


def held_twice(bundle: ModelBundle, choice: PredictOptions, device: Device) -> bool:
    """Whether a scan is prepared as a whole: for a pixel classifier, on another grid, for uncertainty or for a GPU."""
    resampled = bundle.preprocessing.get("spacing_mm") is not None
    return bundle.classifier is not None or resampled or choice.uncertainty or device.is_gpu


def stored_bytes(facts: Mapping[str, Any], bundle: ModelBundle) -> float:
    """What the channels of a scan take that a model sees, as they are read. facts: of `io.info`."""
    if "shape" not in facts:  # reading it will tell why
        return 0.0
    kind = np.dtype(facts.get("dtype_in_memory", facts["dtype"]))
    return float(math.prod(facts["shape"]) * bundle.in_channels * kind.itemsize)


def array_bytes(  # noqa: PLR0913, PLR0917 RUF100  what the arrays depend on
    stored: float, shape: Size, seen: Size, bundle: ModelBundle, choice: PredictOptions, device: Device
) -> float:
    """What all arrays of a scan take: as it was read, as the network sees it if `held_twice`, and the answers.

    stored: bytes as read. shape, seen: of the scan and as the network sees it.
    """
    prepared = 4.0 * bundle.in_channels * math.prod(seen) if held_twice(bundle, choice, device) else 0.0
    if bundle.classifier is not None:
        prepared += 4.0 * len(bundle.labels) * math.prod(reduced_shape(seen, bundle.classifier.reduction))
    answers, classes = _LABELS, len(bundle.labels)
    if bundle.task.scheme is not None:
        answers += 4.0 * (classes + OBJECT_VOLUMES)
    elif choice.probabilities:
        answers += 4.0 * classes
    answers += (_VALUES if bundle.task.kind == "regression" else 0.0) + (_MAPS if choice.uncertainty else 0.0)
    return stored + prepared + answers * math.prod(shape)


def settings_at_once(name: str, arrays: float, choice: PredictOptions, device: Device) -> InferenceConfig:
    """How to tile beside so many bytes of arrays. Raises `ResourceError` where no memory is left; name: of the scan."""
    left = gb_for_tiles(name, arrays, device, choice.max_memory_gb)
    return InferenceConfig(tile=choice.tile, overlap=choice.overlap, max_memory_gb=left)


def plans_at_once(  # noqa: PLR0913, PLR0917 RUF100  as above
    network: Any,  # noqa: ANN401  as in `tile_plans`
    seen: Size,
    bundle: ModelBundle,
    choice: PredictOptions,
    device: Device,
    settings: InferenceConfig,
) -> tuple[TilePlan, ...]:
    """Tiles for a scan that the network sees with the shape `seen`; flips are not among them."""
    as_stored = bundle.preprocessing.get("spacing_mm") is None
    more = choice.probabilities or choice.tta or choice.uncertainty
    alone = bundle.task.kind == "semantic" and as_stored and not more
    return model_plans(network, seen, bundle, device, settings, indices=alone)


def has_large_tiles(plans: Sequence[TilePlan]) -> bool:
    """Whether several tiles are run, each so large that keeping less memory between them costs little."""
    return any(len(plan.tiles) > 1 and math.prod(plan.size) >= _LARGE for plan in plans)
