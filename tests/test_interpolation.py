"""Shape-based interpolation of painted slices, and its score beside a network's."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import distance_transform_edt

from vol3d.baselines.interpolation import interpolate
from vol3d.config import TaskSpec
from vol3d.errors import LabelError
from vol3d.metrics import Contingency
from vol3d.sampling import HoldOut, hold_out
from vol3d.volume import Affine, LabelTable, SparseLabels
from vol3d.workflows.baselines import Interpolation, score_baseline, score_interpolation
from vol3d.workflows.case import Case

LAWS = settings(max_examples=60)
SHAPES = st.tuples(*[st.integers(1, 9)] * 3)
SPACINGS = st.tuples(*[st.sampled_from([0.3, 1.0, 2.0, 5.0])] * 3)


def sparse(classes, labeled, spacing=(1, 1, 1)):
    return SparseLabels(classes, labeled, Affine.from_spacing(spacing))


@st.composite
def painted_labels(draw, axes=(0, 1, 2)):
    """Random classes, known in a few planes across some axes, and perhaps in a few scribbled voxels."""
    shape = draw(SHAPES)
    classes = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2)))
    labeled = draw(hnp.arrays(bool, shape, elements=st.booleans())) & draw(st.booleans())
    labeled[tuple(n // 2 for n in shape)] = True
    for axis in axes:
        for index in draw(st.lists(st.integers(0, shape[axis] - 1), max_size=2)):
            np.moveaxis(labeled, axis, 0)[index] = True
    return classes, labeled, draw(SPACINGS)


def planes(shape, *chosen):
    mask = np.zeros(shape, bool)
    for axis, index in chosen:
        np.moveaxis(mask, axis, 0)[index] = True
    return mask


def ball(shape, centre, radius, spacing=(1, 1, 1)):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)
    away = (grid - np.reshape(centre, (3, 1, 1, 1))) * np.reshape(spacing, (3, 1, 1, 1))
    return (np.sqrt((away**2).sum(axis=0)) < radius).astype(np.uint8)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


# laws


@LAWS
@given(painted_labels())
def test_known_voxels_keep_their_class_and_unlabeled_ones_change_nothing(drawn):
    classes, labeled, spacing = drawn
    found = interpolate(sparse(classes, labeled), spacing, 3)
    assert found.shape == classes.shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[labeled], classes[labeled])
    assert set(np.unique(found)) <= set(np.unique(classes[labeled]))
    other = np.where(labeled, classes, 200).astype(np.uint8)
    np.testing.assert_array_equal(found, interpolate(sparse(other, labeled), spacing, 3))


@LAWS
@given(hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 4)))
def test_dense_labels_come_back(classes):
    np.testing.assert_array_equal(interpolate(sparse(classes, np.ones(classes.shape, bool)), (1, 2, 3), 5), classes)


@LAWS
@given(
    st.tuples(st.integers(2, 7), st.integers(2, 7)).flatmap(
        lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 3))
    ),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(4, 8),
    SPACINGS,
)
def test_between_equal_slices_and_beyond_them_everything_is_equal(flat, axis, first, last, spacing):
    shape = list(flat.shape)
    shape.insert(axis, 10)
    classes = np.full(shape, 3, np.uint8)
    for index in (first, last):
        np.moveaxis(classes, axis, 0)[index] = flat
    labels = sparse(classes, planes(shape, (axis, first), (axis, last)))
    found = np.moveaxis(interpolate(labels, spacing, 4), axis, 0)
    np.testing.assert_array_equal(found, np.broadcast_to(flat, found.shape))


@LAWS
@given(painted_labels(), st.tuples(*[st.booleans()] * 3))
def test_flips(drawn, flips):
    classes, _, spacing = drawn
    labeled = planes(classes.shape, *((a, n // 3) for a, n in enumerate(classes.shape) if n > 1))
    labeled |= planes(classes.shape, *((a, n - 1) for a, n in enumerate(classes.shape) if n > 2))
    if not labeled.any():
        return
    turn = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    there = interpolate(sparse(classes, labeled), spacing, 3)
    back = interpolate(sparse(classes[turn], labeled[turn]), spacing, 3)[turn]
    np.testing.assert_array_equal(there, back)


@LAWS
@given(painted_labels(), st.permutations(range(3)), st.permutations(range(3)))
def test_permutations_of_the_axes_with_their_spacings(drawn, order, chosen):
    """Painted across two axes: the sum of three numbers depends on their order, by less than anybody sees."""
    classes, _, spacing = drawn
    labeled = planes(classes.shape, *((a, classes.shape[a] // 2) for a in chosen[:2] if classes.shape[a] > 1))
    if not labeled.any():
        return
    there = interpolate(sparse(classes, labeled), spacing, 3).transpose(order)
    turned = sparse(classes.transpose(order), labeled.transpose(order))
    np.testing.assert_array_equal(interpolate(turned, [spacing[a] for a in order], 3), there)


@LAWS
@given(painted_labels(), st.sampled_from([1e-6, 0.25, 1024.0]))
def test_the_unit_of_length_does_not_matter(drawn, scale):
    classes, labeled, spacing = drawn
    found = interpolate(sparse(classes, labeled), spacing, 3)
    assert np.mean(found != interpolate(sparse(classes, labeled), [scale * s for s in spacing], 3)) <= 0.02


# against the formula, voxel by voxel


def _by_the_formula(classes, labeled, spacing, k_classes):
    """The docstring's words as loops; every plane of `labeled` is either painted in full or not at all."""
    out = np.zeros(classes.shape, np.uint8)
    margin = np.zeros(classes.shape)
    for voxel in np.ndindex(classes.shape):
        votes = np.zeros(k_classes)
        for axis in range(3):
            painted = [i for i in range(classes.shape[axis]) if np.moveaxis(labeled, axis, 0)[i].all()]
            before = [i for i in painted if i <= voxel[axis]][-1:]
            after = [i for i in painted if i >= voxel[axis]][:1]
            for index in {*before, *after}:
                away = max(abs(index - voxel[axis]) * spacing[axis], 1e-3)
                flat = np.moveaxis(classes, axis, 0)[index]
                sampling = [spacing[a] for a in range(3) if a != axis]
                place = tuple(voxel[a] for a in range(3) if a != axis)
                for k in range(k_classes):
                    inside = distance_transform_edt(flat == k, sampling=sampling)[place]
                    outside = distance_transform_edt(flat != k, sampling=sampling)[place]
                    inside = inside if (flat != k).any() else 1e9
                    outside = outside if (flat == k).any() else 1e9
                    votes[k] += np.clip((inside - outside) / away, -1, 1) / away**2
        best = np.sort(votes)
        out[voxel], margin[voxel] = votes.argmax(), best[-1] - best[-2]
    return out, margin


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 1, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_every_voxel_against_the_formula(spacing, seed):
    shape = (6, 7, 5)
    rng = np.random.default_rng(seed)
    classes = (ball(shape, (2, 3, 2), 2.5, spacing) + ball(shape, rng.uniform(1, 4, 3), 3, spacing)).astype(np.uint8)
    labeled = planes(shape, (0, 1), (0, 5), (1, 3), (2, 0), (2, 3))
    wanted, margin = _by_the_formula(classes, labeled, spacing, 3)
    clear = (margin > 1e-4) & ~labeled
    assert clear.sum() > 40
    np.testing.assert_array_equal(interpolate(sparse(classes, labeled), spacing, 3)[clear], wanted[clear])


