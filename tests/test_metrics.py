from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from vol3d.errors import GeometryError, LabelError
from vol3d.metrics import Contingency, contingency

law = settings(deadline=None)
K = 4


def _case(seed: int, shape: tuple[int, ...] = (5, 6, 7)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, K, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.6, reference, rng.integers(0, K - 1, shape)).astype(np.uint16)
    return prediction, reference, rng.random(shape) < 0.5


@law
@given(st.integers(0, 2**32 - 1))
def test_agrees_with_scikit_learn(seed: int) -> None:
    prediction, reference, mask = _case(seed)
    table = Contingency.from_labels(prediction, reference, mask, K)
    truth, found, labels = reference[mask], prediction[mask], list(range(K))
    assert np.array_equal(table.counts, sk.confusion_matrix(truth, found, labels=labels))
    assert table.voxels == mask.sum()
    options = {"labels": labels, "average": None, "zero_division": np.nan}
    for ours, theirs in (
        (table.iou, sk.jaccard_score(truth, found, labels=labels, average=None, zero_division=0)),
        (table.dice, sk.f1_score(truth, found, **options)),
        (table.precision, sk.precision_score(truth, found, **options)),
        (table.recall, sk.recall_score(truth, found, **options)),
    ):
        for k in labels:
            if not math.isnan(ours(k)):
                assert ours(k) == pytest.approx(theirs[k])


@law
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_blocks_add_up_to_the_whole(seed: int, cut: int) -> None:
    prediction, reference, mask = _case(seed)
    whole = Contingency.from_labels(prediction, reference, mask, K)
    parts = Contingency.empty(K)
    for block in (slice(None, cut), slice(cut, None)):
        parts = parts + Contingency.from_labels(prediction[block], reference[block], mask[block], K)
    assert parts == whole


def test_counting_in_small_blocks_changes_nothing(monkeypatch) -> None:
    prediction, reference, mask = _case(1)
    whole = Contingency.from_labels(prediction, reference, mask, K)
    monkeypatch.setattr(contingency, "_BLOCK_VOXELS", 50)
    assert Contingency.from_labels(prediction, reference, mask, K) == whole
    assert Contingency.from_labels(prediction[mask], reference[mask], None, K) == whole


@law
@given(st.integers(0, 2**32 - 1))
def test_what_stands_outside_the_mask_changes_nothing(seed: int) -> None:
    prediction, reference, mask = _case(seed)
    whole = Contingency.from_labels(prediction, reference, mask, K)
    garbage = np.random.default_rng(seed + 1).integers(0, 60000, reference.shape)
    other = Contingency.from_labels(np.where(mask, prediction, garbage), np.where(mask, reference, -garbage), mask, K)
    assert other == whole


def test_undefined_is_nan_and_means_leave_it_out() -> None:
    reference = np.array([0, 0, 1, 1])
    prediction = np.array([0, 2, 1, 1])
    table = Contingency.from_labels(prediction, reference, None, 4)
    assert table.iou(0) == 0.5
    assert table.iou(1) == 1.0
    assert table.iou(2) == 0.0  # predicted, but absent: an error, and defined
    assert math.isnan(table.recall(2))
    assert [math.isnan(score(3)) for score in (table.iou, table.dice, table.precision, table.recall)] == [True] * 4
    assert table.mean_iou() == pytest.approx(0.5)
    assert table.mean_iou(without=0) == pytest.approx(0.5)
    assert table.mean_dice() == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert math.isnan(Contingency.empty(3).mean_iou())
    assert math.isnan(Contingency.empty(3).mean_dice())


@law
@given(st.integers(0, 2**32 - 1))
def test_dice_and_iou_say_the_same(seed: int) -> None:
    table = Contingency.from_labels(*_case(seed), K)
    for k in range(K):
        iou = table.iou(k)
        assert math.isnan(iou) if math.isnan(table.dice(k)) else table.dice(k) == pytest.approx(2 * iou / (1 + iou))


