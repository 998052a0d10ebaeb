"""Reliability, temperature scaling, its cross-fit on held-out labels, and the temperature in a model's file."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vol3d.bundle import ModelBundle, read_header
from vol3d.config import InferenceConfig, TaskSpec, UNetConfig, UNetPlusPlusConfig
from vol3d.errors import ConfigError, GeometryError, LabelError, ModelError
from vol3d.inference import plan_for, predict_slabs, whole_pass
from vol3d.metrics import Reliability, fit_temperature, tempered
from vol3d.networks import build
from vol3d.report import reliability_png
from vol3d.sampling.holdout import plane_name
from vol3d.volume import Affine, LabelTable, SparseLabels
from vol3d.workflows import calibration
from vol3d.workflows.around import Looking
from vol3d.workflows.calibration import Calibration, calibrate, cross_fitted
from vol3d.workflows.case import Case
from vol3d.workflows.device import Device

pytestmark = pytest.mark.usefixtures("single_threaded")
LIMITS = {"memory_bytes": math.inf, "bytes_per_voxel": 1.0}
CPU = Device("cpu", "float32")


def drawn(voxels=30_000, classes=4, seed=0, spread=1.5):
    """(logits (K, N), classes (N,)) where the classes are drawn from softmax(logits)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (classes, voxels))
    below = tempered(logits, 1.0).cumsum(axis=0) < rng.random(voxels)
    return logits, np.minimum(below.sum(axis=0), classes - 1)


def slow_ece(confidence, right, bins=15):
    """The definition, bin by bin."""
    error = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if b == 0:
            inside |= confidence == 0
        if inside.any():
            error += inside.sum() / len(right) * abs(right[inside].mean() - confidence[inside].mean())
    return error


# Reliability


def test_every_summary_is_what_its_definition_says():
    logits, classes = drawn(5000)
    shares = tempered(logits * 2, 1.0)
    found = Reliability.of(shares, classes)
    top = shares.argmax(axis=0)
    assert found.expected_calibration_error == pytest.approx(slow_ece(shares.max(axis=0), top == classes), abs=1e-12)
    each = [slow_ece(shares[k], classes == k) for k in range(4)]
    np.testing.assert_allclose(found.class_calibration_errors, each, atol=1e-12)
    assert found.classwise_calibration_error == pytest.approx(np.mean(each))
    truth = np.eye(4)[classes].T
    assert found.brier_score == pytest.approx(np.square(shares - truth).sum(axis=0).mean())
    expected = nn.functional.cross_entropy(torch.from_numpy(2 * logits.T), torch.from_numpy(classes))
    assert found.negative_log_likelihood == pytest.approx(float(expected))
    assert found.maximum_calibration_error == pytest.approx(np.nanmax(np.abs(found.accuracy - found.confidence)))
    assert found.voxels == 5000


def test_a_network_that_is_right_as_often_as_it_says_has_no_error():
    confidence = np.repeat([0.55, 0.75, 0.95], 400)
    right = np.concatenate([np.arange(400) < round(400 * share) for share in (0.55, 0.75, 0.95)])
    found = Reliability.of(np.stack([1 - confidence, confidence]), right.astype(np.uint8))
    assert found.expected_calibration_error == pytest.approx(0, abs=1e-12)
    assert found.maximum_calibration_error == pytest.approx(0, abs=1e-12)
    assert found.classwise_calibration_error == pytest.approx(0, abs=1e-12)
    sure = Reliability.of(np.stack([0 * confidence, 0 * confidence + 1]), right.astype(np.uint8))
    assert sure.expected_calibration_error == pytest.approx(0.25)
    assert sure.brier_score == pytest.approx(0.5)
    assert math.isfinite(sure.negative_log_likelihood)