# cases made by hand


def test_a_ball_between_slices():
    shape, spacing = (41, 41, 41), (1.0, 1.0, 1.0)
    truth = ball(shape, (20, 20, 20), 14)
    labeled = planes(shape, *((2, z) for z in (4, 10, 15, 20, 25, 30, 36)))
    found = interpolate(sparse(truth, labeled), spacing, 2)
    assert iou(found == 1, truth == 1) > 0.87
    np.testing.assert_array_equal(found[:, :, 37:], 0)  # beyond the last slice, which is empty
    crossed = interpolate(sparse(truth, planes(shape, *((a, i) for a in range(3) for i in (10, 20, 30)))), spacing, 2)
    assert iou(crossed == 1, truth == 1) > 0.85


def test_a_tilted_rod_moves_steadily_between_two_slices():
    """What tells shape-based interpolation from a copy of the nearest slice: the middle lies between the two."""
    shape = (40, 15, 9)
    x = np.arange(40)[:, None, None]
    centre = 14 + 1.0 * np.arange(9)
    truth = (np.abs(x - centre) <= 6).astype(np.uint8) * np.ones(shape, np.uint8)
    found = interpolate(sparse(truth, planes(shape, (2, 0), (2, 8))), (1, 1, 1), 2)
    middle = np.flatnonzero(found[:, 7, 4])
    assert abs(middle.mean() - 18) <= 0.5
    assert iou(found == 1, truth == 1) > 0.8