@law
@given(st.integers(0, 2**32 - 1))
def test_specificity_and_volume_similarity_agree_with_sets(seed: int) -> None:
    prediction, reference, mask = _case(seed)
    table = Contingency.from_labels(prediction, reference, mask, K)
    for k in range(K):
        truth, found = reference[mask] == k, prediction[mask] == k
        others = np.count_nonzero(~truth)
        wanted = np.count_nonzero(~truth & ~found) / others if others else math.nan
        assert table.specificity(k) == pytest.approx(wanted, nan_ok=True)
        assert table.specificity(k) == pytest.approx(sk.recall_score(~truth, ~found)) or not others
        sizes = np.array([truth.sum(), found.sum()])
        wanted = 2 * sizes.min() / sizes.sum() if sizes.sum() else math.nan
        assert table.volume_similarity(k) == pytest.approx(wanted, nan_ok=True)


def test_specificity_and_volume_similarity_at_their_edges() -> None:
    full = Contingency(np.array([[7]]))
    assert math.isnan(full.specificity(0))  # nothing is outside
    assert full.volume_similarity(0) == 1.0
    missed = Contingency(np.array([[4, 0], [3, 0]]))
    assert missed.specificity(0) == 0.0
    assert missed.specificity(1) == 1.0
    assert missed.volume_similarity(1) == 0.0
    assert math.isnan(Contingency.empty(2).volume_similarity(0))
    score = missed.scores(["a", "b"])[0]
    assert score.f1 == score.dice == score.to_json()["f1"]


def test_scores_name_every_class_and_are_json() -> None:
    prediction, reference, mask = _case(3)
    table = Contingency.from_labels(prediction, reference, mask, K)
    names = ["inside", "wall", "outside", "vessel"]
    scores = table.scores(names, [0, 5, 7, 300])
    assert [s.name for s in scores] == names
    assert [s.code for s in scores] == [0, 5, 7, 300]
    assert sum(s.voxels for s in scores) == sum(s.predicted_voxels for s in scores) == table.voxels
    assert table.scores(names)[2].code == 2
    assert scores[0].iou == table.iou(0)
    empty = json.loads(json.dumps(Contingency.empty(1).scores(["a"])[0].to_json(), allow_nan=False))
    assert empty == {
        "code": 0, "name": "a", "iou": None, "dice": None, "precision": None, "recall": None,
        "specificity": None, "volume_similarity": None, "voxels": 0, "predicted_voxels": 0, "f1": None,
    }  # fmt: skip


def test_counts_are_exact_beyond_float_precision() -> None:
    large = Contingency(np.array([[2**53, 1], [0, 2**53]]))
    assert (large + Contingency(np.array([[1, 0], [0, 0]]))).counts[0, 0] == 2**53 + 1
    assert not large.counts.flags.writeable


def test_empty_arrays_count_nothing() -> None:
    assert Contingency.from_labels(np.zeros((0,), int), np.zeros((0,), int), None, 2) == Contingency.empty(2)
    none = np.zeros((2, 2), bool)
    assert Contingency.from_labels(none.astype(int), none.astype(int), none, 2).voxels == 0


def test_refusals_say_what_was_found() -> None:
    ones = np.ones((2, 2), dtype=np.uint8)
    with pytest.raises(GeometryError, match=r"one shape.*\(2, 2\).*\(2,\)"):
        Contingency.from_labels(ones, ones[0], None, 2)
    with pytest.raises(GeometryError, match="mask"):
        Contingency.from_labels(ones, ones, np.ones(3, bool), 2)
    with pytest.raises(LabelError, match="0 to 0 in the reference, found 1"):
        Contingency.from_labels(ones, ones, None, 1)
    with pytest.raises(LabelError, match="in the prediction, found -1"):
        Contingency.from_labels(-ones.astype(int), ones, None, 2)
    with pytest.raises(LabelError, match="float64"):
        Contingency.from_labels(ones.astype(float), ones, None, 2)
    with pytest.raises(LabelError, match="2 and of 3"):
        Contingency.empty(2) + Contingency.empty(3)
    with pytest.raises(LabelError, match="square"):
        Contingency(np.zeros((2, 3)))
    with pytest.raises(LabelError, match="found 1 and 2"):
        Contingency.empty(2).scores(["a"])
