"""A trained network and all that it was trained with → a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from vol3d.baselines.pixel_classifier import PixelClassifier
from vol3d.bundle import ModelBundle
from vol3d.config import TaskSpec
from vol3d.transforms import Preprocessing
from vol3d.volume import LabelTable
from vol3d.workflows.case import Case
from vol3d.workflows.plan import Plan, without_files
from vol3d.workflows.stage_end import StageEnd
from vol3d.workflows.training_range import training_range


def bundle_of(  # noqa: PLR0913  the parts of a model
    network: nn.Module,
    plan: Plan,
    cases: list[Case],
    *,
    preprocessing: Preprocessing,
    table: LabelTable,
    task: TaskSpec,
    end: StageEnd,
    classifier: PixelClassifier | None,
    provenance: dict[str, Any],
) -> ModelBundle:
    """The model, on the CPU. end: what held-out labels chose; a classifier that counts nothing is left out."""
    return ModelBundle(
        network=without_files(plan.network),
        in_channels=plan.channels,
        weights={name: value.detach().cpu() for name, value in network.state_dict().items()},
        preprocessing=preprocessing.to_json(),
        labels=table,
        statistics="current" if plan.config.training.batch_statistics == "current" else "running",
        training_range=training_range(cases) | {"channel": plan.config.data.channel, "patch": list(plan.patch)},
        provenance=provenance | {"logit_offsets": end.offsets},
        task=task,
        temperature=end.temperature,
        classifier=classifier if end.pool_weight else None,
        pool_weight=end.pool_weight,
    )