def test_millimetres_decide_not_voxels():
    """Painted across x (class 1) and z (class 2): a voxel belongs to the plane that is nearer in mm."""
    shape = (11, 4, 11)
    classes = np.zeros(shape, np.uint8)
    classes[0], classes[:, :, 0] = 1, 2
    labeled = planes(shape, (0, 0), (2, 0))
    for spacing, wanted in (((1, 1, 5), 1), ((5, 1, 1), 2)):
        assert interpolate(sparse(classes, labeled), spacing, 3)[3, 2, 3] == wanted


def test_scribbles_are_voronoi_cells():
    rng = np.random.default_rng(0)
    shape, spacing = (12, 14, 10), (1.0, 1.5, 2.0)
    labeled = np.zeros(shape, bool)
    labeled[tuple(rng.integers(0, n, 12) for n in shape)] = True
    classes = rng.integers(0, 3, shape).astype(np.uint8)
    found = interpolate(sparse(classes, labeled), spacing, 3)
    seeds = np.argwhere(labeled) * spacing
    for voxel in itertools.product(range(0, 12, 3), range(0, 14, 3), range(0, 10, 3)):
        away = np.linalg.norm(seeds - np.multiply(voxel, spacing), axis=1)
        nearest = np.isclose(away, away.min())
        assert found[voxel] in {int(classes[labeled][i]) for i in np.flatnonzero(nearest)}


def test_a_scribble_counts_where_it_is_nearer_than_every_slice():
    shape = (9, 9, 21)
    classes = np.zeros(shape, np.uint8)
    labeled = planes(shape, (2, 0), (2, 20))
    classes[4, 4, 10], labeled[4, 4, 10] = 1, True
    found = interpolate(sparse(classes, labeled), (1, 1, 1), 2)
    assert found[4, 4, 12] == found[0, 0, 10] == 1
    assert found[4, 4, 4] == found[4, 4, 16] == 0


def test_held_out_blocks_of_dense_labels_are_filled_from_around_them():
    truth = ball((40, 40, 40), (20, 20, 20), 14)
    labeled = np.ones(truth.shape, bool)
    labeled[4:16, 12:28, 12:28] = False
    found = interpolate(sparse(truth, labeled), (1, 1, 1), 2)
    assert (found == truth)[~labeled].mean() > 0.8