def test_classes_drawn_from_the_probabilities_leave_little_error():
    logits, classes = drawn(200_000)
    assert Reliability.of(tempered(logits, 1.0), classes).expected_calibration_error < 0.006


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 2**32))
@settings(max_examples=60)
def test_parts_add_up_to_the_whole(first, second, seed):
    logits, classes = drawn(first + second, seed=seed)
    shares = tempered(logits, 1.0)
    weight = np.random.default_rng(seed).random(first + second)
    whole = Reliability.of(shares, classes, weight)
    parts = Reliability.empty(4).update(shares[:, :first], classes[:first], weight[:first])
    parts = parts.update(shares[:, first:], classes[first:], weight[first:])
    np.testing.assert_allclose(parts.sums, whole.sums, atol=1e-12)
    assert (parts.squared, parts.log_loss) == pytest.approx((whole.squared, whole.log_loss))
    again = Reliability.from_json(json.loads(json.dumps(whole.to_json())))
    np.testing.assert_array_equal(again.sums, whole.sums)
    assert (again.squared, again.log_loss) == (whole.squared, whole.log_loss)


def test_volumes_are_counted_block_by_block(monkeypatch):
    logits, classes = drawn(7 * 5 * 3)
    shares, grid = tempered(logits, 1.0).reshape(4, 7, 5, 3), classes.reshape(7, 5, 3)
    whole = Reliability.of(shares, grid)
    monkeypatch.setattr("vol3d.metrics.calibration._BLOCK_VALUES", 4 * 15 * 2)
    np.testing.assert_allclose(Reliability.of(shares, grid).sums, whole.sums, atol=1e-12)


@given(st.integers(0, 255), st.sampled_from([math.nan, math.inf, 0.0, 17.0]))
@settings(max_examples=40)
def test_what_stands_under_unlabeled_voxels_changes_nothing(code, value):
    logits, classes = drawn(300, seed=3)
    labeled = np.random.default_rng(1).random(300) < 0.4
    plain = Reliability.of(tempered(logits, 1.0)[:, labeled], classes[labeled])
    temperature = fit_temperature(logits[:, labeled], classes[labeled])
    strange, spoilt = np.where(labeled, classes, code).astype(np.uint8), np.where(labeled, logits, value)
    shares = np.where(labeled, tempered(logits, 1.0), value)
    for weight in (labeled, labeled.astype(np.float32)):
        np.testing.assert_array_equal(Reliability.of(shares, strange, weight).sums, plain.sums)
    assert fit_temperature(spoilt, strange, labeled) == temperature


def test_a_weight_of_two_counts_twice():
    logits, classes = drawn(50)
    shares, twice = tempered(logits, 1.0), np.arange(50) % 2
    one = Reliability.of(shares, classes, 1 + twice)
    other = Reliability.of(np.repeat(shares, 1 + twice, axis=1), np.repeat(classes, 1 + twice))
    np.testing.assert_allclose(one.sums, other.sums)
    assert one.log_loss == pytest.approx(other.log_loss)


def test_nothing_counted_is_not_a_number():
    for found in (Reliability.empty(3), Reliability.of(np.full((3, 5), np.nan), np.full(5, 9), np.zeros(5, bool))):
        assert math.isnan(found.expected_calibration_error)
        assert math.isnan(found.maximum_calibration_error)
        assert math.isnan(found.brier_score)
        assert math.isnan(found.negative_log_likelihood)


