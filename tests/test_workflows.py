import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from workflow_parts import TINY, UNLABELED, balls, painted, write_case, write_config

import vol3d
from vol3d.cli.main import main
from vol3d.config import Config, LabelsConfig
from vol3d.errors import ConfigError, GeometryError, LabelError, ModelError
from vol3d.report import read_metrics
from vol3d.transforms import Preprocessing
from vol3d.volume import Affine, Volume
from vol3d.workflows.cases import TrainingFiles, load
from vol3d.workflows.label_options import parse_annotated_slices
from vol3d.workflows.labels import decide
from vol3d.workflows.listener import Quiet
from vol3d.workflows.planned import Grid, SizedNetwork, small_network, small_patch
from vol3d.workflows.settings import settle
from vol3d.workflows.unlike import intensities_unlike_training

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Arrays in, a model out."""
    image, classes = balls()
    folder = tmp_path_factory.mktemp("api")
    return vol3d.train(
        image, painted(classes), unlabeled=UNLABELED, spacing_mm=(1, 1, 1), config=TINY, output=folder / "run", seed=1
    )


def test_arrays_in_codes_out(trained):
    image, classes = balls()
    result = vol3d.predict(image, trained.bundle, spacing_mm=(1, 1, 1), probabilities=True)
    assert result.codes.shape == image.shape
    assert result.path is None
    assert result.probabilities.shape == (2, *image.shape)
    assert vol3d.evaluate(result.codes, classes).mean_iou > 0.3
    again = vol3d.predict(image, vol3d.load_model(trained.run), spacing_mm=(1, 1, 1))
    assert np.array_equal(again.codes, result.codes)


def test_same_seed_same_weights(trained, tmp_path):
    image, classes = balls()
    runs = [
        vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=TINY, output=tmp_path / str(seed), seed=seed)
        for seed in (1, 2)
    ]
    assert runs[0].bundle.weights_sha256 == trained.bundle.weights_sha256
    assert runs[1].bundle.weights_sha256 != trained.bundle.weights_sha256


def test_unlabeled_codes_change_nothing(trained, tmp_path):
    image, classes = balls()
    sparse = painted(classes).astype(np.uint16)
    hidden = sparse == UNLABELED
    sparse[hidden] = np.random.default_rng(0).choice([77, 999], hidden.sum())
    run = vol3d.train(image, sparse, unlabeled=(77, 999), config=TINY, output=tmp_path / "run", seed=1)
    assert run.bundle.weights_sha256 == trained.bundle.weights_sha256


def test_annotated_slices_equal_an_unlabeled_code(trained, tmp_path):
    image, classes = balls()
    planes = {
        axis: np.linspace(3, n - 4, 3).round().astype(int).tolist() for axis, n in zip("xyz", image.shape, strict=True)
    }
    run = vol3d.train(image, classes, annotated_slices=planes, config=TINY, output=tmp_path / "run", seed=1)
    assert run.bundle.weights_sha256 == trained.bundle.weights_sha256


@pytest.mark.parametrize("turn", ["LPS", "ASR", "PIL"])
def test_a_turned_scan_gets_the_same_labels(trained, turn, tmp_path):
    scan, *_ = write_case(tmp_path)
    straight = nibabel.load(scan)
    turned = straight.as_reoriented(nibabel.io_orientation(np.eye(4)) if turn == "RAS" else _towards(straight, turn))
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        one = vol3d.predict(scan, trained.bundle, tmp_path / "one.nii.gz", preview=False)
        two = vol3d.predict(tmp_path / "turned.nii.gz", trained.bundle, tmp_path / "two.nii.gz", preview=False)
    back = nibabel.load(tmp_path / "two.nii.gz").as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(turned.affine), nibabel.io_orientation(straight.affine)
        )
    )
    assert "".join(nibabel.aff2axcodes(turned.affine)) == turn
    assert np.array_equal(np.asarray(back.dataobj), one.codes)
    assert np.allclose(back.affine, straight.affine)
    assert two.codes.shape == turned.shape


def _towards(image, codes):
    return nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
    )


def test_resampling_comes_back_to_the_scans_grid(tmp_path):
    scan, sparse, _ = write_case(tmp_path)
    config = TINY | {"preprocess": {"spacing_mm": [1.5, 1.5, 1.5]}}
    run = vol3d.train(scan, sparse, unlabeled=UNLABELED, config=config, output=tmp_path / "run")
    result = vol3d.predict(scan, run.bundle, tmp_path / "out.nii.gz", preview=False)
    assert result.codes.shape == nibabel.load(scan).shape
    assert run.bundle.preprocessing["spacing_mm"] == [1.5, 1.5, 1.5]


def test_hdf5_with_anisotropic_voxels_and_other_datasets(tmp_path):
    image, classes = balls()
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = image.T
        file["sparse"] = painted(classes).T
        file["keep"] = np.arange(5)
        for name in ("raw", "sparse"):
            file[name].attrs["element_size_um"] = (0.5, 0.2, 0.2)
    run = vol3d.train(f"{path}:raw", f"{path}:sparse", unlabeled=UNLABELED, config=TINY, output=tmp_path / "run")
    vol3d.predict(f"{path}:raw", run.bundle, f"{path}:prediction", preview=False)
    with h5py.File(path) as file:
        assert file["prediction"].shape == image.T.shape
        assert file["prediction"].attrs["element_size_um"] == pytest.approx((0.5, 0.2, 0.2))
        assert file["keep"][()].tolist() == [0, 1, 2, 3, 4]


def test_three_volumes_hold_out_a_whole_one(tmp_path):
    for seed, name in enumerate(["a", "b", "c"]):
        write_case(tmp_path, name, seed=seed)
    (tmp_path / "labels").mkdir()
    for name in "abc":
        (tmp_path / f"{name}_sparse.nii.gz").rename(tmp_path / "labels" / f"{name}.nii.gz")
        (tmp_path / f"{name}_dense.nii.gz").unlink()
    run = vol3d.train(
        str(tmp_path / "*.nii.gz"), str(tmp_path / "labels"), unlabeled=UNLABELED, config=TINY, output=tmp_path / "run"
    )
    record = json.loads((run.run / "run.json").read_text())
    assert all("1 of 3 volumes" in said for said in record["held_out"])
    assert run.score.mean_iou > 0


def test_r13_an_empty_case_among_several_is_left_out_aloud(tmp_path):
    image, classes = balls()
    empty = np.full_like(classes, UNLABELED)
    with pytest.warns(UserWarning, match="no labeled voxel"):
        run = vol3d.train(
            [image, image], [painted(classes), empty], unlabeled=UNLABELED, config=TINY, output=tmp_path / "run"
        )
    assert run.bundle is not None
    with pytest.raises(LabelError, match="expected labeled voxels, found none"):
        vol3d.train(image, empty, unlabeled=UNLABELED, config=TINY, output=tmp_path / "other")


@pytest.mark.parametrize("shape", [(5, 40, 12), (30, 28, 1)])
def test_r15_small_and_one_voxel_thick_scans_work(tmp_path, shape):
    rng = np.random.default_rng(0)
    image = rng.normal(size=shape).astype(np.float32)
    labels = (image > 0).astype(np.uint8)
    run = vol3d.train(image, labels, dense=True, config=TINY, output=tmp_path / "run")
    assert vol3d.predict(image, run.bundle).codes.shape == shape


def test_weights_scale_the_loss_and_zero_weight_voxels_are_never_drawn(tmp_path):
    image, classes = balls()
    sparse = painted(classes)
    run = vol3d.train(
        image, sparse, unlabeled=UNLABELED, weights=np.ones_like(image), config=TINY, output=tmp_path / "one", seed=1
    )
    weights = np.ones_like(image)
    weights[:15] = 0
    other = vol3d.train(
        image, sparse, unlabeled=UNLABELED, weights=weights, config=TINY, output=tmp_path / "two", seed=1
    )
    assert run.bundle.weights_sha256 != other.bundle.weights_sha256


def arguments(folder, *extra):
    """Of a command that trains for 24 iterations, with a checkpoint after each."""
    config = write_config(folder, training={"iterations": 24, "validations": 3, "checkpoint_minutes": 0.0001})
    scan, sparse = folder / "scan.nii.gz", folder / "scan_sparse.nii.gz"
    return ["train", config, "-i", str(scan), "-l", str(sparse), "--unlabeled", "255", *extra]


def process_of(folder, *extra):
    """The same in a process of its own."""
    return [sys.executable, "-m", "vol3d", *arguments(folder, *extra)]


def losses(run):
    return [(row["iteration"], row["loss"], row["validation"]) for row in read_metrics(run / "metrics.csv")]


def test_r19_killed_and_resumed_losses_are_bit_identical(tmp_path, single_threaded):
    write_case(tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    command = process_of(tmp_path, "-o", str(broken))
    process = subprocess.Popen(command, env=alone, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (broken / "metrics.csv").exists() or (broken / "metrics.csv").read_text().count("\n") < 9:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (broken / "model.safetensors").exists()
    assert main(["train", "--resume", str(broken)]) == 0
    assert main(arguments(tmp_path, "-o", str(whole))) == 0
    assert losses(broken) == losses(whole)
    one, two = (vol3d.load_model(run).weights_sha256 for run in (whole, broken))
    assert one == two


def test_two_processes_train_one_model(tmp_path):
    write_case(tmp_path)
    run = tmp_path / "run"
    command = process_of(tmp_path, "-o", str(run), "--device", "cpu", "--set", "training.devices=2")
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200)
    assert done.stdout.count("model: ") == 1
    assert len(losses(run)) == 24
    assert vol3d.load_model(run).provenance["iterations"] == 24


def test_r20_a_corrupt_newest_checkpoint_is_passed_over(tmp_path):
    write_case(tmp_path)
    run = tmp_path / "run"
    assert main(arguments(tmp_path, "-o", str(run))) == 0
    (run / "model.safetensors").unlink()
    newest = sorted((run / "checkpoints").glob("*.safetensors"))[-1]
    data = bytearray(newest.read_bytes())
    data[-7] ^= 255
    newest.write_bytes(bytes(data))
    with pytest.warns(UserWarning, match=newest.name):
        assert main(["train", "--resume", str(run)]) == 0
    assert (run / "model.safetensors").exists()


def test_a_run_stopped_before_its_first_checkpoint_begins_again(tmp_path):
    write_case(tmp_path)
    run = tmp_path / "run"
    assert main(arguments(tmp_path, "-o", str(run))) == 0
    before, weights = losses(run), vol3d.load_model(run).weights_sha256
    (run / "model.safetensors").unlink()
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    vol3d.train(resume=run)
    assert losses(run) == before
    assert vol3d.load_model(run).weights_sha256 == weights


class PressesCtrlC(Quiet):
    """Interrupts the process once, when `what` has got to its last step."""

    def __init__(self, what):
        self.what = what

    def progress(self, what, done, total, _fields):
        if what == self.what and done == total:
            self.what = None
            os.kill(os.getpid(), signal.SIGINT)


def test_r23_ctrl_c_in_the_last_iteration_is_not_lost(tmp_path):
    scan, sparse, _ = write_case(tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = {"unlabeled": UNLABELED, "config": TINY}
    expected = vol3d.train(scan, sparse, **options, output=whole)
    stopped = vol3d.train(scan, sparse, **options, output=broken, listener=PressesCtrlC("training"))
    assert stopped.stopped
    assert stopped.iterations == TINY["training"]["iterations"]
    assert not (broken / "model.safetensors").exists()
    resumed = vol3d.train(resume=broken)
    assert resumed.bundle.weights_sha256 == expected.bundle.weights_sha256
    assert losses(broken) == losses(whole)


def test_resume_refuses_changed_labels(tmp_path):
    write_case(tmp_path)
    run = tmp_path / "run"
    assert main(arguments(tmp_path, "-o", str(run))) == 0
    (run / "model.safetensors").unlink()
    image = nibabel.load(tmp_path / "scan_sparse.nii.gz")
    data = np.asarray(image.dataobj).copy()
    data[3, 3, 3] = 1 - data[3, 3, 3]
    nibabel.save(nibabel.Nifti1Image(data, image.affine, image.header), tmp_path / "scan_sparse.nii.gz")
    with pytest.raises(ModelError, match="have changed since this run began"):
        vol3d.train(resume=run)


def test_existing_folders_are_never_lost(tmp_path):
    image, classes = balls()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="exists"):
            vol3d.train(
                image, painted(classes), unlabeled=255, config=TINY, output=tmp_path / "mine", overwrite=overwrite
            )
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def codes(array, name="labels.nii.gz"):
    return Volume(np.asarray(array)[None], Affine.from_spacing((1, 1, 1)), name)


def test_nobody_said_what_zero_is():
    mostly = np.zeros((4, 4, 4), np.uint8)
    mostly[0, 0] = 1
    with pytest.raises(LabelError, match=r"labels.nii.gz: code 0 covers 93.8 %.*--unlabeled 0.*--dense"):
        decide([codes(mostly)], LabelsConfig())
    dense = decide([codes(mostly)], LabelsConfig(dense=True))
    assert [c.code for c in dense.table.classes] == [0, 1]
    assert dense.sparse(codes(mostly)).labeled.all()
    with pytest.raises(LabelError, match="at least two classes among labeled voxels, found only code 1"):
        decide([codes(mostly)], LabelsConfig(unlabeled=(0,)))


def test_an_unlabeled_code_that_does_not_occur_explains_nothing():
    mostly = np.zeros((4, 4, 4), np.uint8)
    mostly[0, 0] = 1
    with pytest.raises(LabelError, match="unlabeled code 255 does not occur, code 0 covers"):
        decide([codes(mostly)], LabelsConfig(unlabeled=(255,)))
    assert "does not occur" in vol3d.check(mostly, mostly, unlabeled=255).problems[0]


def test_a_forgotten_unlabeled_code_is_not_taken_for_a_class():
    _, classes = balls()
    with pytest.raises(LabelError, match=r"code 255 covers .* %.*--unlabeled 255 .*--dense"):
        decide([codes(painted(classes))], LabelsConfig())
    assert "does it mean unlabeled" in vol3d.check(classes, painted(classes)).problems[0]
    assert len(decide([codes(painted(classes))], LabelsConfig(dense=True)).table) == 3


def test_labels_turn_with_their_image_though_their_affine_differs_by_a_hair():
    _, classes = balls((13, 12, 11))
    scan, drawn = (
        Volume(array[None], Affine(_about_z(np.pi / 4 + angle)), name)
        for array, angle, name in ((classes.astype(np.float32), -2e-5, "scan"), (classes, 2e-5, "drawn"))
    )
    assert scan.affine.codes != drawn.affine.codes
    plain = Preprocessing(normalization="none")
    files = TrainingFiles((scan,), (drawn,))
    config = Config(labels=LabelsConfig(dense=True))
    (case,), _ = load(files, config, plain, Quiet())
    assert np.array_equal(case.image[0].numpy(), case.labels.classes)


def _about_z(angle):
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def test_options_replace_what_the_config_says_of_labels():
    base = {"labels": {"annotated_slices": {"z": [4]}}, "training": {"time_budget_s": 60}}
    assert settle(base, {"labels": {"annotated_slices": {"y": (5,)}}}, ()).labels.annotated_slices == {"y": (5,)}
    dense = settle(base, {"labels": {"dense": True}}, ()).labels
    assert dense.dense
    assert dense.annotated_slices is None
    assert settle(base, {}, ("training.iterations=5",)).training.time_budget_s is None


def test_a_model_remembers_its_channel(tmp_path):
    image, classes = balls()
    both = np.stack([np.zeros_like(image), image])
    run = vol3d.train(both, painted(classes), unlabeled=UNLABELED, channel=1, config=TINY, output=tmp_path / "run")
    alone = vol3d.predict(image, run.bundle)
    assert np.array_equal(vol3d.predict(both, run.bundle).codes, alone.codes)


def test_training_scans_cause_no_warning_when_resampled(tmp_path):
    image, classes = balls()
    config = TINY | {"preprocess": {"spacing_mm": [2.0, 2.0, 2.0]}}
    run = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=config, output=tmp_path / "run")
    assert vol3d.predict(image, run.bundle, spacing_mm=(1, 1, 1)).warnings == ()


def test_held_out_labels_teach_nothing_without_a_refit(tmp_path):
    image, classes = balls()
    sparse = painted(classes)
    changed = sparse.copy()
    alone = np.zeros(sparse.shape, bool)
    alone[26] = alone[:, :, 3] = True  # the two slices that are held out
    for axis, indices in ((0, (3, 14)), (1, (3, 14, 24)), (2, (12, 22))):
        for index in indices:
            alone[(slice(None),) * axis + (index,)] = False
    changed[alone] = 1 - changed[alone]
    config = TINY | {"training": TINY["training"] | {"refit": False, "validations": 1}}
    config["loss"] = {"class_weights": "none"}
    one, two = (
        vol3d.train(image, labels, unlabeled=UNLABELED, config=config, output=tmp_path / name, seed=1)
        for name, labels in (("one", sparse), ("two", changed))
    )
    assert "(x=26, z=3)" in json.loads((tmp_path / "one" / "run.json").read_text())["held_out"][0]
    assert one.bundle.weights_sha256 == two.bundle.weights_sha256
    assert one.score.mean_iou > two.score.mean_iou


def test_a_budget_too_short_is_said_aloud(tmp_path):
    image, classes = balls()
    config = {k: v for k, v in TINY.items() if k != "training"}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = vol3d.train(
            image, painted(classes), unlabeled=UNLABELED, config=config, time_budget_s=1, output=tmp_path / "run"
        )
    assert run.iterations >= 1
    texts = [str(one.message) for one in said]
    assert any(re.search("iterations? of .* s fit into 1 s", text) for text in texts)
    report = (run.run / "report.md").read_text()
    if any("there will be no score" in text for text in texts):
        assert "No labels were held out, since training had no time to look at them" in report
    else:
        assert "mean" in report


def test_the_papers_table_and_an_ignore_code_fit():
    paper = np.full((4, 4, 4), 3, np.uint8)
    paper[0], paper[1, 0], paper[1, 1] = 0, 1, 2
    meaning = decide([codes(paper)], LabelsConfig(unlabeled=(3,)))
    assert [c.code for c in meaning.table.classes] == [0, 1, 2]
    assert meaning.sparse(codes(paper)).labeled.sum() == (paper != 3).sum()
    named = Volume(
        paper[None], Affine.from_spacing((1, 1, 1)), "x", None, {"class_names": {"3": "unlabeled", "0": "in"}}
    )
    own = decide([named], LabelsConfig())
    assert own.table.unlabeled == (3,)
    assert own.table.names[0] == "in"


def test_annotated_slices_are_parsed_and_checked():
    assert parse_annotated_slices(["z=1,2", "x=0", "z=3"]) == {"z": (1, 2, 3), "x": (0,)}
    for text in ("q=1", "z", "z=a", "=3", "z=-1"):
        with pytest.raises(LabelError, match="AXIS=NUMBERS"):
            parse_annotated_slices([text])
    with pytest.raises(LabelError, match="slice z=9 does not exist: z runs from 0 to 3"):
        decide([codes(np.eye(4, dtype=np.uint8)[None].repeat(4, 0))], LabelsConfig(annotated_slices={"z": (9,)}))


def test_evaluate_counts_labeled_voxels_only():
    truth = np.array([[[0, 1, 1, 9]]], np.uint8)
    guess = np.array([[[0, 1, 0, 1]]], np.uint8)
    result = vol3d.evaluate(guess, truth, unlabeled=9)
    assert result.voxels == 3
    assert [s.iou for s in result.scores] == [0.5, 0.5]
    with pytest.raises(GeometryError, match="not on one grid"):
        vol3d.evaluate(guess[..., 1:], truth)
    with pytest.raises(LabelError, match="no voxel is left"):
        vol3d.evaluate(guess, np.full_like(truth, 9), unlabeled=9)
    with pytest.raises(LabelError, match="which voxels are painted there"):
        vol3d.evaluate(guess, truth, leave_out=truth)


def test_scans_unlike_the_training_ones_are_warned_of(trained):
    image, _ = balls()
    with pytest.warns(UserWarning, match="spacing 5×5×5 mm differs"):
        vol3d.predict(image, trained.bundle, spacing_mm=(5, 5, 5))
    with pytest.warns(UserWarning, match="is it the same kind of scan"):
        vol3d.predict(image * 100 + 9000, trained.bundle)
    turned = Volume(image[None], Affine(np.diag([-1.0, -1, 1, 1])), "lps")
    with pytest.warns(UserWarning, match="orientation LPS was not seen"):
        vol3d.predict(turned, trained.bundle)
    seen = {"intensities": [{"p1": 0.0, "p99": 1.0}]}
    assert not list(intensities_unlike_training([{"p1": 0.1, "p99": 0.9}], seen))


def test_arrays_that_make_no_sense_are_refused(trained):
    image, classes = balls()
    nan = image.copy()
    nan[0, 0, 0] = np.nan
    with pytest.raises(ConfigError, match="1 voxels are NaN"):
        vol3d.predict(nan, trained.bundle)
    assert vol3d.predict(nan, trained.bundle, nan=0).codes.shape == image.shape
    with pytest.raises(GeometryError, match="expected shape"):
        vol3d.predict(image[0], trained.bundle)
    with pytest.raises(ConfigError, match="channel 3 does not exist"):
        vol3d.predict(image, trained.bundle, channel=3)
    for labels, message in ((classes.astype(float), "integer"), (classes.astype(int) - 1, "negative")):
        with pytest.raises(ConfigError, match=message):
            vol3d.check(image, labels, dense=True)
    assert not vol3d.check(image, classes.astype(bool), dense=True).problems
    with pytest.raises(ConfigError, match="2 images but 1 labels"):
        vol3d.train([image, image], [classes], dense=True, config=TINY)


def test_check_states_the_evidence_about_zero():
    image, classes = balls()
    sparse = painted(classes)
    slices = np.where(sparse == UNLABELED, 0, sparse + 1)
    assert "those look like annotated slices" in vol3d.check(image, slices).zero
    assert "0 looks like background" in vol3d.check(image, classes).zero
    assert "as stated" in vol3d.check(image, classes, dense=True).zero
    assert "as stated" in vol3d.check(image, slices, unlabeled=0).zero
    assert "does not occur" in vol3d.check(image, classes + 1).zero
    assert "class of its own" in vol3d.check(image, 1 - classes).zero
    found = vol3d.check(image[..., 1:], sparse, unlabeled=UNLABELED)
    assert "not on one grid" in found.problems[0]
    assert any(
        "expected labeled voxels, found none" in p
        for p in vol3d.check(image, np.full_like(classes, 9), unlabeled=9).problems
    )


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((100, 100, 100), (0.127, 0.127, 0.284)),
        ((512, 512, 30), (4, 4, 50)),
        ((64, 64, 1), (1, 1, 1)),
        ((9, 9, 9), (1, 1, 1)),
    ],
)
def test_planned_patches_fit_scan_and_network(shape, spacing):
    patch = small_patch(Grid(shape, spacing), 48**3)
    network = small_network(SizedNetwork("unet", 3), patch, spacing)
    assert all(1 <= p <= n for p, n in zip(patch, shape, strict=True))
    assert np.prod(patch) <= 1.2 * 48**3
    for axis in range(3):
        if spacing[axis] >= 2 * min(spacing):
            assert network.kernels[0][axis] == 1
            assert network.pooling[0][axis] == 1


def test_quiet_listener_logs_and_warns(caplog):
    quiet = Quiet()
    with caplog.at_level(logging.INFO, "vol3d"):
        quiet.note("hello")
        quiet.progress("x", 1, 2, {})
    assert "hello" in caplog.text
    with pytest.warns(UserWarning, match="careful"):
        quiet.warn("careful")


def test_training_without_anything_uses_the_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes = []

    class Tell(Quiet):
        def note(self, text):
            notes.append(text)

    plan = vol3d.train(dry_run=True, listener=Tell())
    assert "embedded demo" in notes[0]
    assert plan.outputs == 3
    assert (tmp_path / "vol3d_demo" / "scan.nii.gz").is_file()
    Path("vol3d.yaml").write_text("data: {images: [vol3d_demo/scan.nii.gz], labels: [vol3d_demo/scan_sparse.nii.gz]}\n")
    assert vol3d.train(dry_run=True, listener=Tell()).config.data.images == (str(tmp_path / "vol3d_demo/scan.nii.gz"),)
    assert notes[-1] == "using ./vol3d.yaml"
