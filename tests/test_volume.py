import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vol3d.errors import GeometryError, LabelError
from vol3d.volume import Affine, Box, LabelClass, LabelTable, Orientation, SparseLabels, Volume

ORIENTATIONS = [
    Orientation(order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product([False, True], repeat=3)
]


def random_affine(rng):
    """Rotation with shear and anisotropic spacing, safely invertible."""
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    shear = np.eye(3) + np.triu(rng.uniform(-0.1, 0.1, (3, 3)), 1)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ shear @ np.diag(rng.uniform(0.2, 5, 3))
    matrix[:3, 3] = rng.uniform(-200, 200, 3)
    return Affine(matrix)


@given(st.integers(0, 10**6))
def test_orientation_agrees_with_nibabel(seed):
    affine = random_affine(np.random.default_rng(seed))
    assert affine.codes == "".join(nibabel.aff2axcodes(affine.matrix))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turning_there_and_back_is_the_identity(orientation):
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert np.array_equal(orientation.undo(orientation.apply(array)), array)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_voxel_keeps_its_place_in_the_world(orientation):
    shape = (3, 4, 5)
    affine = random_affine(np.random.default_rng(3))
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    worlds = np.moveaxis(affine.to_world(indices), -1, 0)
    turned = orientation.apply(worlds)
    new = orientation.apply_affine(affine, shape)
    places = np.stack(np.meshgrid(*map(np.arange, turned.shape[1:]), indexing="ij"), -1)
    assert np.allclose(np.moveaxis(turned, 0, -1), new.to_world(places))
    assert np.allclose(new.spacing, orientation.apply_spacing(affine.spacing))


@given(st.integers(0, 10**6))
def test_closest_orientation_leads_to_ras(seed):
    affine = random_affine(np.random.default_rng(seed))
    assert affine.orientation.apply_affine(affine, (4, 5, 6)).codes == "RAS"


@given(st.integers(0, 10**6))
def test_world_and_index_are_inverse(seed):
    rng = np.random.default_rng(seed)
    affine, index = random_affine(rng), rng.uniform(-50, 50, (7, 3))
    assert np.allclose(affine.to_index(affine.to_world(index)), index, atol=1e-8)
    start = rng.integers(-9, 9, 3)
    assert np.allclose(affine.shifted(start).to_world(index), affine.to_world(index + start))


def test_resampled_grid_keeps_centre_and_directions():
    affine = random_affine(np.random.default_rng(1))
    new = affine.resampled((1.0, 2.0, 3.0), (10, 11, 12), (5, 6, 7))
    assert np.allclose(new.spacing, (1, 2, 3))
    assert np.allclose(new.to_world([2, 2.5, 3]), affine.to_world([4.5, 5, 5.5]))
    assert new.codes == affine.codes


@pytest.mark.parametrize(
    "matrix", [np.zeros((4, 4)), np.eye(3), np.diag([1, 1, np.nan, 1]), np.diag([1, 1, 0, 1]), np.ones((4, 4))]
)
def test_useless_affines_are_refused(matrix):
    with pytest.raises(GeometryError, match="expected"):
        Affine(matrix)


def test_affine_is_read_only_and_spacing_must_be_positive():
    affine = Affine.from_spacing((1, 2, 3))
    with pytest.raises(ValueError, match="read-only"):
        affine.matrix[0, 0] = 5
    with pytest.raises(GeometryError, match="positive"):
        Affine.from_spacing((1, -2, 3))


boxes = st.builds(
    Box,
    st.tuples(*[st.integers(-9, 9)] * 3),
    st.tuples(*[st.integers(0, 9)] * 3),
)


@given(boxes, st.tuples(*[st.integers(1, 8)] * 3))
def test_clipped_box_selects_what_lies_inside(box, shape):
    mask = np.zeros(shape, bool)
    inside = box.clip(shape)
    mask[inside.slices()] = True
    indices = np.argwhere(np.ones(shape, bool))
    expected = np.all((indices >= box.start) & (indices < box.stop), axis=1).sum()
    assert mask.sum() == inside.voxels == expected


@given(boxes, st.tuples(*[st.integers(0, 4)] * 3), st.tuples(*[st.integers(-4, 4)] * 3))
def test_growing_and_shifting_are_undone(box, by, shift):
    assert box.grow(by).grow(tuple(-b for b in by)) == box
    assert box.shift(shift).shift(tuple(-s for s in shift)) == box


def test_a_box_outside_the_array_must_be_clipped_first():
    with pytest.raises(ValueError, match="clip"):
        Box((-1, 0, 0), (2, 2, 2)).slices()
    assert Box.whole((2, 3, 4)).voxels == 24


def volume(shape=(4, 5, 6), affine=None, name="scan"):
    return Volume(np.zeros((1, *shape), np.float32), affine or Affine.from_spacing((1, 1, 2)), name)


def test_r08_grids_within_a_thousandth_of_a_voxel_are_the_same():
    near = Affine.from_spacing((1, 1, 2), (0.0009, 0, 0))
    far = Affine.from_spacing((1, 1, 2), (0.0011, 0, 0))
    volume().require_same_grid(volume(affine=near, name="near"))
    with pytest.raises(GeometryError, match=r"scan and far are not on one grid: 4×5×6 voxels.*against 4×5×6"):
        volume().require_same_grid(volume(affine=far, name="far"))
    with pytest.raises(GeometryError, match=r"4×5×6 voxels.*4×5×7"):
        volume().require_same_grid(volume((4, 5, 7)))


def test_volumes_need_four_axes():
    with pytest.raises(GeometryError, match="expected an array of shape"):
        Volume(np.zeros((3, 3, 3)), Affine.from_spacing((1, 1, 1)))
    assert volume().channels == 1


codes_lists = st.lists(st.integers(0, 70000), min_size=1, max_size=6, unique=True)


@given(codes_lists, st.integers(0, 10**6))
def test_encode_then_decode_is_the_identity_on_labeled_voxels(codes, seed):
    unlabeled = max(codes) + 1
    table = LabelTable.from_codes(codes, (unlabeled,))
    drawn = np.random.default_rng(seed).choice([*codes, unlabeled], size=(3, 4, 5))
    classes, labeled = table.encode(drawn)
    assert np.array_equal(labeled, drawn != unlabeled)
    assert np.array_equal(table.decode(classes)[labeled], drawn[labeled])
    assert table.code_dtype == np.min_scalar_type(max(codes))


@given(codes_lists)
def test_tables_survive_json(codes):
    table = LabelTable.from_codes(codes, (70001, 70002), {codes[0]: "nucleus"})
    assert LabelTable.from_json(table.to_json()) == table
    assert table.names[sorted(codes).index(codes[0])] == "nucleus"


@pytest.mark.parametrize(
    "value", [{}, {"classes": 3}, {"classes": [{"code": "x", "name": "n", "color": [0, 0, 0]}]}, {"classes": [1]}]
)
def test_broken_tables_are_refused(value):
    with pytest.raises(LabelError, match="expected"):
        LabelTable.from_json(value)


def test_a_code_cannot_be_both_and_codes_are_distinct():
    with pytest.raises(LabelError, match="both as a class and as unlabeled"):
        LabelTable.from_codes([0, 1], (1,))
    with pytest.raises(LabelError, match="distinct"):
        LabelTable((LabelClass(1, "a", (0, 0, 0)), LabelClass(1, "b", (0, 0, 0))))
    with pytest.raises(LabelError, match=r"drawn\.nii holds code 7, which is neither"):
        LabelTable.from_codes([0, 1], (255,)).encode(np.array([0, 7]), "drawn.nii")


def test_r10_more_than_256_classes_are_exact():
    codes = list(range(0, 70000, 200))
    table = LabelTable.from_codes(codes)
    classes, _ = table.encode(np.array(codes))
    assert classes.dtype == np.uint16
    assert table.decode(classes).tolist() == codes


def test_counts_ignore_unlabeled_voxels():
    classes = np.array([[[0, 1, 1, 2]]], np.uint8)
    labeled = np.array([[[True, True, False, False]]])
    labels = SparseLabels(classes, labeled, Affine.from_spacing((1, 1, 1)))
    assert labels.counts(3).tolist() == [1, 1, 0]
    with pytest.raises(LabelError, match="one shape"):
        SparseLabels(classes, labeled[..., 1:], Affine.from_spacing((1, 1, 1)))
