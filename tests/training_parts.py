"""Small parts for the tests of training: a network, endless patches, a Fabric."""

import lightning_fabric
import numpy as np
import pytest
import torch
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from vol3d.losses import SparseLoss
from vol3d.training import FitSettings, Stage, fit

CLASSES = 3


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks run faster on one thread, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Patches:
    """Sample i is a function of (seed, i). The middle voxel's sign decides the class; some voxels are unlabeled."""

    def __init__(self, seed=0, size=(8, 7, 6), labeled=0.5):
        self.seed, self.size, self.labeled = seed, size, labeled

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, index])
        image = rng.normal(size=(1, *self.size)).astype(np.float32)
        inner = image[0, 2:-2, 2:-2, 2:-2]
        classes = (inner > 0).astype(np.int64) + (inner > 1)
        weight = (rng.random(inner.shape) < self.labeled).astype(np.float32)
        return {"image": image, "classes": classes, "weight": weight}


class Poisoned(Patches):
    """Gives NaN from sample `at` on."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def __getitem__(self, index):
        patch = super().__getitem__(index)
        if index >= self.at:
            patch["image"] = patch["image"] * np.nan
        return patch


def tiny_network(seed=0, norm=True, dimensions=3):
    conv, batch_norm = (nn.Conv3d, nn.BatchNorm3d) if dimensions == 3 else (nn.Conv2d, nn.BatchNorm2d)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(conv(1, 4, 3), batch_norm(4) if norm else nn.Identity(), nn.ReLU(), conv(4, CLASSES, 3))


def cpu(precision="32-true"):
    if precision == "16-mixed":  # Fabric offers it on a GPU only
        return lightning_fabric.Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision(precision, "cpu")])
    return lightning_fabric.Fabric(accelerator="cpu", devices=1, precision=precision)


def sparse_loss(dice=0.0):
    return SparseLoss(torch.tensor([0.5, 1.0, 2.0]), dice=dice)


def settings(iterations=12, **changes):
    return FitSettings(**{"iterations": iterations, "batch_size": 2, "learning_rate": 0.02, **changes})


def score(network):
    """Higher is better: minus the loss on fixed patches."""
    with torch.no_grad():
        patch = Patches(seed=99)[0]
        image, classes, weight = (torch.as_tensor(patch[key])[None] for key in ("image", "classes", "weight"))
        return -float(sparse_loss()(network(image), classes, weight, None))


def run(how=None, stages=None, network=None, **hooks):
    how = how or settings()
    fabric = hooks.pop("fabric", None) or cpu()
    return fit(
        network if network is not None else tiny_network(),
        stages or [Stage(Patches(), how.iterations)],
        hooks.pop("loss", None) or sparse_loss(),
        how,
        fabric=fabric,
        **hooks,
    )


def losses(result):
    return [row.loss for row in result.history]
