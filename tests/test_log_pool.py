"""A network and a pixel classifier in one model."""

import pytest
import torch
from torch import nn

from vol3d.baselines.features import Recipe
from vol3d.baselines.pixel_classifier import PixelClassifier
from vol3d.bundle import ModelBundle
from vol3d.config import UNetConfig
from vol3d.errors import ModelError
from vol3d.inference import plan_for, predict_axes
from vol3d.networks import LogPool, build
from vol3d.volume import LabelTable

VALID = UNetConfig(dimensions=3, encoder=((4, 4), (8, 8)), padding="valid")
SAME = UNetConfig(dimensions=3, encoder=((4, 4), (8, 8)), padding="same")


def made(config, weight, seed=0):
    network = build(config, 1, 3, generator=torch.Generator().manual_seed(seed)).eval()
    return network, LogPool(network, weight).eval()


def scan(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((1, 1, *size), generator=generator)
    logs = torch.log_softmax(torch.randn((1, 3, *size), generator=generator), 1)
    return image, logs


@pytest.mark.parametrize("config", [VALID, SAME], ids=["valid", "same"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_answer_is_the_weighted_sum_where_the_network_answers(config, weight):
    network, pooled = made(config, weight)
    image, logs = scan((28, 28, 28))
    with torch.no_grad():
        own, found = network(image), pooled(torch.cat([image, logs], 1))
    low = (28 - own.shape[-1]) // 2
    middle = logs[..., low : low + own.shape[2], low : low + own.shape[3], low : low + own.shape[4]]
    assert torch.allclose(found, (1 - weight) * own + weight * middle, atol=1e-5)


@pytest.mark.parametrize("config", [VALID, SAME], ids=["valid", "same"])
def test_a_whole_scan_keeps_every_voxel_in_its_place(config):
    """With weight 1 tiles, margins and mirrored borders must give back what went in."""
    _, pooled = made(config, 1.0)
    image, logs = scan((37, 30, 41))
    whole = torch.cat([image, logs], 1)[0]
    plan = plan_for(pooled, (37, 30, 41), memory_bytes=1e9, bytes_per_voxel=1e3, tile=None, overlap=0.25)
    found = torch.cat([torch.from_numpy(slab.values) for slab in predict_axes(pooled, whole, (plan,))], dim=1)
    assert torch.allclose(found, logs[0].exp(), atol=1e-4)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_other_weights_are_refused(weight):
    with pytest.raises(ModelError, match="between 0 and 1"):
        made(SAME, weight)


def test_a_model_counts_its_classifier_and_no_other():
    table = LabelTable.from_codes([0, 1, 2])
    weights = dict(made(SAME, 0.5)[0].state_dict())
    arguments = {"network": SAME, "in_channels": 1, "weights": weights, "preprocessing": {}, "labels": table}
    classifier = PixelClassifier(1, 3, Recipe())
    assert ModelBundle(**arguments, classifier=classifier, pool_weight=0.5).network_channels == 4
    assert ModelBundle(**arguments).network_channels == 1
    for other, weight in ((None, 0.5), (classifier, 0.0), (classifier, 1.5), (classifier, float("nan"))):
        with pytest.raises(ModelError, match="pool_weight"):
            ModelBundle(**arguments, classifier=other, pool_weight=weight)


def test_several_answers_are_not_combined():
    network, pooled = made(SAME, 0.5)
    network.forward = lambda image: (image, image)
    assert isinstance(pooled, nn.Module)
    with pytest.raises(ModelError, match="eval"):
        pooled(torch.zeros(1, 4, 8, 8, 8))