def test_what_is_no_probability_or_class_is_refused():
    shares, classes = np.full((2, 4), 0.5), np.array([0, 1, 0, 1])
    with pytest.raises(LabelError, match="add up to 1"):
        Reliability.of(shares * 0, classes)  # what prediction gives where no tile answered
    with pytest.raises(LabelError, match="add up to 1"):
        Reliability.of(np.array([[math.nan] * 4, [1.0] * 4]), classes)
    with pytest.raises(LabelError, match="add up to 1"):
        Reliability.of(np.array([[-1.0] * 4, [2.0] * 4]), classes)
    with pytest.raises(LabelError, match=r"indices 0 to 1 .* found 2"):
        Reliability.of(shares, classes + 1)
    with pytest.raises(LabelError, match="integer"):
        Reliability.of(shares, classes.astype(float))
    with pytest.raises(LabelError, match="weights"):
        Reliability.of(shares, classes, np.array([1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(GeometryError, match="one grid"):
        Reliability.of(shares, classes[1:])
    with pytest.raises(LabelError, match="cannot be added"):
        Reliability.empty(2) + Reliability.empty(3)
    with pytest.raises(LabelError, match="written down"):
        Reliability.from_json({"sums": "x"})


# Temperature


@given(st.floats(0.3, 6.0), st.integers(2, 6), st.integers(0, 2**32))
@settings(max_examples=15)
def test_a_known_scaling_is_found_again(scale, classes, seed):
    logits, truth = drawn(20_000, classes, seed)
    assert fit_temperature(logits * scale, truth) == pytest.approx(scale, rel=0.06)


def test_the_temperature_has_the_least_likelihood_loss_of_all():
    logits, truth = drawn(3000)
    found = fit_temperature(3 * logits, truth)

    def loss(temperature):
        return Reliability.of(tempered(3 * logits, temperature), truth).negative_log_likelihood

    assert all(loss(found) <= loss(found * step) + 1e-9 for step in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0))
    assert (tempered(3 * logits, found).argmax(axis=0) == logits.argmax(axis=0)).all()


def test_members_are_averaged_after_the_softmax():
    logits, truth = drawn(4000)
    members = np.stack([logits * 2, logits[:, ::-1] * 0.5, logits + 7.0])
    np.testing.assert_allclose(tempered(members, 1.7), np.mean([tempered(one, 1.7) for one in members], axis=0))
    same = np.stack([logits * 2] * 3)
    assert fit_temperature(same, truth) == pytest.approx(fit_temperature(logits * 2, truth), rel=1e-4)
    found = fit_temperature(members, truth)
    losses = [Reliability.of(tempered(members, t), truth).negative_log_likelihood for t in (found, 0.8 * found)]
    assert losses[0] < losses[1]


def test_labels_that_cannot_tell_leave_the_temperature_at_one():
    logits, truth = drawn(500)
    assert fit_temperature(logits[:, :0], truth[:0]) == 1.0
    assert fit_temperature(logits, truth, np.zeros(500, bool)) == 1.0
    assert fit_temperature(logits, truth * 0) == 1.0
    assert fit_temperature(logits, logits.argmax(axis=0)) == 1.0
    assert fit_temperature(logits[:1], truth * 0) == 1.0
    assert fit_temperature(logits * 0, truth) == 1.0
    assert fit_temperature(np.full((4, 500), -3e38), truth) == 1.0


def test_temperatures_stay_in_bounds_and_logits_may_be_huge():
    logits, truth = drawn(2000)
    assert fit_temperature(logits * 1e6, truth) == pytest.approx(20, rel=1e-3)
    assert fit_temperature(logits * 1e-6, truth) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(np.full((2, 4), 1e300) * [[1], [-1]], np.array([0, 1, 0, 1])) <= 20


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ModelError, match="finite logits"):
        fit_temperature(np.array([[math.nan, 1.0], [0.0, 0.0]]), np.array([0, 1]))
    with pytest.raises(GeometryError, match="N classes"):
        fit_temperature(np.zeros((2, 3)), np.zeros(4, int))
    with pytest.raises(LabelError, match="found 2"):
        fit_temperature(np.zeros((2, 3)), np.array([0, 1, 2]))


# Prediction with a temperature


def unet(dimensions=3, seed=3, padding="valid", dtype=torch.float64):
    config = UNetConfig(dimensions=dimensions, encoder=((3,), (4,)), padding=padding, normalization="none")
    return build(config, 1, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_a_temperature_goes_through_to_the_softmax():
    made, image = unet(), np.random.default_rng(0).standard_normal((1, 14, 9, 7))
    plan = plan_for(made, (14, 9, 7), tile=made.input_size((4, 4, 4)), **LIMITS)

    def predicted(**parts):
        return np.concatenate([slab.values for slab in predict_slabs(made, image, plan, **parts)], axis=1)

    logits = predicted(logits=True)
    warm = tempered(logits.reshape(3, -1), 2.5).reshape(logits.shape)
    np.testing.assert_allclose(predicted(temperature=2.5), warm, atol=1e-12)
    assert (predicted(temperature=1.0) == predicted()).all()
    assert (predicted(temperature=2.5, logits=True) == logits).all()
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ModelError, match="temperature above 0"):
            predict_slabs(made, image, plan, temperature=wrong)


# Held-out labels


class Scaled(nn.Module):
    """A network whose logits are `scale` times those its labels were drawn from."""

    def __init__(self, network, scale):
        super().__init__()
        self.network, self.scale = network, scale
        self.margin, self.total_stride, self.classes = network.margin, network.total_stride, network.classes
        self.in_channels, self.input_size = network.in_channels, network.input_size

    def forward(self, image):
        return self.network(image) * self.scale


def case_of(logits, labeled, seed=0, image=None):
    """A case whose classes were drawn from softmax(logits (K, X, Y, Z)), unlabeled ones spoilt."""
    grid = logits.shape[1:]
    below = tempered(logits.reshape(len(logits), -1), 1.0).cumsum(axis=0)
    below = (below < np.random.default_rng(seed).random(np.prod(grid))).sum(axis=0)
    classes = np.where(labeled, np.minimum(below, len(logits) - 1).reshape(grid), 200).astype(np.uint8)
    known = SparseLabels(classes, labeled, Affine.from_spacing((1.0, 1.0, 1.0)))
    scan = {"order": (0, 1, 2), "flips": (False,) * 3, "shape": labeled.shape}
    return Case("scan", torch.from_numpy(image), known, (1.0, 1.0, 1.0), scan)


def doubtful(dimensions=3):
    """A network whose answers spread, and leave most voxels in doubt."""
    return unet(dimensions, dtype=torch.float32)


def slices(shape, *planes):
    labeled = np.zeros(shape, bool)
    for axis, index in planes:
        labeled[(slice(None),) * axis + (index,)] = True
    return labeled


def test_a_network_that_is_too_sure_is_found_out_on_held_out_slices():
    shape, made = (40, 36, 30), doubtful()
    image = np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)
    labeled = slices(shape, (2, 5), (2, 15), (2, 25), (0, 20))
    case = case_of(whole_pass(made, image), labeled, image=image)
    found = calibrate(Scaled(made, 3.0), [case, case], [case.labels, None], Looking(CPU, InferenceConfig()))
    assert found.temperature == pytest.approx(3.0, rel=0.15)
    assert found.halves == pytest.approx((3.0, 3.0), rel=0.2)
    assert found.helps
    assert found.before.voxels == found.after.voxels == labeled.sum()
    assert found.after.expected_calibration_error < 0.5 * found.before.expected_calibration_error
    assert "temperature 2.96 (halves 2.92 and 3): calibration error 14" in found.said
    again = Calibration.from_json(json.loads(json.dumps(found.to_json())))
    assert (again.temperature, again.halves) == (found.temperature, found.halves)
    np.testing.assert_array_equal(again.after.sums, found.after.sums)
    other = dataclasses.replace(case.labels, classes=np.where(labeled, case.labels.classes, 1))
    same = calibrate(Scaled(made, 3.0), [case], [other], Looking(CPU, InferenceConfig()))
    assert same.temperature == found.temperature
    np.testing.assert_array_equal(same.after.sums, found.after.sums)


