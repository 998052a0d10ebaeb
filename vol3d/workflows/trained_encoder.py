"""Weights of a trained encoder, where the configuration names a file with some."""

from __future__ import annotations

from typing import Any

from torch import nn

from vol3d import io
from vol3d.training import read_encoder_weights
from vol3d.workflows.listener import Listener
from vol3d.workflows.plan import Plan

KEY = "encoder_weights_sha256"


def take_encoder(network: nn.Module, plan: Plan, tell: Listener) -> dict[str, Any]:
    """Begin with the weights that the plan names, in place; returns what a run records of them, if there are any.

    Raises `ModelError` where the file does not fit the network.
    """
    file = getattr(plan.network, "encoder_weights", None)
    if file is None:
        return {}
    from vol3d.networks import load_encoder_weights  # and with it MONAI, which takes seconds

    tell.note(load_encoder_weights(network, read_encoder_weights(file)))
    return {KEY: io.sha256(file)}
