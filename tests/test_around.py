"""What a network says around labeled voxels, beside what it says of the whole volume."""

import numpy as np
import pytest
import torch

from vol3d.config import InferenceConfig, UNetConfig
from vol3d.inference import plan_axes, plan_for, predict_axes
from vol3d.networks import build
from vol3d.volume import Affine, Box, SparseLabels
from vol3d.workflows.around import Looking, answers_around
from vol3d.workflows.case import Case
from vol3d.workflows.device import Device

SHAPE = (90, 40, 44)


def made(dimensions):
    """A network of two levels, which looks eight voxels far, and a scan."""
    config = UNetConfig(dimensions=dimensions, encoder=((4, 4), (4, 4)), padding="same")
    network = build(config, 1, 2, generator=torch.Generator().manual_seed(0)).eval()
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(1, *SHAPE)).astype(np.float32))
    labels = SparseLabels(np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, bool), Affine.from_spacing((1.0, 1.0, 1.0)))
    return network, Case("scan", image, labels, (1.0, 1.0, 1.0), {})


@pytest.mark.parametrize(
    ("dimensions", "planes", "voxels"),
    [(3, (), 37), (2, (0, 1, 2), 37), (2, (1, 2), 37), (2, (0,), 1)],
)
def test_a_slice_is_looked_at_with_what_lies_around_it(dimensions, planes, voxels):
    network, case = made(dimensions)
    asked = np.zeros(SHAPE, bool)
    asked[42] = True  # the box begins where the pooling of the whole volume does
    settings = {"memory_bytes": 1e9, "bytes_per_voxel": 1.0}
    plans = plan_axes(network, SHAPE, planes, **settings) if planes else (plan_for(network, SHAPE, **settings),)
    whole = np.concatenate([slab.values for slab in predict_axes(network, case.image, plans)], axis=1)
    patch = (54,) * dimensions  # a third is eighteen voxels
    looking = Looking(Device("cpu"), InferenceConfig(), planes, patch)
    found, count = np.full_like(whole, np.nan), np.zeros(SHAPE, int)
    boxes = set()
    for part in answers_around(network, case, asked, looking, logits=False):
        at = part.box.slices()
        found[(slice(None), *at)] = np.where(part.asked, part.values, found[(slice(None), *at)])
        count[at] += part.asked
        boxes |= {part.box.start[0], part.box.stop[0] - 1}
    assert np.array_equal(count, asked)
    assert np.abs(found - whole)[:, asked].max() < 1e-5
    assert max(boxes) - min(boxes) + 1 == voxels


def test_labels_all_over_the_volume_take_all_of_it():
    network, case = made(2)
    asked = np.random.default_rng(1).random(SHAPE) < 0.01
    looking = Looking(Device("cpu"), InferenceConfig(), (0, 1, 2), (54, 54))
    parts = list(answers_around(network, case, asked, looking, logits=True))
    assert parts[0].box.start == (0, 0, 0)
    assert parts[-1].box.stop == Box.whole(SHAPE).stop
    assert sum(int(part.asked.sum()) for part in parts) == asked.sum()
