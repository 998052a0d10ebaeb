"""What is refused before anything is lost, names that mean one thing, and rows that must not be mixed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_nothing_lost import CODES, GRID, NOISE, QUICK, SHAPE, volume, write_scan
from workflow_parts import TINY, UNLABELED, balls, drawn_bundle, painted, refused, write_case, write_config

import vol3d
from vol3d import io
from vol3d.cli.main import main
from vol3d.config import LossConfig, UNetConfig, parse_config
from vol3d.errors import ConfigError, GeometryError, LabelError
from vol3d.metrics import Contingency, Reliability
from vol3d.networks import build
from vol3d.transforms.monai import RandSparsePatch
from vol3d.volume import LabelTable, SparseLabels, is_background
from vol3d.workflows import experiment as experiments
from vol3d.workflows.calibration import Calibration
from vol3d.workflows.device import Device
from vol3d.workflows.forecast import forecast
from vol3d.workflows.objective import weights_of_classes
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.plan import Grid, make_plan
from vol3d.workflows.scores import HeldOutScore
from vol3d.workflows.sides import tell_sides
from vol3d.workflows.to_paint import Painted

pytestmark = pytest.mark.usefixtures("single_threaded", "blank_pictures")


# before an old run goes


@pytest.mark.parametrize("wrong", ["scale", "weights", "tile"])
def test_an_old_run_stays_where_the_new_one_is_refused(wrong, tmp_path, capsys):
    scan, sparse, _ = write_case(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "model.safetensors").write_text("weeks")
    nothing = str(tmp_path / "scan_weight.nii.gz")
    frame = io.read(scan)
    io.write_image(nothing, np.zeros((1, *frame.shape), np.float32), frame)
    options = {
        "scale": ["--set", "augment.scale=[1.1, 0.9]"],
        "weights": ["-w", nothing],
        "tile": ["--set", "inference.tile=[32, 32]"],
    }[wrong]
    files = ["-i", scan, "-l", sparse, "--unlabeled", UNLABELED, "-o", run, "--overwrite"]
    said = refused(capsys, "train", write_config(tmp_path), *files, *options)
    assert {"scale": "smaller number first", "weights": "weighs 0", "tile": "expected 3 sizes"}[wrong] in said
    assert (run / "model.safetensors").read_text() == "weeks"


def test_a_tile_that_a_valid_network_cannot_take_is_refused_by_the_plan():
    config = parse_config({"network": {"encoder": [[4], [8]], "padding": "valid"}, "inference": {"tile": [13, 13, 13]}})
    with pytest.raises(ConfigError, match="13"):
        make_plan(config, [Grid((40, 40, 40), (1, 1, 1), (0, 1, 2))], 1, ("a", "b"), Device("cpu", "float32"))


def test_weights_of_a_configuration_do_not_vanish(tmp_path, capsys):
    scan, sparse, _ = write_case(tmp_path)
    config = write_config(tmp_path, data={"weights": ["gone.nii.gz"]})
    said = refused(capsys, "train", config, "-i", scan, "-l", sparse, "--unlabeled", UNLABELED, "-o", tmp_path / "run")
    assert "data.weights" in said
    said = refused(capsys, "experiment", "folds", config, "-i", scan, "-l", sparse, "--unlabeled", UNLABELED)
    assert "data.weights" in said


def test_complex_images_are_refused():
    with pytest.raises(ConfigError, match="magnitude"):
        vol3d.train(NOISE[0] + 1j, CODES, dense=True)


def test_arrays_without_channels_are_refused():
    transform = RandSparsePatch((8, 8, 8))
    with pytest.raises(GeometryError, match="EnsureChannelFirst"):
        transform(NOISE[0], CODES)
    with pytest.raises(GeometryError, match="EnsureChannelFirst"):
        transform(NOISE, CODES[None, :-1])


# runs that were stopped, and runs again


def test_the_configuration_of_a_run_makes_it_again(tmp_path):
    scan, sparse, _ = write_case(tmp_path)
    config = QUICK | {"training": {"learning_rate": 0.01}}
    timed = vol3d.train(scan, sparse, unlabeled=UNLABELED, time_budget_s=15, config=config, output=tmp_path / "timed")
    again = vol3d.train(config=tmp_path / "timed" / "config.yaml", output=tmp_path / "again")
    assert again.iterations == timed.iterations
    assert again.bundle.weights_sha256 == timed.bundle.weights_sha256
    assert again.score == timed.score


def test_a_checkpoint_without_its_seal_was_never_made(tmp_path):
    scan, sparse, _ = write_case(tmp_path)
    run = tmp_path / "run"
    whole = vol3d.train(scan, sparse, unlabeled=UNLABELED, config=QUICK, output=run, seed=1)
    (run / "model.safetensors").unlink()
    for file in (run / "checkpoints").glob("*.json"):
        file.unlink()
    assert list((run / "checkpoints").glob("checkpoint-*"))
    again = vol3d.train(resume=run)
    assert again.bundle.weights_sha256 == whole.bundle.weights_sha256
    iterations = [one["iteration"] for one in json.loads((run / "run.json").read_text())["validations"]]
    assert len(set(iterations)) == len(iterations) == 2


# names of classes


def test_background_is_background_in_any_letters():
    named = [LabelTable.from_codes([0, 1], names={0: name}) for name in ("background", " Background ", "BACKGROUND")]
    assert [table.background for table in named] == [0, 0, 0]
    assert len({table.classes[0].color for table in named}) == 1
    assert LabelTable.from_codes([1, 2]).background is None
    assert not is_background("foreground")
    scores = []
    for name in ("background", "Background"):
        truth = volume(CODES, names={"0": name, "1": "cell"})
        found = vol3d.evaluate(np.where(NOISE[0] > 0.4, 1, 0).astype(np.uint8), truth, surface=True)
        scores.append((found.mean_iou_without_background, sorted(found.surface)))
    assert scores[0] == scores[1]
    assert scores[0][1] == [1]


def test_classes_of_one_name_are_told_apart(tmp_path):
    table = LabelTable.from_codes([0, 1, 2], names={1: "kidney", 2: "kidney"})
    assert table.names == ("background", "kidney (1)", "kidney (2)")
    assert LabelTable.from_codes([0, 2], names={2: "background"}).names == ("class 0", "background")
    counts = Contingency.from_labels(np.array([0, 1, 2, 1]), np.array([0, 1, 2, 2]), None, 3)
    assert HeldOutScore.from_counts(counts, table).iou == {"background": 1.0, "kidney (1)": 0.5, "kidney (2)": 0.5}
    image, classes = balls()
    classes = np.where((classes == 1) & (np.indices(classes.shape)[0] > 15), 2, classes).astype(np.uint8)
    config = TINY | {"labels": {"classes": [{"code": n, "name": "ball" if n else "rest"} for n in range(3)]}}
    run = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=config, output=tmp_path / "run")
    assert (run.run / "report.md").is_file()
    assert set(run.score.iou) == {"rest", "ball (1)", "ball (2)"}


@pytest.mark.parametrize(
    ("names", "sided"),
    [
        (("background", "left lung", "right lung"), True),
        (("background", "LeftLung"), True),
        (("background", "lung_l", "lung_r"), True),
        (("ctx-lh-x", "ctx-rh-x"), True),
        (("L", "R"), True),
        (("background", "cleft", "brightness"), False),
        (("class l", "class 2"), False),
        (("kidney", "liver"), False),
    ],
)
def test_names_tell_left_from_right(names, sided):
    assert tell_sides(names) is sided


# painting


@pytest.mark.parametrize(
    ("codes", "lost"), [((7, 8), True), ((1001, 2), True), ((0, 0), False), ((65534, 65535), False)]
)
def test_painted_objects_are_not_replaced_either(codes, lost, tmp_path):
    target = str(tmp_path / "paint.nii.gz")
    there = np.full(SHAPE, 65535, np.uint16)
    there[:, :, 3], there[:, :, 4] = codes
    io.write_labels(target, there, volume(CODES), names=None)
    nothing = np.zeros(SHAPE, np.uint16)
    before = Painted(nothing, nothing > 0, {}, (65535,))
    table = LabelTable.from_codes([0, 1, 2], names={1: "object inside", 2: "object border"})
    if lost:
        with pytest.raises(LabelError, match="512 painted voxels"):
            before.refuse_to_drop(target, table)
    else:
        before.refuse_to_drop(target, table)


def test_a_scan_of_one_slice_gets_lines_without_pictures(tmp_path, capsys):
    network = UNetConfig(dimensions=2, encoder=((4,), (8,)))
    drawn_bundle(network, build(network, 1, 2).state_dict(), patch=[16, 16], planes=(2,)).save(
        tmp_path / "model.safetensors"
    )
    scan = str(tmp_path / "scan.nii.gz")
    io.write_image(scan, NOISE[..., :1], volume(CODES[..., :1]))
    said = refused(capsys, "suggest", scan, "-m", tmp_path / "model.safetensors", "--axes", "z")
    assert "one voxel thick along z" in said
    result = vol3d.suggest(scan, tmp_path / "model.safetensors", n=2)
    assert {plane.axis for plane in result.planes} <= {"x", "y"}
    assert all(plane.picture is None for plane in result.planes)
    assert Path(str(result.path)).is_file()


def test_a_mark_says_nothing_of_zero(tmp_path):
    codes = np.zeros(SHAPE, np.uint8)
    codes[:, :, 3], codes[4:8, 4:8, 3], codes[:, :, 9] = 1, 2, 254
    marked = volume(codes, "labels", {"254": "to paint"})
    found = vol3d.check(NOISE[0], marked)
    assert "as stated" not in found.zero
    assert not any("does not occur" in problem for problem in found.problems)


def test_one_painted_slice_is_enough_where_there_is_no_other():
    flat = CODES[..., :1]
    kinds = [finding.kind for finding in vol3d.check(NOISE[0][..., :1], flat, annotated_slices={"z": [0]}).findings]
    assert "one_plane" not in kinds


# numbers


def test_a_temperature_helps_beside_what_it_is_added_to():
    raw, pooled, tempered = (Reliability(np.ones((3, 3, 15)), 0.0, loss) for loss in (1.8, 0.4, 0.6))
    found = Calibration(1.03, raw, tempered, (1.8, 0.5), 0.5, 0.65, pooled)
    assert not found.helps
    assert found.stored == 1.0
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))).helps is False
    older = {key: value for key, value in found.to_json().items() if key != "untempered"}
    assert Calibration.from_json(older).helps
    assert replace(found, untempered=raw).helps


def test_voxels_that_weigh_nothing_set_no_class_weights():
    weight = np.where(np.indices(SHAPE)[0] < 8, 1, 0).astype(np.float32)
    classes = np.where(weight > 0, CODES, 0).astype(np.uint8)
    labels = SparseLabels(classes, np.ones(SHAPE, bool), GRID, "labels", weight)
    bare = replace(labels, labeled=weight > 0, weight=None)
    table = LabelTable.from_codes([0, 1])
    ours, theirs = (weights_of_classes(LossConfig(), table, [one]) for one in (labels, bare))
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours, weights_of_classes(LossConfig(), table, [replace(labels, weight=None)]))


def test_uncertainty_is_foretold_with_its_flips(tmp_path):
    network = UNetConfig(encoder=((4,), (8,)))
    bundle = drawn_bundle(network, build(network, 1, 2).state_dict(), patch=[16, 16, 16])
    scan = write_scan(tmp_path / "scan.nii.gz")
    plain, unsure, flipped = (
        forecast(scan, bundle, str(tmp_path / "o.nii.gz"), PredictOptions(**options))
        for options in ({}, {"uncertainty": True}, {"tta": True})
    )
    assert unsure.tiles == flipped.tiles == 8 * plain.tiles


# experiments


def test_rows_of_other_data_are_not_mixed(tmp_path, monkeypatch):
    image = np.concatenate([NOISE, NOISE[:, ::-1]])
    codes = np.where(np.isin(np.indices(SHAPE)[2], (2, 5, 8, 11)), CODES, 255).astype(np.uint8)
    file = str(tmp_path / "scan.h5")
    io.write_image(f"{file}:raw", image, volume(CODES))
    io.write_image(f"{file}:other", NOISE * 2, volume(CODES))
    io.write_labels(f"{file}:label", codes, volume(CODES), names=None)
    io.write_labels(
        f"{file}:label2", np.where(codes < 255, 1 - codes % 2, 255).astype(np.uint8), volume(CODES), names=None
    )
    monkeypatch.setattr(experiments, "run_row", lambda *_arguments, **_options: None)
    folder = tmp_path / "e"
    options = {"unlabeled": 255, "iterations": 1, "folds": 2, "seeds": 1}

    def go(scan=f"{file}:raw", labels=f"{file}:label", channel=0, **changes):
        config = QUICK | {"data": {"channel": channel}}
        return vol3d.experiment("folds", scan, labels, config=config, **(options | changes))

    go(output=folder)
    go(resume=folder)
    for other in ({"channel": 1}, {"scan": f"{file}:other", "channel": None}, {"labels": f"{file}:label2"}):
        with pytest.raises(ConfigError, match="read otherwise"):
            go(resume=folder, **other)
    with pytest.raises(ConfigError, match="read otherwise"):
        go(resume=folder, unlabeled=None, annotated_slices={"z": [2, 5]})


def test_planes_of_a_3d_experiment_are_refused(tmp_path, capsys):
    scan, sparse, _ = write_case(tmp_path)
    files = ["-i", scan, "-l", sparse, "--unlabeled", UNLABELED, "--planes", "z", "--dimensions", 3]
    assert "--planes is for 2-D" in refused(capsys, "experiment", "folds", *files)
    assert main([str(one) for one in ("experiment", "dimensions", *files[:-2], "--dry-run", "--folds", 2)]) == 0
