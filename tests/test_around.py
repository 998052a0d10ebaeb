"""What a network says around labeled voxels, beside what it says of the whole volume."""

import numpy as np
import pytest
import torch

from vol3d.config import InferenceConfig, UNetConfig
from vol3d.inference import plan_axes, plan_for, predict_axes
from vol3d.networks import build
from vol3d.sampling import HoldOut
from vol3d.volume import Affine, Box, SparseLabels
from vol3d.workflows.around import Looking, answers_around
from vol3d.workflows.case import Case
from vol3d.workflows.device import Device
from vol3d.workflows.splits import looked_at

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


def test_of_held_out_slices_in_a_large_scan_a_part_is_judged(monkeypatch):
    shape = (300, 260, 60)
    classes, labeled = np.zeros(shape, np.uint8), np.zeros(shape, bool)
    classes[:100, :100], labeled[:, :, 30] = 1, True
    labels = SparseLabels(classes, labeled, Affine.from_spacing((1.0, 1.0, 1.0)))
    nothing = SparseLabels(classes, np.zeros(shape, bool), labels.affine)
    splits = [HoldOut(nothing, labels, "held out: z=30"), HoldOut(nothing, None, "nothing")]
    cpu = Device("cpu")
    assert looked_at(splits, 2, (0, 1, 2), 2, cpu) == splits
    monkeypatch.setattr("vol3d.workflows.around._MOST_LOOKED_AT", 4e6)
    assert looked_at(splits, 2, (2,), 2, cpu) == splits  # across the slice's own axis one plane is enough
    assert looked_at(splits, 0, (0, 1, 2), 2, cpu) == splits  # values
    assert looked_at(splits, 2, (0, 1, 2), 2, Device("cuda")) == splits
    found = looked_at(splits, 2, (0, 1, 2), 2, cpu)
    part = found[0].validation
    assert 0.05 < part.labeled.sum() / labeled.sum() < 0.7
    assert part.counts(2).min() > 0
    assert not (part.labeled & ~labeled).any()
    assert found[0].said == "held out: z=30, a part of them"
    assert found[0].training is nothing
    assert found[1] is splits[1]


def test_less_is_looked_at_around_slices_where_that_is_very_much(monkeypatch):
    network, case = made(2)
    asked = np.zeros(SHAPE, bool)
    asked[42] = True
    looking = Looking(Device("cpu"), InferenceConfig(), (0, 1, 2), (90, 90))
    wide = {part.box.start[0] for part in answers_around(network, case, asked, looking, logits=True)}
    monkeypatch.setattr("vol3d.workflows.around._MOST_LOOKED_AT", 1e5)
    near = {part.box.start[0] for part in answers_around(network, case, asked, looking, logits=True)}
    assert (min(wide), min(near)) == (12, 18)
