"""2-D or 3-D: what is planned where nobody says."""

import dataclasses

import numpy as np
import pytest
import torch

import vol3d
from vol3d.config import parse_config
from vol3d.volume import LabelTable, SparseLabels
from vol3d.workflows.case import Case
from vol3d.workflows.device import Device
from vol3d.workflows.estimate import plan_lines
from vol3d.workflows.plan import Grid, make_plan
from vol3d.workflows.train import _painted_axes

CPU = Device("cpu", "float32")


@pytest.mark.parametrize(
    ("config", "spacing", "painted", "dimensions", "planes"),
    [
        ({}, (1.0, 1.0, 1.0), (), 3, ()),  # scribbles
        ({}, (1.0, 1.0, 1.0), {2, 0}, 2, (0, 2)),
        ({}, (1.0, 1.0, 1.0), {2}, 2, (2,)),
        ({}, (1.0, 1.0, 5.0), {2}, 2, (2,)),
        ({"network": {"plan": "unet", "dimensions": 2}}, (1.0, 1.0, 1.0), {2}, 2, (2,)),
        ({}, (1.0, 1.0, 5.0), {2, 0}, 2, (2,)),
        ({}, (1.0, 1.0, 5.0), {0}, 3, ()),  # no slice that a 2-D network could look at
        ({"network": {"plan": "unet", "dimensions": 3}}, (1.0, 1.0, 1.0), {2}, 3, ()),
        ({"network": {"plan": "unet", "dimensions": 2}}, (1.0, 1.0, 5.0), {0}, 2, (2,)),
        ({"sampling": {"patch_size": [32, 32, 32]}}, (1.0, 1.0, 1.0), {2}, 3, ()),
        ({"sampling": {"patch_size": [32, 32]}}, (1.0, 1.0, 1.0), {2}, 2, (2,)),
        ({"sampling": {"planes": ["y"]}}, (1.0, 1.0, 1.0), {2}, 2, (1,)),
        ({"task": "instances"}, (1.0, 1.0, 1.0), {2, 0}, 3, ()),
    ],
)
def test_dimensions_follow_what_is_painted(config, spacing, painted, dimensions, planes):
    plan = make_plan(parse_config(config), [Grid((64, 64, 40), spacing)], 1, ("a", "b"), CPU, painted)
    assert (plan.network.dimensions, plan.planes) == (dimensions, planes)
    again = make_plan(parse_config(plan.config.to_json()), [Grid((64, 64, 40), spacing)], 1, ("a", "b"), CPU, ())
    assert (again.network, again.planes, again.patch) == (plan.network, plan.planes, plan.patch)


@pytest.mark.parametrize(
    ("shape", "painted", "dimensions", "planes"),
    [
        ((300, 300, 12), {0, 2}, 2, (2,)),  # planes of 300×12 are no pictures
        ((300, 300, 12), {0, 1}, 3, ()),
        ((300, 300, 1), (), 2, (2,)),  # a picture is one
        ((300, 40, 40), {0, 1}, 2, (0, 1)),
    ],
)
def test_thin_volumes(shape, painted, dimensions, planes):
    plan = make_plan(parse_config({}), [Grid(shape, (1.0, 1.0, 1.0))], 1, ("a", "b"), CPU, painted)
    assert (plan.network.dimensions, plan.planes) == (dimensions, planes)


def test_painted_axes_are_those_of_slices():
    labeled = np.zeros((40, 40, 40), bool)
    labeled[:, 10], labeled[:, :, 30] = True, True
    names = {"labels": SparseLabels(np.zeros(labeled.shape, np.uint8), labeled, LabelTable.from_codes([0, 1]))}
    case = Case("scan", torch.zeros(1, 40, 40, 40), spacing_mm=(1.0, 1.0, 1.0), scan={}, **names)
    assert _painted_axes([case]) == {1, 2}
    dense = dataclasses.replace(case, labels=dataclasses.replace(case.labels, labeled=np.ones_like(labeled)))
    assert _painted_axes([dense]) == set()
    assert _painted_axes([dense, case]) == {1, 2}


def test_other_networks_and_sizes_on_a_gpu():
    gpu, grids = Device("cuda:0", "bf16"), [Grid((200, 200, 200), (1.0, 1.0, 1.0))]

    def planned(network, **sampling):
        return make_plan(parse_config({"network": network, "sampling": sampling}), grids, 1, ("a", "b"), gpu, {0, 2})

    flat = planned({"plan": "unet", "dimensions": 2})
    assert (flat.patch, flat.planes, flat.network.encoder[0]) == ((200, 200), (0, 2), (32,))
    assert planned({"plan": "unet", "width": 8}).network.encoder[0] == (8,)
    assert planned({"plan": "unet"}, patch_size=[64, 64, 64]).patch == (64, 64, 64)
    other = planned("unet_plus_plus")
    assert (other.patch, other.network.widths[0]) == ((48, 48, 48), 16)
    thin = [Grid((512, 512, 20), (1.0, 1.0, 8.0))]
    deep = make_plan(parse_config({}), thin, 1, ("a", "b"), gpu, {2})
    assert (deep.network.dimensions, deep.patch[2]) == (3, 20)
    assert 0.8 * 96**3 < deep.patch[0] * deep.patch[1] * deep.patch[2] < 1.2 * 96**3


def test_a_gpu_gets_a_wide_network_in_three_dimensions():
    grids = [Grid((200, 200, 200), (1.0, 1.0, 1.0))]
    assert make_plan(parse_config({}), grids, 1, ("a", "b"), CPU, {0, 2}).network.dimensions == 2
    plan = make_plan(parse_config({}), grids, 1, ("a", "b"), Device("cuda:0", "bf16"), {0, 2})
    assert (plan.network.dimensions, plan.patch, plan.network.encoder[0]) == (3, (96, 96, 96), (32,))


def test_a_dry_run_measures_a_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).normal(size=(30, 30, 30)).astype(np.float32)
    labels = np.full(image.shape, 9, np.uint8)
    labels[:, :, 10], labels[:, 12] = image[:, :, 10] > 0, image[:, 12] > 0
    config = {"network": {"plan": "unet", "width": 2}, "training": {"time_budget_s": 60.0}}
    plan = vol3d.train(image, labels, dry_run=True, spacing_mm=(1.0, 1.0, 1.0), unlabeled=9, config=config)
    found = plan.forecast
    assert found is not None
    assert 0 < found.seconds < 20
    assert found.bytes > image.nbytes
    assert found.device_bytes is None
    assert plan.network.dimensions == 2
    lines = plan_lines(plan)
    assert f"({found.seconds:.2g} s per iteration, measured)" in lines[-1]
    left = 0.75 * (60 - 6 - found.seconds_before)
    assert 0 < left < 40.5
    assert f"about {max(1, int(left / found.seconds))} iterations" in lines[-1]
    assert list(tmp_path.iterdir()) == []
    bare = dataclasses.replace(plan, forecast=None)
    assert "estimated from this device's speed" in plan_lines(bare)[-1]
