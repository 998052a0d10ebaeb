from __future__ import annotations

import copy
import importlib.util
import inspect
import pickle
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from network_parts import outputs
from torch import Tensor

from vol3d.config import MonaiConfig
from vol3d.errors import ModelError
from vol3d.networks import activation_values, build, expected_tensors, flops, network_geometry
from vol3d.networks.monai_names import MONAI, SET_BY_US
from vol3d.networks.monai_nets import CONSTRUCTORS
from vol3d.networks.network import Network

FEATURES = [4, 4, 4, 8, 8, 4]
STRIDED: dict[str, Any] = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "SegResNet": ("SegResNet", {}),
    "SegResNet small": ("SegResNet", {"init_filters": 4, "blocks_down": [1, 1], "blocks_up": [1], "norm": "batch"}),
    "SegResNetDS": ("SegResNetDS", {"init_filters": 4, "dsdepth": 3}),
    "SegResNetDS one": ("SegResNetDS", {"init_filters": 4, "blocks_down": [1, 1, 1]}),
    "UNet": ("UNet", {"channels": [4, 8, 8], "strides": [2, 2], "num_res_units": 2}),
    "UNet plain": ("UNet", {"channels": [4, 8], "strides": [2], "norm": ["GROUP", {"num_groups": 1}]}),
    "BasicUNet": ("BasicUNet", {"features": FEATURES}),
    "BasicUNetPlusPlus": ("BasicUNetPlusPlus", {"features": FEATURES}),
    "BasicUNetPlusPlus deep": ("BasicUNetPlusPlus", {"features": FEATURES, "deep_supervision": True}),
    "AttentionUnet": ("AttentionUnet", {"channels": [4, 8, 8], "strides": [2, 2]}),
    "DynUNet": ("DynUNet", {**STRIDED, "filters": [4, 4, 8], "res_block": True}),
    "DynUNet deep": ("DynUNet", {**STRIDED, "filters": [4, 4, 8], "deep_supervision": True}),
    "VNet": ("VNet", {}),
    "HighResNet": ("HighResNet", {}),
    "FlexibleUNet": ("FlexibleUNet", {"backbone": "efficientnet-b0", "decoder_channels": [8, 8, 4, 4, 4]}),
    "MedNeXt": ("MedNeXt", {"init_filters": 4, "kernel_size": 3, "blocks_down": [1, 1], "blocks_up": [1, 1]}),
    "MedNeXt deep": ("MedNeXt", {"init_filters": 2, "kernel_size": 3, "deep_supervision": True}),
    "MedNeXtS": ("MedNeXtS", {"deep_supervision": True}),
}
if importlib.util.find_spec("einops") is not None:
    SMALL["SwinUNETR"] = ("SwinUNETR", {"feature_size": 12, "window_size": 3, "depths": [1, 1, 1, 1]})
SLOW = (
    "BasicUNetPlusPlus",
    "BasicUNetPlusPlus deep",
    "FlexibleUNet",
    "HighResNet",
    "MedNeXt deep",
    "MedNeXtS",
    "SegResNetDS one",
    "SwinUNETR",
    "VNet",
)  # in 2-D, and in 3-D, where one test has them
everything = pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        pytest.param(name, d, id=f"{name} {d}-D", marks=[pytest.mark.slow] if d == 3 and name in SLOW else [])
        for name in SMALL
        for d in (2, 3)
    ],
)
family = pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        pytest.param(name, d, id=f"{name} {d}-D", marks=[pytest.mark.slow] if name in SLOW else [])
        for name in SMALL
        for d in (2, 3)
        if d == 2 or name not in SLOW
    ],
)


pytestmark = pytest.mark.usefixtures("single_threaded", "known_seed")


def _config(name: str, dimensions: int) -> MonaiConfig:
    monai, arguments = SMALL[name]
    return MonaiConfig(monai=monai, dimensions=dimensions, arguments=arguments)  # type: ignore[arg-type]