def test_planes_across_three_axes_are_calibrated_as_they_are_averaged():
    shape, made = (22, 20, 18), doubtful(2)
    image = np.random.default_rng(2).standard_normal((1, *shape)).astype(np.float32)
    members = np.stack([whole_pass(made, image, planes=axis) for axis in range(3)])
    mean = np.mean([tempered(one.reshape(3, -1), 1.0) for one in members], axis=0).reshape(3, *shape)
    case = case_of(np.log(mean), np.ones(shape, bool), image=image)
    found = calibrate(Scaled(made, 2.0), [case], [case.labels], Looking(CPU, InferenceConfig(), (0, 1, 2)))
    assert found.temperature == pytest.approx(2.0, rel=0.15)
    assert found.before.voxels == np.prod(shape)


def test_too_many_voxels_are_thinned_the_same_way_every_time(monkeypatch):
    monkeypatch.setattr(calibration, "MOST_VOXELS", 900)
    shape, made = (24, 24, 20), doubtful()
    image = np.random.default_rng(3).standard_normal((1, *shape)).astype(np.float32)
    case = case_of(whole_pass(made, image), np.ones(shape, bool), image=image)
    few = case_of(whole_pass(made, image), slices(shape, (1, 3)), image=image)
    facts = ([case, few], [case.labels, few.labels], Looking(CPU, InferenceConfig()))
    one, two = (calibrate(Scaled(made, 2.0), *facts) for _ in range(2))
    assert one.before.voxels == 900
    assert one.temperature == two.temperature == pytest.approx(2.0, rel=0.3)