def test_a_solid_block_of_slices_is_as_good_as_its_ends():
    """Half of a stack painted slice by slice: the other half is the last painted slice."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, (8, 8, 20)).astype(np.uint8)
    labeled = np.zeros(classes.shape, bool)
    labeled[:, :, :9] = True
    found = interpolate(sparse(classes, labeled), (1, 1, 1), 2)
    np.testing.assert_array_equal(found[:, :, 9], classes[:, :, 8])


def test_gaps_in_a_slice_are_filled_within_it():
    """Where a held-out slice crossed, a line of the painted slice is missing."""
    classes = np.zeros((12, 12, 5), np.uint8)
    classes[:6] = 1
    labeled = planes(classes.shape, (2, 2))
    labeled[:, 5] = False
    found = interpolate(sparse(classes, labeled), (1, 1, 1), 2)
    np.testing.assert_array_equal(found, classes)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 7), (6, 1, 7), (1, 1, 5)])
def test_flat_volumes(shape):
    labeled = np.zeros(shape, bool)
    labeled[0, 0, 0] = True
    assert (interpolate(sparse(np.ones(shape, np.uint8), labeled), (1, 1, 1), 2) == 1).all()


def test_one_class_and_very_many():
    labeled = planes((6, 6, 6), (2, 3))
    assert not interpolate(sparse(np.zeros((6, 6, 6), np.uint8), labeled), (1, 1, 1), 1).any()
    many = np.arange(216).reshape(6, 6, 6).astype(np.uint16) + 200
    found = interpolate(sparse(many, labeled), (1, 1, 1), 500)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, np.broadcast_to(many[:, :, 3:4], many.shape))


def test_what_cannot_be_interpolated_is_refused():
    nothing = sparse(np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), bool))
    with pytest.raises(LabelError, match="expected labeled voxels to interpolate from"):
        interpolate(nothing, (1, 1, 1), 2)
    with pytest.raises(LabelError, match="expected class indices 0 to 1, found 3"):
        interpolate(sparse(np.full((4, 4, 4), 3, np.uint8), np.ones((4, 4, 4), bool)), (1, 1, 1), 2)


# scores


TABLE = LabelTable.from_codes([0, 1], names={1: "ball"})
MEANING = SimpleNamespace(table=TABLE, spec=TaskSpec())


def case(name="scan", labels=None):
    truth = ball((36, 36, 36), (18, 18, 18), 13)
    labels = labels or sparse(truth, planes(truth.shape, *((a, i) for a in range(3) for i in (8, 13, 18, 23, 28))))
    return Case(name, torch.zeros(1, *labels.shape), labels, (1.0, 1.0, 1.0), {})


def test_held_out_slices_are_scored_from_the_others_only():
    one = case()
    split = hold_out(one.labels, 5)
    found = score_interpolation([one], [split], MEANING)
    answer = interpolate(split.training, one.spacing_mm, 2)
    counts = Contingency.from_labels(answer, one.labels.classes, split.validation.labeled, 2)
    assert found.name == "interpolation"
    assert found.score.iou == {"background": counts.iou(0), "ball": counts.iou(1)}
    assert found.score.mean_iou == counts.mean_iou()
    assert [c.recall for c in found.classes] == [counts.recall(0), counts.recall(1)]
    assert 0.5 < found.score.iou["ball"] < 1


def test_a_scan_without_training_labels_is_left_out_and_named():
    one, other = case("a"), case("b")
    split = hold_out(one.labels, 5)
    nothing = replace(other.labels, labeled=np.zeros(other.shape, bool))
    whole = HoldOut(nothing, other.labels, "held out")
    alone = score_interpolation([one], [split], MEANING)
    both = score_interpolation([one, other], [split, whole], MEANING)
    assert both.left_out == ("b",)
    assert both.score == alone.score
    assert score_interpolation([other], [whole], MEANING) is None


def test_nothing_held_out_or_no_classes_gives_no_score():
    one = case()
    assert score_interpolation([one], [HoldOut(one.labels, None, "nothing")], MEANING) is None
    regression = SimpleNamespace(table=TABLE, spec=TaskSpec(kind="regression"))
    assert score_interpolation([one], [hold_out(one.labels, 5)], regression) is None


def test_any_method_is_scored_the_same_way():
    class Oracle:
        name = "oracle"

        def __call__(self, case, split):
            assert not (split.training.labeled & split.validation.labeled).any()
            return case.labels.classes

    one = case()
    split = hold_out(one.labels, 5)
    found = score_baseline(Oracle(), [one], [split], MEANING)
    assert (found.name, found.score.mean_iou) == ("oracle", 1.0)
    assert Interpolation(2).name == "interpolation"
