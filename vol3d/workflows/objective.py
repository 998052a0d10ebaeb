"""Configuration + labels → the loss that is minimised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vol3d.config import LossConfig
from vol3d.errors import ConfigError
from vol3d.losses import DeepSupervision, RegressionLoss, SparseLoss, class_weights
from vol3d.losses.class_weights import set_weights
from vol3d.volume import LabelTable, SparseLabels
from vol3d.workflows.labels import LabelMeaning
from vol3d.workflows.meaning import Meaning

AnyLoss = SparseLoss | RegressionLoss | DeepSupervision


def make_loss(config: LossConfig, meaning: Meaning, labels: list[SparseLabels], network: nn.Module) -> AnyLoss:
    """The loss of a task. labels: what is learned from; network: how many outputs it answers in training.

    Raises `ConfigError` where the configured weights do not fit the classes or the outputs.
    """
    loss: SparseLoss | RegressionLoss
    if meaning.spec.kind == "regression":
        loss = RegressionLoss(config.regression, config.huber_delta)
    else:
        sets = meaning.sets if isinstance(meaning, LabelMeaning) else ()
        weights = weights_of_classes(config, meaning.table, labels)
        loss = SparseLoss(
            weights,
            dice=config.dice,
            cross_entropy=config.cross_entropy,
            focal=config.focal,
            focal_gamma=config.focal_gamma,
            iou=config.iou,
            lovasz=config.lovasz,
            ms_ssim=config.ms_ssim,
            sets=sets,
            set_weights=set_weights(weights, _counts(meaning.table, labels), sets) if sets else None,
        )
    outputs = int(getattr(network, "heads", 1))
    given = config.deep_supervision
    if given is not None and len(given) != outputs:
        raise ConfigError(
            f"loss.deep_supervision: expected {outputs} weights, one per output of the network, found {len(given)}"
        )
    return loss if outputs == 1 else DeepSupervision(loss, given or (1.0,) * outputs)


def weights_of_classes(config: LossConfig, table: LabelTable, labels: list[SparseLabels]) -> torch.Tensor:
    """How much every class weighs in the loss, (K,)."""
    kind = config.class_weights
    if isinstance(kind, tuple):
        if len(kind) != len(table):
            raise ConfigError(f"loss.class_weights: expected {len(table)} numbers, one per class, found {len(kind)}")
        return torch.tensor(kind)
    return torch.from_numpy(class_weights(_counts(table, labels), kind))


def _counts(table: LabelTable, labels: list[SparseLabels]) -> NDArray[np.int64]:
    """Labeled voxels of every class, (K,), that weigh anything; none only known to be of one of several classes."""
    heavy = [
        part if part.weight is None else replace(part, labeled=part.labeled & (part.weight > 0)) for part in labels
    ]
    return np.sum([part.counts(len(table)) for part in heavy], axis=0)