def test_neither_half_is_judged_by_its_own_temperature():
    first, truth_first = drawn(4000, seed=1)
    second, truth_second = drawn(4000, seed=2)
    logits = np.concatenate([first * 4, second * 0.5], axis=1)[None]
    classes, half = np.concatenate([truth_first, truth_second]), np.arange(8000) >= 4000
    found = cross_fitted(logits, classes, half)
    assert found.halves == pytest.approx((4.0, 0.5), rel=0.1)
    assert found.after.negative_log_likelihood > found.before.negative_log_likelihood
    assert not found.helps
    crossed = Reliability.of(tempered(first * 4, found.halves[1]), truth_first)
    crossed = crossed.update(tempered(second * 0.5, found.halves[0]), truth_second)
    np.testing.assert_allclose(found.after.sums, crossed.sums, atol=1e-9)


@pytest.mark.parametrize(
    "planes", [[(2, 4), (2, 9)], [(0, 3), (1, 3), (2, 3)], [(2, 4)], [(0, 0)]], ids=["two", "crossing", "one", "edge"]
)
def test_halves_share_no_slice_and_both_have_labels(planes):
    labeled = slices((20, 21, 22), *planes)
    known = SparseLabels(np.zeros(labeled.shape, np.uint8), labeled, Affine.from_spacing((1.0, 1.0, 1.0)))
    (half,) = calibration._second_half([known], [plane_name])
    assert half[labeled].any()
    assert not half[labeled].all()
    if len(planes) > 1:
        for axis, index in planes:
            others = slices(labeled.shape, *(plane for plane in planes if plane != (axis, index)))
            alone = slices(labeled.shape, (axis, index)) & ~others
            assert len(np.unique(half[alone])) == 1


def test_slices_are_halved_over_all_scans_and_scribbles_by_blocks():
    affine = Affine.from_spacing((1.0, 1.0, 1.0))
    one = [slices((20, 20, 20), (2, 4)), slices((20, 20, 20), (2, 4))]
    halves = calibration._second_half(
        [SparseLabels(np.zeros((20,) * 3, np.uint8), mask, affine) for mask in one], [plane_name] * 2
    )
    assert [bool(half[mask].all()) for half, mask in zip(halves, one, strict=True)] == [False, True]
    scribble = np.zeros((40, 8, 8), bool)
    scribble[3:37, 4, 4] = True
    (half,) = calibration._second_half(
        [SparseLabels(np.zeros(scribble.shape, np.uint8), scribble, affine)], [plane_name]
    )
    assert half[scribble].tolist() == [False] * 16 + [True] * 16 + [False] * 2


