from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from monai.networks.nets import DenseNet121, EfficientNetBNFeatures, ResNetFeatures
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from vol3d.config import DeepLabV3PlusConfig, EncoderUNetConfig, UNetConfig
from vol3d.errors import ModelError
from vol3d.networks import build, expected_tensors, load_encoder_weights, parameter_count
from vol3d.networks.deeplab_v3_plus import Pyramid
from vol3d.networks.encoders import Encoder, encoder, resnet_encoder
from vol3d.networks.nd import LAYERS
from vol3d.networks.network import Network
from vol3d.training import read_encoder_weights

# Trunks without their classifiers: of the well-known figures of a 2-D network with 3 channels and 1000 classes the last
# linear layer is taken off, and of EfficientNet also the convolution (1280 to 1792 channels) and norm before it.
WELL_KNOWN = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
    "resnext50": 25_028_904 - 2_049_000,
    "resnext101": 44_177_704 - 2_049_000,
    "efficientnet-b0": 5_288_548 - 1_281_000 - (320 + 2) * 1280,
    "efficientnet-b1": 7_794_184 - 1_281_000 - (320 + 2) * 1280,
    "efficientnet-b2": 9_109_994 - 1_409_000 - (352 + 2) * 1408,
    "efficientnet-b3": 12_233_232 - 1_537_000 - (384 + 2) * 1536,
    "efficientnet-b4": 19_341_616 - 1_793_000 - (448 + 2) * 1792,
    "densenet121": 7_978_856 - 1_025_000,
    "densenet169": 14_149_480 - 1_665_000,
    "densenet201": 20_013_928 - 1_921_000,
}
EVERY = pytest.mark.parametrize("name", WELL_KNOWN)
QUICK = ("resnet18", "resnet34", "resnet50", "resnext50", "efficientnet-b0", "densenet121")
EACH_AND_SOME_SLOWLY = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in WELL_KNOWN]
)
each_dimension = pytest.mark.parametrize("dimensions", [2, 3])


pytestmark = pytest.mark.usefixtures("single_threaded")


