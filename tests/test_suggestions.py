import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from vol3d.errors import ConfigError, GeometryError
from vol3d.sampling.suggestions import suggest_planes


def volume(shape=(12, 11, 10), seed=0):
    """(entropy, classes, nothing painted) without structure."""
    rng = np.random.default_rng(seed)
    return rng.random(shape, dtype=np.float32), rng.integers(0, 3, shape).astype(np.uint8), np.zeros(shape, bool)


def across(axis, index):
    return (slice(None),) * axis + (index,)


def slow_gains(entropy, classes, labeled, spacing, reach, painted=()):
    """Gain of every plane, voxel by voxel: what the docstring says, without cells or sorting."""
    share = np.bincount(classes.ravel()) / classes.size
    weight = entropy.astype(float) / np.sqrt(share)[classes]
    known = labeled.copy()
    for axis, index in painted:
        known[across(axis, index)] = True
    before = np.exp(-distance_transform_edt(~known, sampling=spacing) / reach) if known.any() else 0 * weight
    gains = {}
    for axis, length in enumerate(entropy.shape):
        for index in range(length):
            away = np.abs(np.arange(length) - index) * spacing[axis]
            after = np.exp(-away / reach).reshape([-1 if a == axis else 1 for a in range(3)])
            if not known[across(axis, index)].all():
                gains[axis, index] = float((weight * np.maximum(after - before, 0)).sum() / weight.sum())
    return gains


@given(
    seed=st.integers(0, 10**6),
    spacing=st.tuples(*[st.floats(0.2, 5.0)] * 3),
    painted=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7)), max_size=3),
    reach=st.floats(0.5, 20.0),
)
@settings(max_examples=40)
def test_gains_are_those_of_the_definition(seed, spacing, painted, reach):
    entropy, classes, labeled = volume((9, 8, 10), seed)
    for axis, index in painted:
        labeled[across(axis, index)] = True
    found = suggest_planes(entropy, classes, labeled, spacing, 3, reach_mm=reach)
    chosen = []
    for plane in found:
        gains = slow_gains(entropy, classes, labeled, spacing, reach, chosen)
        assert plane.gain == pytest.approx(max(gains.values()), rel=1e-6)
        assert plane.gain == pytest.approx(gains[plane.axis, plane.index], rel=1e-6)
        chosen.append((plane.axis, plane.index))


@given(seed=st.integers(0, 10**6), axis=st.integers(0, 2))
@settings(max_examples=25)
def test_a_mirrored_volume_gets_mirrored_planes(seed, axis):
    arrays = volume(seed=seed)
    arrays[2][:, 3] = True
    straight = suggest_planes(*arrays, (1, 1, 2), 3)
    turned = suggest_planes(*(np.flip(array, axis) for array in arrays), (1, 1, 2), 3)
    length = arrays[0].shape[axis]
    mirrored = [(p.axis, length - 1 - p.index if p.axis == axis else p.index) for p in turned]
    assert mirrored == [(p.axis, p.index) for p in straight]


def test_the_plane_that_holds_the_uncertainty_comes_first():
    entropy, classes, labeled = volume()
    entropy[:] = 0.01
    entropy[:, :, 7] = 1.0
    first = suggest_planes(entropy, classes, labeled, (1, 1, 1), 1)[0]
    assert (first.axis, first.index) == (2, 7)
    assert first.uncertainty == pytest.approx(1.0)
    assert first.distance_mm == np.inf
    assert first.voxels == 12 * 11


def test_gains_fall_and_add_up_to_a_share():
    arrays = volume()
    found = suggest_planes(*arrays, (1, 1, 1), 40)
    gains = [plane.gain for plane in found]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(gains))
    assert 0.9 < sum(gains) <= 1 + 1e-9
    assert len({(p.axis, p.index) for p in found}) == len(found)


def test_every_voxel_counts_as_painted_once_all_planes_of_an_axis_are():
    arrays = volume((4, 9, 9))
    found = suggest_planes(*arrays, (1, 1, 1), 40, axes=[0])
    assert sorted(plane.index for plane in found) == [0, 1, 2, 3]
    assert sum(plane.gain for plane in found) == pytest.approx(1.0)
    assert sum(plane.voxels for plane in found) == 4 * 81


