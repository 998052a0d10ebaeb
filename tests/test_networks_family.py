"""What every kind of network must hold, and what the papers of FCN, U-Net++ and UNet 3+ say of each."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import pytest
import torch
from network_parts import SMALL, outputs, random_image, small_network
from pydantic import ValidationError
from torch import Tensor, nn

from vol3d.config import FCNConfig, UNet3PlusConfig, UNetPlusPlusConfig
from vol3d.errors import ModelError
from vol3d.networks import (
    FCN,
    UNet3Plus,
    UNetPlusPlus,
    activation_values,
    build,
    flops,
    initialise,
    network_geometry,
    parameter_count,
    prune,
)
from vol3d.networks.blocks import LinearUp, interpolation
from vol3d.networks.network import Network, cut_end

SIZES = [(13, 7, 9), (1, 6, 5), (1, 1, 1)]
SLOW = (("encoder unet", 3), ("encoder unet flat", 2))
family = pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        pytest.param(name, d, id=f"{name} {d}-D", marks=[pytest.mark.slow] if (name, d) in SLOW else [])
        for name in SMALL
        for d in (2, 3)
    ],
)
each_dimension = pytest.mark.parametrize("dimensions", [2, 3])


pytestmark = pytest.mark.usefixtures("single_threaded", "known_seed")


def _size(network: Network, at_least: int) -> tuple[int, ...]:
    return network.input_size((at_least,) * network.dimensions)


# The contract of the family


@family
def test_any_size_gives_the_promised_shape(name: str, dimensions: int) -> None:
    network = small_network(name, dimensions).eval()
    for wanted in SIZES:
        size = network.input_size(wanted[:dimensions])
        with torch.no_grad():
            logits = network(random_image(network, size))
        assert logits.shape == (2, 3, *network.output_size(size))
        assert torch.isfinite(logits).all()


@family
def test_training_answers_as_many_logits_as_there_are_heads(name: str, dimensions: int) -> None:
    network = small_network(name, dimensions)
    size = _size(network, 5)
    answer = network.train()(random_image(network, size, samples=1))
    assert isinstance(answer, Tensor) == (network.heads == 1)
    assert [tuple(logits.shape) for logits in outputs(answer)] == [(1, 3, *network.output_size(size))] * network.heads
    assert isinstance(network.eval()(random_image(network, size)), Tensor)


@family
def test_gradient_reaches_every_parameter(name: str, dimensions: int) -> None:
    network = small_network(name, dimensions)
    answer = network.train()(random_image(network, _size(network, 9)))
    torch.stack([(logits**2).sum() for logits in outputs(answer)]).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        if network.config.normalization == "none" or key.endswith("weight"):  # a norm takes its bias' gradient
            assert parameter.grad.abs().sum() > 0, key


@family
def test_saved_and_loaded_state_gives_equal_outputs(name: str, dimensions: int) -> None:
    network, other = small_network(name, dimensions, seed=1), small_network(name, dimensions, seed=2).eval()
    image = random_image(network, _size(network, 4))
    network.train()(image)  # moves running statistics
    network.eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(network(image), other(image))


@family
def test_evaluation_is_deterministic_and_each_image_for_itself(name: str, dimensions: int) -> None:
    network = small_network(name, dimensions).eval()
    image = random_image(network, _size(network, 5))
    with torch.no_grad():
        both = network(image)
        assert torch.equal(network(image), both)
        assert torch.allclose(network(image[:1]), both[:1], atol=1e-5)
    assert not torch.equal(both[0], both[1])


@family
def test_first_weights_are_a_function_of_the_generator(name: str, dimensions: int) -> None:
    before = torch.get_rng_state()
    one, two, other = (small_network(name, dimensions, seed) for seed in (5, 5, 6))
    initialise(other, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)
    third = small_network(name, dimensions, seed=6).state_dict()
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key
        assert torch.equal(value, other.state_dict()[key]), key
    assert any(not torch.equal(value, third[key]) for key, value in one.state_dict().items())


@family
def test_bfloat16_gives_about_the_same_answer(name: str, dimensions: int) -> None:
    network = small_network(name, dimensions).eval()
    image = random_image(network, _size(network, 4), samples=1)
    with torch.no_grad():
        expected = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(image).float()
    assert (rounded - expected).abs().max() < 0.05 * expected.abs().max() + 0.02


@family
def test_a_small_network_is_fast(name: str, dimensions: int) -> None:
    network = small_network(name, dimensions).eval()
    image = random_image(network, _size(network, 12), samples=1)
    start = time.process_time()
    with torch.no_grad():
        network(image)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("name", [name for name in SMALL if any(network_geometry(SMALL[name](2)).margin)])
@each_dimension
def test_a_tile_answers_like_the_whole_where_nothing_is_padded(name: str, dimensions: int) -> None:
    network = small_network(name, dimensions).double().eval()
    stride = network.total_stride
    size = _size(network, 3)
    larger = network.input_size([n + step for n, step in zip(network.output_size(size), stride, strict=True)])
    image = random_image(network, larger, samples=1)
    with torch.no_grad():
        tile, expected = image, network(image)
        for axis, step in enumerate(stride):
            tile = tile.narrow(2 + axis, step, size[axis])
            expected = expected.narrow(2 + axis, step, size[axis] - network.margin[axis])
        assert torch.allclose(network(tile), expected, atol=1e-9)


@family
def test_counting_works_and_leaves_the_network_as_it_was(name: str, dimensions: int) -> None:
    network = small_network(name, dimensions)
    network.eval()
    next(network.children()).train()
    modes = {module: module.training for module in network.modules()}
    state = copy.deepcopy(network.state_dict())
    size = _size(network, 5)
    work, values = flops(network, size), activation_values(network, size)
    logits = math.prod(network.output_size(size)) * network.classes * network.heads
    assert work > 0
    assert values > logits
    assert {module: module.training for module in network.modules()} == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    network.train()
    assert (flops(network, size), activation_values(network, size)) == (work, values)


# FCN

VGG_16 = 14_714_688  # weights and biases of VGG-16's thirteen convolutions (Simonyan & Zisserman 2015)
FC_6, FC_7 = 512 * 4096 * 49 + 4096, 4096 * 4096 + 4096
SCORE, POOL_4, POOL_3 = 4096 * 21 + 21, 512 * 21 + 21, 256 * 21 + 21
LEARNED_UP = 21 * 21 * 4 * 4


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("32s", VGG_16 + FC_6 + FC_7 + SCORE),
        ("16s", VGG_16 + FC_6 + FC_7 + SCORE + POOL_4 + LEARNED_UP),
        ("8s", VGG_16 + FC_6 + FC_7 + SCORE + POOL_4 + POOL_3 + 2 * LEARNED_UP),
    ],
)
def test_fcn_of_the_paper(variant: str, expected: int) -> None:
    config = FCNConfig.model_validate({"dimensions": 2, "variant": variant, "normalization": "none"})
    with torch.device("meta"):
        network = FCN(config, 3, 21)
        assert network(torch.empty(1, 3, 500, 375)).shape == (1, 21, 500, 375)
    assert parameter_count(network.trunk) == VGG_16
    assert parameter_count(network) == expected
    assert round(expected / 1e6) == 134  # the paper's table 1
    assert network.total_stride == (32, 32)


def test_the_classifier_kernel_follows_the_dimensions() -> None:
    assert FCNConfig(dimensions=2).classifier_sizes == (7, 7)
    assert FCNConfig().classifier_sizes == (3, 3, 3)
    flat = FCNConfig(widths=(4, 4, 4), convolutions=(1, 1, 1), kernels=((3, 3, 1),) * 3, classifier_kernel=5)
    assert flat.classifier_sizes == (5, 5, 1)
    with pytest.raises(ValidationError, match="must be odd, found 4"):
        FCNConfig(classifier_kernel=4)
    with pytest.raises(ValidationError, match="needs at least 3 levels, found 2"):
        FCNConfig(widths=(4, 4), convolutions=(1, 1))


@pytest.mark.parametrize("factor", [(2, 2), (1, 2), (3, 2), (4, 1), (2, 1, 3), (2, 2, 2), (5, 4, 1)])
def test_a_learned_up_sampling_starts_as_linear_interpolation(factor: tuple[int, ...]) -> None:
    up = LinearUp(3, factor).double()
    up.reset_parameters_linear()
    coarse = torch.randn(2, 3, *(5,) * len(factor), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fine, expected = up(coarse), interpolation(factor)(coarse)
    assert fine.shape == expected.shape == (2, 3, *(5 * f for f in factor))
    for axis, f in enumerate(factor):  # beyond the border one sees zeros, the other the border
        fine, expected = (maps.narrow(2 + axis, f, 3 * f) for maps in (fine, expected))
    assert torch.allclose(fine, expected, atol=1e-12)


@each_dimension
@pytest.mark.parametrize("name", ["fcn 8s", "fcn 16s", "fcn 32s", "fcn anisotropic"])
def test_fcn_adds_the_scores_of_its_levels(name: str, dimensions: int) -> None:
    network = small_network(name, dimensions).double().eval()
    scores = [network.score, *network.level_scores]
    assert len(scores) == 1 + {"32s": 0, "16s": 1, "8s": 2}[network.config.variant]
    image = random_image(network, (12, 9, 7)[:dimensions])
    with torch.no_grad():
        parts = []
        for kept in range(len(scores)):
            alone = copy.deepcopy(network)
            for position, score in enumerate([alone.score, *alone.level_scores]):
                if position != kept:
                    score.weight.zero_()
                    score.bias.zero_()
            parts.append(alone(image))
            assert parts[-1].abs().sum() > 0
        assert torch.allclose(torch.stack(parts).sum(0), network(image), atol=1e-12)


def test_fcn_up_samples_by_the_factors_of_its_poolings() -> None:
    pooling = ((2, 2, 1), (3, 2, 1), (2, 2, 2), (1, 3, 2))
    config = FCNConfig(widths=(4,) * 4, convolutions=(1,) * 4, pooling=pooling, classifier=4)
    network = build(config, 1, 2)
    assert [up.factor for up in network.ups] == [(1, 3, 2), (2, 2, 2)]
    assert network.up_to_full.scale_factor == (6, 4, 1)
    assert network.total_stride == (12, 24, 4)


def test_fcn_drops_only_in_training() -> None:
    image = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    for dropout in (0.0, 0.5):
        network = build(
            FCNConfig(dimensions=2, widths=(4,) * 3, convolutions=(1,) * 3, classifier=16, dropout=dropout), 2, 3
        )
        assert torch.equal(network.train()(image), network(image)) == (dropout == 0)
        assert torch.equal(network.eval()(image), network(image))


# U-Net++


def _plus_plus_count(config: UNetPlusPlusConfig, in_channels: int, classes: int) -> int:
    """Parameters of a U-Net++ without norms, from the paper's formula for its nodes."""
    widths, depth = config.widths, config.prune or config.levels - 1
    total = 0
    for level in range(depth + 1):
        width, taps = widths[level], math.prod(config.level_kernels[level])
        for column in range(depth + 1 - level):
            entering = (column + 1) * width if column else ([in_channels, *widths][level])
            total += taps * entering * width + width + (config.convolutions - 1) * (taps * width * width + width)
            if column:
                up_taps = math.prod(config.level_pooling[level]) if config.up == "transposed" else 1
                total += up_taps * widths[level + 1] * width + width
    heads = depth if config.deep_supervision and not config.prune else 1
    return total + heads * (widths[0] * classes + classes)


