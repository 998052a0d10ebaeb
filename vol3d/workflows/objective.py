"""Configuration + labels → the loss that is minimised."""

from __future__ import annotations

import torch
from torch import nn

from vol3d.config import LossConfig
from vol3d.errors import ConfigError
from vol3d.losses import DeepSupervision, RegressionLoss, SparseLoss, class_weights
from vol3d.volume import LabelTable, SparseLabels
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
        loss = SparseLoss(
            _class_weights(config, meaning.table, labels),
            dice=config.dice,
            cross_entropy=config.cross_entropy,
            focal=config.focal,
            focal_gamma=config.focal_gamma,
            iou=config.iou,
            lovasz=config.lovasz,
            ms_ssim=config.ms_ssim,
        )
    outputs = int(getattr(network, "heads", 1))
    given = config.deep_supervision
    if given is not None and len(given) != outputs:
        raise ConfigError(
            f"loss.deep_supervision: expected {outputs} weights, one per output of the network, found {len(given)}"
        )
    return loss if outputs == 1 else DeepSupervision(loss, given or (1.0,) * outputs)


def _class_weights(config: LossConfig, table: LabelTable, labels: list[SparseLabels]) -> torch.Tensor:
    kind = config.class_weights
    if isinstance(kind, tuple):
        if len(kind) != len(table):
            raise ConfigError(f"loss.class_weights: expected {len(table)} numbers, one per class, found {len(kind)}")
        return torch.tensor(kind)
    counts = sum(part.counts(len(table)) for part in labels)
    return torch.from_numpy(class_weights(counts, kind))
