"""Inputs that no output replaces, names that belong to one file only, and options that would have no effect."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from workflow_parts import TINY, UNLABELED, balls, drawn_bundle, refused, write_case, write_config

import vol3d
from vol3d import io
from vol3d.cli.main import main
from vol3d.config import Config, DataConfig, LabelsConfig
from vol3d.errors import ConfigError, FileFormatError, GeometryError, LabelError, ResourceError
from vol3d.networks import build
from vol3d.transforms import Preprocessing
from vol3d.volume import Affine, Volume
from vol3d.workflows.cases import TrainingFiles, load
from vol3d.workflows.labels import decide
from vol3d.workflows.listener import Quiet
from vol3d.workflows.planned import SizedNetwork, small_network
from vol3d.workflows.run import open_run

SHAPE = (16, 16, 16)
GRID = Affine.from_spacing((1, 1, 1))
NOISE = np.random.default_rng(0).random((1, *SHAPE), dtype=np.float32)
CODES = (NOISE[0] > 0.5).astype(np.uint8)
QUICK = TINY | {"pixel_classifier": {"use": "no"}}
pytestmark = pytest.mark.usefixtures("single_threaded", "blank_pictures")


def volume(array: np.ndarray, name: str = "labels", names: dict[str, str] | None = None) -> Volume:
    return Volume(array[None], GRID, name, attributes={} if names is None else {"class_names": names})


def write_scan(path: str | Path) -> str:
    io.write_image(str(path), NOISE, volume(CODES))
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with a model of drawn weights."""
    network = small_network(SizedNetwork("unet", 3, 2), SHAPE, (1.0, 1.0, 1.0))
    weights = {name: value.detach() for name, value in build(network, 1, 2).state_dict().items()}
    bundle = drawn_bundle(network, weights, patch=list(SHAPE))
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    bundle.save(path)
    return str(path)


# outputs and inputs