def test_a_plane_beside_paint_is_worth_little():
    entropy, classes, labeled = volume((30, 6, 6))
    entropy[:], classes[:] = 0.5, 0
    labeled[10] = True
    found = suggest_planes(entropy, classes, labeled, (1, 1, 1), 1, axes=(0,), reach_mm=4)
    gains = slow_gains(entropy, classes, labeled, (1, 1, 1), 4)
    assert found[0].index == max(range(30), key=lambda index: gains.get((0, index), 0)) == 23
    assert found[0].distance_mm == pytest.approx(13)
    assert gains[0, 11] < 0.3 * gains[0, 23]


def test_distances_are_in_mm():
    entropy, classes, labeled = volume((10, 30, 10))
    entropy[:], classes[:] = 0.5, 0
    labeled[:, 15] = True
    near, far = (
        {(p.axis, p.index): p.gain for p in suggest_planes(entropy, classes, labeled, (1, step, 1), 99, reach_mm=3)}
        for step in (0.01, 10)
    )
    assert max(near.values()) < 0.01  # all of the volume lies within a third of a millimetre of the paint
    assert max(far.values()) > 0.1


def test_painted_voxels_cost_nothing_and_painted_planes_are_not_named():
    entropy, classes, labeled = volume()
    labeled[:, :, 4] = True
    labeled[3] = True
    found = suggest_planes(entropy, classes, labeled, (1, 1, 1), 100)
    assert not {(2, 4), (0, 3)} & {(p.axis, p.index) for p in found}
    first = found[0]
    left = ~labeled[across(first.axis, first.index)]
    assert first.voxels == left.sum()
    assert first.uncertainty == pytest.approx(entropy[across(first.axis, first.index)][left].mean())


def test_errors_in_a_rare_class_cost_more():
    entropy, classes, labeled = volume((16, 16, 16))
    entropy[:], classes[:] = 0.0, 0
    entropy[3], entropy[12] = 0.5, 0.4
    classes[12] = 1
    assert suggest_planes(entropy, classes, labeled, (1, 1, 1), 1)[0].index == 12
    classes[12] = 0
    assert suggest_planes(entropy, classes, labeled, (1, 1, 1), 1)[0].index == 3


def test_gain_per_voxel_chooses_the_small_plane():
    entropy, classes, labeled = volume((6, 20, 20))
    assert suggest_planes(entropy, classes, labeled, (1, 1, 1), 1)[0].axis == 0
    assert suggest_planes(entropy, classes, labeled, (1, 1, 1), 1, per_voxel=True)[0].axis != 0


def test_single_planes_of_a_long_axis():
    entropy, classes, labeled = volume((200, 5, 5))
    entropy[:], classes[:] = 0.0, 0
    entropy[100:109] = 1.0
    labeled[20] = True
    found = suggest_planes(entropy, classes, labeled, (1, 1, 1), 2, axes=(0,), reach_mm=10)
    assert 101 <= found[0].index <= 107
    assert found[1].index != found[0].index


def test_an_axis_of_one_voxel_has_no_planes():
    arrays = volume((20, 20, 1))
    found = suggest_planes(*arrays, (1, 1, 1), 50)
    assert {plane.axis for plane in found} <= {0, 1}
    assert found
    assert not suggest_planes(*arrays, (1, 1, 1), 1, axes=(2,))


def test_nothing_to_gain_nothing_named():
    entropy, classes, labeled = volume()
    assert suggest_planes(0 * entropy, classes, labeled, (1, 1, 1), 3) == []
    assert suggest_planes(entropy, classes, ~labeled, (1, 1, 1), 3) == []


def test_the_same_twice():
    arrays = volume((40, 30, 70))
    assert suggest_planes(*arrays, (1, 2, 1), 5) == suggest_planes(*arrays, (1, 2, 1), 5)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"labeled": np.zeros((3, 3, 3), bool)}, GeometryError, "of one shape"),
        ({"spacing_mm": (1, 0, 1)}, ConfigError, "three positive spacings"),
        ({"n": 0}, ConfigError, "at least one plane"),
        ({"axes": (3,)}, ConfigError, "axes among 0, 1 and 2"),
        ({"axes": ()}, ConfigError, "axes among 0, 1 and 2"),
        ({"reach_mm": -1.0}, ConfigError, "positive reach"),
        ({"entropy": np.full((12, 11, 10), np.nan)}, ConfigError, "negative or infinite"),
    ],
)
def test_refusals(change, error, said):
    entropy, classes, labeled = volume()
    given = {"entropy": entropy, "classes": classes, "labeled": labeled, "spacing_mm": (1, 1, 1)} | change
    with pytest.raises(error, match=said):
        suggest_planes(**given)