def test_a_single_voxel_calibrates_nothing():
    shape, made = (9, 9, 9), doubtful()
    image = np.zeros((1, *shape), np.float32)
    labeled = np.zeros(shape, bool)
    labeled[4, 4, 4] = True
    case = case_of(whole_pass(made, image), labeled, image=image)
    found = calibrate(made, [case], [case.labels], Looking(CPU, InferenceConfig()))
    assert (found.temperature, found.halves) == (1.0, None)
    assert "too few" in found.said
    assert Calibration.from_json(found.to_json()).halves is None
    with pytest.raises(ConfigError, match="held-out labels"):
        calibrate(made, [case], [None], Looking(CPU, InferenceConfig()))
    values = dataclasses.replace(case, target=np.zeros(shape, np.float32))
    with pytest.raises(ConfigError, match="for values"):
        calibrate(made, [values], [case.labels], Looking(CPU, InferenceConfig()))
    with pytest.raises(LabelError, match="written down"):
        Calibration.from_json({"temperature": 1.0})


# The picture


@pytest.mark.parametrize("both", [True, False])
def test_reliability_is_drawn(tmp_path, both):
    logits, classes = drawn(2000)
    before = Reliability.of(tempered(logits * 3, 1.0), classes)
    after = Reliability.of(tempered(logits, 1.0), classes) if both else None
    path = reliability_png(tmp_path / "reliability.png", before, after, title="Held-out $labels$")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert reliability_png(tmp_path / "none.png", Reliability.empty(2)).stat().st_size > 1000


# The temperature in a model's file


def bundle(network=None, **parts):
    config = network or UNetConfig(encoder=((3,), (4,)), padding="valid")
    made = build(config, 1, 2, generator=torch.Generator().manual_seed(0))
    facts = {"weights": dict(made.state_dict()), "preprocessing": {}, "labels": LabelTable.from_codes([0, 1])}
    return ModelBundle(network=config, in_channels=1, **(facts | parts))


def rewritten(path, edit):
    """A copy with another JSON header."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    entries["__metadata__"]["vol3d"] = edit(json.loads(entries["__metadata__"]["vol3d"]))
    text = json.dumps(entries).encode()
    changed = path.with_name("changed.safetensors")
    changed.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return changed


def test_a_model_keeps_its_temperature(tmp_path):
    for value in (1.0, 1.7320508, 0.05, 20.0, 2):
        path = bundle(temperature=value).save(tmp_path / "model.safetensors")
        assert ModelBundle.load(path).temperature == value
        assert read_header(path)["temperature"] == value


def test_models_from_before_there_were_temperatures_have_one(tmp_path):
    path = bundle(temperature=3.0).save(tmp_path / "model.safetensors")
    old = rewritten(path, lambda header: json.dumps({k: v for k, v in header.items() if k != "temperature"}))
    assert ModelBundle.load(old).temperature == 1.0


@pytest.mark.parametrize("value", ["0", "-1", "0.049", "20.1", "1e999", "NaN", "null", "true", '"2"', "[2]", "9" * 400])
def test_other_temperatures_are_refused(tmp_path, value):
    path = bundle(temperature=1.5).save(tmp_path / "model.safetensors")
    changed = rewritten(path, lambda header: json.dumps(header | {"temperature": "X"}).replace('"X"', value))
    with pytest.raises(ModelError):
        ModelBundle.load(changed)
    with pytest.raises(ModelError):
        read_header(changed)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 0.04, 21, True, "1"])
def test_a_model_cannot_be_made_with_another_temperature(value):
    with pytest.raises(ModelError, match=r"temperature from 0\.05 to 20"):
        bundle(temperature=value)


def test_a_pruned_model_is_not_calibrated():
    deep = bundle(UNetPlusPlusConfig(widths=(3, 4, 5)), temperature=2.0, task=TaskSpec())
    assert deep.pruned(1).temperature == 1.0
    assert deep.temperature == 2.0
