"""Runs that go on from others, what their stop leaves behind, and what was said and would have had no effect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_experiment import experiment
from test_experiment import volumes as several
from test_nothing_lost import GRID
from workflow_parts import TINY, UNLABELED, balls, drawn_bundle, painted, refused, write_case

import vol3d
from vol3d import report
from vol3d.baselines.features import FeatureMaps, Recipe
from vol3d.baselines.perceptrons import LabeledFeatures, fit_perceptrons
from vol3d.baselines.pixel_classifier import _side_by_side
from vol3d.baselines.reduced import reduced_labels
from vol3d.config import TaskSpec, UNetConfig, parse_config
from vol3d.errors import ConfigError, ModelError
from vol3d.instances import InstanceScheme
from vol3d.instances.scheme import SemanticClass
from vol3d.networks import build
from vol3d.sampling import hold_out
from vol3d.transforms import Preprocessing
from vol3d.volume import Affine, LabelTable, SparseLabels, Volume
from vol3d.workflows import experiment_run, train
from vol3d.workflows.batch_statistics import batches
from vol3d.workflows.cases import TrainingFiles, load
from vol3d.workflows.continuing import Earlier, _classes
from vol3d.workflows.forecast import forecast
from vol3d.workflows.labels import decide
from vol3d.workflows.listener import Quiet
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.run import resume_run
from vol3d.workflows.run_report import next_steps
from vol3d.workflows.settings import settle
from vol3d.workflows.sides import tell_sides

pytestmark = pytest.mark.usefixtures("single_threaded", "blank_pictures")
NETWORK = UNetConfig(encoder=((2, 2), (4, 4)), padding="same")
QUICK = TINY | {"pixel_classifier": {"use": "no"}}


def bundle(codes=(0, 1), names=None, task=None):
    found = drawn_bundle(NETWORK, build(NETWORK, 1, len(codes)).state_dict(), codes)
    labels = LabelTable.from_codes(list(codes), (), names or {})
    return replace(found, labels=labels, task=task or TaskSpec())


def earlier(model, config=None) -> Earlier:
    return Earlier(Path("run"), parse_config(config or {}), model, {}, 1e-3, (0.0,) * len(model.labels))


# going on


def test_values_are_learned_in_the_units_of_the_network_that_goes_on(tmp_path):
    image, _ = balls()
    values = np.where(painted((image > 1).astype(np.uint8)) == UNLABELED, np.nan, 10 * image + 100)
    first = vol3d.train(image, values, config=QUICK, task="regression", output=tmp_path / "a")
    again = vol3d.train(image, 4 * values, resume=tmp_path / "a", iterations=2, output=tmp_path / "b")
    assert first.bundle is not None
    assert again.bundle is not None
    assert again.bundle.task.mean == first.bundle.task.mean
    assert again.bundle.task.sd == first.bundle.task.sd
    record = json.loads((tmp_path / "b" / "run.json").read_text())
    fresh = vol3d.train(image, 4 * values, config=QUICK, task="regression", output=tmp_path / "c")
    assert fresh.bundle is not None
    assert fresh.bundle.task.mean > 2 * first.bundle.task.mean
    assert record["continued_from"] == first.bundle.weights_sha256


def test_objects_are_compared_by_what_is_a_thing_and_how_it_is_written():
    def spoken(*classes: tuple[int, bool], divisor: int = 1000) -> list[str]:
        scheme = InstanceScheme(tuple(SemanticClass(c, f"c{c}", thing) for c, thing in classes), divisor)
        task = TaskSpec(kind="panoptic", scheme=scheme.to_json(), rules={})
        return _classes(task, LabelTable.from_codes([0, 1, 2]))

    usual = spoken((0, False), (1, True))
    assert usual != spoken((0, False), (2, True))
    assert usual != spoken((0, True), (1, False))
    assert usual != spoken((0, False), (1, True), divisor=100)
    assert usual == spoken((0, False), (1, True))


def test_classes_keep_their_names_and_are_not_swapped():
    _, classes = balls()
    classes[2:5, 2:5, 2:5] = 2
    before = earlier(bundle((0, 1, 2), {0: "inside", 1: "kidney", 2: "tumour"}))

    def meant(names):
        drawn = Volume(classes[None], GRID, "new", attributes={"class_names": names})
        return decide([drawn], parse_config({"labels": {"dense": True}}).labels)

    with pytest.raises(ConfigError, match="learned code 1 as 'kidney'; these labels call it 'tumour'"):
        before.in_its_terms([], meant({"1": "tumour", "2": "kidney"}))
    _, found = before.in_its_terms([], meant({}))
    assert found.table.names == ("inside", "kidney", "tumour")
    assert before.in_its_terms([], meant({"1": "Kidney"}))[1].table.names[1] == "Kidney"


def test_weights_of_other_scans_are_not_taken(monkeypatch):
    data = {"images": ["/a.nii.gz"], "labels": ["/a_lab.nii.gz"], "weights": ["/a_w.nii.gz"]}
    monkeypatch.setattr(train, "read_earlier", lambda _: earlier(bundle(), {"data": data}))
    with pytest.raises(ConfigError, match=r"data.weights., which go with its own images"):
        train._go_on(Path("run"), TrainingFiles(("/b.nii.gz",), ("/b_lab.nii.gz",)), {}, ())


def test_a_model_without_its_end_is_no_finished_run(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    record = {"config": parse_config({"data": {"images": ["a"], "labels": ["b"]}}).to_json()}
    report.write_record(tmp_path, record)
    assert resume_run(tmp_path).folder == tmp_path
    report.write_record(tmp_path, record | {"finished": "now"})
    with pytest.raises(ModelError, match="this run is finished"):
        resume_run(tmp_path)


def test_a_row_that_does_not_fit_into_memory_is_left_out(tmp_path, monkeypatch):
    original = experiment_run.train

    def breaks(*arguments, **options):
        if options["config"].training.seed == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*arguments, **options)

    monkeypatch.setattr(experiment_run, "train", breaks)
    images, labels = several()
    with pytest.warns(UserWarning, match="failed and is left out: CUDA out of memory"):
        found = experiment("folds", tmp_path / "e", images, labels, folds=2, seeds=2)
    assert len(found.failed) == 2


def test_report_says_how_to_go_on_with_several_scans_and_with_values(tmp_path):
    steps = next_steps(tmp_path, "a.nii.gz", others=2)
    assert steps[-1].commands[0].endswith("-l a_paint.nii.gz OTHER_LABELS OTHER_LABELS")
    assert len(next_steps(tmp_path, "a.nii.gz", classes=False)) == 1


# what was said


@pytest.mark.parametrize("value", [[{"iterations": 100}], 500, "x.nii"])
def test_a_section_of_the_wrong_kind_is_not_dropped(value):
    for section in ("training", "labels", "data", "sampling"):
        options = {name: {} for name in ("training", "labels", "data", "sampling")}
        with pytest.raises(ConfigError, match=f"{section}: expected keys and values"):
            settle({section: value}, options, ())
    with pytest.raises(ConfigError, match="network: expected a kind"):
        settle({"network": [value]}, {"network": {"width": 8}}, ())


@pytest.mark.parametrize(("codes", "said"), [(False, "truth values"), ([True], "truth values"), (-1, "greater than")])
def test_codes_are_numbers_from_0(codes, said):
    with pytest.raises(ConfigError, match=said):
        parse_config({"labels": {"unlabeled": codes}})
    assert parse_config({"labels": {"unlabeled": 0}}).labels.unlabeled == (0,)


@pytest.mark.parametrize("text", ["a: 2024-13-01", "training: {seed: 18446744073709551616}", "training: &t {x: *t}"])
def test_odd_yaml_is_refused_in_a_line(text, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert refused(capsys, "train", path).startswith("vol3d train: ")


def test_names_that_are_no_utf8_can_be_written_down(tmp_path):
    report.write_record(tmp_path, {"name": "M\udcfcller"})
    assert report.read_record(tmp_path) == {"name": "M\udcfcller"}


def test_python_options_without_effect_are_refused(tmp_path):
    scan = np.zeros((8, 8, 8), np.float32)
    with pytest.raises(ConfigError, match="goes with keep_drawn"):
        vol3d.predict(scan, bundle(), spacing_mm=(1, 1, 1), unlabeled=255)
    with pytest.raises(ConfigError, match="leave the other options out"):
        vol3d.experiment(resume=tmp_path, seeds=5)


def test_a_dry_run_refuses_what_predict_refuses(tmp_path):
    scan, _, _ = write_case(tmp_path)
    values = bundle((0,), task=TaskSpec(kind="regression"))
    three = replace(bundle(), in_channels=3, weights=build(NETWORK, 3, 2).state_dict())
    with pytest.raises(ConfigError, match="no class probabilities"):
        forecast(scan, values, str(tmp_path / "o.nii.gz"), PredictOptions(probabilities=True, device="cpu"))
    with pytest.raises(ModelError, match="has 1 channel; the model expects 3"):
        forecast(scan, three, str(tmp_path / "o.nii.gz"), PredictOptions(device="cpu"))


# left and right


def test_a_model_of_a_left_and_a_right_is_not_flipped(tmp_path):
    sided = bundle((0, 1), {0: "background", 1: "left kidney"})
    scan = np.random.default_rng(0).normal(size=(16, 12, 10)).astype(np.float32)
    options = {"spacing_mm": (1, 1, 1), "device": "cpu"}
    plain = vol3d.predict(scan, sided, probabilities=True, **options).probabilities
    unsure = vol3d.predict(scan, sided, probabilities=True, uncertainty=True, **options).probabilities
    np.testing.assert_allclose(unsure, plain, atol=1e-6)
    other = vol3d.predict(scan, bundle(), probabilities=True, uncertainty=True, **options).probabilities
    assert np.abs(other - vol3d.predict(scan, bundle(), probabilities=True, **options).probabilities).max() > 1e-4
    with pytest.raises(ConfigError, match="tell left from right"):
        vol3d.predict(scan, sided, tta=True, **options)
    with pytest.raises(ConfigError, match="tell left from right"):
        vol3d.suggest(scan, sided, tta=True, **options)
    for names in (("linke Niere", "rechte Niere"), ("rein gauche", "rein droit")):
        assert tell_sides(names)


# slices and blocks


def test_every_second_slice_of_an_even_stack_is_held_out_as_slices():
    labeled = np.zeros((16, 16, 20), bool)
    labeled[:, :, ::2] = True
    classes = np.zeros(labeled.shape, np.uint8)
    classes[4:9, 3:11] = 1
    split = hold_out(SparseLabels(classes, labeled, GRID), 4)
    assert "of 10 slices (z=4, z=12)" in split.said
    assert split.validation is not None
    assert int(split.validation.labeled.sum()) == 2 * 16 * 16


def test_a_box_is_held_out_by_blocks():
    labeled = np.zeros((40, 40, 40), bool)
    labeled[2:36, 2:36, 4:36] = True
    classes = np.zeros(labeled.shape, np.uint8)
    classes[::3] = 1
    assert "blocks of 16 voxels" in hold_out(SparseLabels(classes, labeled, GRID), 4).said


@pytest.mark.parametrize(("count", "spacing", "wanted"), [(30, 5.0, 1.3), (25, 3.3, 1.0), (40, 2.0, 0.7)])
def test_planes_are_named_after_the_slice_whose_labels_they_have(count, spacing, wanted):
    codes = np.broadcast_to(np.arange(count, dtype=np.uint8) % 2, (8, 8, count)).copy()
    codes[:4] = 1 - codes[:4]
    affine = Affine.from_spacing((1, 1, spacing))
    numbers = np.broadcast_to(np.arange(count, dtype=np.float32), (1, 8, 8, count)).copy()
    files = TrainingFiles((Volume(numbers, affine, "scan"),), (Volume(codes[None], affine, "labels"),))
    dense = parse_config({"labels": {"dense": True}})
    (case,), _ = load(files, dense, Preprocessing(spacing_mm=(1, 1, wanted)), Quiet())
    for plane in range(case.shape[2]):
        index = int(case.file_plane(2, plane).removeprefix("z="))
        assert np.array_equal(case.labels.classes[:, :, plane], codes[:, :, index])


# the classifier


def test_labels_of_weight_0_decide_no_class_of_the_coarse_grid():
    classes = np.zeros((2, 2, 2), np.uint8)
    classes[0, 0], classes[0, 1, 0] = 1, 1  # three of eight
    weight = (classes == 1).astype(np.float32)
    found = reduced_labels(SparseLabels(classes, np.ones((2, 2, 2), bool), GRID, weight=weight), (2, 2, 2), 2)
    assert found.classes.item() == 1
    plain = reduced_labels(SparseLabels(classes, np.ones((2, 2, 2), bool), GRID), (2, 2, 2), 2)
    assert plain.classes.item() == 0


def test_a_class_that_is_the_most_frequent_nowhere_is_not_lost():
    classes = np.zeros((6, 6, 6), np.uint8)
    classes[0, 0, 0], classes[3:] = 2, 1
    found = reduced_labels(SparseLabels(classes, np.ones(classes.shape, bool), GRID), (3, 3, 3), 3)
    assert found.classes[0, 0, 0] == 2
    assert (found.classes[0].reshape(-1)[1:] == 0).all()
    assert (found.classes[1] == 1).all()


def test_a_feature_that_never_differs_in_the_paint_says_nothing():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    rows = torch.from_numpy(np.stack([truth + 0.1 * rng.normal(size=400), np.zeros(400)], axis=1).astype(np.float32))
    known = LabeledFeatures(rows, truth, np.ones(400), np.zeros(400, np.int64), np.arange(400))
    network = fit_perceptrons(known, 2, steps=60)
    elsewhere = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # (F, N): two voxels, the second feature is 1 and 0
    same = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(network.answer(elsewhere), network.answer(same), atol=1e-6)


def test_thin_slabs_of_the_context_change_no_feature():
    rng = np.random.default_rng(0)
    recipe = Recipe((1.0, 2.0), (), (1.0,))
    maps, around = (
        FeatureMaps(rng.normal(size=(channels, 24, 9, 8)).astype(np.float32), (1.0, 1.0, 1.0), recipe)
        for channels in (1, 2)
    )
    whole = torch.cat([maps.slab(0, 24), around.slab(0, 24)])
    around._planes = 5
    pieces = list(_side_by_side(maps, around))
    assert len(pieces) == 5
    assert torch.equal(torch.cat([part for _, _, part in pieces], dim=1), whole)


def test_short_runs_measure_statistics_on_few_batches():
    assert [batches(n) for n in (1, 8, 20, 100, 160, 5000)] == [1, 8, 10, 25, 40, 40]