def test_unet_plus_plus_of_the_paper() -> None:
    parts: dict[str, Any] = {"dimensions": 2, "normalization": "none"}
    with torch.device("meta"):
        plain = UNetPlusPlus(UNetPlusPlusConfig(**parts, deep_supervision=False), 1, 1)
        network = UNetPlusPlus(UNetPlusPlusConfig(**parts), 1, 1)
        logits = network.train()(torch.empty(1, 1, 97, 95))
    assert parameter_count(plain) == 9_041_601  # as the authors' code states; 9.04 M in the paper's table
    assert parameter_count(network) == 9_041_601 + 3 * 33
    assert [part.shape for part in logits] == [(1, 1, 97, 95)] * 4
    assert len(network.nodes) == 15


@pytest.mark.parametrize("up", ["transposed", "interpolate"])
@pytest.mark.parametrize("prune_to", [None, 1, 2])
@pytest.mark.parametrize("name", ["unet++", "unet++ anisotropic"])
@each_dimension
def test_unet_plus_plus_has_as_many_parameters_as_its_nodes(
    name: str, dimensions: int, prune_to: int | None, up: str
) -> None:
    changes = {"up": up, "prune": prune_to, "normalization": "none", "convolutions": 3}
    config = SMALL[name](dimensions).model_copy(update=changes)
    assert isinstance(config, UNetPlusPlusConfig)
    assert parameter_count(build(config, 2, 3)) == _plus_plus_count(config, 2, 3)