def _network(name: str, dimensions: int, seed: int = 0) -> Network:
    return build(_config(name, dimensions), 2, 3, generator=torch.Generator().manual_seed(seed))


def _image(network: Network, *size: int, samples: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, network.in_channels, *size[: network.dimensions], generator=generator)


def _deep(monai: str, dimensions: int = 3, **arguments: Any) -> MonaiConfig:
    return MonaiConfig(monai=monai, dimensions=dimensions, arguments=arguments)  # type: ignore[arg-type]


# The contract of the family


@family
def test_any_size_and_a_batch_of_one_in_both_modes(name: str, dimensions: int) -> None:
    network = _network(name, dimensions)
    for size in ((9, 1, 7), (1, 1, 1), (17, 2, 3)):
        answers = outputs(network.train()(_image(network, *size)))
        assert [tuple(part.shape) for part in answers] == [(1, 3, *size[:dimensions])] * network.heads
        assert all(bool(torch.isfinite(part).all()) for part in answers)
        with torch.no_grad():
            answer = network.eval()(_image(network, *size))
        assert isinstance(answer, Tensor)
        assert answer.shape == (1, 3, *size[:dimensions])


@everything
def test_gradient_reaches_every_parameter_and_networks_can_be_copied_after(name: str, dimensions: int) -> None:
    network = _network(name, dimensions).train()
    answers = outputs(network(_image(network, 9, 5, 4)))
    assert [tuple(part.shape) for part in answers] == [(1, 3, *(9, 5, 4)[:dimensions])] * network.heads
    loss = torch.stack([(part**2).sum() for part in answers]).sum()
    loss.backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    assert pickle.loads(pickle.dumps(network.eval())).config == network.config  # goes to other processes
    named = dict(copy.deepcopy(network).named_parameters(remove_duplicate=False))
    assert len(named) == len(list(network.parameters()))  # none under two names


