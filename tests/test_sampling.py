import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vol3d.errors import LabelError
from vol3d.sampling import LabeledVoxels, PatchDataset, hold_out, painted_slices
from vol3d.volume import Affine, SparseLabels

AFFINE = Affine.from_spacing((1, 1, 1))


def sparse(classes, labeled, weight=None):
    return SparseLabels(classes.astype(np.uint8), labeled, AFFINE, "drawn", weight)


def painted(shape=(20, 22, 24), slices=((0, (3, 9, 15)), (1, (4, 12, 18)), (2, (6, 14))), seed=0):
    labeled = np.zeros(shape, bool)
    for axis, indices in slices:
        for index in indices:
            labeled[(slice(None),) * axis + (index,)] = True
    return sparse(np.random.default_rng(seed).integers(0, 3, shape), labeled)


@given(st.integers(0, 10**6))
@settings(max_examples=50)
def test_only_labeled_voxels_with_weight_are_drawn(seed):
    rng = np.random.default_rng(seed)
    labeled = rng.random((4, 5, 6)) < 0.2
    labeled[0, 0, 0] = True
    weight = (rng.random((4, 5, 6)) < 0.8).astype(np.float32)
    weight[0, 0, 0] = 1
    centres = LabeledVoxels([sparse(rng.integers(0, 4, (4, 5, 6)), labeled, weight)])
    for _ in range(20):
        number, voxel = centres.draw(rng)
        assert number == 0
        assert labeled[voxel]
        assert weight[voxel] > 0


def test_classes_are_drawn_equally_often_however_rare():
    classes = np.zeros((10, 10, 10))
    classes[5, 5, 5] = 1
    other = np.full((10, 10, 10), 2)
    cases = [sparse(c, np.ones((10, 10, 10), bool)) for c in (classes, other)]
    centres, rng = LabeledVoxels(cases), np.random.default_rng(0)
    drawn = [centres.draw(rng) for _ in range(1500)]
    counts = np.bincount([int(cases[n].classes[v]) for n, v in drawn])
    assert centres.classes == (0, 1, 2)
    assert (counts > 430).all()


@given(st.integers(1, 10**6))
@settings(max_examples=20)
def test_codes_under_unlabeled_voxels_change_no_draw(seed):
    rng = np.random.default_rng(seed)
    labels = painted(seed=seed)
    other = labels.classes.copy()
    other[~labels.labeled] = rng.integers(0, 200, int((~labels.labeled).sum()))
    one, two = LabeledVoxels([labels]), LabeledVoxels([sparse(other, labels.labeled)])
    draws = [[c.draw(np.random.default_rng(i)) for i in range(10)] for c in (one, two)]
    assert draws[0] == draws[1]


def test_r13_no_labeled_voxel_is_refused_by_name():
    with pytest.raises(LabelError, match="drawn: expected labeled voxels"):
        LabeledVoxels([sparse(np.zeros((2, 2, 2)), np.zeros((2, 2, 2), bool))])


def test_a_sample_depends_on_seed_and_index_alone():
    labels = painted()

    def cut(case, voxel, rng):
        return {"voxel": voxel, "number": rng.random(), "case": case}

    patches = [PatchDataset(["a"], LabeledVoxels([labels]), cut, seed) for seed in (0, 0, 1)]
    forward = [patches[0][i] for i in range(10)]
    assert [patches[1][i] for i in reversed(range(10))] == forward[::-1]
    assert [patches[2][i] for i in range(10)] != forward


def test_painted_slices_are_planes_at_least_half_labeled():
    labels = painted()
    found = painted_slices(labels.labeled)
    assert found == [(0, 3), (0, 9), (0, 15), (1, 4), (1, 12), (1, 18), (2, 6), (2, 14)]
    thin = np.zeros((8, 8, 1), bool)
    thin[2] = True
    assert painted_slices(thin) == []  # what was painted of a plane are lines, which are no slices


@pytest.mark.parametrize("every", [2, 3, 4, 5])
def test_held_out_slices_share_no_voxel_with_training(every):
    labels = painted()
    split = hold_out(labels, every)
    train, held = split.training.labeled, split.validation.labeled
    assert held.any()
    assert not (train & held).any()
    assert not (train & ~labels.labeled).any()
    assert not (held & ~labels.labeled).any()
    away = set(painted_slices(labels.labeled)) - set(painted_slices(train, 0.3))
    for axis, index in away:
        plane = (slice(None),) * axis + (index,)
        assert not train[plane].any()
    crossing = labels.labeled & ~train & ~held
    kept = set(painted_slices(labels.labeled)) - away
    for x, y, z in np.argwhere(crossing):
        on = {(0, int(x)), (1, int(y)), (2, int(z))}
        assert on & away
        assert on & kept
    assert f"{len(away)} of 8 slices" in split.said


def test_fewer_than_four_slices_hold_out_nothing_and_say_so():
    split = hold_out(painted(slices=((0, (3,)), (1, (4,)), (2, (6,)))), 4)
    assert split.validation is None
    assert "3 annotated slices are too few" in split.said
    assert hold_out(painted(), 0).validation is None


def test_no_class_vanishes_from_training():
    labels = painted()
    classes = np.zeros_like(labels.classes)
    classes[9] = 1  # this class is on one slice only
    split = hold_out(sparse(classes, labels.labeled), 4)
    kept = np.unique(split.training.classes[split.training.labeled])
    assert kept.tolist() == [0, 1]
    everywhere = np.zeros((20, 22, 24), bool)
    for x in (3, 9, 15, 18):
        everywhere[x] = True
    own = np.zeros((20, 22, 24))
    for x in (3, 9, 15, 18):
        own[x] = x  # a class of its own on every slice
    split = hold_out(sparse(own, everywhere), 4)
    assert split.validation is None
    assert "without losing a class" in split.said


@pytest.mark.parametrize("kind", ["scribbles", "dense"])
def test_labels_that_are_no_slices_are_split_by_blocks(kind):
    rng = np.random.default_rng(0)
    shape = (50, 40, 33)
    labeled = np.ones(shape, bool) if kind == "dense" else rng.random(shape) < 0.02
    split = hold_out(sparse(rng.integers(0, 2, shape), labeled), 4)
    train, held = split.training.labeled, split.validation.labeled
    assert np.array_equal(train | held, labeled)
    assert not (train & held).any()
    assert 0.1 < held.sum() / labeled.sum() < 0.4
    assert "blocks" in split.said


def test_a_handful_of_scribbles_holds_out_nothing():
    labeled = np.zeros((30, 30, 30), bool)
    labeled[:3, 0, 0] = True
    split = hold_out(sparse(np.arange(27000).reshape(30, 30, 30) // 900 % 2, labeled), 4)
    assert split.validation is None