def _random(module: nn.Module, seed: int = 0) -> nn.Module:
    """All weights and statistics drawn anew, small enough that nothing overflows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                drawn = torch.empty(value.shape).normal_(generator=generator)
                value.copy_(1 + 0.1 * drawn.abs() if name.endswith(("var", "bn.weight")) else drawn * 0.1)
    return module.eval()


def _image(*shape: int, seed: int = 1) -> Tensor:
    return torch.empty(shape).normal_(generator=torch.Generator().manual_seed(seed))


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-4 * other.abs().max() + 1e-6)


# Trunks


@EVERY
def test_trunk_has_the_well_known_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        assert parameter_count(encoder(name, 2, 3)) == WELL_KNOWN[name]


@EACH_AND_SOME_SLOWLY
@each_dimension
def test_maps_have_their_strides_and_widths(name: str, dimensions: int) -> None:
    for flat in ((), (dimensions - 1,)):
        with torch.device("meta"):
            trunk = encoder(name, dimensions, 1, flat_axes=flat)
            maps = trunk(torch.empty(1, 1, *(64,) * dimensions))
        for level, (found, width) in enumerate(zip(maps, trunk.widths, strict=True)):
            size = [64 if axis in flat else 32 >> level for axis in range(dimensions)]
            assert found.shape == (1, width, *size)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_resnet_answers_like_monai_by_the_same_names(dimensions: int) -> None:
    theirs = _random(ResNetFeatures("resnet50", pretrained=False, spatial_dims=dimensions, in_channels=2))
    ours = resnet_encoder("resnet50", dimensions, 2).eval()
    ours.trunk.load_state_dict(theirs.state_dict())
    image = _image(1, 2, *(64, 32, 32)[:dimensions])
    with torch.no_grad():
        assert all(map(torch.equal, ours(image), theirs(image)))


def test_efficientnet_answers_like_monai_but_for_its_dropped_blocks() -> None:
    theirs = _random(EfficientNetBNFeatures("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=3))
    ours = encoder("efficientnet-b0", 2, 3)
    ours.trunk.load_state_dict(theirs.state_dict(), strict=False)
    image = _image(1, 3, 64, 64)
    with torch.no_grad():
        assert all(map(_close, ours.eval()(image), theirs(image)))
        assert torch.equal(ours.train()(image)[-1], ours(image)[-1])  # nothing is drawn


def test_densenet_ends_where_the_classifier_begins() -> None:
    theirs = _random(DenseNet121(2, 3, 5))
    ours = encoder("densenet121", 2, 3).eval()
    ours.trunk.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("class_layers")})
    image = _image(1, 3, 64, 64)
    with torch.no_grad():
        pooled = ours(image)[-1].mean(dim=(2, 3))
        assert _close(pooled @ theirs.class_layers.out.weight.T + theirs.class_layers.out.bias, theirs(image))


def test_resnext_bottlenecks_are_grouped() -> None:
    with torch.device("meta"):
        trunk = encoder("resnext50", 3, 1).trunk
    first = trunk.layer4[0]
    assert (first.conv2.groups, first.conv2.in_channels, tuple(first.conv2.stride)) == (32, 1024, (2, 2, 2))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50", "efficientnet-b0", "densenet121"])
def test_flat_axis_makes_every_slice_of_a_constant_stack_equal(name: str) -> None:
    trunk = encoder(name, 2, 1, flat_axes=(0,)).eval()
    with torch.no_grad():
        maps = trunk(_image(1, 1, 1, 64).expand(1, 1, 41, 64))
    middle = maps[1][:, :, 18:23]  # far enough from the padded ends for the maps of stride 4
    assert _close(middle, middle[:, :, 2:3].expand_as(middle))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("flat", [(), (1,)])
def test_dilated_maps_hold_those_of_the_strided_network(name: str, stride: int, flat: tuple[int, ...]) -> None:
    strided = _random(resnet_encoder(name, 2, 1, flat_axes=flat, width=4))
    dilated = resnet_encoder(name, 2, 1, flat_axes=flat, width=4, output_stride=stride).eval()
    dilated.load_state_dict(strided.state_dict())
    image = _image(1, 1, 96, 64)
    with torch.no_grad():
        coarse, fine = strided(image)[-1], dilated(image)[-1]
    step = 32 // stride
    assert fine.shape[2:] == (96 // stride, 64 if flat else 64 // stride)
    assert _close(fine[:, :, ::step, :: 1 if flat else step], coarse)


@pytest.mark.parametrize("kind", ["instance", "group"])
def test_other_normalisations_replace_every_batch_norm(kind: Any) -> None:
    with torch.device("meta"):
        for name in ("resnet18", "resnext50", "efficientnet-b0", "densenet121"):
            trunk, plain = encoder(name, 3, 1, kind), encoder(name, 3, 1)
            assert not any(isinstance(module, nn.BatchNorm3d) for module in trunk.modules())
            assert parameter_count(trunk) == parameter_count(plain)
            assert set(dict(trunk.named_parameters())) == set(dict(plain.named_parameters()))


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown encoder 'vgg'; there are resnet18"):
        encoder("vgg", 2, 1)


# Networks


@EACH_AND_SOME_SLOWLY
@each_dimension
def test_every_encoder_makes_a_unet(name: str, dimensions: int) -> None:
    config = EncoderUNetConfig(dimensions=dimensions, encoder=name, decoder=(8, 8, 4, 4, 4))  # type: ignore[arg-type]
    assert "head.weight" in expected_tensors(config, 2, 3)
    with torch.device("meta"):
        network = type(_small(EncoderUNetConfig(dimensions=2)))(config, 2, 3)
        assert network(torch.empty(1, 2, *(33, 20, 1)[:dimensions])).shape == (1, 3, *(33, 20, 1)[:dimensions])
    assert network.total_stride == (32,) * dimensions


def _small(config: EncoderUNetConfig | DeepLabV3PlusConfig) -> Network:
    with torch.device("meta"):
        from vol3d.networks import DeepLabV3Plus, EncoderUNet

        kind = EncoderUNet if isinstance(config, EncoderUNetConfig) else DeepLabV3Plus
        network: Network = kind(config, 1, 2)
    return network


def test_the_paper_deeplab_on_the_meta_device() -> None:
    network = _small(DeepLabV3PlusConfig(dimensions=2))
    pyramid = network.pyramid
    assert [tuple(branch[0].dilation) for branch in pyramid.branches] == [(1, 1), (6, 6), (12, 12), (18, 18)]
    assert network.reduce[0].out_channels == 48
    assert pyramid.project[0].in_channels == 5 * 256
    assert network.total_stride == (16, 16)
    assert network(torch.empty(2, 1, 513, 500, device="meta")).shape == (2, 2, 513, 500)
    doubled = _small(DeepLabV3PlusConfig(dimensions=3, output_stride=8, flat_axes=(2,)))
    assert [tuple(branch[0].dilation) for branch in doubled.pyramid.branches[1:]] == [(r, r, 1) for r in (12, 24, 36)]
    assert [tuple(branch[0].kernel_size) for branch in doubled.pyramid.branches[1:]] == [(3, 3, 1)] * 3
    assert doubled.total_stride == (8, 8, 1)


def test_a_pyramid_takes_maps_smaller_than_its_rates_and_a_batch_of_one() -> None:
    pyramid = Pyramid(3, 4, 3, (6, 12, 18), "batch").train()
    answer = pyramid(_image(1, 3, 2, 1, 1))
    assert answer.shape == (1, 4, 2, 1, 1)
    answer.square().sum().backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_the_pyramid_mean_reaches_everywhere() -> None:
    pyramid = Pyramid(2, 3, 2, (1,), "none")
    for parameter in pyramid.parameters():
        nn.init.constant_(parameter, 0.1)  # no ReLU closes
    image = torch.ones(1, 2, 9, 9, requires_grad=True)
    pyramid(image)[..., 0, 0].sum().backward()
    assert bool((image.grad[..., 8, 8] != 0).any())  # type: ignore[index]


@pytest.mark.parametrize("kind", ["batch", "instance", "group"])
def test_one_voxel_can_be_trained_on(kind: Any) -> None:
    configs = (
        EncoderUNetConfig(dimensions=2, encoder="efficientnet-b0", decoder=(4, 4, 4, 4, 4), normalization=kind),
        DeepLabV3PlusConfig(encoder="resnet18", width=4, aspp=4, low_level=2, normalization=kind, flat_axes=(2,)),
    )
    for config in configs:
        network = build(config, 1, 2).train()
        answer = network(_image(1, 1, *(1,) * config.dimensions))
        assert answer.shape == (1, 2, *(1,) * config.dimensions)
        answer.square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_thin_structures_reach_the_full_resolution_decoder() -> None:
    network = build(EncoderUNetConfig(dimensions=2, encoder="efficientnet-b0", decoder=(4,) * 5), 1, 2).eval()
    image = _image(1, 1, 64, 64)
    moved = image.clone()
    moved[..., 31, 31] += 1
    with torch.no_grad():
        changed = (network.image(moved) != network.image(image)).any(dim=1)[0].nonzero()
    assert changed.amin(0).tolist() == [30, 30]
    assert changed.amax(0).tolist() == [32, 32]


def test_flat_axes_must_be_axes() -> None:
    for wrong in ((2,), (0, 0), (0, 1)):
        with pytest.raises(ValidationError, match="flat_axes"):
            EncoderUNetConfig(dimensions=2, flat_axes=wrong)
        with pytest.raises(ValidationError, match="flat_axes"):
            DeepLabV3PlusConfig(dimensions=2, flat_axes=wrong)


def test_first_weights_are_a_function_of_the_seed() -> None:
    config = DeepLabV3PlusConfig(dimensions=2, encoder="resnet18", width=4, aspp=4, low_level=2)
    before = torch.get_rng_state()
    one, two, other = (build(config, 1, 2, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_expected_tensors_are_those_of_the_network() -> None:
    config = EncoderUNetConfig(dimensions=2, encoder="efficientnet-b0", decoder=(4, 4, 4, 4, 4))
    state = build(config, 1, 2).state_dict()
    assert expected_tensors(config, 1, 2) == {k: (str(v.dtype), tuple(v.shape)) for k, v in state.items()}


def test_networks_no_machine_could_hold_are_refused_at_once() -> None:
    start = time.process_time()
    for width in (1 << 15, 1 << 16, 10**9, 10**18):
        with pytest.raises(ModelError, match="deeplab_v3_plus"):
            expected_tensors(DeepLabV3PlusConfig(width=width), 1, 2)
        with pytest.raises(ModelError):
            build(EncoderUNetConfig(decoder=(width, width, 1, 1, 1)), 1, 2)
    assert time.process_time() - start < 8


# Weights


def _deeplab(channels: int = 3, **parts: Any) -> Network:
    small = {"dimensions": 2, "encoder": "resnet18", "width": 4, "aspp": 4, "low_level": 2}
    return build(DeepLabV3PlusConfig(**{**small, **parts}), channels, 2)


def _weights(seed: int = 3, **parts: Any) -> dict[str, Tensor]:
    trunk = _random(resnet_encoder("resnet18", 2, 3, width=4, **parts), seed)
    assert isinstance(trunk, Encoder)
    return {name: value.clone() for name, value in trunk.trunk.state_dict().items()}


def test_weights_are_loaded_under_the_names_of_torchvision_without_the_classifier() -> None:
    network, weights = _deeplab(), _weights()
    assert {"conv1.weight", "layer1.0.conv1.weight", "layer2.0.downsample.1.running_var"} <= set(weights)
    line = load_encoder_weights(network, {**weights, "fc.weight": torch.ones(9, 8), "fc.bias": torch.ones(9)})
    assert "\n" not in line
    assert f"{len(weights)} tensors" in line
    found = network.encoder.trunk.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_densenet_and_efficientnet_names_of_their_first_authors_are_known() -> None:
    dense = build(EncoderUNetConfig(dimensions=2, encoder="densenet121", decoder=(4,) * 5), 3, 2)
    state = dense.encoder.trunk.state_dict()
    theirs = {name.replace(".layers.", "."): torch.full_like(value, 0.5 if value.is_floating_point() else 1)
              for name, value in state.items()}  # fmt: skip
    assert "features.denseblock1.denselayer1.norm1.weight" in theirs
    load_encoder_weights(dense, {**theirs, "classifier.weight": torch.ones(2, 1024)})
    assert bool((dense.encoder.trunk.features.denseblock4.denselayer16.layers.conv2.weight == 0.5).all())
    efficient = build(EncoderUNetConfig(dimensions=2, encoder="efficientnet-b0", decoder=(4,) * 5), 3, 2)
    state = efficient.encoder.trunk.state_dict()
    theirs = {}
    for name, value in state.items():
        parts = name.split(".")
        theirs[".".join([parts[0], *parts[2:]] if parts[0] == "_blocks" else parts)] = torch.zeros_like(value)
    assert "_blocks.15._depthwise_conv.weight" in theirs
    load_encoder_weights(efficient, {**theirs, "_conv_head.weight": torch.ones(1), "_bn1.weight": torch.ones(1)})
    assert all(not value.any() for value in efficient.encoder.trunk.state_dict().values())


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_first_convolution_answers_equal_channels_as_before(channels: int) -> None:
    network, weights = _deeplab(channels), _weights()
    line = load_encoder_weights(network, weights)
    assert "adapted from 3 channels" in line
    gray = _image(1, 1, 16, 16)
    expected = nn.functional.conv2d(gray.expand(1, 3, 16, 16), weights["conv1.weight"])
    found = nn.functional.conv2d(gray.expand(1, channels, 16, 16), network.encoder.trunk.conv1.weight)
    assert _close(found, expected)


def test_statistics_are_passed_over_where_none_are_kept() -> None:
    network, weights = _deeplab(normalization="group"), _weights()
    load_encoder_weights(network, {name: value.half() if value.is_floating_point() else value
                                   for name, value in weights.items()})  # fmt: skip
    assert torch.equal(network.encoder.trunk.bn1.weight, weights["bn1.weight"].half().float())


def test_weights_that_do_not_fit_are_refused_and_nothing_is_changed() -> None:
    network, weights = _deeplab(), _weights()
    before = copy.deepcopy(network.state_dict())
    wrong: list[tuple[dict[str, Tensor], str]] = [
        (
            {**weights, "layer1.0.conv1.weight": torch.ones(4, 4, 1, 1)},
            r"'layer1.0.conv1.weight' should be \(4, 4, 3, 3\), is \(4, 4, 1, 1\)",
        ),
        ({k: v for k, v in weights.items() if k != "bn1.weight"}, r"lack 'bn1.weight' \(4,\)"),
        ({**weights, "layer9.weight": torch.ones(2)}, r"no tensor 'layer9.weight' \(2,\)"),
        ({**weights, "bn1.weight": torch.full((4,), torch.nan)}, "'bn1.weight' should be finite"),
        ({**weights, "conv1.weight": torch.ones(4, 3, 3, 3)}, r"'conv1.weight' should be \(4, 3, 7, 7\)"),
        ({}, "lack 'conv1.weight'"),
    ]
    for tensors, message in wrong:
        with pytest.raises(ModelError, match=message):
            load_encoder_weights(network, tensors)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(ModelError, match="found UNet; leave them out"):
        load_encoder_weights(build(UNetConfig(encoder=((2,),)), 1, 2), weights)


def test_files_of_weights_are_safetensors_and_nothing_else(tmp_path: Any) -> None:
    weights = _weights()
    save_file(weights, tmp_path / "encoder.safetensors")
    found = read_encoder_weights(tmp_path / "encoder.safetensors")
    assert set(found) == set(weights)
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert load_encoder_weights(_deeplab(), found).startswith("encoder begins with")
    torch.save(weights, tmp_path / "encoder.pt")
    with pytest.raises(ModelError, match="pickle or an archive"):
        read_encoder_weights(tmp_path / "encoder.pt")
    (tmp_path / "old.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ModelError, match="pickle or an archive"):
        read_encoder_weights(tmp_path / "old.pth")
    (tmp_path / "text").write_text("weights, but not in this form")
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_encoder_weights(tmp_path / "text")
    whole = (tmp_path / "encoder.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="truncated or corrupt"):
        read_encoder_weights(tmp_path / "cut.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        read_encoder_weights(tmp_path / "none.safetensors")
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ModelError, match="holds no tensors"):
        read_encoder_weights(tmp_path / "empty.safetensors")


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("size", [1, 2, 4, 7])
@pytest.mark.parametrize("rate", [1, 3, 6, 18])
def test_dilated_taps_beyond_the_map_change_nothing(dimensions: int, size: int, rate: int) -> None:
    parts = {"kernel_size": (3,) * dimensions, "padding": rate, "dilation": rate}
    plain = LAYERS[dimensions].convolution(5, 3, **parts)
    ours = LAYERS[dimensions].dilated(5, 3, **parts)
    ours.load_state_dict(plain.state_dict())
    maps = torch.randn(2, 5, *(size + axis for axis in range(dimensions)), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ours(maps), plain(maps), atol=1e-5)
    assert ours(maps).shape == plain(maps).shape


@pytest.mark.slow
def test_a_pyramid_wider_than_its_map_is_finite_in_bf16() -> None:
    network = build(DeepLabV3PlusConfig(encoder="resnet18", width=12, aspp=48, low_level=9, flat_axes=(2,)), 1, 2)
    image = torch.randn(2, 1, 64, 64, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network.train()(image)
        logits.float().square().mean().backward()
        assert bool(torch.isfinite(logits).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters())