@family
def test_weights_follow_from_the_generator_and_are_as_expected(name: str, dimensions: int) -> None:
    before = torch.get_rng_state()
    one, two, other = (_network(name, dimensions, seed).state_dict() for seed in (5, 5, 6))
    expected = expected_tensors(_config(name, dimensions), 2, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert any(not torch.equal(value, other[key]) for key, value in one.items())
    assert expected == {key: (str(value.dtype), tuple(value.shape)) for key, value in one.items()}


@family
def test_saved_and_loaded_state_gives_equal_outputs_and_is_deterministic(name: str, dimensions: int) -> None:
    network, other = _network(name, dimensions, 1), _network(name, dimensions, 2).eval()
    image = _image(network, 5, 6, 3)
    network.train()(image)
    network.eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(network(image), other(image))
        assert torch.equal(network(image), network(image))


@family
def test_counting_and_bfloat16(name: str, dimensions: int) -> None:
    network = _network(name, dimensions).eval()
    size = (5, 6, 3)[:dimensions]
    assert flops(network, size) > 0  # type: ignore[arg-type]
    assert activation_values(network, size) > 0  # type: ignore[arg-type]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(network(_image(network, *size)).float()).all()


def test_final_logits_come_first_and_are_those_of_evaluation() -> None:
    for name in ("SegResNetDS", "BasicUNetPlusPlus deep", "DynUNet deep", "MedNeXt deep"):
        network = _network(name, 3)
        for module in network.network.modules():
            module.training = False
        network.network.training = network.training = True  # the answers of training by the statistics of evaluation
        image = _image(network, 16, 16, 16)
        with torch.no_grad():
            several = network(image)
            one = network.eval()(image)
        assert torch.equal(several[0], one), name
        assert not any(torch.equal(part, one) for part in several[1:]), name


# The list


def test_the_list_names_what_can_be_constructed() -> None:
    assert set(MONAI) == set(CONSTRUCTORS)
    for name, entry in MONAI.items():
        known = inspect.signature(CONSTRUCTORS[name]).parameters
        if entry.accepted is None:
            counted = set() if name == "HighResNet" else set(entry.counts)
            assert {*SET_BY_US, *entry.refused, *counted, *entry.given(3)} <= set(known), name


def test_names_need_neither_torch_nor_monai() -> None:
    code = (
        "import sys; from vol3d.config import MonaiConfig; from vol3d.networks import network_geometry; "
        "print(network_geometry(MonaiConfig(monai='VNet')).total_stride); "
        "assert not {'torch', 'monai'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(16, 16, 16)"


@pytest.mark.parametrize(
    ("config", "stride"),
    [
        (_deep("SegResNet"), (8, 8, 8)),
        (_deep("SegResNet", blocks_down=[1, 1, 1], blocks_up=[1, 1]), (4, 4, 4)),
        (_deep("SegResNetDS", init_filters=4, resolution=[1, 1, 4.5]), (8, 8, 2)),
        (_deep("SegResNetDS", init_filters=4, resolution=[2, 0.7, 1.4], blocks_down=[1] * 5), (8, 16, 8)),
        (_deep("SegResNetDS", 2, init_filters=4, resolution=[1, 1], blocks_down=[1, 1]), (2, 2)),
        (_deep("UNet", channels=[4, 4, 4], strides=[2, [2, 2, 1]]), (4, 4, 2)),
        (_deep("DynUNet", **{**STRIDED, "strides": [1, [2, 2, 1], 2], "upsample_kernel_size": [[2, 2, 1], 2]},
               filters=[4, 4, 8]), (4, 4, 2)),
        (_deep("MedNeXt", init_filters=4, blocks_down=[1, 1, 1], blocks_up=[1, 1, 1]), (8, 8, 8)),
        (_deep("HighResNet"), (1, 1, 1)),
        (_deep("FlexibleUNet", 2, backbone="resnet10"), (32, 32)),
    ],
)  # fmt: skip
def test_strides_follow_from_the_arguments_and_suffice(config: MonaiConfig, stride: tuple[int, ...]) -> None:
    assert network_geometry(config).total_stride == stride
    network = build(config, 1, 2).eval()
    with torch.no_grad():
        for size in (tuple(2 * n for n in stride), tuple(3 * n for n in stride)):
            assert network.maps(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("levels", [2, 3, 6])
def test_strides_of_an_anisotropic_segresnet_are_monai_s(levels: int) -> None:
    for resolution in ([1, 1, 1], [1, 1, 2], [0.3, 0.5, 4.1], [8, 1, 3], [1, 16, 1.99]):
        config = _deep("SegResNetDS", resolution=resolution, blocks_down=[1] * levels)
        with torch.device("meta"):
            theirs = CONSTRUCTORS["SegResNetDS"](resolution=resolution, blocks_down=(1,) * levels).shape_factor()
        assert network_geometry(config).total_stride == tuple(int(n) for n in theirs)


def test_swin_needs_its_package() -> None:
    config = _deep("SwinUNETR", 2)
    assert network_geometry(config).total_stride == (32, 32)
    if importlib.util.find_spec("einops") is None:
        with pytest.raises(ModelError, match="needs the package einops"):
            build(config, 1, 2)
    else:
        assert build(config, 1, 2).heads == 1


# What is refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_deep("SegResnet"), "unknown MONAI network 'SegResnet'.* Did you mean SegResNet"),
        (_deep("UNETR"), "unknown MONAI network 'UNETR'"),
        (_deep("__class__"), "unknown MONAI network"),
        (_deep("SegResNet", init_filter=8), "no argument 'init_filter'. Did you mean 'init_filters'"),
        (_deep("MedNeXtS", blocks_down=[1]), "no argument 'blocks_down'. It takes kernel_size, deep_supervision"),
        (_deep("VNet", in_channels=1), "'in_channels' of MONAI's VNet follows from the data"),
        (_deep("SegResNetDS", preprocess="os.system"), "'preprocess' of MONAI's SegResNetDS cannot be set"),
        (_deep("FlexibleUNet", backbone="resnet10", pretrained=True), "'pretrained' .* cannot be set"),
        (_deep("FlexibleUNet", backbone="vgg"), "does not take these arguments: invalid model_name vgg"),
        (_deep("FlexibleUNet"), "does not take these arguments: .*backbone"),
        (_deep("SegResNet", norm="unknown"), "MONAI's SegResNet does not take these arguments"),
        (_deep("SegResNet", init_filters=12, norm=["group", {"num_groups": 5}]), "does not take these arguments"),
        (_deep("SegResNet", norm=["batch", {"device": "cpu"}]), "must not set 'device'"),
        (_deep("SegResNet", blocks_down=[1, 1], blocks_up=[1, 1, 1]), "cannot run with these arguments"),
        (_deep("SegResNet", blocks_down=3), "cannot be planned from these arguments"),
        (_deep("UNet"), "cannot be planned from these arguments: 'channels'"),
        (_deep("UNet", channels=[4, 4], strides=[0]), "expected `strides` of 1 or more"),
        (_deep("UNet", channels=[4, 4], strides=["2"]), "cannot be planned|expected `strides`"),
        (_deep("UNet", channels=[4, 4, 4], strides=[[2, 2], [2, 2]]), "expected `strides`"),
        (_deep("UNet", channels=[4] * 13, strides=[2] * 12), "from 1 to 1024"),
        (_deep("UNet", channels=[4, 4], strides=[3], kernel_size=2), "MONAI's UNet"),
        (_deep("DynUNet", **{**STRIDED, "strides": [2, 2, 2]}, filters=[4, 4, 8]), "expected 1 × .* keeps the size"),
        (_deep("MedNeXt", norm_type="layer"), "cannot run with these arguments"),
        (_deep("SegResNetDS", dsdepth="two"), "cannot be built|does not take"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_names_and_values_are_refused_in_one_line(config: MonaiConfig, message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        build(config, 1, 2)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError):
        expected_tensors(config, 1, 2)


def test_an_odd_number_of_channels_is_refused_where_monai_does() -> None:
    with pytest.raises(ModelError, match="VNet does not take these arguments"):
        build(_deep("VNet"), 3, 2)


@pytest.mark.parametrize(
    "config",
    [
        _deep("SegResNet", init_filters=10**9),
        _deep("SegResNet", init_filters=1 << 16),
        _deep("SegResNet", init_filters=1e300),
        _deep("SegResNet", blocks_down=[10**9, 1, 1, 1]),
        _deep("SegResNet", blocks_down=[64] * 10),
        _deep("UNet", channels=[65536, 65536], strides=[2]),
        _deep("UNet", channels=[4, 4], strides=[2], num_res_units=10**6),
        _deep("UNet", channels=[4] * 10**4, strides=[2] * 10**4),
        _deep("UNet", channels=[4, 4], strides=[2], norm=["layer", {"normalized_shape": [65536, 65536]}]),
        _deep("BasicUNet", features=[60000] * 6),
        _deep("DynUNet", **STRIDED, filters=[4, 4, 8], deep_supervision=True, deep_supr_num=10**8),
        _deep("HighResNet", layer_params=[{"n_features": 4, "kernel_size": 3}] + [
            {"n_features": 4, "kernels": [3], "repeat": 10**7}] * 3),
        _deep("MedNeXt", kernel_size=65535),
        _deep("MedNeXt", blocks_bottleneck=65),
        _deep("MedNeXt", blocks_down=[1] * 200),
    ],
)  # fmt: skip
def test_what_no_machine_could_hold_is_refused_at_once(config: MonaiConfig) -> None:
    start = time.process_time()
    with pytest.raises(ModelError):
        expected_tensors(config, 1, 2)
    with pytest.raises(ModelError):
        build(config, 1, 2)
    assert time.process_time() - start < 2
