import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vol3d.baselines.features import FeatureMaps, Recipe
from vol3d.baselines.perceptrons import LabeledFeatures, Painted, Perceptrons, fit_perceptrons, labeled_features
from vol3d.baselines.unseen import Blocks, learned_by, members_of
from vol3d.volume import Affine, SparseLabels

ISOTROPIC = (1.0, 1.0, 1.0)


def test_blocks_are_cubes_and_neighbours_are_left_out_by_different_members():
    owner = Blocks((64, 60, 50), ISOTROPIC, 5).within(0, 64)
    assert owner.shape == (64, 60, 50)
    assert set(np.unique(owner)) == set(range(5))
    assert (owner[:16, :16, :16] == owner[0, 0, 0]).all()
    assert owner[16, 0, 0] != owner[15, 0, 0]
    assert owner[0, 16, 0] != owner[0, 15, 0]
    assert owner[0, 0, 16] != owner[0, 0, 15]


def test_blocks_are_as_long_in_mm_along_every_axis():
    owner = Blocks((64, 64, 12), (0.5, 0.5, 4.0), 5).within(0, 64)
    assert (np.diff(owner[0, 0].astype(int)) != 0).tolist() == [False, True] * 5 + [False]


@pytest.mark.parametrize("shape", [(6, 5, 4), (9, 1, 9), (2, 2, 2), (1, 1, 40)])
def test_small_volumes_have_blocks_too(shape):
    owner = Blocks(shape, ISOTROPIC, 3).within(0, shape[0])
    assert len(np.unique(owner)) == min(3, sum(shape) - 2)


@given(start=st.integers(0, 20), length=st.integers(1, 20), members=st.integers(2, 5))
def test_planes_and_places_agree(start, length, members):
    blocks = Blocks((40, 21, 13), (1.0, 2.0, 3.0), members)
    part = blocks.within(start, start + length)
    places = np.arange(start * 21 * 13, (start + length) * 21 * 13)
    assert np.array_equal(part.reshape(-1), blocks.at(places))


def test_each_scan_has_its_own_blocks():
    blocks = [Blocks((40, 8, 8), ISOTROPIC, 3), Blocks((8, 8, 40), ISOTROPIC, 3)]
    scan, place = np.array([1, 0, 1, 0]), np.array([39, 2559, 5, 63])
    found = members_of(blocks, scan, place)
    assert found.tolist() == [*blocks[1].at(place[:1]), *blocks[0].at(place[1:2]), *blocks[1].at(place[2:3]), 0]


def test_a_member_learns_from_all_but_its_blocks():
    left_out, labels = np.array([0, 0, 1, 1, 2, 2], np.uint8), np.array([0, 1, 0, 1, 0, 1])
    assert [rows.tolist() for rows in learned_by(left_out, labels, 2, 3)] == [[2, 3, 4, 5], [0, 1, 4, 5], [0, 1, 2, 3]]


def test_a_class_that_is_in_one_members_blocks_alone_is_learned_by_all():
    left_out, labels = np.array([0, 0, 0, 1, 1, 0], np.uint8), np.array([0, 2, 2, 0, 0, 2])
    first, second = learned_by(left_out, labels, 4, 2)
    assert first.tolist() == [1, 2, 3, 4, 5]
    assert second.tolist() == [0, 1, 2, 3, 4, 5]
    almost = np.array([0, 1, 0, 1, 1, 0], np.uint8)
    assert [rows.tolist() for rows in learned_by(almost, labels, 4, 2)] == [[1, 2, 3, 4, 5], [0, 2, 3, 4, 5]]
    every = learned_by(np.zeros(3, np.uint8), np.array([0, 1, 1]), 2, 2)
    assert [rows.tolist() for rows in every] == [[0, 1, 2], [0, 1, 2]]


def known_noise(shape=(24, 24, 24)):
    """Features and labels that have nothing to do with each other."""
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.normal(size=(1, *shape)).astype(np.float32))
    classes = rng.integers(0, 2, shape).astype(np.uint8)
    labels = SparseLabels(classes, rng.random(shape) < 0.04, Affine.from_spacing(ISOTROPIC))
    maps = FeatureMaps(image, ISOTROPIC, Recipe((1.0, 2.0), (), (1.0,)), keep_bytes=1e9)
    return labeled_features([Painted(image, labels, ISOTROPIC)], [maps], 2)


def share_right(answer, known):
    return float((answer.argmax(0).numpy() == known.classes).mean())


def test_a_member_knows_nothing_of_the_labels_it_left_out(monkeypatch):
    monkeypatch.setattr("vol3d.baselines.perceptrons._MOST_EPOCHS", 1000)  # by heart
    known = known_noise()
    blocks = Blocks((24, 24, 24), ISOTROPIC, 5)
    owner = members_of([blocks], known.scan, known.place)
    fitted = fit_perceptrons(known, 2, learned=learned_by(owner, known.classes, 2, 5), steps=300)
    said, apart = fitted.answer_apart(known.rows.T, torch.from_numpy(owner).long())
    assert torch.allclose(said, fitted.answer(known.rows.T))
    assert share_right(said, known) > 0.9
    assert 0.4 < share_right(apart, known) < 0.6


def test_what_one_member_says_is_told_apart_for_every_voxel():
    generator = torch.Generator().manual_seed(3)
    network = Perceptrons(4, 3, members=2, hidden=5)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    columns = torch.randn(4, 9000, generator=generator)
    member = torch.randint(2, (9000,), generator=generator)
    _, apart = network.answer_apart(columns, member)
    each = torch.softmax(network(columns.T), dim=-1)
    assert torch.allclose(apart, each[member, torch.arange(9000)].T, atol=1e-5)


def test_without_blocks_all_members_learn_from_everything():
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    zeros = np.zeros(50, np.int64)
    known = LabeledFeatures(rows, np.arange(50) % 2, np.ones(50), zeros, np.arange(50))
    plain = fit_perceptrons(known, 2, steps=5)
    told = fit_perceptrons(known, 2, learned=[np.arange(50)] * plain.members, steps=5)
    assert torch.equal(plain.weights[0], told.weights[0])
