from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from skimage.metrics import adapted_rand_error, variation_of_information

from vol3d.errors import ConfigError, GeometryError, LabelError
from vol3d.metrics.instances import InstanceScores, Pairs, instance_scores
from vol3d.metrics.panoptic import PanopticScore, panoptic_scores

seeds = st.integers(0, 2**32 - 1)


def _case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two maps that agree here and there; either may be empty."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, 3))
    reference = rng.integers(0, rng.integers(1, 7), shape)
    prediction = np.where(rng.random(shape) < rng.random(), reference * 3, rng.integers(0, rng.integers(1, 7), shape))
    return prediction.astype(np.uint16), reference.astype(np.uint8)


def _overlaps(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(IoU, Dice) of every object with every object, by masks."""
    ours = [prediction == v for v in np.unique(prediction) if v]
    theirs = [reference == v for v in np.unique(reference) if v]
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in theirs] for a in ours]).reshape(len(ours), len(theirs))
    return iou, 2 * iou / (1 + iou)


def _same(ours: float, theirs: float) -> bool:
    return (math.isnan(ours) and math.isnan(theirs)) or ours == pytest.approx(theirs, abs=1e-9)


def _divide(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


@given(seeds)
def test_agrees_with_counting_by_masks(seed: int) -> None:
    prediction, reference = _case(seed)
    thresholds = (0.0, 0.1, 0.3, 0.5, 0.7, 0.95)
    scores = instance_scores(prediction, reference, thresholds)
    iou, dice = _overlaps(prediction, reference)
    found, objects = iou.shape
    assert (scores.objects, scores.predicted_objects) == (objects, found)
    for t in thresholds:
        rows, columns = linear_sum_assignment(-(iou > t).astype(float))
        n = int((iou > t)[rows, columns].sum())
        assert _same(scores.ap[t], _divide(n, objects + found - n))
        assert _same(scores.f1[t], _divide(2 * n, objects + found))
        assert _same(scores.precision[t], _divide(n, found))
        assert _same(scores.recall[t], _divide(n, objects))
    assert _same(scores.mean_ap, float(np.mean(list(scores.ap.values()))))
    if objects and found:
        assert _same(scores.sbd, min(dice.max(axis=0).mean(), dice.max(axis=1).mean()))
    else:
        assert _same(scores.sbd, 0.0 if objects or found else math.nan)


@given(seeds)
def test_agrees_with_scikit_image(seed: int) -> None:
    prediction, reference = _case(seed)
    scores = instance_scores(prediction, reference)
    split, merge = variation_of_information(reference, prediction)
    assert _same(scores.voi_split, split)
    assert _same(scores.voi_merge, merge)
    assert _same(scores.voi, split + merge)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        error = adapted_rand_error(reference, prediction)[0]
    assert _same(scores.adapted_rand_error, float(error))


@given(seeds)
def test_numbers_carry_no_meaning(seed: int) -> None:
    prediction, reference = _case(seed)
    rng = np.random.default_rng(seed)
    names = np.concatenate([[0], 1 + rng.permutation(40)])
    huge = names.astype(np.uint64) * 10**9
    ours, renamed = instance_scores(prediction, reference), instance_scores(names[prediction], huge[reference])
    for key, value in vars(ours).items():
        other = getattr(renamed, key)
        assert other == pytest.approx(value, nan_ok=True, abs=1e-12), key


@given(seeds)
def test_pairs_are_the_whole_table(seed: int) -> None:
    prediction, reference = _case(seed)
    pairs = Pairs.count(prediction, reference)
    assert pairs.voxels.sum() == reference.size
    assert (pairs.voxels > 0).all()
    for value, size in zip(pairs.reference_values, pairs.reference_sizes, strict=True):
        assert size == (reference == value).sum()
    for row, column, voxels in zip(pairs.reference, pairs.predicted, pairs.voxels, strict=True):
        one, other = pairs.reference_values[row], pairs.predicted_values[column]
        assert voxels == ((reference == one) & (prediction == other)).sum()


def _row(*runs: tuple[int, int]) -> np.ndarray:
    return np.repeat([value for value, _ in runs], [length for _, length in runs])


def test_identical_maps_are_perfect() -> None:
    cells = _row((0, 4), (1, 5), (2, 6), (9, 3))
    scores = instance_scores(cells, cells)
    assert set(scores.ap.values()) == {1.0}
    assert (scores.mean_ap, scores.sbd, scores.voi, scores.adapted_rand_error) == (1.0, 1.0, 0.0, 0.0)
    assert (scores.objects, scores.predicted_objects) == (3, 3)


def test_a_split_cell_shows_as_split() -> None:
    whole, halves = _row((1, 8)), _row((1, 4), (2, 4))
    scores = instance_scores(halves, whole)
    assert scores.ap[0.5] == 0.0  # IoU is 0.5, not above it
    assert instance_scores(halves, whole, (0.4,)).ap[0.4] == 0.5  # one of two pairs
    assert (scores.voi_split, scores.voi_merge) == (1.0, 0.0)
    assert scores.sbd == pytest.approx(2 / 3)
    merged = instance_scores(whole, halves)
    assert (merged.voi_split, merged.voi_merge) == (0.0, 1.0)


def test_an_uneven_split_keeps_the_larger_half() -> None:
    scores = instance_scores(_row((1, 6), (2, 2)), _row((1, 8)))
    assert (scores.precision[0.5], scores.recall[0.5], scores.ap[0.5]) == (0.5, 1.0, 0.5)
    assert scores.ap[0.75] == 0.0  # IoU is 0.75, not above it


def test_matching_below_one_half_finds_most_pairs() -> None:
    """Taking the best pair first (1 with 1) would leave object 2 without a partner."""
    reference = _row((1, 3), (1, 3), (2, 2), (0, 2))
    prediction = _row((2, 3), (1, 3), (1, 2), (0, 2))
    assert instance_scores(prediction, reference, (0.2,)).recall[0.2] == 1.0


def test_nothing_is_undefined_and_one_empty_side_is_a_miss() -> None:
    nothing, cell = np.zeros((3, 3, 3), np.uint8), np.ones((3, 3, 3), np.uint8)
    empty = instance_scores(nothing, nothing)
    assert all(math.isnan(v) for v in (empty.mean_ap, empty.sbd, empty.adapted_rand_error, empty.f1[0.5]))
    assert empty.voi == 0.0
    missed = instance_scores(nothing, cell)
    assert (missed.mean_ap, missed.sbd, missed.recall[0.5]) == (0.0, 0.0, 0.0)
    assert math.isnan(missed.precision[0.5])
    invented = instance_scores(cell, nothing)
    assert (invented.mean_ap, invented.sbd, invented.precision[0.5]) == (0.0, 0.0, 0.0)
    assert math.isnan(invented.recall[0.5])
    no_voxels = instance_scores(nothing[:0], nothing[:0])
    assert math.isnan(no_voxels.voi)


def test_scores_are_json() -> None:
    nothing = np.zeros((2, 2, 2), np.uint8)
    text = json.dumps(instance_scores(nothing, nothing, (0.5, 0.75)).to_json(), allow_nan=False)
    assert json.loads(text)["ap"] == {"0.5": None, "0.75": None}
    assert json.loads(text)["objects"] == 0
    assert set(json.loads(text)) == set(InstanceScores.__dataclass_fields__)


def test_wrong_maps_are_refused() -> None:
    cells = np.ones((2, 2, 2), np.int16)
    with pytest.raises(GeometryError, match="one shape"):
        instance_scores(cells, cells[:1])
    with pytest.raises(LabelError, match="from 0 up"):
        instance_scores(cells, -cells)
    with pytest.raises(LabelError, match="integer"):
        instance_scores(cells.astype(float), cells)
    for thresholds in ((), (1.0,), (-0.1,)):
        with pytest.raises(ConfigError, match="thresholds"):
            instance_scores(cells, cells, thresholds)


def test_hundreds_of_cells_are_counted_fast_and_right() -> None:
    rng = np.random.default_rng(0)
    reference = np.repeat(np.repeat(np.arange(1, 257).reshape(16, 16), 16, 0), 16, 1)[..., None].repeat(4, 2)
    prediction = np.where(rng.random(reference.shape) < 0.1, 0, reference + 1000)
    scores = instance_scores(prediction, reference)
    assert scores.ap[0.8] == 1.0
    assert scores.recall[0.95] == 0.0
    assert scores.objects == scores.predicted_objects == 256


# Panoptic quality


def _panoptic(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, 3))
    classes, numbers = rng.integers(0, 4, shape), rng.integers(0, 3, shape)
    keep = rng.random(shape) < 0.8
    return [
        np.where(keep, classes, rng.integers(0, 5, shape)),
        np.where(keep, numbers, rng.integers(0, 4, shape)),
        classes,
        numbers,
    ]


def _by_masks(maps: list[np.ndarray], things: tuple[int, ...], code: int) -> tuple[float, int, int, int]:
    """(sum of IoU, TP, FP, FN) of one class."""

    def masks(classes: np.ndarray, numbers: np.ndarray) -> list[np.ndarray]:
        if code not in things:
            return [classes == code] if (classes == code).any() else []
        return [(classes == code) & (numbers == n) for n in np.unique(numbers[classes == code]) if n]

    ours, theirs = masks(*maps[:2]), masks(*maps[2:])
    overlaps = [(a & b).sum() / (a | b).sum() for a in ours for b in theirs]
    good = [v for v in overlaps if v > 0.5]
    return sum(good), len(good), len(ours) - len(good), len(theirs) - len(good)


@given(seeds)
def test_panoptic_quality_agrees_with_masks(seed: int) -> None:
    maps, things = _panoptic(seed), (1, 3)
    scores = panoptic_scores(*maps, things)
    for code in range(6):
        total, tp, fp, fn = _by_masks(maps, things, code)
        assert (code in scores) == (tp + fp + fn > 0)
        if code in scores:
            score = scores[code]
            assert (score.true_positives, score.false_positives, score.false_negatives) == (tp, fp, fn)
            assert score.pq == pytest.approx(total / (tp + fp / 2 + fn / 2))
            assert _same(score.sq, _divide(total, tp))
            assert score.pq == pytest.approx(score.rq * (score.sq if tp else 0))


@given(seeds)
def test_panoptic_numbers_of_stuff_and_unlabeled_voxels_change_nothing(seed: int) -> None:
    maps, things = _panoptic(seed), (1, 3)
    rng = np.random.default_rng(seed + 1)
    labeled = rng.random(maps[0].shape) < 0.6
    scores = panoptic_scores(*maps, things, labeled)
    other = [np.where(labeled, m, rng.integers(0, 9, m.shape)) for m in maps]
    for classes, numbers in ((other[0], other[1]), (other[2], other[3])):
        numbers[~np.isin(classes, things)] = 7
    assert _jsons(panoptic_scores(*other, things, labeled)) == _jsons(scores)
    assert _jsons(panoptic_scores(*(m[labeled] for m in maps), things)) == _jsons(scores)


def _jsons(scores: dict[int, PanopticScore]) -> dict[int, dict[str, object]]:
    return {code: score.to_json() for code, score in scores.items()}


def test_panoptic_by_hand() -> None:
    reference = _row((0, 4), (1, 4), (1, 4)), _row((0, 4), (1, 4), (2, 4))
    prediction = _row((0, 5), (1, 3), (1, 4)), _row((0, 5), (1, 3), (1, 4))  # both cells in one
    scores = panoptic_scores(*prediction, *reference, things=[1])
    assert list(scores) == [0, 1]
    assert scores[0] == PanopticScore(0.8, 0.8, 1.0, 1, 0, 0)
    assert (scores[1].true_positives, scores[1].false_positives, scores[1].false_negatives) == (1, 0, 1)
    assert scores[1].pq == pytest.approx(4 / 7 / 1.5)


def test_panoptic_maps_must_agree() -> None:
    a = np.zeros((2, 2), np.uint8)
    assert panoptic_scores(a, a, a, a, things=[1])[0].pq == 1.0
    assert panoptic_scores(a[:0], a[:0], a[:0], a[:0], things=[1]) == {}
    with pytest.raises(GeometryError, match="one shape"):
        panoptic_scores(a, a, a, a[:1], things=[1])
    with pytest.raises(GeometryError, match="one shape"):
        panoptic_scores(a, a, a, a, [1], np.ones(3, bool))
    with pytest.raises(LabelError, match="from 0 up"):
        panoptic_scores(a, a, a, a - 1.0, things=[1])
    with pytest.raises(LabelError, match="too large"):
        panoptic_scores(a.astype(np.int64) + 2**61, a + 9, a, a, things=[1])
