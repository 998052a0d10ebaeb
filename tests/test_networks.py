from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

import vol3d.networks
from vol3d.config import UNetConfig
from vol3d.errors import ModelError
from vol3d.networks import (
    NetworkGeometry,
    UNet,
    build,
    current_statistics,
    flops,
    freeze_statistics,
    initialise,
    network_geometry,
    paper_parameter_count,
    parameter_count,
    reestimate,
    use_current_statistics,
)

PAPER = UNetConfig(padding="valid")
UNET_2D = UNetConfig(
    dimensions=2,
    encoder=((64, 64), (128, 128), (256, 256), (512, 512), (1024, 1024)),
    padding="valid",
    normalization="none",
    up_channels="halve",
    up_bias=True,
)
SMALL = ((4, 8), (8, 8))
ANISOTROPIC: dict[str, Any] = {
    "encoder": ((3, 4), (4, 4), (4, 5)),
    "kernels": ((3, 3, 1), (3, 3, 3), (3, 3, 3)),
    "pooling": ((2, 2, 1), (2, 2, 2)),
}
FAMILY: dict[str, dict[str, Any]] = {
    "3d batch": {"encoder": SMALL},
    "3d none valid": {"encoder": SMALL, "padding": "valid", "normalization": "none"},
    "3d batch valid interpolate": {"encoder": SMALL, "padding": "valid", "up": "interpolate"},
    "3d instance halve": {"encoder": SMALL, "normalization": "instance", "up_channels": "halve", "up_bias": True},
    "3d group interpolate": {"encoder": SMALL, "normalization": "group", "up": "interpolate"},
    "3d anisotropic": ANISOTROPIC,
    "3d anisotropic valid": {**ANISOTROPIC, "padding": "valid", "normalization": "none"},
    "3d one level": {"encoder": ((4,),)},
    "2d batch halve": {"dimensions": 2, "encoder": (*SMALL, (16, 16)), "up_channels": "halve"},
    "2d none valid": {"dimensions": 2, "encoder": SMALL, "padding": "valid", "normalization": "none"},
    "2d instance interpolate": {"dimensions": 2, "encoder": SMALL, "normalization": "instance", "up": "interpolate"},
}
family = pytest.mark.parametrize("parts", FAMILY.values(), ids=FAMILY.keys())


def _network(parts: dict[str, Any], seed: int = 0, classes: int = 3) -> UNet:
    return build(UNetConfig(**parts), 2, classes, generator=torch.Generator().manual_seed(seed))


def _image(network: UNet, size: tuple[int, ...], samples: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    dtype = next(network.parameters()).dtype
    return torch.randn(samples, network.in_channels, *size, generator=generator, dtype=dtype)


# The papers' figures


def test_3d_unet_of_the_paper() -> None:
    network = build(PAPER, 3, 3)
    assert paper_parameter_count(network) == 19_069_955
    assert parameter_count(network) == 19_069_955 + 2 * (32 + 64 + 64 + 128 + 128 + 256 + 256 + 512 + 512 + 256 + 128)
    assert network.margin == (88, 88, 88)
    assert network.total_stride == (8, 8, 8)
    assert network.output_size((132, 132, 116)) == (44, 44, 28)
    assert network.geometry.smallest == (92, 92, 92)
    assert [n for n in range(140) if network.geometry.is_valid((n, 92, 92))] == [92, 100, 108, 116, 124, 132]
    assert round(flops(network, (132, 132, 116)) / 1e9) == 533


def test_3d_unet_answers_in_the_paper_shape_on_the_meta_device() -> None:
    with torch.device("meta"):
        network = UNet(UNetConfig(padding="valid"), 3, 3)
        assert network(torch.empty(1, 3, 132, 132, 116)).shape == (1, 3, 44, 44, 28)


def test_2d_unet_of_the_paper() -> None:
    network = build(UNET_2D, 1, 2)
    assert parameter_count(network) == paper_parameter_count(network) == 31_030_658
    assert network.output_size((572, 572)) == (388, 388)
    convolutions = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(convolutions) == 23


def test_2d_unet_with_batch_norm_and_one_class() -> None:
    config = UNET_2D.model_copy(update={"normalization": "batch", "padding": "same"})
    assert parameter_count(build(config, 1, 1)) == 31_042_369


# Sizes


def _sizes(limit: int, dimensions: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(1, limit)] * dimensions)