@each_dimension
def test_the_accurate_mode_averages_probabilities(dimensions: int) -> None:
    config = UNetPlusPlusConfig(dimensions=dimensions, widths=(3, 4, 5, 6), normalization="instance")
    network = build(config, 2, 3).double()
    image = random_image(network, (9, 6, 5)[:dimensions])
    with torch.no_grad():
        heads = network.train()(image)  # instance statistics are the same in both modes
        assert len(heads) == 3
        mean = torch.stack([logits.softmax(1) for logits in heads]).mean(0)
        assert torch.allclose(network.eval()(image).softmax(1), mean, atol=1e-12)
        assert torch.allclose(network(image).exp(), mean, atol=1e-12)
        fast = build(config.model_copy(update={"mode": "fast"}), 2, 3).double().eval()
        fast.load_state_dict(network.state_dict())
        assert torch.equal(fast(image), heads[0])


def test_the_heads_of_a_regression_are_averaged_as_they_are() -> None:
    network = build(UNetPlusPlusConfig(widths=(3, 4, 5), normalization="instance"), 1, 1).double()
    image = random_image(network, (4, 6, 5))
    with torch.no_grad():
        heads = network.train()(image)
        assert torch.allclose(network.eval()(image), (heads[0] + heads[1]) / 2, atol=1e-12)