def test_a_prediction_never_replaces_the_scan(model, tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.nii.gz")
    link = tmp_path / "link.nii.gz"
    link.symlink_to(scan)
    before = Path(scan).read_bytes()
    for output in (scan, link, tmp_path / "nowhere" / ".." / "scan.nii.gz"):
        said = refused(capsys, "predict", scan, "-m", model, "-o", output, "--overwrite", "--no-preview")
        assert "never overwritten" in said
    other = write_scan(tmp_path / "a" / "scan_seg.nii.gz") if (tmp_path / "a").mkdir() is None else ""
    said = refused(capsys, "predict", scan, other, "-m", model, "-o", f"{tmp_path / 'a'}/", "--overwrite")
    assert "a scan that is predicted" in said
    with pytest.raises(ConfigError, match="never overwritten"):
        vol3d.predict(scan, model, scan, overwrite=True)
    with pytest.raises(ConfigError, match="never overwritten"):
        vol3d.suggest(scan, model, output=scan, overwrite=True)
    assert Path(scan).read_bytes() == before


def test_a_prediction_never_replaces_drawn_labels(model, tmp_path, capsys):
    scan = write_scan(tmp_path / "case.h5:raw")
    hand = str(tmp_path / "case.h5:label")
    io.write_labels(hand, CODES * UNLABELED, volume(CODES), names={0: "hand", UNLABELED: "unlabeled"})
    bare = tmp_path / "case.h5"
    said = refused(capsys, "predict", scan, "-m", model, "-o", bare)
    assert f"{bare}:label exists already" in said
    said = refused(capsys, "predict", scan, "-m", model, "-o", bare, "--keep-drawn", hand, "--overwrite")
    assert "what was drawn by hand" in said
    assert io.read_labels(hand).attributes["class_names"]["0"] == "hand"


def test_a_prediction_never_replaces_what_its_run_learned_from(tmp_path, capsys):
    scan, sparse, _ = write_case(tmp_path)
    run = tmp_path / "run"
    vol3d.train(scan, sparse, unlabeled=UNLABELED, config=QUICK, output=run, iterations=1)
    other = tmp_path / "other.nii.gz"
    other.write_bytes(Path(scan).read_bytes())
    for output in (sparse, scan):
        said = refused(capsys, "predict", other, "-m", run, "-o", output, "--overwrite", "--no-preview")
        assert "learned from" in said
    (run / "run.json").write_text("{}")  # a model needs no run
    assert main(["predict", str(other), "-m", str(run), "--no-preview"]) == 0


def test_two_scans_never_share_a_picture(model, tmp_path, capsys):
    scans = [write_scan(tmp_path / name) for name in ("c.nii.gz", "c.nrrd")]
    assert "c_seg.png" in refused(capsys, "predict", *scans, "-m", model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.nii.gz", "c.nrrd"]
    assert main(["predict", *scans, "-m", model, "--no-preview"]) == 0


def test_own_label_maps_in_hdf5_files_are_no_scans(model, tmp_path):
    for name in ("f", "z"):
        write_scan(tmp_path / f"{name}.h5:raw")
    for named in (str(tmp_path), f"{tmp_path}/*.h5:raw"):
        assert main(["predict", named, "-m", model, "--no-preview", "--overwrite"]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5", "f_seg.h5", "z.h5", "z_seg.h5"]


def test_names_beside_an_old_file_stay_where_a_new_one_fails(tmp_path, monkeypatch):
    path = str(tmp_path / "k.mha")
    io.write_labels(path, CODES, volume(CODES), names={0: "unlabeled", 1: "a"})

    def fail(*_arguments: object) -> None:
        raise RuntimeError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(SimpleITK, "WriteImage", fail)
        with pytest.raises(ResourceError, match="nothing was changed"):
            io.write_labels(path, 1 - CODES, volume(CODES), names={1: "b"}, overwrite=True)
    kept = io.read_labels(path)
    assert kept.attributes["class_names"] == {"0": "unlabeled", "1": "a"}
    assert np.array_equal(kept.array[0], CODES)
    io.write_labels(path, 1 - CODES, volume(CODES), names=None, overwrite=True)
    assert "class_names" not in io.read_labels(path).attributes


# run folders


class _Case:
    name = "scan.nii.gz"
    scan = {"sha256": {"image": "a", "labels": "b"}}  # noqa: RUF012  read only


def begun(output: Path | None, **options: bool):
    run = open_run(output, Config(), [_Case()], overwrite=options.get("overwrite", False))
    run._make_folder()
    return run


def test_two_runs_at_once_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vol3d.workflows.run.time.strftime", lambda _form: "now")
    first = begun(None)
    (first.checkpoints / "mine").write_text("a")
    second, third = begun(None), begun(None)
    assert [run.folder.name for run in (first, second, third)] == ["now-scan", "now-scan-2", "now-scan-3"]
    assert (first.checkpoints / "mine").is_file()


def test_a_named_folder_that_was_filled_since_is_left_alone(tmp_path):
    late = open_run(tmp_path / "run", Config(), [_Case()], overwrite=False)
    (begun(tmp_path / "run").checkpoints / "mine").write_text("a")
    with pytest.raises(ConfigError, match="another run has begun there"):
        late._make_folder()
    assert (tmp_path / "run" / "checkpoints" / "mine").is_file()
    (tmp_path / "empty").mkdir()
    assert begun(tmp_path / "empty").checkpoints.is_dir()


@pytest.mark.parametrize("command", ["train", "experiment"])
def test_a_folder_that_holds_the_labels_is_not_replaced(command, tmp_path, capsys):
    scan, sparse, _ = write_case(tmp_path)
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / ("run.json" if command == "train" else "experiment.json")).write_text("{}")
    paint = folder / "paint.nii.gz"
    paint.write_bytes(Path(sparse).read_bytes())
    arguments = ["-i", scan, "-l", paint, "--unlabeled", UNLABELED, "-o", folder, "--overwrite", "--iterations", 1]
    kind = ["folds"] if command == "experiment" else []
    assert "which --overwrite would replace" in refused(capsys, command, *kind, write_config(tmp_path), *arguments)
    assert paint.is_file()


# suggest


def test_painted_slices_stay_when_suggest_is_asked_again(tmp_path):
    image, classes = balls()
    scan, labels, paint = (str(tmp_path / f"{name}.nii.gz") for name in ("scan", "first", "paint"))
    frame = Volume(image[None], GRID, "scan")
    io.write_image(scan, image[None], frame)
    slices = np.isin(np.arange(image.shape[2]), (4, 20))
    io.write_labels(labels, classes * slices.astype(np.uint8), frame, names=None)
    run = tmp_path / "run"
    vol3d.train(scan, labels, annotated_slices={"z": [4, 20]}, config=QUICK, output=run, iterations=1)
    first = vol3d.suggest(scan, run, n=1, axes="z", output=paint, preview=False)
    index = first.planes[0].index
    codes = first.codes.copy()
    codes[:, :, index] = classes[:, :, index]
    io.write_labels(paint, codes, frame, names=first.names, overwrite=True)
    with pytest.raises(LabelError, match="painted voxels that are not among those"):
        vol3d.suggest(scan, run, n=1, output=paint, preview=False, overwrite=True)
    again = vol3d.suggest(scan, run, paint, n=1, output=paint, preview=False, overwrite=True)
    kept = io.read_labels(paint).array[0]
    for plane in (4, 20, index):
        assert np.array_equal(kept[:, :, plane], classes[:, :, plane])
    assert again.planes[0].index != index or again.planes[0].axis != "z"


# geometry, names and codes


def stored(path: Path, **fields: object) -> str:
    """A NIfTI file whose header nobody has looked over."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(SHAPE)
    header.set_qform(np.diag([2, 2, 3, 1.0]), 1)
    header.set_sform(np.diag([2, 2, 3, 1.0]), 1)
    for name, value in fields.items():
        header[name] = value
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(header.binaryblock + bytes(4) + NOISE.tobytes(order="F"))
    return str(path)


@pytest.mark.parametrize(
    ("trusted", "broken"),
    [
        ("qform", {"srow_x": 0, "srow_y": 0, "srow_z": 0}),
        ("qform", {"srow_x": np.nan}),
        ("sform", {"quatern_b": np.nan}),
        ("sform", {"quatern_b": 0.9, "quatern_c": 0.9}),
    ],
)
def test_a_form_that_is_no_geometry_is_not_written_either(trusted, broken, model, tmp_path, capsys):
    scan = stored(tmp_path / "scan.nii", **broken)
    assert f"--xform {trusted}" in refused(capsys, "predict", scan, "-m", model)
    assert main(["predict", scan, "-m", model, "--no-preview", "--xform", trusted]) == 0
    written = nibabel.load(tmp_path / "scan_seg.nii")
    assert np.allclose(written.affine, np.diag([2, 2, 3, 1.0]))
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (
        (1, 0) if trusted == "qform" else (0, 1)
    )


def test_scaled_float32_is_exact(tmp_path):
    path = stored(tmp_path / "scan.nii", scl_slope=0.1, scl_inter=3.3)
    assert np.array_equal(io.read(path).array[0], nibabel.load(path).get_fdata())


def test_a_name_in_one_file_says_nothing_of_another():
    strokes, boxes = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    strokes[:, :, 3], strokes[3:6, 3:6, 3] = 1, 2
    boxes[2:6, 2:6, 2:6], boxes[8:10, 8:10, 8:10] = 2, 1
    named = volume(strokes, "a.nii.gz", {"0": "unlabeled", "1": "background", "2": "cell"})
    with pytest.raises(LabelError, match=r"a\.nii\.gz names code 0 'unlabeled', and b\.nii\.gz.*does not name it"):
        decide([named, volume(boxes, "b.nii.gz")], LabelsConfig())
    assert decide([named, volume(boxes, "b.nii.gz")], LabelsConfig(unlabeled=(0,))).table.unlabeled == (0,)
    marked = volume(strokes, "d.nii.gz", {"254": "to paint", "255": "unlabeled"})
    vessel = volume(np.where(strokes == 1, 254, strokes).astype(np.uint8), "c.nii.gz", {"254": "vessel"})
    with pytest.raises(LabelError, match="calls it 'vessel'"):
        decide([marked, vessel], LabelsConfig(unlabeled=(0,)))


def test_no_slices_at_all_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="annotated_slices"):
        vol3d.train(NOISE[0], CODES, annotated_slices={"z": []}, output=tmp_path / "run")
    with pytest.raises(ValueError, match="at least 1 item"):
        LabelsConfig(annotated_slices={"z": ()})


@pytest.mark.parametrize("names", [("a.h5:{}", "b.h5:{}"), ("a_{}.nii.gz", "b_{}.nii.gz")])
def test_weight_maps_pair_by_their_names(names):
    first, second = ([name.format(word) for name in names] for word in ("raw", "weight"))
    assert io.pair(first, second) == list(zip(first, second, strict=True))
    with pytest.raises(ConfigError, match=r"1 weight map\(s\)"):
        io.pair(first, second[:1], "weight map(s)")


def test_weights_in_memory_are_read_like_the_scan():
    labels = np.where(CODES == 1, 1, 0).astype(np.uint8)
    config = Config(data=DataConfig(channel=1), labels=LabelsConfig(dense=True))
    image = np.concatenate([NOISE, NOISE])

    def loaded(weights: np.ndarray):
        files = TrainingFiles((image,), (labels,), (weights,))
        return load(files, config, Preprocessing(), Quiet(), (2.0, 2.0, 2.0))[0][0].labels.weight

    assert np.array_equal(loaded(NOISE[0]), NOISE[0])
    with pytest.raises(FileFormatError, match="expected weights from 0"):
        loaded(-NOISE[0])
    with pytest.raises(ConfigError, match="NaN"):
        loaded(np.where(CODES == 1, np.nan, NOISE[0]))
    with pytest.raises(GeometryError, match="weights have one"):
        loaded(image)


# options without effect


def test_options_that_would_have_no_effect_are_refused(model, tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.nii.gz")
    reference = str(tmp_path / "reference.nii.gz")
    io.write_labels(reference, CODES, volume(CODES), names=None)
    said = refused(capsys, "predict", scan, "-m", model, "--unlabeled", 255, "--annotated-slices", "z=999")
    assert "--unlabeled, --annotated-slices" in said
    assert "--keep-drawn" in said
    for command in (["evaluate", reference, reference], ["check", scan, reference, "--dense"]):
        code = main([*command, "--not-painted", "typo=1"])
        told = capsys.readouterr()
        assert code == 2
        assert "no label file of that name" in told.out + told.err
    assert main(["evaluate", reference, reference, "--not-painted", "reference="]) == 0


def test_a_resumed_run_is_what_it_was(tmp_path, capsys):
    scan, sparse, _ = write_case(tmp_path)
    run = tmp_path / "run"
    done = vol3d.train(scan, sparse, unlabeled=UNLABELED, config=QUICK, output=run, iterations=1)
    for name in ("--channel", "--seed", "--workers"):
        assert f"leave out {name}" in refused(capsys, "train", "--resume", run, name, 0)
    arguments = ["--resume", run, "-l", sparse, "--unlabeled", UNLABELED, "-o", tmp_path / "next"]
    assert "its own configuration" in refused(capsys, "train", write_config(tmp_path), *arguments)
    with pytest.raises(ConfigError, match="leave out iterations"):
        vol3d.train(resume=run, iterations=3)
    with pytest.raises(ConfigError, match="leave out seed, images"):
        vol3d.train(NOISE, resume=run, seed=0)
    assert len(done.bundle.provenance["logit_offsets"]) == 2


def test_a_resumed_experiment_is_what_it_was(tmp_path):
    scan, sparse, _ = write_case(tmp_path)
    folder = tmp_path / "folds"
    options = {"unlabeled": UNLABELED, "config": QUICK, "iterations": 1, "folds": 2, "seeds": 1}
    first = vol3d.experiment("folds", scan, sparse, output=folder, **options)
    with pytest.raises(ConfigError, match="leave out iterations"):
        vol3d.experiment(resume=folder, iterations=3)
    assert vol3d.experiment(resume=folder).rows == first.rows
