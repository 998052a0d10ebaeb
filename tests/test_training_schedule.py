import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_parts import (
    one_thread,  # noqa: F401  a fixture
    tiny_network,
)

from vol3d.errors import ModelError
from vol3d.training import AveragedWeights, Schedule, make_optimizer
from vol3d.training.optimizer import forget_direction, optimizer_state, restore_optimizer, set_learning_rate


@given(
    iterations=st.integers(1, 5000),
    warmup=st.floats(0, 1),
    power=st.floats(0, 3),
    floor=st.floats(0.001, 1),
    data=st.data(),
)
def test_factor_rises_then_falls_and_stays_between_floor_and_one(iterations, warmup, power, floor, data):
    schedule = Schedule(iterations, warmup, power, floor)
    t = data.draw(st.integers(0, iterations - 1))
    factor, following = schedule.factor(t), schedule.factor(t + 1)
    assert 0 < factor <= 1 + 1e-12
    if t + 1 < schedule.warmup:
        assert following > factor
    elif t >= schedule.warmup:
        assert floor - 1e-12 <= following <= factor + 1e-12


def test_factor_by_hand():
    schedule = Schedule(10, warmup_fraction=0.2, power=1, floor=0.0)
    assert [schedule.factor(t) for t in (0, 1, 2, 6, 9, 10, 99)] == pytest.approx([0.5, 1, 1, 0.5, 0.125, 0, 0])


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"warmup_fraction": 2}, {"power": -1}, {"floor": -0.1}])
def test_impossible_schedules_are_refused(wrong):
    with pytest.raises(ValueError, match="expected iterations"):
        Schedule(**{"iterations": 10, **wrong})


def test_averages_of_constant_weights_stay_and_lie_between_else():
    network = tiny_network()
    averaged = AveragedWeights(network, 0.99)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for t in range(5):
        averaged.update(network, t)
    assert all(torch.equal(averaged.values[name], before[name]) for name in before)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_(1)
    averaged.update(network, 1000)
    for name, value in network.state_dict().items():
        share = 1.0 if not value.is_floating_point() else 0.01
        assert torch.allclose(averaged.values[name].double(), before[name].double() + share, atol=1e-6)


def test_averages_forget_the_first_weights_soon_and_decay_zero_copies():
    network = tiny_network()
    slow, copying = AveragedWeights(network, 0.999), AveragedWeights(network, 0.0)
    with torch.no_grad():
        network[1].running_mean += 10
    slow.update(network, 0)
    copying.update(network, 0)
    assert slow.values["1.running_mean"].mean() == pytest.approx(9)
    assert torch.equal(copying.values["1.running_mean"], network[1].running_mean)
    with pytest.raises(ValueError, match="decay"):
        AveragedWeights(network, 1.0)


def test_norms_and_biases_are_not_decayed():
    network = tiny_network()
    network[3].bias.requires_grad_(requires_grad=False)
    optimizer = make_optimizer(network, "adamw", learning_rate=0.1, weight_decay=0.3)
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decays.get(p) for name, p in network.named_parameters()} == {
        "0.weight": 0.3,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "3.weight": 0.3,
        "3.bias": None,
    }


def test_only_the_optimizers_that_exist():
    with pytest.raises(ValueError, match="'adamw' or 'sgd'"):
        make_optimizer(tiny_network(), "adam", learning_rate=0.1)


def _step(network, optimizer, seed):
    image = torch.randn(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network(image).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizer_state_goes_back_bit_for_bit_in_the_layout_of_the_weights(name):
    network = tiny_network()
    optimizer = make_optimizer(network, name, learning_rate=0.1, momentum=0.9)
    for seed in range(3):
        _step(network, optimizer, seed)
    saved = optimizer_state(optimizer)
    twin = tiny_network().to(memory_format=torch.channels_last_3d)
    twin.load_state_dict(network.state_dict())
    other = make_optimizer(twin, name, learning_rate=0.5, momentum=0.5)
    restore_optimizer(other, saved)
    again = optimizer_state(other)
    assert again.structure == saved.structure
    assert all(torch.equal(again.tensors[key], saved.tensors[key]) for key in saved.tensors)
    for parameter, entries in other.state.items():
        for value in entries.values():
            if isinstance(value, torch.Tensor) and value.ndim:
                assert value.stride() == parameter.stride()
    set_learning_rate(other, 0.25)
    assert {group["lr"] for group in other.param_groups} == {0.25}
    assert all(torch.equal(again.tensors[key], saved.tensors[key]) for key in saved.tensors)  # nothing is shared
    forget_direction(other)
    moved = optimizer_state(other).tensors
    first = {key: value for key, value in moved.items() if key.endswith(("exp_avg", "momentum_buffer"))}
    assert first
    assert all(not value.any() for value in first.values())
    assert all(torch.equal(moved[key], saved.tensors[key]) for key in moved.keys() - first.keys())


def test_state_of_other_parameters_is_refused():
    network = tiny_network()
    optimizer = make_optimizer(network, "adamw", learning_rate=0.1)
    _step(network, optimizer, 0)
    saved = optimizer_state(optimizer)
    wider = nn.Sequential(nn.Conv3d(1, 7, 3), nn.Identity(), nn.ReLU(), nn.Conv3d(7, 3, 3))
    for other in (wider, tiny_network(norm=False)):
        with pytest.raises(ModelError, match="does not fit this network"):
            restore_optimizer(make_optimizer(other, "adamw", learning_rate=0.1), saved)