@pytest.mark.parametrize("normalization", ["none", "batch", "group"])
@each_dimension
def test_a_pruned_network_answers_what_its_head_answered(dimensions: int, normalization: str) -> None:
    config = UNetPlusPlusConfig.model_validate(
        {"dimensions": dimensions, "widths": (3, 4, 5, 6), "normalization": normalization}
    )
    network = build(config, 2, 3)
    network.train()(random_image(network, (9, 8, 8)[:dimensions], seed=2))  # moves running statistics
    network.eval()
    seen: dict[int, Tensor] = {}
    for key, head in network.scores.items():
        head.register_forward_hook(lambda module, inputs, output, depth=int(key): seen.update({depth: output}))  # noqa: ARG005
    for size in [(16, 8, 8), (11, 3, 1)]:
        image = random_image(network, size[:dimensions])
        with torch.no_grad():
            network(image)
        before = math.inf
        for depth in (3, 2, 1):
            pruned_config, weights = prune(config, network.state_dict(), depth)
            pruned = build(pruned_config, 2, 3, generator=torch.Generator().manual_seed(9))
            pruned.load_state_dict(weights)
            with torch.no_grad():
                assert torch.equal(pruned.eval()(image), cut_end(seen[depth], size[:dimensions]))
            assert pruned.heads == 1
            assert parameter_count(pruned) < before
            before = parameter_count(pruned)
            assert prune(pruned_config, weights, depth)[1].keys() == weights.keys()


def test_pruning_to_a_head_that_is_not_there_is_refused() -> None:
    config = UNetPlusPlusConfig(widths=(3, 4, 5))
    weights = build(config, 1, 2).state_dict()
    for depth in (0, 3):
        with pytest.raises(ModelError, match=f"cannot prune to head {depth}: the network has head 1 2"):
            prune(config, weights, depth)
    with pytest.raises(ModelError, match="cannot prune to head 1: the network has head 2"):
        prune(*prune(config, weights, 2), 1)
    alone = config.model_copy(update={"deep_supervision": False})
    with pytest.raises(ModelError, match="train it with deep_supervision"):
        prune(alone, build(alone, 1, 2).state_dict(), 2)
    with pytest.raises(ValidationError, match="`prune` must be 1 to 2"):
        UNetPlusPlusConfig(widths=(3, 4, 5), prune=3)


# UNet 3+


def _three_plus_count(config: UNet3PlusConfig, in_channels: int, classes: int) -> int:
    """Parameters of a UNet 3+ with batch normalisation."""

    def convolution(entering: int, width: int, level: int, norm: int = 2) -> int:
        return math.prod(config.level_kernels[level]) * entering * width + width + norm * width

    widths, levels, together = config.widths, config.levels, config.joined * config.levels
    total, channels = 0, in_channels
    for level, width in enumerate(widths):
        total += convolution(channels, width, level) + (config.convolutions - 1) * convolution(width, width, level)
        channels = width
    for level in range(levels - 1):
        coarser = [together] * (levels - 2 - level) + [widths[-1]]
        total += sum(convolution(entering, config.joined, level) for entering in (*widths[: level + 1], *coarser))
        total += convolution(together, together, level)
    heads = [together] * (levels - 1) + [widths[-1]]
    total += sum(convolution(heads[i], classes, i, 0) for i in range(levels if config.deep_supervision else 1))
    return total + (widths[-1] * classes + classes if config.classification_guided else 0)


