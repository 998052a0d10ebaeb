from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from vol3d.errors import GeometryError, LabelError
from vol3d.metrics import mae, r2, regression, regression_scores, rmse

law = settings(deadline=None)


def _case(seed, shape=(4, 5, 6)):
    rng = np.random.default_rng(seed)
    reference = rng.normal(3, 2, shape).astype(np.float32)
    prediction = (reference + rng.normal(0, 1, shape)).astype(np.float32)
    reference[rng.random(shape) < 0.3] = np.nan
    mask = rng.random(shape) < 0.7
    mask.flat[:2], reference.flat[:2] = True, (1.0, 2.0)
    return prediction, reference, mask


@law
@given(st.integers(0, 2**32 - 1))
def test_agrees_with_scikit_learn(seed):
    prediction, reference, mask = _case(seed)
    kept = mask & np.isfinite(reference)
    truth, found = reference[kept].astype(float), prediction[kept].astype(float)
    assert mae(prediction, reference, mask) == pytest.approx(sk.mean_absolute_error(truth, found))
    assert rmse(prediction, reference, mask) == pytest.approx(sk.root_mean_squared_error(truth, found))
    assert r2(prediction, reference, mask) == pytest.approx(sk.r2_score(truth, found))
    assert regression_scores(prediction, reference, mask).voxels == kept.sum()


@law
@given(st.integers(0, 2**32 - 1))
def test_what_stands_at_unlabeled_voxels_changes_nothing(seed):
    prediction, reference, mask = _case(seed)
    whole = regression_scores(prediction, reference, mask)
    kept = mask & np.isfinite(reference)
    assert regression_scores(np.where(kept, prediction, np.nan), reference, mask) == whole
    assert regression_scores(prediction, np.where(mask, reference, 1e30), mask) == whole


def test_counting_in_small_blocks_changes_nothing(monkeypatch):
    prediction, reference, mask = _case(1)
    whole = regression_scores(prediction, reference, mask)
    monkeypatch.setattr(regression, "_BLOCK_VOXELS", 31)
    parts = regression_scores(prediction, reference, mask)
    assert (parts.mae, parts.rmse, parts.r2) == pytest.approx((whole.mae, whole.rmse, whole.r2))


def test_sums_run_in_double_precision():
    reference = np.full((64, 64, 64), 1e4, np.float32)
    reference[::2] += 1
    prediction = reference + np.float32(0.5)
    scores = regression_scores(prediction, reference)
    assert (scores.mae, scores.rmse) == (0.5, 0.5)
    assert scores.r2 == pytest.approx(0.0)  # errors of 0.5, deviations of 0.5
    large = np.array([60000.0, 60001.0], np.float16)
    assert rmse(np.zeros(2, np.float16), large) == pytest.approx(60000, rel=1e-3)


def test_by_hand():
    reference, prediction = np.array([[[1.0, 2, 3]]]), np.array([[[1.0, 2, 6]]])
    scores = regression_scores(prediction, reference)
    assert (scores.mae, scores.rmse, scores.r2) == pytest.approx((1.0, math.sqrt(3), 1 - 9 / 2))
    assert regression_scores(reference, reference).r2 == 1.0
    assert r2(np.full((1, 1, 3), 2.0), reference) == 0.0
    constant = regression_scores(prediction, np.full((1, 1, 3), 0.1))
    assert math.isnan(constant.r2)
    assert json.loads(json.dumps(constant.to_json(), allow_nan=False))["r2"] is None
    assert regression_scores(np.array([3, 5], np.uint8), np.array([5, 3], np.uint8)).mae == 2.0


def test_refusals_say_what_was_found():
    ones = np.ones((2, 2, 2))
    with pytest.raises(GeometryError, match="one shape"):
        mae(ones, ones[0])
    with pytest.raises(GeometryError, match="mask"):
        mae(ones, ones, np.ones(3, bool))
    with pytest.raises(LabelError, match="found none"):
        mae(ones, ones * np.nan)
    with pytest.raises(LabelError, match="found none"):
        mae(ones, ones, np.zeros((2, 2, 2), bool))
    holes = ones.copy()
    holes[0, 0, 0] = np.nan
    with pytest.raises(LabelError, match="found 1 voxel"):
        mae(holes, ones)
