"""What a training will take, before it is begun: a few steps are run, memory is looked at, nothing is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vol3d import io
from vol3d.baselines.features import SLAB_BYTES, image_recipe
from vol3d.baselines.perceptrons import MOST_VOXELS
from vol3d.baselines.pixel_classifier import CONTEXT, told_of
from vol3d.baselines.reduced import reduced_shape, reduced_spacing
from vol3d.networks import build
from vol3d.training import time_steps
from vol3d.workflows.case import Case
from vol3d.workflows.cutting import choose_cutting
from vol3d.workflows.estimate import step_seconds
from vol3d.workflows.meaning import Meaning
from vol3d.workflows.objective import make_loss
from vol3d.workflows.patches import PatchCutter, patch_dataset
from vol3d.workflows.pixel_channels import kept_bytes, reduction_of
from vol3d.workflows.plan import Plan
from vol3d.workflows.processes import open_fabric
from vol3d.workflows.reduction import voxel_seconds
from vol3d.workflows.stages import fit_settings

_STEP_SECONDS = (0.014, 2e-4)  # and for each class
_STEPS, _LIMIT_SECONDS, _LONGEST_STEP = 4, 15.0, 5.0


@dataclass(frozen=True)
class TrainForecast:
    """What is to be expected of a plan. seconds: of an iteration, measured, on this machine as busy as it is now.

    seconds_before: until the first iteration, for the pixel classifier. bytes: what the process holds in training.
    device_bytes: the most memory of the GPU, None on a CPU.
    """

    seconds: float
    seconds_before: float
    bytes: float
    device_bytes: float | None


def forecast_training(plan: Plan, cases: list[Case], meaning: Meaning) -> TrainForecast | None:
    """Train a copy of the planned network for a few iterations; None where one would take more than some seconds.

    Memory is what the process holds by then, and what the pixel classifier will hold before the first iteration where
    that is more. Raises what a training raises where not even one iteration fits into the memory.
    """
    if step_seconds(plan) > _LONGEST_STEP:
        return None
    network = build(plan.network, plan.channels, plan.outputs, generator=torch.Generator().manual_seed(0))
    labels = [case.labels for case in cases]
    loss = make_loss(plan.config.loss, meaning, labels, network)
    cut = PatchCutter(plan.patch, plan.geometry.margin, plan.config.augment, plan.planes)
    fabric = open_fabric(plan.device, 1)
    cutting = choose_cutting(plan, cases, fabric.device)
    source = patch_dataset(cases, labels, cut, plan.config.training.seed, cutting.images(cases))
    before = io.resident_bytes()
    settings = fit_settings(plan, 1, cutting.workers)
    seconds = time_steps(network, source, loss, settings, fabric, _STEPS, _LIMIT_SECONDS)
    most = max(io.resident_bytes(), before + _classifier_bytes(plan, cases))
    on_device = float(torch.cuda.max_memory_allocated(plan.device.name)) if plan.device.is_gpu else None
    return TrainForecast(seconds, _classifier_seconds(plan, cases), most, on_device)


def _classifier_seconds(plan: Plan, cases: list[Case]) -> float:
    """About what the pixel classifier takes, measured on two cores: for its steps, and for every voxel."""
    if not plan.classifier:
        return 0.0
    first, further = _STEP_SECONDS
    steps, factors = plan.config.pixel_classifier.steps or 0, reduction_of(plan.config)
    voxels = sum(math.prod(reduced_shape(case.shape, factors)) for case in cases)
    return steps * (first + plan.outputs * further) + voxels * voxel_seconds(plan.channels, plan.outputs)


def _classifier_bytes(plan: Plan, cases: Sequence[Case]) -> float:
    """What the pixel classifier's two stages hold: features that are kept, and what is said of the scans."""
    if not plan.classifier:
        return 0.0
    factors = reduction_of(plan.config)
    recipe = image_recipe([reduced_spacing(case.spacing_mm, factors) for case in cases])
    told = told_of(plan.outputs)
    share = kept_bytes() / (2 * len(cases))
    total = 0.0
    for case in cases:
        voxels, channels = float(math.prod(reduced_shape(case.shape, factors))), case.channels
        features, around = (4.0 * one.count(n) * voxels for one, n in ((recipe, channels), (CONTEXT, told)))
        total += sum(taken if taken <= share else 0.0 for taken in (features, around))
        total += 4.0 * voxels * (3 * plan.outputs + told)
        labeled = min(float(case.labels.labeled.sum()), MOST_VOXELS)
        total += 4.0 * labeled * (recipe.count(channels) + 2 * CONTEXT.count(told))
    return total + 2 * SLAB_BYTES