def test_unet3plus_of_the_paper() -> None:
    with torch.device("meta"):
        plain = UNet3Plus(UNet3PlusConfig(dimensions=2, deep_supervision=False), 3, 1)
        network = UNet3Plus(UNet3PlusConfig(dimensions=2), 3, 1)
        logits = network.train()(torch.empty(2, 3, 320, 319))
    assert parameter_count(plain) == 26_971_777  # 26.97 M in the paper's table
    assert parameter_count(network) == 26_971_777 + 3 * (9 * 320 + 1) + 9 * 1024 + 1
    assert [part.shape for part in logits] == [(2, 1, 320, 319)] * 5


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.parametrize("name", ["unet3+", "unet3+ anisotropic"])
@each_dimension
def test_unet3plus_has_as_many_parameters_as_its_convolutions(
    name: str, dimensions: int, supervised: bool, guided: bool
) -> None:
    changes = {"classification_guided": guided, "deep_supervision": supervised, "normalization": "batch"}
    config = SMALL[name](dimensions).model_copy(update=changes)
    assert isinstance(config, UNet3PlusConfig)
    assert parameter_count(build(config, 2, 3)) == _three_plus_count(config, 2, 3)


@each_dimension
def test_unet3plus_joins_all_levels(dimensions: int) -> None:
    """A decoder level changes when any level's map changes; each map arrives at the right place."""
    pooling = tuple((*(2,) * (dimensions - 1), size) for size in (1, 3, 2))
    config = UNet3PlusConfig(
        dimensions=dimensions, widths=(2, 3, 4, 5), joined=2, normalization="none", pooling=pooling
    )
    network = build(config, 1, 2)
    sizes = {
        (level, source): join[0](torch.zeros(1, 1, *_level_size(pooling, source))).shape[2:]
        for level in range(3)
        for source in range(4)
        for join in [network.joins[f"{level}_{source}"]]
    }
    assert all(tuple(size) == _level_size(pooling, level) for (level, _), size in sizes.items())
    fine = torch.zeros(1, 1, *_level_size(pooling, 0))
    fine[(0, 0, *(-1,) * dimensions)] = 1
    pooled = network.joins["2_0"][0](fine)
    assert pooled[(0, 0, *(-1,) * dimensions)] == pooled.sum() == 1  # the maximum, and in its own place


def _level_size(pooling: tuple[tuple[int, ...], ...], level: int) -> tuple[int, ...]:
    whole = [2 * math.prod(axis) for axis in zip(*pooling, strict=True)]
    return tuple(n // math.prod(step[axis] for step in pooling[:level]) for axis, n in enumerate(whole))


@each_dimension
def test_the_gate_scales_the_probability_of_each_class(dimensions: int) -> None:
    config = UNet3PlusConfig(
        dimensions=dimensions, widths=(3, 4, 5), joined=2, classification_guided=True, normalization="instance"
    )
    network = build(config, 2, 3).double().eval()
    open_gate = copy.deepcopy(network)
    open_gate.presence = None
    image = random_image(network, (9, 7, 5)[:dimensions])
    seen: list[Tensor] = []
    assert network.presence is not None
    network.presence.register_forward_hook(lambda module, inputs, output: seen.append(output))  # noqa: ARG005
    with torch.no_grad():
        gated, free = network(image), open_gate(image)
        presence = seen[0].flatten(2).max(2).values.sigmoid()
        expected = free.softmax(1) * presence.reshape(2, 3, *(1,) * dimensions)
        assert torch.allclose(gated.softmax(1), expected / expected.sum(1, keepdim=True), atol=1e-12)
        network.presence[1].weight.zero_()
        network.presence[1].bias.copy_(torch.tensor([50.0, -50.0, 50.0]))
        gated = network(image).softmax(1)
        assert gated[:, 1].max() < 1e-12
        assert torch.allclose(gated[:, 0] / gated[:, 2], free.softmax(1)[:, 0] / free.softmax(1)[:, 2], rtol=1e-9)


def test_the_gate_acts_on_every_head_and_learns_from_the_loss() -> None:
    network = small_network("unet3+ guided", 2)
    answers = network.train()(random_image(network, (8, 8)))
    assert len(answers) == network.heads == 3
    for logits in answers:
        network.zero_grad()
        nn.functional.cross_entropy(logits, torch.ones(2, 8, 8, dtype=torch.int64)).backward(retain_graph=True)
        assert network.presence[1].weight.grad.abs().sum() > 0


def test_the_gate_is_refused_for_one_class() -> None:
    with pytest.raises(ModelError, match="at least two classes, found one"):
        build(UNet3PlusConfig(classification_guided=True), 1, 1)
