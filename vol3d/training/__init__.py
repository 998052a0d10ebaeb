"""The optimisation loop and what it stands on. Knows torch and Lightning Fabric; never imports `inference`.

Fabric serves for devices, precision and processes; saving, seeding and sampling are our own, and hold no state that a
checkpoint does not.
"""

from vol3d.training.averaging import AveragedWeights
from vol3d.training.checkpoint import load_checkpoint, save_checkpoint
from vol3d.training.encoder_file import read_encoder_weights
from vol3d.training.fit import FitResult, Stage, fit
from vol3d.training.loader import PatchSource
from vol3d.training.optimizer import make_optimizer
from vol3d.training.schedule import Schedule
from vol3d.training.settings import FitSettings
from vol3d.training.state import LogRow, TrainingState
from vol3d.training.step import Loss
from vol3d.training.timing import time_steps

__all__ = [
    "AveragedWeights",
    "FitResult",
    "FitSettings",
    "LogRow",
    "Loss",
    "PatchSource",
    "Schedule",
    "Stage",
    "TrainingState",
    "fit",
    "load_checkpoint",
    "make_optimizer",
    "read_encoder_weights",
    "save_checkpoint",
    "time_steps",
]
