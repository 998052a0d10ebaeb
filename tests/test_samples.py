"""The synthetic kidney: the same every time, shaped as promised, and no giveaway."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from vol3d.errors import GeometryError, LabelError
from vol3d.samples import SPACING_MM, TABLE, UNLABELED, Phantom, best_two_threshold_iou, kidney, paint
from vol3d.samples.tissue import smooth_noise
from vol3d.samples.tubules import grow

SHAPE = (96, 88, 64)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return kidney(SHAPE, rng=np.random.default_rng(7))


def test_grid_and_types(phantom):
    assert phantom.image.shape == (1, *SHAPE)
    assert phantom.image.dtype == np.uint8
    assert phantom.classes.shape == SHAPE
    assert phantom.classes.dtype == np.uint8
    assert phantom.affine.codes == "RAS"
    np.testing.assert_allclose(phantom.affine.spacing, SPACING_MM)
    np.testing.assert_allclose(phantom.affine.to_world((np.array(SHAPE) - 1) / 2), 0, atol=1e-12)


def test_classes_are_those_of_the_table(phantom):
    assert sorted(np.unique(phantom.classes)) == TABLE.codes.tolist() == [0, 1, 2]
    assert TABLE.names == ("inside tubule", "tubule wall", "background")
    assert TABLE.unlabeled == (UNLABELED,)
    part = np.bincount(phantom.classes.ravel()) / phantom.classes.size
    assert (part > 0.12).all()
    assert (part < 0.60).all()


def test_walls_are_thick_and_tubules_hollow(phantom):
    step = np.array(SPACING_MM) / min(SPACING_MM)
    from_lumen = ndimage.distance_transform_edt(phantom.classes != 0, sampling=step)
    assert from_lumen[phantom.classes == 2].min() >= 3  # a wall of 3 voxels lies between
    inside = ndimage.distance_transform_edt(phantom.classes == 0, sampling=step)
    assert inside.max() >= 4


def test_brightness_is_no_giveaway(phantom):
    unpainted = paint(phantom.classes) == UNLABELED
    score, (low, high) = best_two_threshold_iou(phantom.image, phantom.classes, unpainted)
    assert 0.30 <= score <= 0.60
    assert low <= high
    lumen, wall, background = (phantom.image[0][phantom.classes == k].mean() for k in range(3))
    assert abs(lumen - background) < 0.1 * wall
    assert wall > 1.4 * background  # and yet a person sees the walls


def test_light_fades_with_depth(phantom):
    wall = np.ma.array(phantom.image[0], mask=phantom.classes != 1)
    assert wall[:, :, -12:].mean() < 0.75 * wall[:, :, :12].mean()


@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 24)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 3.0)] * 3),
    channels=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_same_seed_same_phantom(shape, spacing, channels, seed):
    first, second = (kidney(shape, spacing, channels, rng=np.random.default_rng(seed)) for _ in range(2))
    assert first.image.shape == (channels, *shape)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.classes, second.classes)


def test_other_seed_other_phantom():
    a, b = (kidney((24, 24, 24), rng=np.random.default_rng(seed)) for seed in (0, 1))
    assert (a.image != b.image).mean() > 0.5


@pytest.mark.parametrize(("shape", "channels"), [((8, 8, 0), 1), ((8, 8, 8), 0)])
def test_impossible_phantoms_are_refused(shape, channels):
    with pytest.raises(ValueError, match="at least one"):
        kidney(shape, SPACING_MM, channels, rng=np.random.default_rng(0))


def test_bad_spacing_is_refused():
    with pytest.raises(GeometryError):
        kidney((8, 8, 8), (1, 1, 0), rng=np.random.default_rng(0))


def test_tubules_are_smooth_and_stay_near_the_box():
    extent = np.array([40.0, 40.0, 40.0])
    for tubule in grow(extent, np.random.default_rng(3)):
        steps = np.diff(tubule.points, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        turns = (steps[1:] * steps[:-1]).sum(axis=1) / lengths[1:] / lengths[:-1]
        np.testing.assert_allclose(lengths, 1.5)
        assert turns.min() > np.cos(0.35)
        assert tubule.lumen.min() >= 4
        assert tubule.wall >= 3
        assert (tubule.points > -15).all()
        assert (tubule.points < extent + 15).all()


def test_noise_of_one_voxel_is_zero():
    assert smooth_noise((1, 1, 1), np.ones(3), np.random.default_rng(0)).item() == 0


@given(
    classes=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.integers(0, 2)),
    data=st.data(),
)
def test_paint_keeps_whole_evenly_spaced_planes_and_nothing_else(classes, data):
    slices = [data.draw(st.integers(0, n)) for n in classes.shape]
    painted = paint(classes, tuple(slices))
    expected = np.zeros(classes.shape, dtype=bool)
    for axis, count in enumerate(slices):
        one = paint(classes, tuple(count if a == axis else 0 for a in range(3))) != UNLABELED
        planes = np.flatnonzero(one.any(axis=tuple(a for a in range(3) if a != axis)))
        assert one.sum() == count * classes.size // classes.shape[axis]  # whole planes
        assert len(planes) == count
        assert np.ptp(np.diff(planes)) <= 1 if count > 2 else True
        expected |= one
    np.testing.assert_array_equal(painted, np.where(expected, classes, UNLABELED))


def test_paint_three_by_three_by_three(phantom):
    painted = paint(phantom.classes)
    known = painted != UNLABELED
    for axis, planes in enumerate([[16, 48, 79], [14, 44, 72], [10, 32, 52]]):
        other = tuple(a for a in range(3) if a != axis)
        assert np.flatnonzero(known.all(axis=other)).tolist() == planes
    assert 0.05 < known.mean() < 0.15


@pytest.mark.parametrize("slices", [(5, 0, 0), (0, -1, 0)])
def test_too_many_painted_planes_are_refused(slices):
    with pytest.raises(LabelError, match="painted planes across"):
        paint(np.zeros((4, 4, 4), np.uint8), slices)


def test_unlabeled_code_must_be_free():
    with pytest.raises(LabelError, match="is a class"):
        paint(np.full((4, 4, 4), 3, np.uint8))


def _naive(image, classes):
    """Every pair of thresholds, every assignment, by counting voxels."""
    present = np.unique(classes)
    best = 0.0
    edges = [*np.unique(image), np.inf]
    for low, high in itertools.combinations_with_replacement(edges, 2):
        band = (image >= low).astype(int) + (image >= high)
        for given_classes in itertools.product(present, repeat=3):
            prediction = np.asarray(given_classes)[band]
            ious = [
                ((prediction == k) & (classes == k)).sum() / ((prediction == k) | (classes == k)).sum() for k in present
            ]
            best = max(best, float(np.mean(ious)))
    return best


@settings(max_examples=40, deadline=None)
@given(
    image=hnp.arrays(np.int16, (3, 3, 2), elements=st.integers(-3, 3)),
    classes=hnp.arrays(np.uint8, (3, 3, 2), elements=st.integers(0, 3)),
)
def test_threshold_search_is_exhaustive(image, classes):
    assert best_two_threshold_iou(image, classes)[0] == pytest.approx(_naive(image, classes))


@given(hnp.arrays(np.float32, (3, 4, 2), elements=st.floats(0, 1, width=32)), st.floats(0.1, 0.4), st.floats(0.5, 0.9))
def test_separable_classes_are_separated(image, low, high):
    classes = ((image >= low).astype(np.uint8) + (image >= high)) * 5
    assert best_two_threshold_iou(image, classes)[0] == pytest.approx(1)


def test_threshold_counts_only_the_mask_and_takes_the_best_channel():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, (12, 12, 12))
    noise, clean = rng.normal(size=classes.shape), classes + 0.01 * rng.normal(size=classes.shape)
    mask = rng.random(classes.shape) < 0.5
    score, thresholds = best_two_threshold_iou(np.stack([noise, clean]), classes, mask)
    assert score > 0.95  # 128 quantiles, not every value
    assert 0 < thresholds[0] < 1.1 < thresholds[1] < 2.1
    hidden = np.where(mask, clean, 1000 * noise)
    assert best_two_threshold_iou(hidden, np.where(mask, classes, 7), mask)[0] == pytest.approx(score)


def test_threshold_without_voxels_is_refused():
    with pytest.raises(ValueError, match="mask is empty"):
        best_two_threshold_iou(np.zeros((2, 2, 2)), np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), bool))


@pytest.mark.slow
def test_three_channel_sample_fits_the_paper_and_the_repository():
    phantom = kidney((140, 136, 120), channels=3, rng=np.random.default_rng(11))
    assert all(n >= m for n, m in zip(phantom.classes.shape, (132, 132, 116), strict=True))
    assert len(zlib.compress(phantom.image.tobytes(), 6)) < 5.5e6
    assert best_two_threshold_iou(phantom.image, phantom.classes)[0] <= 0.60