@st.composite
def _configs(draw: st.DrawFn, **fixed: Any) -> UNetConfig:
    dimensions = draw(st.sampled_from([2, 3]))
    levels = draw(st.integers(1, 3))
    sizes = {"kernels": st.sampled_from([1, 3, 5]), "pooling": st.sampled_from([1, 2, 3])}
    drawn = {
        name: tuple(draw(st.tuples(*[size] * dimensions)) for _ in range(levels - (name == "pooling")))
        for name, size in sizes.items()
    }
    widths = st.lists(st.integers(2, 3), min_size=1, max_size=2).map(tuple)
    return UNetConfig(
        dimensions=dimensions,  # type: ignore[arg-type]
        encoder=tuple(draw(widths) for _ in range(levels)),
        up=draw(st.sampled_from(["transposed", "interpolate"])),
        up_channels=draw(st.sampled_from(["keep", "halve"])),
        **{"padding": draw(st.sampled_from(["valid", "same"])), "normalization": "none", **drawn, **fixed},  # type: ignore[arg-type]
    )


def _walk(config: UNetConfig, axis: int, n: int) -> int | None:
    """Size along one axis after a valid network, layer by layer; None where some layer cannot take it."""
    kernels = config.kernels or ((3,) * config.dimensions,) * len(config.encoder)
    pooling = config.pooling or ((2,) * config.dimensions,) * (len(config.encoder) - 1)
    sizes = []
    for level, widths in enumerate(config.encoder):
        n -= len(widths) * (kernels[level][axis] - 1)
        if n < 1:
            return None
        if level < len(pooling):
            sizes.append(n)
            if n % pooling[level][axis]:
                return None
            n //= pooling[level][axis]
    for level in reversed(range(len(pooling))):
        factor = pooling[level][axis]
        n *= factor
        if config.up == "interpolate":
            n -= 2 * (factor // 2)
        assert (sizes[level] - n) % 2 == 0
        n -= len(config.encoder[level]) * (kernels[level][axis] - 1)
        if n < 1:
            return None
    return n


@settings(deadline=None)
@given(_configs(padding="valid"), st.integers(1, 150))
def test_valid_sizes_are_those_that_pass_layer_by_layer(config: UNetConfig, n: int) -> None:
    geometry = network_geometry(config)
    for axis in range(config.dimensions):
        size = list(geometry.smallest)
        size[axis] = n
        expected = _walk(config, axis, n)
        assert geometry.is_valid(size) == (expected is not None)
        if expected is not None:
            assert geometry.output_size(size)[axis] == expected == n - geometry.margin[axis]
            assert geometry.margin[axis] % 2 == 0


@settings(deadline=None)
@given(st.data())
def test_network_and_geometry_agree_on_the_meta_device(data: st.DataObject) -> None:
    config = data.draw(_configs())
    geometry = network_geometry(config)
    at_least = data.draw(_sizes(20, config.dimensions))
    size = geometry.input_size(at_least)
    with torch.device("meta"):
        network = UNet(config, 1, 2)
        logits = network(torch.empty(1, 1, *size))
    assert tuple(logits.shape) == (1, 2, *geometry.output_size(size))
    assert network.geometry == geometry


@settings(deadline=None)
@given(_configs(), st.data())
def test_input_and_output_sizes_are_inverse(config: UNetConfig, data: st.DataObject) -> None:
    geometry = network_geometry(config)
    wanted = data.draw(_sizes(200, config.dimensions))
    size = geometry.input_size(wanted)
    given_back = geometry.output_size(size)
    for axis, (got, want) in enumerate(zip(given_back, wanted, strict=True)):
        assert want <= got
        assert got == want or got - want < geometry.total_stride[axis] or size[axis] == geometry.smallest[axis]
    assert geometry.input_size(given_back) == size
    assert geometry.largest_input(size) == size
    larger = [n + stride - 1 for n, stride in zip(size, geometry.total_stride, strict=True)]
    assert geometry.largest_input(larger) == (tuple(larger) if geometry.padded else size)


@pytest.mark.parametrize(("normalization", "fewer"), [("batch", 31), ("instance", 31), ("none", 0)])
def test_convolutions_before_a_normalisation_can_do_without_a_bias(normalization: Any, fewer: int) -> None:
    configs = [UNetConfig(encoder=((4, 5), (6, 6)), normalization=normalization, bias=bias) for bias in (True, False)]
    plain, without = (build(config, 1, 2) for config in configs)
    assert parameter_count(plain) - parameter_count(without) == fewer  # 4 + 5 + 6 + 6 and, on the way up, 5 + 5
    assert without.head.bias is not None


def test_invalid_sizes_are_refused_with_the_nearest_valid_ones() -> None:
    network = UNet(UNetConfig(encoder=SMALL, padding="valid"), 1, 2)
    geometry = network.geometry
    assert (geometry.margin, geometry.smallest) == ((16,) * 3, (18,) * 3)
    with pytest.raises(
        ModelError, match=r"21×18×7 voxels; X: found 21, nearest valid 20 or 22 .*; Z: found 7, nearest"
    ):
        network.output_size((21, 18, 7))
    with pytest.raises(ModelError, match=r"n ≡ 0 \(mod 2\), n ≥ 18"):
        network(torch.zeros(1, 1, 18, 18, 19))
    with pytest.raises(ModelError, match="3 axes, found 18×18"):
        network.input_size((18, 18))
    with pytest.raises(ModelError, match="at least 18×18×18"):
        geometry.largest_input((17, 30, 30))
    with pytest.raises(ModelError, match="found 0, nearest valid 1 "):
        UNet(UNetConfig(encoder=SMALL), 1, 2).output_size((0, 4, 4))
    with pytest.raises(ModelError, match=r"2 channels, 3 spatial axes\), found shape \(1, 1, 18, 18, 18\)"):
        UNet(UNetConfig(encoder=SMALL), 2, 2)(torch.zeros(1, 1, 18, 18, 18))


def test_rule_in_words() -> None:
    assert network_geometry(PAPER).rule(2) == "n ≡ 4 (mod 8), n ≥ 92"
    assert network_geometry(UNetConfig()).rule(0) == "n ≥ 1"
    assert NetworkGeometry((2, 2), (1, 1), (3, 3), padded=False).rule(0) == "n ≥ 3"


def test_padding_never_leaves_a_single_voxel() -> None:
    geometry = network_geometry(UNetConfig())
    assert geometry.padded_size((1, 8, 8)) == (16, 16, 16)
    assert geometry.padded_size((1, 9, 8)) == (8, 16, 8)
    assert network_geometry(PAPER).padded_size((92, 92, 100)) == (92, 92, 100)


def test_geometry_and_configuration_need_no_torch() -> None:
    code = "import sys, vol3d.networks; assert 'torch' not in sys.modules and 'monai' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = vol3d.networks.no_such_name


# The contract of the family


@family
def test_any_size_that_is_valid_gives_the_promised_shape(parts: dict[str, Any]) -> None:
    network = _network(parts).eval()
    dimensions = network.dimensions
    if network.geometry.padded:
        sizes = [(13, 7, 9)[:dimensions], (1, 6, 5)[:dimensions], (1, 1, 1)[:dimensions]]
    else:
        sizes = [network.input_size((1,) * dimensions), network.input_size((5, 2, 3)[:dimensions])]
    for size in sizes:
        with torch.no_grad():
            logits = network(_image(network, size))
        assert logits.shape == (2, 3, *network.output_size(size))
        assert torch.isfinite(logits).all()


@family
def test_gradient_reaches_every_parameter(parts: dict[str, Any]) -> None:
    network = _network(parts).train()
    image = _image(network, network.input_size((6,) * network.dimensions))
    (network(image) ** 2).sum().backward()
    names = {name: parameter.grad for name, parameter in network.named_parameters()}
    for name, gradient in names.items():
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
    if network.config.normalization == "none":  # a bias before a normalisation has gradient 0 by construction
        assert all(gradient.abs().sum() > 0 for gradient in names.values() if gradient is not None)
    assert all(g.abs().sum() > 0 for name, g in names.items() if g is not None and name.endswith("weight"))


@family
def test_saved_and_loaded_state_gives_equal_outputs(parts: dict[str, Any]) -> None:
    network, other = _network(parts, seed=1), _network(parts, seed=2).eval()
    image = _image(network, network.input_size((4,) * network.dimensions))
    network.train()(image)  # moves running statistics
    network.eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(network(image), other(image))


@family
def test_first_weights_are_a_function_of_the_generator(parts: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    one, two, other = (_network(parts, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    assert not torch.equal(one.head.weight, other.head.weight)
    one.train()(_image(one, one.input_size((4,) * one.dimensions)))
    initialise(one, torch.Generator().manual_seed(5))
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


@family
def test_channels_last_and_bfloat16_give_the_same_answer(parts: dict[str, Any]) -> None:
    network = _network(parts).eval()
    image = _image(network, network.input_size((6,) * network.dimensions))
    layout = torch.channels_last if network.dimensions == 2 else torch.channels_last_3d
    with torch.no_grad():
        expected = network(image)
        assert torch.allclose(network(image.to(memory_format=layout)), expected, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(image).float()
    assert (rounded - expected).abs().max() < 0.1 * expected.abs().max() + 0.05


def test_he_normal_spread() -> None:
    network = build(UNetConfig(encoder=((32, 64), (64, 128))), 16, 3)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            variance = 2 / (module.in_channels * module.kernel_size[0] ** 3)
        elif isinstance(module, nn.ConvTranspose3d):
            variance = 2 / module.in_channels
        else:
            continue
        assert module.weight.var().item() == pytest.approx(variance, rel=0.35 if module is network.head else 0.06)
        assert module.bias is None or not module.bias.any()


def test_same_network_at_aligned_sizes_is_not_touched_by_padding() -> None:
    network = _network({"encoder": SMALL, "normalization": "none"}).double()
    image = _image(network, (8, 8, 8), samples=1)
    grown = nn.functional.pad(image, (0, 1, 0, 1, 0, 1), mode="replicate")
    with torch.no_grad():
        assert torch.equal(network(grown[..., :8, :8, :8]), network(image))
        assert torch.allclose(
            network(image[..., :7]), network(torch.cat([image[..., :7], image[..., 6:7]], -1))[..., :7]
        )


@pytest.mark.parametrize(
    "parts",
    [
        {"kernels": ((3, 3, 2), (3, 3, 3)), "encoder": SMALL},
        {"pooling": ((2, 2),), "encoder": SMALL},
        {"encoder": ()},
        {"encoder": ((0, 1),)},
        {"padding": "reflect"},
    ],
)
def test_parts_that_make_no_network_are_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(parts))):
        UNetConfig(**parts)


def test_a_network_without_channels_or_classes_is_refused() -> None:
    with pytest.raises(ModelError, match="at least one channel"):
        UNet(UNetConfig(), 2, 0)
    with pytest.raises(ModelError, match="at least one channel"):
        UNet(UNetConfig(), 0, 2)


# Law 3: tiled equals whole


def _check_law_3(network: UNet, tiles: int, generator: torch.Generator) -> None:
    size = network.input_size(tuple(stride + 4 for stride in network.total_stride))
    smallest = network.geometry.smallest
    image = _image(network, size, samples=1)
    with torch.no_grad():
        whole = network(image)
        for _ in range(tiles):
            starts = [
                stride * int(torch.randint((n - least) // stride + 1, (), generator=generator))
                for n, least, stride in zip(size, smallest, network.total_stride, strict=True)
            ]
            tile, expected = image, whole
            for axis, (start, least, margin) in enumerate(zip(starts, smallest, network.margin, strict=True)):
                tile = tile.narrow(2 + axis, start, least)
                expected = expected.narrow(2 + axis, start, least - margin)
            assert torch.allclose(network(tile), expected, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(_configs(padding="valid"), st.integers(0, 99))
def test_law_3_a_crop_at_the_stride_answers_like_the_whole(config: UNetConfig, seed: int) -> None:
    assume(max(network_geometry(config).smallest) <= (60 if config.dimensions == 3 else 200))
    network = build(config, 1, 2, generator=torch.Generator().manual_seed(seed)).double().eval()
    _check_law_3(network, 3, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("up", ["transposed", "interpolate"])
def test_law_3_with_stored_batch_statistics(up: str) -> None:
    network = _network({**ANISOTROPIC, "padding": "valid", "up": up}).double()
    reestimate(network, [_image(network, network.geometry.smallest)])
    _check_law_3(network.eval(), 5, torch.Generator().manual_seed(0))


def test_a_crop_off_the_stride_answers_differently() -> None:
    network = _network({"encoder": SMALL, "padding": "valid", "normalization": "none"}).double()
    image = _image(network, (20, 18, 18), samples=1)
    shifted = torch.cat([image[:, :, 1:], image[:, :, :1]], 2)
    with torch.no_grad():
        assert not torch.allclose(network(shifted)[:, :, :3], network(image)[:, :, 1:4], atol=1e-3)


# Counting


def test_flops_are_twice_the_multiply_adds() -> None:
    network = UNet(UNetConfig(encoder=((4,), (5,)), kernels=((3, 3, 1), (1, 1, 1)), normalization="group"), 2, 3)
    voxels = 8 * 6 * 4
    expected = 2 * (voxels * (2 * 4 * 9 + 9 * 4 * 9 + 4 * 3) + voxels // 8 * 4 * 5 + voxels * 5 * 5)
    assert flops(network, (8, 6, 4)) == expected
    with pytest.raises(ModelError, match="nearest valid"):
        flops(UNet(UNetConfig(padding="valid"), 1, 2), (100, 100, 99))


# Batch statistics


def test_current_statistics_are_those_of_the_input() -> None:
    network = _network({"encoder": SMALL})
    image = _image(network, (8, 8, 8), samples=1)
    with torch.no_grad():
        expected = copy.deepcopy(network).train()(image)
        stored = copy.deepcopy(network.state_dict())
        running = network.eval()(image)
        with current_statistics(network):
            assert torch.equal(network(image), expected)
        assert torch.equal(network(image), running)
        assert not torch.allclose(running, expected)
        assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())
        use_current_statistics(network)
        assert torch.equal(network.eval()(image), expected)


def test_reestimated_statistics_are_the_average_over_batches() -> None:
    network = _network({"encoder": ((4,),)}).train()
    network(100 * _image(network, (6, 6, 6)))
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm3d))
    batches = [_image(network, (6, 6, 6)) + shift for shift in (0, 1, 2)]
    with torch.no_grad():
        maps = [network.encoder[0][0](batch).movedim(1, 0).flatten(1) for batch in batches]
    assert reestimate(network, iter(batches)) == 3
    assert network.training
    assert norm.momentum == 0.1
    assert torch.allclose(norm.running_mean, torch.stack([m.mean(1) for m in maps]).mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, torch.stack([m.var(1) for m in maps]).mean(0), rtol=1e-4)


def test_frozen_statistics_are_used_in_training_and_stay() -> None:
    network = _network({"encoder": ((4,),)}).train()
    image = _image(network, (6, 6, 6))
    network(100 * image)
    measured = {name: value + 1 for name, value in network.state_dict().items()}
    freeze_statistics(network, measured)
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm3d))
    kept = norm.running_mean.clone()
    taken = {name for name, value in network.state_dict().items() if torch.equal(measured[name], value)}
    assert taken == {name for name in measured if "running" in name}
    answer = network(image)
    assert torch.equal(norm.running_mean, kept)
    assert torch.equal(network.eval()(image), answer)
    network.train()(image)
    assert not torch.equal(norm.running_mean, kept)


def test_reestimate_without_batches_or_batch_norm_changes_nothing() -> None:
    for normalization in ("batch", "instance"):
        network = _network({"encoder": SMALL, "normalization": normalization})
        network.train()(_image(network, (8, 8, 8)))
        network.eval()
        stored = copy.deepcopy(network.state_dict())
        assert reestimate(network, []) == 0
        assert not network.training
        assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())
    assert reestimate(network, [_image(network, (8, 8, 8))]) == 0
