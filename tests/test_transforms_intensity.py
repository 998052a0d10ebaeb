"""Gray-value augmentation."""

import numpy as np
import pytest
import torch

from vol3d.errors import ConfigError
from vol3d.transforms import IntensityAugmentation

PARTS = ("gamma", "noise", "blur", "bias_field")


def only(part):
    return IntensityAugmentation(**{f"{name}_probability": float(name == part) for name in PARTS})


def patch(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", [(2, 16, 14, 12), (1, 16, 14, 1)])
def test_each_part_changes_a_patch_and_follows_the_seed(part, shape):
    given = patch(*shape)
    before = given.clone()
    first, again, other = (only(part)(given, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(given, before)
    assert type(first) is torch.Tensor
    assert first.dtype == torch.float32
    assert first.shape == given.shape
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, given)


@pytest.mark.parametrize("part", PARTS)
def test_what_it_does_is_the_same_after_any_normalisation(part):
    given = patch(1, 12, 12, 12)
    plain = only(part)(given, np.random.default_rng(5))
    scaled = only(part)(given * 40 + 300, np.random.default_rng(5))
    torch.testing.assert_close((scaled - 300) / 40, plain, atol=2e-4, rtol=0)


@pytest.mark.parametrize("part", PARTS)
def test_a_constant_patch_stays_constant(part):
    assert torch.allclose(only(part)(torch.full((1, 9, 9, 9), 0.5), np.random.default_rng(0)), torch.tensor(0.5))


def test_the_global_generators_are_left_alone():
    torch.manual_seed(3)
    np.random.seed(3)
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    for part in PARTS:
        only(part)(patch(1, 8, 8, 8), np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], legacy)


def test_nothing_happens_at_probability_0_and_the_stream_is_the_same_length():
    left, right = np.random.default_rng(0), np.random.default_rng(0)
    given = patch(1, 6, 6, 6)
    assert torch.equal(IntensityAugmentation(0, 0, 0, 0)(given, left), given)
    IntensityAugmentation(1, 1, 1, 1)(given, right)
    assert left.random() == right.random()


def test_a_probability_above_1_is_refused():
    with pytest.raises(ConfigError, match="probabilities"):
        IntensityAugmentation(noise_probability=2)


@pytest.mark.parametrize("part", PARTS)
def test_the_number_of_threads_changes_no_bit(part):
    given, before, found = patch(1, 45, 47, 49), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(only(part)(given, np.random.default_rng(0)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
