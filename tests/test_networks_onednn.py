"""Small 3-D convolutions by oneDNN: the same answers, and only where they suit."""

import copy

import pytest
import torch
from torch import nn

from vol3d.config import UNetConfig
from vol3d.inference import plan_for, predict_slabs
from vol3d.networks import build
from vol3d.networks.onednn import prefer_onednn

pytestmark = pytest.mark.usefixtures("single_threaded")
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


@pytest.fixture
def asked(monkeypatch):
    """How often oneDNN was asked directly."""
    shapes, real = [], torch.mkldnn_convolution

    def counted(maps, *rest):
        shapes.append(tuple(maps.shape))
        return real(maps, *rest)

    monkeypatch.setattr(torch, "mkldnn_convolution", counted)
    return shapes


@needs_onednn
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"padding": 1, "stride": 2, "bias": False},
        {"padding": (1, 2, 0), "dilation": (1, 2, 1)},
        {"padding": 1, "groups": 2},
    ],
)
def test_answers_stay(options, asked):
    torch.manual_seed(0)
    layer = nn.Conv3d(4, 6, 3, **options).eval()
    maps = torch.randn(1, 4, 9, 8, 7)
    with torch.inference_mode():
        before = layer(maps)
        assert prefer_onednn(layer) == 1
        for laid in (maps, maps.to(memory_format=torch.channels_last_3d)):
            torch.testing.assert_close(layer(laid), before, atol=1e-5, rtol=1e-5)
    assert asked == [(1, 4, 9, 8, 7)] * 2


@needs_onednn
def test_what_does_not_suit_goes_on_as_before(asked):
    torch.manual_seed(0)
    maps = torch.randn(1, 4, 6, 6, 6)
    one = nn.Conv3d(4, 4, 3, padding=1).eval()
    layers = {name: copy.deepcopy(one) for name in ("several", "double", "autocast")}
    layers["same"] = nn.Conv3d(4, 4, 3, padding="same").eval()
    layers["mirrored"] = nn.Conv3d(4, 4, 3, padding=1, padding_mode="reflect").eval()
    with torch.inference_mode():
        for name, layer in layers.items():
            given = maps.expand(2, 4, 6, 6, 6) if name == "several" else maps.double() if name == "double" else maps
            layer = layer.double() if name == "double" else layer  # noqa: PLW2901
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast"):
                before = layer(given)
                prefer_onednn(layer)
                assert torch.equal(layer(given), before), name
    assert asked == []


@needs_onednn
def test_prediction_asks_onednn_and_leaves_the_network_as_it_was(asked):
    network = build(UNetConfig(encoder=((4, 4), (8, 8)), padding="same"), 1, 2).eval()
    image = torch.randn(1, 12, 12, 12).numpy()
    plan = plan_for(network, (12, 12, 12), memory_bytes=1e9, bytes_per_voxel=1000.0)
    list(predict_slabs(network, image, plan))
    assert len(asked) == sum(type(module) is nn.Conv3d for module in network.modules()) > 0


def test_two_dimensions_stay():
    network = build(UNetConfig(encoder=((4,), (6,)), dimensions=2), 1, 2)
    assert prefer_onednn(network) == 0
