"""Any torch module that states its sizes: tiling it, and what memory it takes."""

import copy
import math

import numpy as np
import pytest
import torch
from monai.networks.nets import BasicUNet, BasicUNetPlusPlus, SegResNet
from torch import nn

from vol3d.config import UNetConfig
from vol3d.errors import ModelError
from vol3d.inference import bytes_per_voxel, plan_axes, plan_for, predict_axes, predict_flips, predict_slabs, whole_pass
from vol3d.inference.footprint import _Living
from vol3d.networks import build

LIMITS = {"memory_bytes": math.inf, "bytes_per_voxel": 1.0}
WIDTHS = (4, 4, 8, 8, 8, 4)


class Stated(nn.Module):
    """A same-padded network of others, and what it must be told for tiling."""

    def __init__(self, network, classes, stride, dimensions=3, in_channels=1):
        super().__init__()
        self.network, self.classes, self.in_channels = network, classes, in_channels
        self.margin, self.total_stride = (0,) * dimensions, (stride,) * dimensions

    def input_size(self, output_at_least):
        return tuple(-(-n // s) * s for n, s in zip(output_at_least, self.total_stride, strict=True))

    def forward(self, image):
        return self.network(image)


NETWORKS = {
    "SegResNet": lambda: Stated(SegResNet(init_filters=8, in_channels=1, out_channels=5), 5, 8),
    "BasicUNet": lambda: Stated(BasicUNet(3, 1, 2, WIDTHS, norm=("batch", {})), 2, 16),
    "BasicUNet across planes": lambda: Stated(BasicUNet(2, 1, 7, WIDTHS, norm=("batch", {})), 7, 16, 2),
    "regression": lambda: Stated(SegResNet(2, init_filters=8, in_channels=1, out_channels=1), 1, 8, 2),
}


pytestmark = pytest.mark.usefixtures("single_threaded")


def made(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return NETWORKS[kind]()


def scan(*shape):
    return np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)


def joined(slabs):
    return np.concatenate([slab.values for slab in slabs], axis=1)


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_of_others_are_tiled(kind):
    network, shape = made(kind), (37, 21, 9)
    image = scan(*shape)
    demand = bytes_per_voxel(network, in_channels=1)
    plan = plan_for(network, shape, memory_bytes=1e9, bytes_per_voxel=demand, patch=(32,) * len(network.margin))
    assert len(plan.tiles) > 1
    logits = network.classes == 1
    values = joined(predict_slabs(network, image, plan, logits=logits))
    assert values.shape == (network.classes, *shape)
    if not logits:
        np.testing.assert_allclose(values.sum(0), 1, atol=1e-5)
    flipped = joined(predict_flips(network, image[:, ::-1].copy(), plan, axes=(0,), logits=logits))
    np.testing.assert_allclose(
        flipped[:, ::-1], joined(predict_flips(network, image, plan, axes=(0,), logits=logits)), atol=1e-4
    )
    if len(network.margin) == 2:
        plans = plan_axes(network, shape, memory_bytes=1e9, bytes_per_voxel=demand)
        wholes = [whole_pass(network, image, planes=axis) for axis in range(3)]
        averaged = joined(predict_axes(network, image, plans, logits=True))
        np.testing.assert_allclose(averaged, np.mean(wholes, 0), atol=1e-3 * np.ptp(wholes))


@pytest.mark.parametrize("kind", ["SegResNet", "BasicUNet"])
def test_one_tile_is_the_network_itself(kind):
    network = made(kind)
    image = scan(32, 32, 16)
    plan = plan_for(network, (32, 32, 16), **LIMITS)
    with torch.no_grad():
        expected = copy.deepcopy(network).eval()(torch.from_numpy(image)[None])[0].numpy()
    np.testing.assert_allclose(joined(predict_slabs(network, image, plan, logits=True)), expected, atol=1e-4)


def test_a_network_that_looks_at_its_whole_tile_is_tiled():
    class Pooling(nn.Module):
        def forward(self, image):
            return torch.cat([image, image.mean((2, 3, 4), keepdim=True).expand_as(image), -image], dim=1)

    network = Stated(Pooling(), 3, 4)
    image = scan(20, 8, 8)
    whole = whole_pass(network, image)
    np.testing.assert_allclose(whole[1], image.mean(), atol=1e-6)
    plan = plan_for(network, (20, 8, 8), patch=(12, 8, 8), overlap=0.0, **LIMITS)
    tiled = joined(predict_slabs(network, image, plan, logits=True))
    np.testing.assert_allclose(tiled[[0, 2]], whole[[0, 2]], atol=1e-6)
    assert np.ptp(tiled[1]) > 0  # every tile has a mean of its own


def test_a_network_that_needs_channels_first_gets_them():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv3d(2, 4, 3, padding=1)
            self.table = nn.Parameter(torch.ones(1, 4, 1, 1))  # of four axes in a 3-D network

        def forward(self, image):
            maps = self.convolution(image)
            return (maps.view(*maps.shape[:2], -1) * self.table[..., 0]).view(maps.shape)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = Stated(Viewing(), 4, 1, in_channels=2)
    image = np.random.default_rng(2).standard_normal((2, 14, 6, 5)).astype(np.float32)
    plan = plan_for(network, (14, 6, 5), patch=(8, 6, 5), **LIMITS)
    values = joined(predict_slabs(network, image, plan, logits=True))
    with torch.no_grad():
        expected = network(torch.from_numpy(image)[None])[0].numpy()
    np.testing.assert_allclose(values[:, :4], expected[:, :4], atol=1e-5)
    assert bytes_per_voxel(network, in_channels=2) > 0


def test_several_outputs_at_test_time_are_refused():
    network = Stated(BasicUNetPlusPlus(2, 1, 2, WIDTHS), 2, 16, 2)
    plan = plan_for(network, (32, 32, 2), **LIMITS)
    with pytest.raises(ModelError, match="one tensor of logits from the network, found list"):
        list(predict_slabs(network, scan(32, 32, 2), plan))


class Doubtful(nn.Module):
    """Looks at numbers, as only shapes do not have."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(image) if float(image.sum()) < 1e9 else image


@pytest.mark.parametrize("kind", ["SegResNet", "BasicUNet across planes"])
def test_memory_of_a_network_that_needs_numbers_is_that_of_a_pass(kind):
    plain = made(kind)
    doubtful = Stated(Doubtful(plain.network), plain.classes, plain.total_stride[0], len(plain.margin))
    size = (64,) * len(plain.margin)
    traced, run = bytes_per_voxel(plain, size, in_channels=1), bytes_per_voxel(doubtful, in_channels=1)
    assert run == pytest.approx(traced, rel=1e-3)
    assert bytes_per_voxel(doubtful, (32,) * len(size), in_channels=1, precision="bf16") < 0.6 * run
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in doubtful.parameters())


def test_memory_of_a_network_that_cannot_be_run_is_an_error():
    network = Stated(nn.Conv3d(3, 2, 1), 2, 1, in_channels=1)
    with pytest.raises(ModelError, match="1 channels and 64×64×64 voxels: RuntimeError"):
        bytes_per_voxel(network, in_channels=1)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_batch_of_planes_takes_the_memory_of_its_voxels(padding):
    network = build(UNetConfig(dimensions=2, padding=padding, encoder=((4, 8), (8, 8))), 1, 3)
    size = network.input_size((48, 40))
    demand = bytes_per_voxel(network, size, in_channels=1)
    network.eval()
    for planes in (1, 7):
        with torch.no_grad(), _Living() as living:
            network(torch.zeros(planes, 1, *size))
        assert 1.3 * living.peak == pytest.approx(demand * planes * math.prod(size), rel=1e-3)
