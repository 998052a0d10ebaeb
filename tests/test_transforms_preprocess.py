"""Preprocessing and its undo."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vol3d.errors import ConfigError, GeometryError
from vol3d.transforms import Preprocessing
from vol3d.transforms.spacing import Regrid
from vol3d.transforms.statistics import Scaling, Statistics
from vol3d.volume import Affine, Orientation, Slab, SparseLabels, Volume

ORIENTATIONS = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)
]


def stored(array, affine, order, flips):
    """The same scan in another storage order: (array, affine)."""
    turn = Orientation(order, flips)
    return np.ascontiguousarray(turn.apply(array)), turn.apply_affine(affine, array.shape[-3:])


def oblique(spacing=(0.8, 1.1, 2.3)):
    a = 0.2
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) * spacing
    matrix[:3, 3] = (10, -20, 30)
    return Affine(matrix)


def slabs_of(values, thick):
    start = 0
    for size in itertools.cycle(thick):
        if start >= values.shape[1]:
            return
        yield Slab(start, values[:, start : start + size])
        start += size


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.integers(1, 6)] * 3),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_preprocess_then_undo_restores_the_grid(orientation, shape, seed, thick):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, shape)
    array, affine = stored(codes, oblique(), *orientation)
    volume = Volume(array[None], affine)
    prepared = Preprocessing(normalization="none").apply(volume)
    assert prepared.affine.codes == "RAS"
    assert np.array_equal(prepared.array[0], codes)
    np.testing.assert_allclose(prepared.affine.matrix, oblique().matrix, atol=1e-9)
    assert np.array_equal(prepared.undo.array(prepared.array[0]), array)
    probabilities = np.eye(4, dtype=np.float32)[prepared.array[0].astype(int)].transpose(3, 0, 1, 2)
    labels = prepared.undo.labels(slabs_of(probabilities, thick), 4)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, array)
    back = prepared.undo.probabilities(slabs_of(probabilities, thick), 4)
    assert np.array_equal(back.argmax(axis=0), array)
    assert back.shape == (4, *array.shape)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["zscore", "percentile", "none"]),
    st.sampled_from([None, (1.0, 1.5, 1.5)]),
)
def test_the_stored_orientation_changes_no_bit(orientation, seed, normalization, spacing):
    rng = np.random.default_rng(seed)
    scan = rng.normal(100, 20, (2, 6, 5, 4)).astype(np.float32)
    preprocessing = Preprocessing(spacing_mm=spacing, normalization=normalization)
    plain = preprocessing.apply(Volume(scan, oblique()))
    array, affine = stored(scan, oblique(), *orientation)
    turned = preprocessing.apply(Volume(array, affine))
    assert np.array_equal(turned.array, plain.array)
    assert turned.statistics == plain.statistics
    np.testing.assert_allclose(turned.affine.matrix, plain.affine.matrix, atol=1e-9)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.integers(1, 8)] * 3),
    st.tuples(*[st.floats(0.4, 4.0)] * 3),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_undo_of_resampling_interpolates_probabilities_linearly(orientation, shape, spacing, thick, seed):
    array, affine = stored(np.zeros(shape), oblique(), *orientation)
    prepared = Preprocessing(spacing_mm=spacing).apply(Volume(array[None], affine))
    np.testing.assert_allclose(prepared.spacing_mm, prepared.affine.spacing)
    values = np.random.default_rng(seed).random((3, *prepared.array.shape[1:]), dtype=np.float32)
    back = prepared.undo.probabilities(slabs_of(values, thick), 3)
    assert back.shape == (3, *array.shape)
    # every voxel of the scan, looked up by its world coordinates
    index = np.stack(np.meshgrid(*[np.arange(n) for n in array.shape], indexing="ij"), axis=-1)
    at = prepared.affine.to_index(affine.to_world(index)).clip(0, np.array(values.shape[1:]) - 1)
    low = np.minimum(np.floor(at).astype(int), np.maximum(np.array(values.shape[1:]) - 2, 0))
    share = at - low
    expected = np.zeros_like(back)
    for corner in itertools.product((0, 1), repeat=3):
        near = np.minimum(low + corner, np.array(values.shape[1:]) - 1)
        factor = np.prod(np.where(corner, share, 1 - share), axis=-1)
        expected += factor * values[:, near[..., 0], near[..., 1], near[..., 2]]
    if prepared.undo.regrid is not None:
        np.testing.assert_allclose(back, expected, atol=1e-5)
    labels = prepared.undo.labels(slabs_of(values, thick), 3)
    assert np.array_equal(labels, back.argmax(axis=0))


def test_resampling_keeps_the_centre_and_a_linear_ramp():
    x = np.arange(40, dtype=np.float32)[:, None, None]
    volume = Volume(np.broadcast_to(x, (40, 10, 6))[None].copy(), Affine.from_spacing((1, 1, 2)))
    for spacing in ((0.5, 1.0, 2.0), (2.0, 3.0, 2.0)):
        prepared = Preprocessing(spacing_mm=spacing, normalization="none").apply(volume)
        index = np.argwhere(np.ones(prepared.array.shape[1:]))
        expected = prepared.affine.to_world(index)[:, 0].reshape(prepared.array.shape[1:])
        np.testing.assert_allclose(prepared.array[0, 3:-3], expected[3:-3], atol=1e-4)
        middle = (np.array(prepared.array.shape[1:]) - 1) / 2
        np.testing.assert_allclose(prepared.affine.to_world(middle), volume.affine.to_world((19.5, 4.5, 2.5)))


def test_downsampling_averages_noise_and_skips_nothing():
    noise = np.random.default_rng(0).normal(size=(48, 48, 48)).astype(np.float32)
    regrid = Regrid.to_spacing((48, 48, 48), (1, 1, 1), (4, 4, 4))
    smooth = regrid.smooth(noise)
    assert smooth.shape == (12, 12, 12)
    assert smooth.std() < 0.12  # every fourth voxel alone would keep 1
    np.testing.assert_allclose(regrid.smooth(np.ones_like(noise)), 1, atol=1e-6)
    assert np.array_equal(Regrid((48, 48, 48), (48, 48, 48), (1, 1, 1)).smooth(noise), noise)


def test_spacings_that_are_nearly_equal_are_left_alone():
    volume = Volume(np.zeros((1, 30, 30, 30), dtype=np.int16), Affine.from_spacing((1, 1, 1.0005)))
    assert Preprocessing(spacing_mm=(1, 1, 1)).apply(volume).undo.regrid is None
    assert Preprocessing(spacing_mm=(1, 1, 1.01)).apply(volume).undo.regrid is not None


def sparse(seed, shape=(9, 8, 7), weighted=False):
    rng = np.random.default_rng(seed)
    weight = rng.random(shape).astype(np.float32) if weighted else None
    return SparseLabels(
        rng.integers(0, 5, shape).astype(np.uint8), rng.random(shape) < 0.3, oblique(), "drawn", weight
    ), rng


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, (0.5, 0.6, 1.0), (1.7, 2.2, 5.0)]),
    st.booleans(),
)
def test_labels_go_to_the_images_grid_and_unlabeled_codes_do_not_matter(orientation, seed, spacing, weighted):
    labels, rng = sparse(seed, weighted=weighted)
    noise = np.where(labels.labeled, labels.classes, rng.integers(0, 200, labels.shape)).astype(np.uint8)
    preprocessing = Preprocessing(spacing_mm=spacing)
    prepared = []
    for classes in (labels.classes, noise):
        turned, affine = stored(classes, labels.affine, *orientation)
        mask, _ = stored(labels.labeled, labels.affine, *orientation)
        weight = None if labels.weight is None else stored(labels.weight, labels.affine, *orientation)[0]
        prepared.append(preprocessing.apply_labels(SparseLabels(turned, mask, affine, "drawn", weight)))
    image = preprocessing.apply(Volume(turned[None], affine))
    first, second = prepared
    assert first.shape == image.array.shape[1:]
    assert np.array_equal(first.affine.matrix, image.affine.matrix)
    assert np.array_equal(first.labeled, second.labeled)
    assert np.array_equal(first.classes[first.labeled], second.classes[second.labeled])
    assert (first.weight is None) == (labels.weight is None)
    if spacing is None:
        assert np.array_equal(first.labeled, labels.labeled)
        assert np.array_equal(first.classes, labels.classes)
    if spacing == (1.7, 2.2, 5.0):  # coarser: a cell with a labeled voxel well inside it is labeled
        assert first.labeled.mean() > labels.labeled.mean()


def test_a_painted_slice_survives_a_coarser_grid():
    for z in range(30):
        labeled = np.zeros((6, 6, 30), dtype=bool)
        labeled[:, :, z] = True
        classes = np.where(labeled, 3, 9).astype(np.uint8)
        labels = SparseLabels(classes, labeled, Affine.from_spacing((1, 1, 1)))
        new = Preprocessing(spacing_mm=(1, 1, 3)).apply_labels(labels)
        assert new.shape == (6, 6, 10)
        assert new.labeled.sum() == 36
        assert (new.classes[new.labeled] == 3).all()
        assert new.labeled[:, :, z // 3].all()


def test_of_several_labels_in_a_coarse_voxel_the_nearest_counts():
    for first, second in ((0, 3), (1, 5), (6, 2)):
        classes = np.zeros((1, 1, 7), dtype=np.uint8)
        classes[0, 0, first], classes[0, 0, second] = 1, 2
        labels = SparseLabels(classes, classes > 0, Affine.from_spacing((1, 1, 1)))
        new = Preprocessing(spacing_mm=(1, 1, 7)).apply_labels(labels)
        assert new.labeled.tolist() == [[[True]]]
        assert new.classes.item() == 2  # 3 is the middle; without it the voxel next to the middle


def test_labels_follow_the_scans_affine_where_it_is_given():
    labels, _ = sparse(0)
    turned = Orientation((1, 0, 2), (True, False, False)).apply_affine(labels.affine, labels.shape)
    assert Preprocessing().apply_labels(labels, turned).shape == (8, 9, 7)


@pytest.mark.parametrize("normalization", ["zscore", "percentile"])
@pytest.mark.parametrize("value", [0, 7, 0.1, -1e30])
def test_a_constant_image_becomes_zeros(normalization, value):
    prepared = Preprocessing(normalization=normalization).apply(Volume(np.full((1, 9, 9, 9), value), oblique()))
    assert np.array_equal(prepared.array, np.zeros((1, 9, 9, 9)))


def test_zscore_per_channel_and_statistics_of_raw_intensities():
    rng = np.random.default_rng(0)
    scan = np.stack([rng.normal(100, 5, (12, 12, 12)), rng.normal(-3e4, 200, (12, 12, 12))])
    prepared = Preprocessing().apply(Volume(scan, oblique()))
    np.testing.assert_allclose(prepared.array.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(prepared.array.std(axis=(1, 2, 3)), 1, atol=1e-5)
    assert prepared.array.flags.c_contiguous
    for channel, found in zip(scan, prepared.statistics, strict=True):
        expected = [channel.min(), channel.max(), channel.mean(), channel.std(), *np.percentile(channel, [1, 99])]
        np.testing.assert_allclose([found[k] for k in ("low", "high", "mean", "std", "p1", "p99")], expected)
    json.dumps(prepared.statistics)


def test_a_black_surround_does_not_count():
    rng = np.random.default_rng(0)
    scan = np.zeros((20, 20, 20), dtype=np.uint16)
    scan[4:12, 4:12, 4:12] = rng.integers(500, 600, (8, 8, 8))
    found = Statistics.of(scan, (0.5, 99.5))
    inside = scan[scan > 0]
    assert (found.low, found.high) == (0, inside.max())
    np.testing.assert_allclose((found.mean, found.std), (inside.mean(), inside.std()))
    mask = (scan > 0).astype(np.uint8)  # two values: nothing would be left to tell apart above the lowest
    assert Statistics.of(mask, (0.5, 99.5)).std > 0
    assert len(np.unique(Preprocessing(normalization="percentile").apply(Volume(mask[None], oblique())).array)) == 2


def test_percentiles_and_windows_are_clipped_to_0_and_1():
    scan = np.random.default_rng(0).normal(0, 100, (1, 15, 15, 15)).astype(np.float32)
    low, high = np.percentile(scan, [10, 80])
    for preprocessing in (
        Preprocessing(normalization="percentile", percentiles=(10, 80)),
        Preprocessing(normalization="window", window=(float(low), float(high))),
    ):
        prepared = preprocessing.apply(Volume(scan, Affine.from_spacing((1, 1, 1)))).array
        np.testing.assert_allclose(prepared, ((scan - low) / (high - low)).clip(0, 1), atol=1e-5)


def test_voxels_that_are_not_finite_become_0_and_do_not_count():
    scan = np.random.default_rng(0).normal(5, 2, (1, 8, 8, 8)).astype(np.float32)
    scan[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    prepared = Preprocessing().apply(Volume(scan, Affine.from_spacing((1, 1, 1))))
    assert np.array_equal(prepared.array[0, 0, 0, :3], [0, 0, 0])
    np.testing.assert_allclose(prepared.array[np.isfinite(scan)].std(), 1, atol=1e-5)
    empty = Preprocessing().apply(Volume(np.full((1, 3, 3, 3), np.nan), Affine.from_spacing((1, 1, 1))))
    assert np.array_equal(empty.array, np.zeros((1, 3, 3, 3)))


def test_large_volumes_are_sampled_at_fixed_strides():
    scan = np.random.default_rng(0).normal(size=(40, 50, 60))
    few = Statistics.of(scan, (1, 99), most_voxels=5000)
    assert few == Statistics.of(scan, (1, 99), most_voxels=5000)
    assert few != Statistics.of(scan, (1, 99))
    assert abs(few.std - 1) < 0.1
    assert Scaling.zscore(few).factor == 1 / few.std


@settings(max_examples=200, deadline=None)
@given(
    st.none() | st.tuples(*[st.floats(0.01, 10)] * 3),
    st.sampled_from(["zscore", "percentile", "window", "none"]),
    st.floats(0, 40),
)
def test_json_brings_preprocessing_back(spacing, normalization, low):
    window = (low, low + 1) if normalization == "window" else None
    preprocessing = Preprocessing(spacing, normalization, (low, 99.0), window)
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing


@pytest.mark.parametrize(
    "make",
    [
        lambda: Preprocessing(normalization="minmax"),
        lambda: Preprocessing(spacing_mm=(1, 0, 1)),
        lambda: Preprocessing(percentiles=(99, 1)),
        lambda: Preprocessing(window=(0, 1)),
        lambda: Preprocessing(normalization="window", window=(1, 0)),
        lambda: Preprocessing.from_json({"spacing_mm": None}),
        lambda: Preprocessing.from_json([]),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_slabs_that_do_not_fit_are_refused():
    undo = Preprocessing().apply(Volume(np.zeros((1, 6, 5, 4)), Affine.from_spacing((1, 1, 1)))).undo
    slab = np.zeros((2, 3, 5, 4), dtype=np.float32)
    for slabs in ([Slab(0, slab)], [Slab(3, slab)], [Slab(0, slab), Slab(2, slab)], [Slab(0, slab[:, :, :4])]):
        with pytest.raises(GeometryError, match="expected"):
            undo.labels(slabs, 2)
    with pytest.raises(GeometryError, match="3 classes"):
        undo.labels([Slab(0, slab), Slab(3, slab)], 3)
    assert undo.labels([Slab(0, slab), Slab(3, slab)], 2).sum() == 0
    with pytest.raises(GeometryError, match="probabilities"):
        undo.array(np.zeros((6, 5, 3)))


def test_more_than_256_classes_need_two_bytes():
    undo = Preprocessing().apply(Volume(np.zeros((1, 2, 2, 2)), Affine.from_spacing((1, 1, 1)))).undo
    values = np.zeros((300, 2, 2, 2), dtype=np.float32)
    values[299, 1] = 1
    labels = undo.labels([Slab(0, values)], 300)
    assert labels.dtype == np.uint16
    assert labels.max() == 299
