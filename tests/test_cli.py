import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from workflow_parts import UNLABELED, write_case, write_config

from vol3d.cli.main import main, run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A trained run, made once through the command line."""
    folder = tmp_path_factory.mktemp("task")
    scan, sparse, dense = write_case(folder)
    config = write_config(folder)
    code = main(["train", config, "-i", scan, "-l", sparse, "--unlabeled", str(UNLABELED), "-o", str(folder / "run")])
    assert code == 0
    return folder, scan, sparse, dense


def refusal(capsys, *arguments, code=2):
    """The one line a refused command prints."""
    try:
        found = main([str(a) for a in arguments])
    except SystemExit as stop:
        found = stop.code
    err = capsys.readouterr().err.strip()
    assert found == code, err
    lines = err.splitlines()
    assert "Traceback" not in err
    return lines[-1]


def test_a_run_leaves_everything_it_promises(task):
    run = task[0] / "run"
    names = {p.name for p in run.iterdir()}
    assert {
        "model.safetensors",
        "checkpoints",
        "metrics.csv",
        "curves.png",
        "preview.png",
        "config.yaml",
        "run.json",
    } <= names
    record = json.loads((run / "run.json").read_text())
    assert record["iterations"] == 8
    assert "held out for validation: 2 of 9 slices" in record["held_out"][0]
    assert len(record["data"][0]["image"]) == 64
    assert record["versions"]["torch"]
    assert record["held_out_score"]["mean_iou"] > 0
    assert (run / "metrics.csv").read_text().count("\n") == 9


def test_predict_evaluate_and_info(task, capsys):
    folder, scan, sparse, dense = task
    out = folder / "out.nii.gz"
    assert main(["predict", scan, "-m", str(folder / "run"), "-o", str(out)]) == 0
    assert (folder / "out.png").is_file()
    written, original = nibabel.load(out), nibabel.load(scan)
    assert written.shape == original.shape
    assert np.allclose(written.affine, original.affine)
    assert written.get_data_dtype() == np.uint8
    capsys.readouterr()
    assert main(["evaluate", str(out), dense, "--except", sparse, "--unlabeled", str(UNLABELED), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["voxels"] == (nibabel.load(sparse).get_fdata() == UNLABELED).sum()
    assert [c["name"] for c in scores["classes"]] == ["background", "ball"]
    assert main(["evaluate", str(out), dense]) == 0
    assert "mean IoU" in capsys.readouterr().out
    for thing, word in ((scan, "volume"), (folder / "run", "run"), (folder / "run" / "model.safetensors", "model")):
        assert main(["info", str(thing), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == word
    assert main(["info", str(folder / "run")]) == 0
    assert "iterations: 8" in capsys.readouterr().out


def test_default_output_and_newest_model(task, capsys, monkeypatch, tmp_path):
    folder = task[0]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(folder / "run")
    scan, *_ = write_case(tmp_path, "other", seed=2)
    monkeypatch.chdir(tmp_path)
    assert main(["predict", scan, "--no-preview", "--probabilities", "--tta"]) == 0
    assert "newest run" in capsys.readouterr().err
    labels = nibabel.load(tmp_path / "other_seg.nii.gz").get_fdata()
    chances = nibabel.load(tmp_path / "other_seg_probabilities.nii.gz").get_fdata()
    assert chances.shape == (*labels.shape, 2)
    assert np.array_equal(chances.argmax(-1), labels)
    assert np.allclose(chances.sum(-1), 1, atol=1e-5)


def test_several_scans_need_a_folder(task, capsys, tmp_path):
    folder = task[0]
    scans = [write_case(tmp_path, name, seed=4)[0] for name in ("a", "b")]
    line = refusal(capsys, "predict", *scans, "-m", folder / "run", "-o", tmp_path / "one.nii.gz")
    assert "give a folder" in line
    assert main(["predict", *scans, "-m", str(folder / "run"), "-o", f"{tmp_path}/out/", "--no-preview"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_seg.nii.gz", "b_seg.nii.gz"]


def test_check_tells_what_the_labels_cover(task, capsys):
    _, scan, sparse, dense = task
    assert main(["check", scan, sparse, "--unlabeled", str(UNLABELED)]) == 0
    text = capsys.readouterr().out
    assert "annotated slices: x=3,14,26 y=3,14,24 z=3,12,22" in text
    assert "no problem found" in text
    assert main(["check", scan, dense]) == 2
    assert "problem: " in capsys.readouterr().out
    assert main(["check", scan, sparse, "--unlabeled", str(UNLABELED), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


def test_dry_run_prints_the_paper_network_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(ROOT / "configs" / "unet3d_paper.yaml"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "19,069,955" in text
    assert "132×132×116 → 44×44×28" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chosen", [None, "0"])
def test_the_program_asks_for_large_pages_unless_told_otherwise(monkeypatch, chosen):
    monkeypatch.setattr(sys, "argv", ["vol3d", "--version"])
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    if chosen is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    with pytest.raises(SystemExit, match="0"):
        run()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == (chosen or "1")


def test_misspelt_flags_name_the_right_one(capsys):
    assert "Did you mean --unlabeled?" in refusal(capsys, "train", "--unlabelled", "3")
    assert "Did you mean --time-budget?" in refusal(capsys, "train", "--timebudget=3m")
    assert "invalid choice: 'trian'" in refusal(capsys, "trian")
    assert "expected a duration" in refusal(capsys, "train", "--time-budget", "soon")


def test_wrong_files_are_named(task, capsys, tmp_path):
    folder, scan, sparse, dense = task
    run = folder / "run"
    line = refusal(capsys, "predict", tmp_path / "absent.nii.gz", "-m", run)
    assert "absent.nii.gz" in line
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    assert "notes.txt" in refusal(capsys, "predict", text, "-m", run)
    assert "no such model or run folder" in refusal(capsys, "predict", scan, "-m", tmp_path / "nothing")
    assert "no such config file" in refusal(capsys, "train", tmp_path / "absent.yaml")
    assert "0 covers" in refusal(capsys, "train", "-i", scan, "-l", dense, "-o", tmp_path / "r")
    assert not (tmp_path / "r").exists()
    assert "exists" in refusal(capsys, "train", "-i", scan, "-l", sparse, "--unlabeled", 255, "-o", run)
    assert "labels (-l) is missing" in refusal(capsys, "train", "-i", scan)
    assert "--device" in refusal(
        capsys, "predict", scan, "-m", run, "--device", "cuda:9", "-o", tmp_path / "o.nii", code=1
    )
    assert "expected device" in refusal(capsys, "predict", scan, "-m", run, "--device", "tpu", "-o", tmp_path / "o.nii")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "-i", "absent.nii.gz", "-l", "absent.nii.gz"],
        ["predict", "absent.nii.gz", "-m", "RUN"],
        ["suggest", "absent.nii.gz", "-m", "RUN"],
        ["experiment", "slices", "-i", "absent.nii.gz", "-l", "absent.nii.gz"],
        ["check", "absent.nii.gz", "absent.nii.gz"],
        ["evaluate", "absent.nii.gz", "absent.nii.gz"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_wrong_name_is_told_before_anything_heavy_is_imported(task, arguments):
    given = [str(task[0] / "run") if word == "RUN" else word for word in arguments]
    program = (
        "import sys; from vol3d.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, [name for name in ('torch', 'monai') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program, *given], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "2 []"
    assert ended.stderr.startswith(f"vol3d {arguments[0]}: absent.nii.gz")


def test_r01_truncated_scan_is_refused_and_nothing_written(task, capsys, tmp_path):
    folder, scan, *_ = task
    data = Path(scan).read_bytes()
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(data[: len(data) // 2])
    line = refusal(capsys, "predict", cut, "-m", folder / "run")
    assert "cut.nii.gz" in line
    assert [p.name for p in tmp_path.iterdir()] == ["cut.nii.gz"]


def test_r08_labels_of_another_grid_are_refused(task, capsys, tmp_path):
    scan = task[1]
    image = nibabel.load(task[2])
    moved = tmp_path / "moved.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), np.diag([2, 1, 1, 1.0])), moved)
    line = refusal(capsys, "train", "-i", scan, "-l", moved, "--unlabeled", 255, "-o", tmp_path / "r")
    assert "not on one grid" in line
    assert not (tmp_path / "r").exists()


def test_an_existing_output_is_kept_without_overwrite(task, capsys, tmp_path):
    folder, scan, *_ = task
    out = tmp_path / "mine.nii.gz"
    out.write_bytes(b"precious")
    line = refusal(capsys, "predict", scan, "-m", folder / "run", "-o", out)
    assert "--overwrite" in line
    assert out.read_bytes() == b"precious"
    assert main(["predict", scan, "-m", str(folder / "run"), "-o", str(out), "--overwrite", "--no-preview"]) == 0


def test_r21_resume_of_nothing_is_an_error(task, capsys, tmp_path):
    assert "no run to go on with" in refusal(capsys, "train", "--resume", tmp_path / "absent")
    assert "finished" in refusal(capsys, "train", "--resume", task[0] / "run")


def test_resume_takes_no_other_option(task, capsys):
    line = refusal(capsys, "train", "--resume", task[0] / "run", "--iterations", 5, "--set", "a.b=1")
    assert "leave out --iterations, --set" in line


def test_two_scans_of_one_name_are_not_written_over_each_other(task, capsys, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_case(tmp_path / name)
    scans = [tmp_path / name / "scan.nii.gz" for name in "ab"]
    line = refusal(capsys, "predict", *scans, "-m", task[0] / "run", "-o", f"{tmp_path}/out/")
    assert "several scans would be written to" in line


def test_earlier_predictions_are_no_scans(task, capsys, tmp_path):
    _, *others = write_case(tmp_path)
    for other in others:
        Path(other).unlink()
    for _ in range(2):
        assert main(["predict", str(tmp_path), "-m", str(task[0] / "run"), "--overwrite", "--no-preview"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan.nii.gz", "scan_seg.nii.gz"]


def test_a_picture_of_somebody_else_is_kept(task, capsys, tmp_path):
    (tmp_path / "o.png").write_bytes(b"mine")
    line = refusal(capsys, "predict", task[1], "-m", task[0] / "run", "-o", tmp_path / "o.nii.gz")
    assert "o.png exists already" in line
    assert (tmp_path / "o.png").read_bytes() == b"mine"


def test_an_old_run_goes_only_when_the_new_one_is_settled(task, capsys, tmp_path):
    _, scan, sparse, _ = task
    config = write_config(tmp_path)
    base = ["train", config, "-i", scan, "-l", sparse, "--unlabeled", "255", "-o", str(tmp_path / "run")]
    assert main([*base, "--iterations", "1"]) == 0
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    line = refusal(capsys, *base, "--overwrite", "--set", "loss.class_weights=[1, 1, 1]")
    assert "expected 2 numbers" in line
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    assert main([*base, "--iterations", "2", "--overwrite"]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["iterations"] == 2


@pytest.mark.parametrize(
    "extra", [["--channel", "-1"], ["--tile", "0", "8", "8"], ["--annotated-slices", "xy=5"], ["--iterations", "0"]]
)
def test_numbers_that_make_no_sense_are_one_line(task, capsys, extra):
    command = "predict" if extra[0] in ("--tile", "--channel") else "train"
    files = [task[1]] if command == "predict" else ["-i", task[1], "-l", task[2]]
    assert "expect" in refusal(capsys, command, *files, *extra)


def test_channels_must_fit_the_model(task, capsys, tmp_path):
    folder = task[0]
    import h5py

    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["raw"] = np.zeros((2, 8, 9, 10), np.float32)
        file["raw"].attrs["element_size_um"] = (1000.0, 1000.0, 1000.0)
    line = refusal(capsys, "predict", tmp_path / "two.h5", "-m", folder / "run")
    assert "has 2 channels; the model expects 1. Select one with --channel 0" in line


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, contextlib, io\n"
        "from vol3d.cli.main import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['--help'])\n"
        "print(sorted({'torch', 'monai', 'nibabel', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["info", "check"])
def test_info_and_check_import_neither_torch_nor_monai(task, command):
    files = [task[1]] if command == "info" else [task[1], task[2]]
    code = (
        f"import sys; from vol3d.cli.main import main; main({[command, *files]!r})\n"
        "print({'torch', 'monai'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip().splitlines()[-1] == "set()"


def test_r23_interrupt_saves_and_exits_130(tmp_path):
    scan, sparse, _ = write_case(tmp_path)
    config = write_config(tmp_path, training={"iterations": 100_000, "validations": 0})
    command = [sys.executable, "-m", "vol3d", "train", config, "-i", scan, "-l", sparse, "--unlabeled", "255"]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "run"), "--workers", "1"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    csv = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not (csv.exists() and csv.read_text().count("\n") > 3):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    os.kill(process.pid, 2)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in out
    assert list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    group = subprocess.run(["pgrep", "-f", str(tmp_path / "run")], capture_output=True, text=True, check=False)
    assert group.stdout.strip() == ""
