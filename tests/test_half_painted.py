"""What surrounds a half-painted volume: class channels, previews, calibration, more slices, drawn voxels."""

import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from workflow_parts import UNLABELED, balls, painted, write_case

import vol3d
from vol3d import io
from vol3d.baselines.perceptrons import Painted
from vol3d.baselines.pixel_classifier import learn
from vol3d.baselines.reduced import Enlarged
from vol3d.bundle import ModelBundle
from vol3d.cli.main import main
from vol3d.config import parse_config
from vol3d.errors import ConfigError, ModelError
from vol3d.volume import Affine, Box, SparseLabels
from vol3d.workflows.calibration import _groups
from vol3d.workflows.case import Case
from vol3d.workflows.channels import part_of
from vol3d.workflows.combination import GROUPS, combination, offsets
from vol3d.workflows.continuing import PAINTED_FILE
from vol3d.workflows.live_preview import PREVIEW_FILE
from vol3d.workflows.pixel_channels import guide, prepare, wants_classifier

pytestmark = pytest.mark.usefixtures("blank_pictures")

SMALL = {
    "network": {"plan": "unet", "width": 4},
    "sampling": {"patch_size": [16, 16, 16], "batch_size": 1},
    "training": {"iterations": 10, "validations": 2, "learning_rate": 0.01},
    "pixel_classifier": {"steps": 40},
}
TURNED = Affine.from_spacing((1.0, 1.0, 1.0)).matrix @ np.diag([-1.0, -1.0, 1.0, 1.0])
GROUPED = np.arange(20_000) % GROUPS  # voxels that are independent of each other


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained run on a scan stored in LPS, and the files it was trained on."""
    place = tmp_path_factory.mktemp("half")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    scan, sparse, dense = write_case(place, affine=Affine(TURNED))
    vol3d.train(scan, sparse, unlabeled=UNLABELED, config=SMALL, output=place / "run")
    yield {"place": place, "scan": scan, "sparse": sparse, "dense": dense, "run": place / "run"}
    torch.set_num_threads(threads)


def fresh_labels(folder, name="more"):
    """The sparse labels with one slice more."""
    codes, dense = io.read(folder["sparse"]), io.read(folder["dense"]).array[0]
    more = codes.array[0].copy()
    more[:, :, 11] = dense[:, :, 11]
    path = str(folder["place"] / f"{name}.nii.gz")
    io.write_labels(path, more, codes, names=None, overwrite=True)
    return path


def test_a_run_leaves_a_model_with_its_classifier_a_preview_a_report_and_a_calibration(folder):
    run = folder["run"]
    bundle = ModelBundle.load(run / "model.safetensors")
    assert bundle.in_channels == 1
    record = json.loads((run / "run.json").read_text())
    assert bundle.pool_weight == record["calibration"]["pool_weight"]
    assert (bundle.classifier is not None) == (bundle.pool_weight > 0)
    assert bundle.network_channels == (3 if bundle.pool_weight else 1)
    assert record["calibration"]["prior_share"] in {0, 0.25, 0.5, 0.75, 1}
    assert record["first_preview_seconds"] > 0
    text = (run / "report.md").read_text()
    assert "pixel classifier" in text
    assert "interpolation" in text
    assert str(folder["place"]) not in text
    assert (run / "reliability.png").is_file()


def test_a_network_is_given_the_channels_it_takes_and_never_fewer_than_the_scan_has():
    labels = SparseLabels(np.zeros((4, 4, 4), np.uint8), np.ones((4, 4, 4), bool), Affine.from_spacing((1.0, 1.0, 1.0)))
    case = Case("scan", torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 4, 4, 4), labels, (1.0, 1.0, 1.0), {})
    logs = Enlarged(torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 4, 4, 4) + 7, (1, 1, 1), (4, 4, 4))
    guided = replace(case, logs=logs)
    seen = [guided.seen_by(SimpleNamespace(in_channels=count)).shape[0] for count in (4, 7, 2)]
    assert seen == [4, 7, 7]  # of the last one inference says that it does not fit
    assert len(case.seen_by(SimpleNamespace(in_channels=7))) == 4
    box = Box((1, 0, 2), (2, 3, 1))
    both = part_of(guided.seen_by(SimpleNamespace(in_channels=7)), box)
    assert both.shape == (7, 2, 3, 1)
    assert both.read(Box((0, 0, 0), box.size))[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 7, 8, 9]


def test_the_preview_lies_on_the_scan_as_it_is_stored(folder):
    preview, scan = nibabel.load(folder["run"] / PREVIEW_FILE), nibabel.load(folder["scan"])
    assert np.allclose(preview.affine, scan.affine)
    dense = np.asanyarray(nibabel.load(folder["dense"]).dataobj)
    found = np.asanyarray(preview.dataobj)
    agreement = [(np.flip(found, axes) == dense).mean() for axes in ((), (0,), (1,), (0, 1), (2,))]
    assert np.argmax(agreement) == 0
    assert agreement[0] > max(0.8, *agreement[1:])


def test_a_run_stopped_while_its_length_is_measured_has_a_preview_and_can_be_taken_up(folder, monkeypatch):
    run = folder["place"] / "stopped_early"

    def stop(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("vol3d.workflows.budget.Budget.length", stop)
        with pytest.raises(KeyboardInterrupt):
            vol3d.train(folder["scan"], folder["sparse"], unlabeled=UNLABELED, config=SMALL, output=run)
    preview, scan = nibabel.load(run / PREVIEW_FILE), nibabel.load(folder["scan"])
    assert preview.shape == scan.shape
    assert np.unique(np.asanyarray(preview.dataobj)).size > 1
    assert "iterations" not in json.loads((run / "run.json").read_text())
    found = vol3d.train(resume=run)
    whole = ModelBundle.load(folder["run"] / "model.safetensors")
    assert found.bundle.weights_sha256 == whole.weights_sha256


def test_a_saved_model_predicts_what_the_fresh_one_does(folder):
    bundle = ModelBundle.load(folder["run"] / "model.safetensors")
    scan = io.read(folder["scan"])
    once = vol3d.predict(scan, bundle, probabilities=True)
    again = vol3d.predict(scan, ModelBundle.load(bundle.save(folder["place"] / "copy.safetensors")), probabilities=True)
    assert np.array_equal(once.probabilities, again.probabilities)


def test_flags_of_predict_write_what_they_say(folder, capsys):
    out = folder["place"] / "seg.nii.gz"
    flags = ["--keep-drawn", "--provenance", "--uncertainty", "-o", str(out)]
    assert main(["predict", folder["scan"], "-m", str(folder["run"]), *flags]) == 0
    codes = np.asanyarray(nibabel.load(out).dataobj)
    drawn = np.asanyarray(nibabel.load(folder["sparse"]).dataobj)
    where = np.asanyarray(nibabel.load(folder["place"] / "seg_provenance.nii.gz").dataobj)
    assert np.array_equal(where == 1, drawn != UNLABELED)
    assert np.array_equal(codes[where == 1], drawn[where == 1])
    maps = np.asanyarray(nibabel.load(folder["place"] / "seg_uncertainty.nii.gz").dataobj)
    assert maps.shape == (*codes.shape, 2)
    assert float(maps.min()) >= 0
    assert float(maps.max()) <= 1
    said = capsys.readouterr()
    assert "as drawn in" in said.err + said.out


def test_drawn_voxels_are_not_guessed_for_another_scan(folder, capsys):
    other = write_case(folder["place"], "other", seed=5)[0]
    assert main(["predict", other, "-m", str(folder["run"]), "--keep-drawn"]) == 2
    assert "give its labels" in capsys.readouterr().err
    assert not (folder["place"] / "other_seg.nii.gz").exists()


def test_more_slices_go_on_from_the_model(folder):
    more = fresh_labels(folder)
    before = ModelBundle.load(folder["run"] / "model.safetensors")
    result = vol3d.train(
        labels=more, resume=folder["run"], unlabeled=UNLABELED, iterations=2, output=folder["place"] / "next"
    )
    record = json.loads((folder["place"] / "next" / "run.json").read_text())
    assert record["continued_from"] == before.weights_sha256
    painted_now = io.read(more).array[0] != UNLABELED
    painted_then = io.read(folder["sparse"]).array[0] != UNLABELED
    assert record["newly_painted"]["voxels"] == int((painted_now & ~painted_then).sum())
    far = sum(float((result.bundle.weights[k].float() - v.float()).abs().sum()) for k, v in before.weights.items())
    scale = sum(float(v.float().abs().sum()) for v in before.weights.values())
    assert far < 0.2 * scale  # two gentle steps away, not a fresh start
    assert (folder["run"] / "model.safetensors").is_file()


def test_a_continued_run_that_is_stopped_at_once_begins_again_from_the_model(folder):
    more = fresh_labels(folder, "again")
    arguments = {"labels": more, "unlabeled": UNLABELED, "iterations": 3}
    whole = vol3d.train(resume=folder["run"], output=folder["place"] / "c_whole", **arguments)
    part = folder["place"] / "c_part"
    vol3d.train(resume=folder["run"], output=part, **arguments)
    (part / "model.safetensors").unlink()
    for kept in (part / "checkpoints").iterdir():
        kept.unlink()
    again = vol3d.train(resume=part)
    assert again.bundle.weights_sha256 == whole.bundle.weights_sha256
    assert again.bundle.temperature == whole.bundle.temperature


def test_the_learning_rate_does_not_shrink_from_run_to_run(folder):
    more = fresh_labels(folder, "rate")
    arguments = {"labels": more, "unlabeled": UNLABELED, "iterations": 1}
    first, second = folder["place"] / "r_first", folder["place"] / "r_second"
    vol3d.train(resume=folder["run"], output=first, **arguments)
    vol3d.train(resume=first, output=second, **arguments)
    rates = [
        json.loads((run / "run.json").read_text())["config"]["training"]["learning_rate"] for run in (first, second)
    ]
    assert rates == [0.0025, 0.0025]


def test_slices_painted_beyond_those_declared_before_count(tmp_path, single_threaded):
    scan, sparse, dense = write_case(tmp_path)
    declared = {axis: [3, 13] for axis in "xyz"}
    run = vol3d.train(scan, dense, annotated_slices=declared, config=SMALL, output=tmp_path / "run").run
    vol3d.train(labels=sparse, resume=run, unlabeled=UNLABELED, iterations=1, output=tmp_path / "next")
    record = json.loads((tmp_path / "next" / "run.json").read_text())
    assert record["newly_painted"]["voxels"] > 0


def test_another_network_does_not_go_on_from_a_model(folder):
    with pytest.raises(ConfigError, match="another network"):
        vol3d.train(
            labels=folder["sparse"],
            resume=folder["run"],
            unlabeled=UNLABELED,
            config=None,
            network="fcn",
            output=folder["place"] / "none",
        )
    assert not (folder["place"] / "none").exists()


def test_yes_and_no_of_a_config_file_are_understood():
    for text, meant in (("no", "no"), ("yes", "yes"), ("auto", "auto")):
        assert parse_config({}, (f"pixel_classifier.use={text}",)).pixel_classifier.use == meant


def test_going_on_with_other_classes_is_refused(folder):
    codes = io.read(folder["sparse"])
    strange = codes.array[0].copy()
    strange[strange == 1] = 7
    path = str(folder["place"] / "strange.nii.gz")
    io.write_labels(path, strange, codes, names=None)
    with pytest.raises(ConfigError, match="Train a new run"):
        vol3d.train(labels=path, resume=folder["run"], unlabeled=UNLABELED, output=folder["place"] / "none")
    assert not (folder["place"] / "none").exists()


def test_a_damaged_record_of_what_was_painted_is_refused(folder):
    kept = (folder["run"] / PAINTED_FILE).read_bytes()
    (folder["run"] / PAINTED_FILE).write_bytes(kept[: len(kept) // 2])
    try:
        with pytest.raises(ModelError, match="valid header"):
            vol3d.train(labels=folder["sparse"], resume=folder["run"], output=folder["place"] / "none")
    finally:
        (folder["run"] / PAINTED_FILE).write_bytes(kept)


def test_a_stopped_run_ends_as_if_it_had_not_been(tmp_path, single_threaded):
    scan, sparse, _ = write_case(tmp_path)

    class Stop:
        def note(self, text):
            pass

        def warn(self, text):
            pass

        def progress(self, _what, done, _total, _fields):
            if done == 9:
                os.kill(os.getpid(), signal.SIGINT)

    whole = vol3d.train(scan, sparse, unlabeled=UNLABELED, config=SMALL, output=tmp_path / "whole")
    vol3d.train(scan, sparse, unlabeled=UNLABELED, config=SMALL, output=tmp_path / "part", listener=Stop())
    part = vol3d.train(resume=tmp_path / "part")
    assert part.bundle.weights_sha256 == whole.bundle.weights_sha256
    assert part.bundle.temperature == whole.bundle.temperature


def test_the_classifier_of_the_first_stage_knows_nothing_of_held_out_labels(single_threaded):
    image, classes = balls()
    labeled = painted(classes) != UNLABELED
    known = labeled.copy()
    known[:, :, 3] = False
    found = []
    for codes in (classes, np.where(known, classes, 1 - classes)):
        labels = SparseLabels(codes, labeled, Affine.from_spacing((1.0, 1.0, 1.0)))
        case = Case("scan", torch.from_numpy(image[None]), labels, (1.0, 1.0, 1.0), {})
        config = parse_config({"pixel_classifier": {"steps": 5}})
        training = SparseLabels(codes, known, labels.affine)
        found.append(guide([case], [[training], [labels]], config, 2))
    first, second = found
    (one, other), (third, fourth) = ([guided.cases[0].logs.values for guided in found] for found in (first, second))
    assert torch.equal(one, third)
    assert not torch.equal(other, fourth)


@pytest.mark.parametrize(
    ("use", "task", "outputs", "sized", "wanted"),
    [
        ("auto", "semantic", 2, True, True),
        ("auto", "semantic", 9, True, True),
        ("auto", "semantic", 200, True, True),
        ("auto", "semantic", 2, False, False),
        ("auto", "regression", 1, True, False),
        ("auto", "instances", 3, True, False),
        ("yes", "semantic", 9, False, True),
        ("no", "semantic", 2, True, False),
    ],
)
def test_when_there_is_a_classifier(use, task, outputs, sized, wanted):
    config = parse_config({"task": task, "pixel_classifier": {"use": use}})
    assert wants_classifier(config, outputs, sized=sized) is wanted


def test_a_classifier_for_values_is_refused():
    with pytest.raises(ConfigError, match="task semantic"):
        wants_classifier(parse_config({"task": "regression", "pixel_classifier": {"use": "yes"}}), 1, sized=True)


def test_class_weights_are_taken_back_where_that_helps():
    rng = np.random.default_rng(0)
    classes = (rng.random(20_000) < 0.1).astype(np.uint8)
    evidence = classes * 2.0 - 1 + rng.normal(0, 1.2, classes.shape)
    honest = np.stack([np.zeros_like(evidence), 2 * evidence / 1.44 + np.log(0.1 / 0.9)])
    weights = np.array([1.0, 9.0])
    skewed = honest + np.log(weights)[:, None]
    weight, share = combination(skewed[None], None, classes, weights, GROUPED)
    assert weight == 0
    assert share >= 0.5
    assert combination(honest[None], None, classes, np.ones(2), GROUPED) == (0, 0)
    assert np.allclose(offsets(weights, 1.0), [0, -np.log(9)])


def test_a_few_held_out_voxels_do_not_choose_an_extreme():
    rng = np.random.default_rng(0)
    chosen = []
    for _ in range(20):
        classes = np.tile([0, 1], 20).astype(np.uint8)
        network, classifier = (np.stack([-e, e]) for e in classes * 2.0 - 1 + rng.normal(0, 1, (2, 40)))
        weight, share = combination(network[None], classifier, classes, None, np.arange(40) // 5)
        assert share == 0
        chosen.append(weight)
    assert all(0.35 <= weight <= 0.8 for weight in chosen)
    assert chosen.count(0.65) > 10


def test_many_held_out_voxels_choose_the_better_source():
    rng = np.random.default_rng(0)
    classes = np.tile([0, 1], 10_000).astype(np.uint8)
    network, classifier = (np.stack([-e, e]) for e in (classes * 2.0 - 1 + rng.normal(0, s, 20_000) for s in (0.5, 2)))
    for groups in (GROUPED, np.zeros(20_000, dtype=np.int64)):  # one group tells no standard error: half a percent
        assert combination(network[None], classifier, classes, None, groups)[0] <= 0.35
        assert combination(classifier[None], network, classes, None, groups)[0] >= 0.65


def test_a_class_in_one_group_alone_does_not_hide_a_difference():
    rng = np.random.default_rng(0)
    classes, groups = np.tile([0, 1], GROUPS * 150).astype(np.uint8), np.repeat(np.arange(GROUPS), 300)
    classes[:50] = 2
    said, wrong = classes.copy(), rng.random(classes.shape) < 0.15
    said[np.flatnonzero(classes == 1)[-1]] = 2
    network = np.eye(3)[said].T
    other = 2 * np.eye(3)[np.where(wrong & (classes < 2), 1 - classes, classes)].T
    assert combination(network[None], other, classes, None, groups)[0] <= 0.2


def test_groups_are_of_neighbours():
    masks = [np.zeros((40, 200, 200), bool), np.zeros((20, 20, 20), bool)]
    masks[0][5], masks[1][0, 0, :3] = True, True
    found = _groups(masks)
    assert found.shape == (40_003,)
    assert found.min() == 0
    assert found.max() == GROUPS - 1
    first = found[:40_000].reshape(200, 200)
    assert all(len(np.unique(first[y : y + 16, x : x + 16])) == 1 for y in (0, 96) for x in (16, 112))
    sizes = np.bincount(found)
    assert sizes.min() > 0
    few = _groups([masks[1]])
    assert np.array_equal(few, [0, 0, 0])


@pytest.mark.parametrize(("network", "classifier"), [(1.0, 1.0), (0.5, 4.0), (4.0, 0.5)])
def test_what_held_out_labels_choose_is_no_worse_than_either_source(network, classifier):
    rng = np.random.default_rng(0)
    classes = (rng.random(20_000) < 0.3).astype(np.uint8)
    signal = classes * 2.0 - 1
    sources = [
        np.stack([-e / s**2, e / s**2]) for s in (network, classifier) for e in [signal + rng.normal(0, s, 20_000)]
    ]
    weight, _ = combination(sources[0][None], sources[1], classes, None, GROUPED)

    def iou(logits):
        found = logits.argmax(0)
        return (found & classes).sum() / (found | classes).sum()

    pooled = iou((1 - weight) * sources[0] + weight * sources[1])
    assert pooled >= max(iou(one) for one in sources) - 0.005
    noise = 10 * rng.normal(size=sources[1].shape)
    weight, _ = combination(sources[0][None], noise, classes, None, GROUPED)
    assert weight <= 0.1


def test_a_model_with_a_classifier_predicts_the_pool_of_both(folder):
    bundle = ModelBundle.load(folder["run"] / "model.safetensors")
    alone = replace(bundle, classifier=None, pool_weight=0.0, temperature=1.0)
    scan = io.read(folder["scan"])
    image, labels = torch.from_numpy(prepare(scan, alone)[1]), io.read(folder["dense"])
    known = SparseLabels(np.flip(labels.array[0], (0, 1)).copy(), np.ones(scan.shape, bool), labels.affine)
    scan_in_ras = Painted(image, known, (1.0, 1.0, 1.0))
    [classifier], _ = learn([scan_in_ras], [[known.labeled]], [[None]], 2, steps=30)
    found = {}
    for weight in (0.3, 1.0):
        pooled = replace(alone, classifier=classifier, pool_weight=weight)
        path = pooled.save(folder["place"] / "pooled.safetensors")
        found[weight] = vol3d.predict(scan, ModelBundle.load(path), probabilities=True).probabilities
    own = vol3d.predict(scan, alone, probabilities=True).probabilities
    logs = 0.7 * np.log(own) + 0.3 * np.log(found[1.0])
    wanted = np.exp(logs) / np.exp(logs).sum(0)
    assert np.abs(found[0.3] - wanted).max() < 1e-3
    assert np.abs(found[1.0] - own).max() > 0.05


def test_labels_with_another_code_for_unlabeled_stand_as_they_say(folder):
    codes = io.read(folder["sparse"])
    other = codes.array[0].copy()
    other[other == UNLABELED] = 77
    path = str(folder["place"] / "other_code.nii.gz")
    io.write_labels(path, other, codes, names=None)
    found = vol3d.predict(folder["scan"], folder["run"], keep_drawn=path, unlabeled=77).codes
    assert np.array_equal(found[other != 77], other[other != 77])
    assert not (found == 77).any()
