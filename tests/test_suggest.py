import json
import shutil

import h5py
import nibabel
import numpy as np
import pytest
from workflow_parts import TINY, UNLABELED, balls, painted, refused, write_case, write_config

import vol3d
from vol3d import io
from vol3d.cli.main import main
from vol3d.config import LabelsConfig
from vol3d.errors import ConfigError, GeometryError, LabelError, ModelError
from vol3d.volume import Affine, Volume
from vol3d.workflows.labels import decide, unlabeled_codes
from vol3d.workflows.to_paint import Painted

QUICK = TINY | {"pixel_classifier": {"use": "no"}}
pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A trained run and its files: (folder, scan, sparse, dense)."""
    folder = tmp_path_factory.mktemp("task")
    scan, sparse, dense = write_case(folder)
    vol3d.train(scan, sparse, unlabeled=UNLABELED, config=QUICK, output=folder / "run", seed=1)
    return folder, scan, sparse, dense


def planes_of(result):
    return [(plane.axis, plane.index) for plane in result.planes]


def test_the_label_file_keeps_the_paint_and_marks_the_planes(task, tmp_path):
    folder, scan, sparse, _ = task
    result = vol3d.suggest(scan, folder / "run", n=2, output=tmp_path / "next.nii.gz")
    before, after = io.read_labels(sparse), io.read_labels(result.path)
    known = before.array[0] != UNLABELED
    assert np.array_equal(after.array[0][known], before.array[0][known])
    marked = np.zeros(known.shape, bool)
    for axis, index in planes_of(result):
        marked[(slice(None),) * "xyz".index(axis) + (index,)] = True
    assert np.array_equal(after.array[0] == result.to_paint, marked & ~known)
    assert (after.array[0][~known & ~marked] == UNLABELED).all()
    assert result.unlabeled == UNLABELED
    assert after.attributes["class_names"] == {
        "0": "background",
        "1": "ball",
        str(UNLABELED): "unlabeled",
        str(result.to_paint): "to paint",
    }
    after.require_same_grid(io.read(scan))
    written = nibabel.load(result.path)
    assert np.array_equal(written.affine, nibabel.load(scan).affine)


def test_marks_change_nothing_until_somebody_paints(task, tmp_path):
    folder, scan, _, _ = task
    result = vol3d.suggest(scan, folder / "run", output=tmp_path / "next.nii.gz", preview=False)
    first = vol3d.load_model(folder / "run")
    for name, unlabeled in (("named", None), ("stated", UNLABELED)):
        again = vol3d.train(scan, result.path, unlabeled=unlabeled, config=QUICK, output=tmp_path / name, seed=1)
        assert again.bundle.weights_sha256 == first.weights_sha256, name
    bare = Volume(result.codes[None], Affine.from_spacing((1, 1, 1)), "bare")  # a painting tool has dropped the names
    assert decide([bare], LabelsConfig(unlabeled=(UNLABELED, result.to_paint))).table.codes.tolist() == [0, 1]


def test_marks_do_not_explain_the_other_codes():
    codes = np.zeros((1, 8, 8, 8), np.uint8)
    codes[0, 2], codes[0, 3], codes[0, 4] = 1, 2, 254
    names = {"254": "to paint"}
    drawn = Volume(codes, Affine.from_spacing((1, 1, 1)), "drawn", attributes={"class_names": names})
    with pytest.raises(LabelError, match="background is not the same as unlabeled"):
        decide([drawn], LabelsConfig())
    assert unlabeled_codes([drawn], LabelsConfig(unlabeled=(9, 0))) == (9, 0, 254)
    assert decide([drawn], LabelsConfig(dense=True)).table.codes.tolist() == [0, 1, 2]


def test_pictures_and_lines(task, tmp_path, capsys):
    folder, scan, _, _ = task
    out = tmp_path / "next.nii.gz"
    assert main(["suggest", scan, "-m", str(folder / "run"), "-n", "2", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    result = vol3d.suggest(scan, folder / "run", n=2, output=tmp_path / "again.nii.gz", preview=False)
    for rank, plane in enumerate(result.planes, 1):
        assert f"{rank}  {plane.axis}={plane.index}" in printed
        assert "% of the uncertainty" in plane.reason
        picture = tmp_path / f"next_{rank}_{plane.axis}{plane.index}.png"
        assert picture.stat().st_size > 10_000
        assert plane.picture is None
    assert f"--unlabeled {result.unlabeled} --unlabeled {result.to_paint}" in printed
    assert sorted(p.name for p in tmp_path.glob("again*")) == ["again.nii.gz"]


def test_nothing_is_overwritten_unasked(task, tmp_path, capsys):
    folder, scan, _, _ = task
    own = str(tmp_path / "scan.nii.gz")
    shutil.copy(scan, own)
    arguments = ["suggest", own, "-m", str(folder / "run"), "-l", task[2], "--unlabeled", "255"]
    assert main([*arguments, "-n", "1"]) == 0
    assert "scan_paint.nii.gz exists already" in refused(capsys, *arguments)
    (tmp_path / "scan_paint.nii.gz").unlink()
    assert ".png exists already" in refused(capsys, *arguments)
    old = next(tmp_path.glob("*.png"))
    kept = tmp_path / "scan_paint_notes.png"
    kept.write_bytes(b"mine")
    assert main([*arguments, "--overwrite", "--axes", "x" if "_z" in old.name else "z", "-n", "1"]) == 0
    assert not old.exists()
    assert kept.read_bytes() == b"mine"
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_a_scan_of_another_study_has_nothing_painted(task, tmp_path):
    folder, scan, _, _ = task
    own = str(tmp_path / "other.nii.gz")
    shutil.copy(scan, own)
    result = vol3d.suggest(own, folder / "run", n=1)
    assert result.path == str(tmp_path / "other_paint.nii.gz")
    assert result.planes[0].distance_mm is None
    assert set(np.unique(result.codes)) == {result.to_paint, result.unlabeled}
    assert len({result.to_paint, result.unlabeled, 0, 1}) == 4


def test_the_printed_command_goes_on_with_the_right_scans(task, tmp_path, capsys):
    folder, scan, sparse, _ = task
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    record = json.loads((run / "run.json").read_text())
    record["config"]["data"] |= {"images": [scan, "/b.nii.gz"], "labels": [sparse, "/b_labels.nii.gz"]}
    (run / "run.json").write_text(json.dumps(record))
    own = tmp_path / "other.nii.gz"
    shutil.copy(scan, own)
    said = {}
    for name, models in (("other", folder), ("several", tmp_path), ("own", folder)):
        asked = str(own) if name == "other" else scan
        out = str(tmp_path / f"{name}_paint.nii.gz")
        assert main(["suggest", asked, "-m", str(models / "run"), "-n", "1", "-o", out, "--no-preview"]) == 0
        said[name] = next(line for line in capsys.readouterr().out.splitlines() if "--resume" in line)
    assert f"/run -i {own} -l {tmp_path}/other_paint.nii.gz --unlabeled" in said["other"]
    assert f"/run -l {tmp_path}/several_paint.nii.gz /b_labels.nii.gz --unlabeled" in said["several"]
    assert f"/run -l {tmp_path}/own_paint.nii.gz --unlabeled" in said["own"]


def test_named_labels_win_over_the_runs(task, tmp_path):
    folder, scan, _, dense = task
    planes = {"z": [4, 20]}
    result = vol3d.suggest(
        scan, folder / "run", dense, annotated_slices=planes, output=tmp_path / "next.nii.gz", preview=False
    )
    truth = io.read_labels(dense).array[0]
    assert np.array_equal(result.codes[:, :, planes["z"]], truth[:, :, planes["z"]])
    other = np.delete(result.codes, planes["z"], axis=2)
    assert set(np.unique(other)) == {result.to_paint, result.unlabeled}
    assert not {("z", 4), ("z", 20)} & set(planes_of(result))


def test_arrays_are_answered_and_nothing_is_written(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image, classes = balls()
    bundle = vol3d.load_model(task[0] / "run")
    result = vol3d.suggest(image, bundle, painted(classes), unlabeled=UNLABELED, spacing_mm=(1, 1, 1), tta=True)
    again = vol3d.suggest(image, bundle, painted(classes), unlabeled=UNLABELED, spacing_mm=(1, 1, 1), tta=True)
    assert planes_of(result) == planes_of(again)
    assert result.path is None
    assert not list(tmp_path.iterdir())
    assert all(plane.gain > 0 for plane in result.planes)


def test_planes_are_named_in_the_axes_of_the_file(task, tmp_path):
    folder, scan, sparse, _ = task
    straight = vol3d.suggest(scan, folder / "run", sparse, output=tmp_path / "a.nii.gz", preview=False)
    names = []
    for source, tag in ((scan, "scan"), (sparse, "labels")):
        turned = nibabel.as_closest_canonical(nibabel.load(source)).slicer[::-1]
        array = np.asanyarray(turned.dataobj).transpose(2, 0, 1)
        affine = turned.affine @ np.eye(4)[:, [2, 0, 1, 3]]  # stored axes: z, x, y of the straight file
        affine[:, 3] = turned.affine[:, 3]
        names.append(str(tmp_path / f"{tag}.nii.gz"))
        nibabel.save(nibabel.Nifti1Image(array, affine), names[-1])
    turned = vol3d.suggest(
        names[0], folder / "run", names[1], unlabeled=UNLABELED, output=tmp_path / "b.nii.gz", preview=False
    )
    length = straight.codes.shape[0]
    back = {"x": "z", "y": "x", "z": "y"}  # axis of the turned file → of the straight one
    found = [(back[a], length - 1 - i if back[a] == "x" else i) for a, i in planes_of(turned)]
    assert found == planes_of(straight)


def test_hdf5_stays_hdf5(task, tmp_path):
    folder = task[0]
    scan, sparse, _ = write_case(tmp_path, suffix=".h5")
    result = vol3d.suggest(scan, folder / "run", sparse, unlabeled=UNLABELED, n=1)
    assert result.path == f"{tmp_path / 'scan_paint.h5'}:label"
    with h5py.File(tmp_path / "scan_paint.h5") as file:
        assert file["label"].shape == result.codes.shape[::-1]
        assert (file["label"][()] == result.to_paint).any()
    assert result.planes[0].picture.is_file()


def test_old_marks_are_taken_back():
    codes = np.full((6, 6, 6), 255, np.uint8)
    codes[0], codes[3] = 1, 254
    before = Painted(codes, codes == 1, {255: "unlabeled", 254: "to paint"}, (254, 255))
    after, names, mark, rest = before.marked([(2, 5)], {0: "background", 1: "ball"})
    assert (mark, rest) == (254, 255)
    assert (after[0] == 1).all()
    assert (after[1:, :, 5] == 254).all()
    assert (after[1:, :, :5] == 255).all()
    assert names == {0: "background", 1: "ball", 255: "unlabeled", 254: "to paint"}


@pytest.mark.parametrize(
    ("codes", "unlabeled", "classes", "wide", "expected"),
    [
        ([0, 1], (), {0: "background", 1: "a"}, False, (254, 255)),
        ([0, 3], (0,), {1: "a", 3: "b"}, False, (255, 0)),
        ([5, 255], (), {5: "a", 254: "b", 255: "c"}, False, (252, 253)),
        (list(range(255)), (255,), {}, False, (65535, 255)),
        ([1, 300], (0,), {}, False, (65535, 0)),
        ([1, 2], (), {}, True, (65534, 65535)),
        ([1, 65536], (), {}, False, (2**32 - 2, 2**32 - 1)),
    ],
)
def test_codes_are_free_and_fit(codes, unlabeled, classes, wide, expected):
    array = np.resize(np.array([*codes, *unlabeled], np.uint32), (len(codes) + 2, 4, 4))
    array[:-1] = np.array([*codes, codes[0]], np.uint32)[:, None, None]
    array[-1] = unlabeled[0] if unlabeled else codes[0]
    labeled = ~np.isin(array, unlabeled)
    labeled[-1] = False
    after, names, mark, rest = Painted(array, labeled, {}, unlabeled).marked([(0, len(codes) + 1)], classes, wide=wide)
    assert (mark, rest) == expected
    assert names == classes | {mark: "to paint", rest: "unlabeled"}
    assert np.array_equal(after[labeled], array[labeled])
    assert (after[-1] == mark).all()
    assert after.dtype == np.min_scalar_type(int(max(mark, rest, *codes)))


def test_refusals(task, tmp_path, capsys):
    folder, scan, sparse, dense = task
    run = folder / "run"
    out = ["-o", tmp_path / "next.nii.gz"]
    assert "whole number from 1 on" in refused(capsys, "suggest", scan, "-m", run, "-n", "0")
    assert "invalid choice" in refused(capsys, "suggest", scan, "-m", run, "--axes", "w")
    assert "no such model or run folder" in refused(capsys, "suggest", scan, "-m", tmp_path / "none", *out)
    assert "does not exist" in refused(capsys, "suggest", scan, "-m", run, "-o", tmp_path / "none" / "next.nii.gz")
    assert "slice z=99" in refused(capsys, "suggest", scan, "-m", run, "-l", dense, "--annotated-slices", "z=99", *out)
    assert "positive reach" in refused(capsys, "suggest", scan, "-m", run, "--reach", "-1", *out)
    with pytest.raises(ConfigError, match="axes among x, y and z"):
        vol3d.suggest(scan, run, axes="xw", output=out[1])
    with pytest.raises(ConfigError, match="one slice or more"):
        vol3d.suggest(scan, run, n=0, output=out[1])
    image, classes = balls()
    with pytest.raises(GeometryError, match="not on one grid"):
        vol3d.suggest(image, run, painted(classes)[:-1], unlabeled=UNLABELED)
    with pytest.raises(LabelError, match="nothing is left to paint"):
        vol3d.suggest(image, run, (np.indices(image.shape).sum(0) % 3).astype(np.uint8))
    with pytest.raises(LabelError, match="background is not the same as unlabeled"):
        vol3d.suggest(image, vol3d.load_model(run), np.where(painted(classes) == 1, 1, 0).astype(np.uint8))
    with pytest.raises(ModelError, match="2 channels"):
        vol3d.suggest(np.stack([image, image]), run)
    assert not list(tmp_path.iterdir())
    assert sparse


def test_labels_that_are_gone(task, tmp_path):
    folder, scan, sparse, _ = task
    own = tmp_path / "sparse.nii.gz"
    shutil.copy(sparse, own)
    config = write_config(tmp_path, pixel_classifier={"use": "no"})
    assert main(["train", config, "-i", scan, "-l", str(own), "--unlabeled", "255", "-o", str(tmp_path / "run")]) == 0
    own.unlink()
    with pytest.raises(ConfigError, match="are gone"):
        vol3d.suggest(scan, tmp_path / "run", output=tmp_path / "next.nii.gz")
    assert folder


def test_values_have_no_uncertainty(tmp_path):
    image, _ = balls()
    target = np.where(painted(np.zeros(image.shape, np.uint8)) == 0, image, np.nan).astype(np.float32)
    done = vol3d.train(image, target, task="regression", config=QUICK, output=tmp_path / "run", seed=1)
    with pytest.raises(ConfigError, match="predicts values"):
        vol3d.suggest(image, done.bundle)


def test_own_label_files_are_no_scans(task, tmp_path):
    folder, scan, _, _ = task
    shutil.copy(scan, tmp_path / "scan.nii.gz")
    vol3d.suggest(tmp_path / "scan.nii.gz", folder / "run", n=1, preview=False)
    assert main(["predict", str(tmp_path), "-m", str(folder / "run"), "--no-preview"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan.nii.gz", "scan_paint.nii.gz", "scan_seg.nii.gz"]
