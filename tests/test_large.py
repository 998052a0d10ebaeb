"""Prediction of scans that are larger than the memory: the same labels, box by box, and taken up again."""

import dataclasses
import itertools
import os
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transforms_preprocess import ORIENTATIONS, oblique, stored
from workflow_parts import TINY, UNLABELED, balls, drawn_bundle, painted

import vol3d
from vol3d import io
from vol3d.baselines.by_box import ByBox
from vol3d.baselines.features import Recipe
from vol3d.baselines.pixel_classifier import PixelClassifier
from vol3d.cli.main import main
from vol3d.config import UNetConfig
from vol3d.errors import FileFormatError, GeometryError, ResourceError
from vol3d.networks import build
from vol3d.transforms import Preprocessing, crop
from vol3d.transforms.boxes import strided
from vol3d.transforms.crop import crop_read
from vol3d.volume import Affine, Box, Volume
from vol3d.workflows.at_once import array_bytes, stored_bytes
from vol3d.workflows.device import Device
from vol3d.workflows.forecast import _classifying, _classifying_in_parts, _later_seconds, _noise, forecast
from vol3d.workflows.large import gathered_bytes, held_bytes, is_too_large, obstacle, plan_in_parts, predict_large
from vol3d.workflows.large_pixels import parts_of
from vol3d.workflows.listener import Quiet
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.tiling import PROGRAM_BYTES, gb_for_tiles

pytestmark = pytest.mark.usefixtures("blank_pictures")

TILED = PredictOptions(tile=(16, 16, 16))
FLIPPED = Affine(Affine.from_spacing((1.0, 1.2, 1.5)).matrix @ np.diag([-1.0, 1.0, -1.0, 1.0]))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A trained model without a pixel classifier."""
    image, classes = balls()
    run = tmp_path_factory.mktemp("large") / "run"
    result = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=TINY, output=run)
    assert result.bundle.classifier is None
    return run / "model.safetensors", result.bundle


@pytest.fixture(autouse=True)
def tiles_timed_once(monkeypatch):
    """Forecasts are made, not awaited."""
    monkeypatch.setattr("vol3d.workflows.forecast._TIMED_SECONDS", (0.0, 0.0))


def write_scan(path, affine=None, dtype="float32", shape=(46, 38, 34)):
    image, _ = balls(shape)
    values = image if dtype == "float32" else np.clip(40 * image + 60, 0, 255)
    scan = Volume(values.astype(dtype)[None], affine or Affine.from_spacing((1.0, 1.0, 1.0)), "scan")
    io.write_image(str(path), scan.array, scan)
    return str(path)


class Deaf(Quiet):
    """Takes no notice of warnings: these scans are not like the one that was learned from. notes: what was told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def warn(self, _text):
        pass


class Heard(Deaf):
    """Keeps how many voxels went through the network in all."""

    def progress(self, what, _done, total, _fields):
        if what == "predicting":
            self.total = total


class Fake:
    """A scan in memory that is read box by box, in blocks of its own."""

    def __init__(self, array, affine, block):
        self.name, self.array, self.affine, self.block = "fake", array, affine, block
        self.channels, self.shape = len(array), array.shape[1:]
        self.reads = 0

    def read(self, box):
        assert min(box.start) >= 0
        assert all(b <= n for b, n in zip(box.stop, self.shape, strict=True))
        self.reads += box.voxels
        return self.array[(slice(None), *box.slices())]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.integers(-12, 12)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.integers(0, 2**32 - 1),
)
def test_boxes_of_a_prepared_scan_are_those_of_the_whole(orientation, shape, block, start, size, seed):
    rng = np.random.default_rng(seed)
    array, affine = stored(rng.integers(0, 255, (2, *shape)).astype(np.uint8), oblique(), *orientation)
    preprocessing = Preprocessing(normalization="percentile")
    whole = preprocessing.apply(Volume(array, affine, "scan"))
    parts = preprocessing.apply_by_box(Fake(array, affine, block))
    assert parts.shape == whole.array.shape
    assert parts.statistics == whole.statistics
    assert np.allclose(parts.affine.matrix, whole.affine.matrix)
    assert np.array_equal(crop_read(parts, Box(start, size)), crop(whole.array, Box(start, size)))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ORIENTATIONS), st.tuples(*[st.integers(1, 12)] * 3), st.tuples(*[st.integers(1, 5)] * 3))
def test_a_large_scan_is_sampled_where_the_whole_one_is(orientation, shape, steps):
    turned = np.arange(2 * np.prod(shape)).reshape(2, *shape)
    array, affine = stored(turned, oblique(), *orientation)
    source = Fake(array, affine, (4, 3, 5))
    found = strided(source, affine.orientation, steps)
    assert np.array_equal(found, affine.orientation.apply(array)[(slice(None), *(slice(None, None, s) for s in steps))])
    assert source.reads <= array.size


def test_resampling_needs_the_whole_scan():
    array = np.zeros((1, 5, 5, 5))
    assert Preprocessing(spacing_mm=(2.0, 2.0, 2.0)).apply_by_box(Fake(array, oblique(), (2, 2, 2))) is None


def require_alike(found, expected):
    """The files of two predictions, in parts and at once, have the same labels, grid and names; there is a picture."""
    parts, whole = (io.read_labels(prediction.path) for prediction in (found, expected))
    assert np.array_equal(parts.array, whole.array)
    assert np.array_equal(parts.array[0], expected.codes)
    assert 0 < parts.array.mean() < 1
    assert np.allclose(parts.affine.matrix, whole.affine.matrix)
    assert parts.attributes["class_names"] == whole.attributes["class_names"]
    assert found.preview.is_file()


@pytest.mark.parametrize(
    ("dtype", "affine", "tta"),
    [
        ("float32", None, False),
        pytest.param("uint8", None, False, marks=pytest.mark.slow),
        pytest.param("float32", FLIPPED, False, marks=pytest.mark.slow),
        pytest.param("uint8", FLIPPED, False, marks=pytest.mark.slow),
        ("uint8", FLIPPED, True),
    ],
)
def test_labels_are_those_of_the_scan_predicted_at_once(model, tmp_path, dtype, affine, tta):
    path, bundle = model
    scan = write_scan(tmp_path / "scan.h5", affine, dtype)
    choice = PredictOptions(tile=(16, 16, 16), tta=tta)
    expected = vol3d.predict(scan, path, tmp_path / "whole.h5", tile=(16, 16, 16), tta=tta, listener=Deaf())
    found = predict_large(scan, bundle, str(tmp_path / "parts.h5"), choice, Deaf())
    assert found.planes_before == 0
    require_alike(found, expected)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "parts.h5", "parts.png", "scan.h5", "whole.h5", "whole.png"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scan", "output"), [("scan.nii.gz", "parts.nii.gz"), ("scan.nrrd", "parts.h5"), ("scan.h5", "parts.mha")]
)
def test_any_kind_of_file_goes_in_parts(model, tmp_path, scan, output):
    path, bundle = model
    scan = write_scan(tmp_path / scan, FLIPPED, "int16")
    whole = output.replace("parts", "whole")
    expected = vol3d.predict(scan, path, tmp_path / whole, tile=(16, 16, 16), listener=Deaf())
    with pytest.raises(KeyboardInterrupt):
        predict_large(scan, bundle, str(tmp_path / output), TILED, StopsAfter(0.5))
    assert not (tmp_path / output).exists()
    found = predict_large(scan, bundle, str(tmp_path / output), TILED, Deaf())
    assert found.planes_before >= 10
    require_alike(found, expected)
    assert not list(tmp_path.glob(".*"))


def test_forms_of_a_nifti_file_survive_prediction_in_parts(model, tmp_path):
    _, bundle = model
    image, _ = balls((46, 38, 34))
    scan = nibabel.Nifti1Image(image, FLIPPED.matrix)
    scan.set_qform(FLIPPED.matrix, code=1)
    scan.set_sform(FLIPPED.matrix, code=4)
    nibabel.save(scan, tmp_path / "scan.nii.gz")
    predict_large(str(tmp_path / "scan.nii.gz"), bundle, str(tmp_path / "out.nii.gz"), TILED, Deaf())
    found = nibabel.load(tmp_path / "out.nii.gz")
    assert (int(found.header["qform_code"]), int(found.header["sform_code"])) == (1, 4)
    assert np.allclose(found.affine, FLIPPED.matrix)


class StopsAfter(Deaf):
    """Interrupts when so much of the prediction is done."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def progress(self, _what, done, total, _fields):
        if done >= self.share * total:
            raise KeyboardInterrupt


def test_a_stopped_prediction_goes_on_where_it_was(model, tmp_path):
    _, bundle = model
    scan = write_scan(tmp_path / "scan.h5")
    whole = predict_large(scan, bundle, str(tmp_path / "whole.h5"), TILED, Deaf())
    out = str(tmp_path / "out.h5")
    for share in (0.3, 0.6):
        with pytest.raises(KeyboardInterrupt):
            predict_large(scan, bundle, out, TILED, StopsAfter(share))
        assert not (tmp_path / "out.h5").exists()
    found = predict_large(scan, bundle, out, TILED, Deaf())
    assert 10 < found.planes_before < 46
    assert np.array_equal(io.read_labels(out).array, io.read_labels(whole.path).array)
    assert not [entry for entry in tmp_path.iterdir() if "vol3d-part" in entry.name]


def test_another_scan_or_model_begins_anew_and_damaged_parts_are_not_trusted(model, tmp_path):
    _, bundle = model
    scan, out = write_scan(tmp_path / "scan.h5"), str(tmp_path / "out.h5")
    part = tmp_path / ".out.h5-label.vol3d-part"
    named = f"{out}:label"

    def stopped():
        part.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            predict_large(scan, bundle, named, TILED, StopsAfter(0.6))
        assert part.stat().st_size > 0

    for spoil in (
        lambda: write_scan_again(tmp_path),
        lambda: part.with_name(part.name + ".json").write_text("{}"),
        lambda: part.write_bytes(b""),
    ):
        stopped()
        spoil()
        found = predict_large(scan, bundle, named, PredictOptions(tile=(16, 16, 16), overwrite=True), Deaf())
        assert found.planes_before == 0
    stopped_whole = predict_large(scan, bundle, str(tmp_path / "whole.h5"), TILED, Deaf())
    assert np.array_equal(io.read_labels(named).array, io.read_labels(stopped_whole.path).array)


def write_scan_again(folder):
    with h5py.File(folder / "scan.h5", "r+") as file:
        file["raw"].attrs["changed"] = 1


def test_another_model_begins_anew_even_with_the_same_weights(model, tmp_path):
    _, bundle = model
    scan, out = write_scan(tmp_path / "scan.h5"), str(tmp_path / "out.h5")
    other = dataclasses.replace(bundle, preprocessing=bundle.preprocessing | {"normalization": "percentile"})
    told = StopsAfter(0.6)
    with pytest.raises(KeyboardInterrupt):
        predict_large(scan, bundle, out, TILED, told)
    assert "planes are kept; the same command goes on" in told.notes[-1]
    assert predict_large(scan, other, out, TILED, Deaf()).planes_before == 0


def test_faults_are_told_from_each_other(model, tmp_path):
    _, bundle = model
    scan, out = write_scan(tmp_path / "scan.h5"), str(tmp_path / "out.h5")

    class Fails(Deaf):
        def progress(self, *_):
            raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        predict_large(scan, bundle, out, TILED, Fails())
    with pytest.raises(OSError, match="elsewhere"), io.spooled(out, "key", (4, 4, 4), np.dtype(np.uint8)):
        raise OSError(5, "elsewhere")
    with h5py.File(scan) as file:
        chunk = file["raw"].id.get_chunk_info(0)
    with Path(scan).open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with pytest.raises(FileFormatError, match="cannot be read as HDF5"):
        predict_large(scan, bundle, out, TILED, Deaf())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path):
    out, dtype = str(tmp_path / "out.h5"), np.dtype(np.uint8)
    planes = np.ones((2, 4, 4), np.uint8)

    def until_full():
        with io.spooled(out, "key", (4, 4, 4), dtype) as spool, Path("/dev/full").open("wb", buffering=0) as full:
            spool.append(planes)
            spool._file = full
            spool.append(planes)

    with pytest.raises(ResourceError, match="No space left"):
        until_full()
    with io.spooled(out, "key", (4, 4, 4), dtype) as again:
        assert again.planes == 2
        assert [codes.tolist() for _, codes in again.runs(64)] == [planes.tolist()]


def test_a_picture_of_every_nth_voxel(model, tmp_path, monkeypatch):
    _, bundle = model
    scan = write_scan(tmp_path / "scan.h5", FLIPPED)
    monkeypatch.setattr("vol3d.workflows.large._PREVIEW_VOXELS", 2000)
    drawn = []
    monkeypatch.setattr(
        "vol3d.workflows.large.preview_png", lambda *given, **named: drawn.append((given, named)) or tmp_path / "a.png"
    )
    predict_large(scan, bundle, str(tmp_path / "out.h5"), TILED, Deaf())
    [((_, image, affine, layers, _), named)] = drawn
    labels = io.read_labels(str(tmp_path / "out.h5"))
    turned = labels.affine.orientation.apply(labels.array[0])
    shown = layers[1][1]
    assert shown.size <= 2000
    assert image.shape[1:] == shown.shape
    step = -(-turned.shape[0] // shown.shape[0])
    assert np.array_equal(shown, turned[::step, ::step, ::step])
    assert np.allclose(affine.spacing, step * labels.affine.orientation.apply_spacing(labels.affine.spacing))
    assert f"every {step}th" in named["title"]


def test_two_processes_do_not_write_one_output(model, tmp_path):
    _, bundle = model
    scan, out = write_scan(tmp_path / "scan.h5"), str(tmp_path / "out.h5")

    class Twice(Deaf):
        def progress(self, *_):
            with pytest.raises(ResourceError, match="by another process"):
                predict_large(scan, bundle, out, TILED, Deaf())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_large(scan, bundle, out, TILED, Twice())


def test_labels_join_the_scans_own_file(model, tmp_path):
    _, bundle = model
    scan = write_scan(tmp_path / "scan.h5")
    predict_large(scan, bundle, f"{scan}:labels/net", TILED, Deaf())
    with h5py.File(scan) as file:
        assert set(file) == {"raw", "labels"}
        assert file["labels/net"].shape == file["raw"].shape


def test_not_a_number_is_refused_and_replaced(model, tmp_path):
    _, bundle = model
    scan = write_scan(tmp_path / "scan.h5")
    with h5py.File(scan, "r+") as file:
        file["raw"][7, 8, 9] = np.nan
    with pytest.raises(FileFormatError, match="--nan"):
        predict_large(scan, bundle, str(tmp_path / "out.h5"), TILED, Deaf())
    data = TILED.data.model_copy(update={"nan": 0.0})
    predict_large(scan, bundle, str(tmp_path / "out.h5"), PredictOptions(tile=(16, 16, 16), data=data), Deaf())


def test_the_command_line_goes_box_by_box_where_memory_is_short(model, tmp_path, capsys, monkeypatch):
    path, bundle = model
    scan = write_scan(tmp_path / "scan.h5")
    monkeypatch.setattr("vol3d.workflows.large.array_bytes", lambda *_: 9e9)
    assert main(["predict", scan, "-m", str(path), "--max-memory", "4GB", "--tile", "16", "16", "16"]) == 0
    assert "scan_seg.h5" in capsys.readouterr().out
    whole = vol3d.predict(scan, path, tmp_path / "whole.h5", tile=(16, 16, 16))
    assert np.array_equal(io.read_labels(str(tmp_path / "scan_seg.h5")).array[0], whole.codes)
    assert is_too_large(scan, str(tmp_path / "a.h5"), bundle, PredictOptions(max_memory_gb=4))
    assert not is_too_large(scan, str(tmp_path / "a.h5"), bundle, PredictOptions(max_memory_gb=10))
    shown = ["--tile", "16", "16", "16", "-o", str(tmp_path / "a.nii.gz")]
    assert main(["predict", scan, "-m", str(path), "--max-memory", "4GB", *shown]) == 0
    assert np.array_equal(io.read_labels(str(tmp_path / "a.nii.gz")).array[0], whole.codes)
    capsys.readouterr()
    monkeypatch.setattr("vol3d.workflows.large.held_bytes", lambda *_: 4e9)
    assert main(["predict", scan, "-m", str(path), "--max-memory", "4GB", "-o", str(tmp_path / "b.nii.gz")]) == 1
    told = capsys.readouterr().err
    assert "no HDF5 file" in told
    assert "--max-memory" in told
    monkeypatch.setattr("vol3d.workflows.large.held_bytes", lambda *_: 0.0)
    assert main(["predict", scan, "-m", str(path), "--max-memory", "10MB", "-o", str(tmp_path / "c.h5")]) == 1
    assert "than the program itself takes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"probabilities": True}, "--probabilities"),
        ({"uncertainty": True}, "--uncertainty"),
        ({"keep_drawn": True}, "--keep-drawn"),
    ],
)
def test_what_needs_the_whole_scan_is_named(model, change, told):
    _, bundle = model
    assert told in obstacle(bundle, PredictOptions(**change))
    assert obstacle(bundle, PredictOptions()) is None


def test_what_a_scan_takes_at_once_is_counted_before_it_is_read(model, tmp_path):
    _, bundle = model
    scan, shape = write_scan(tmp_path / "scan.h5", dtype="uint8"), (46, 38, 34)
    voxels, cpu = 46 * 38 * 34, Device("cpu")

    def taken(device=cpu, **choice):
        return (
            array_bytes(stored_bytes(io.info(scan), bundle), shape, shape, bundle, PredictOptions(**choice), device)
            / voxels
        )

    assert taken() == 1 + 2
    assert taken(Device("cuda:0")) == 1 + 4 + 2
    assert taken(probabilities=True) == 1 + 2 + 8
    assert taken(uncertainty=True) == 1 + 4 + 2 + 16
    assert held_bytes(scan, io.info(scan), bundle) == gathered_bytes(shape, "out.h5", bundle) == 0
    assert gathered_bytes(shape, "out.nrrd", bundle) == 2 * voxels


@pytest.mark.parametrize("kind", ["as it is", "scaled", "channels"])
def test_what_a_nifti_file_takes_is_told_by_its_header(model, tmp_path, kind):
    _, bundle = model
    values = np.random.default_rng(0).integers(0, 100, (20, 18, 16, 3) if kind == "channels" else (20, 18, 16))
    scan = nibabel.Nifti1Image(values.astype(np.int16), np.eye(4))
    if kind == "scaled":
        scan.header.set_slope_inter(0.37, 1)
    nibabel.save(scan, tmp_path / "scan.nii.gz")
    path = str(tmp_path / "scan.nii.gz")
    read = io.read(path, channel=1 if kind == "channels" else None)
    assert held_bytes(path, io.info(path), bundle) == stored_bytes(io.info(path), bundle) == read.array.nbytes
    assert read.array.itemsize > 2 if kind == "scaled" else read.array.itemsize == 2


def test_a_choice_of_geometry_holds_in_parts(model, tmp_path):
    _, bundle = model
    scan = nibabel.Nifti1Image(balls((46, 38, 34))[0], np.eye(4))
    scan.set_qform(np.diag([2.0, 2, 2, 1]), code=1)
    scan.set_sform(np.eye(4), code=1)
    nibabel.save(scan, tmp_path / "scan.nii")
    path, data = str(tmp_path / "scan.nii"), TILED.data.model_copy(update={"xform": "qform"})
    with pytest.raises(GeometryError, match="--xform"):
        predict_large(path, bundle, str(tmp_path / "out.nii"), TILED, Deaf())
    predict_large(path, bundle, str(tmp_path / "out.nii"), PredictOptions(tile=(16, 16, 16), data=data), Deaf())
    assert np.allclose(nibabel.load(tmp_path / "out.nii").header.get_zooms(), 2)
    assert forecast(path, bundle, str(tmp_path / "o.nii"), PredictOptions(data=data)).shape == (46, 38, 34)


def test_new_voxels_beside_an_old_header_are_no_reason_to_go_on(model, tmp_path):
    _, bundle = model
    scan, out = str(tmp_path / "scan.mhd"), str(tmp_path / "out.h5")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(balls((46, 38, 34))[0].T), scan)
    with pytest.raises(KeyboardInterrupt):
        predict_large(scan, bundle, out, TILED, StopsAfter(0.6))
    (voxels,) = [path for path in io.files_of(Path(scan)) if path.suffix != ".mhd"]
    os.utime(voxels, (1, 1))
    assert predict_large(scan, bundle, out, TILED, Deaf()).planes_before == 0


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_dry_run_counts_the_tiles_that_prediction_runs(tmp_path, padding):
    network = UNetConfig(encoder=((4,), (8,)), padding=padding)
    weights = build(network, 1, 2, generator=torch.Generator().manual_seed(0)).state_dict()
    bundle = drawn_bundle(network, weights, patch=[16, 16, 16] if padding == "same" else None)
    scan = write_scan(tmp_path / "scan.nii.gz", shape=(70, 60, 50))
    choice = PredictOptions(max_memory_gb=0.49, preview=False)
    found = forecast(scan, bundle, str(tmp_path / "out.nii.gz"), choice)
    heard = Heard()
    vol3d.predict(scan, bundle, tmp_path / "out.nii.gz", max_memory_gb=0.49, preview=False, listener=heard)
    assert heard.total == pytest.approx(found.redundancy * 70 * 60 * 50)
    assert found.redundancy > 1


def test_arrays_and_program_are_counted_in_the_memory_of_prediction_at_once(model):
    _, bundle = model
    image, _ = balls((46, 38, 34))
    assert gb_for_tiles("scan", 2e9, Device("cpu"), 4.0) < 1.5
    assert gb_for_tiles("scan", 2e9, Device("cpu"), None) is None
    assert gb_for_tiles("scan", 2e9, Device("cuda:0"), 4.0) == 4.0
    with pytest.raises(ResourceError, match="less than the program"):
        gb_for_tiles("scan", 2e9, Device("cpu"), 2.4)
    with pytest.raises(ResourceError, match=r"0\.4 GB are less than the program .*--max-memory"):
        vol3d.predict(image, bundle, max_memory_gb=0.4)


def test_a_forecast_tells_tiles_memory_and_time_and_writes_nothing(model, tmp_path, capsys, monkeypatch):
    path, bundle = model
    scan = write_scan(tmp_path / "scan.h5")
    before = sorted(tmp_path.iterdir())
    assert main(["predict", scan, "-m", str(path), "--dry-run", "--tile", "16", "16", "16"]) == 0
    told = capsys.readouterr().out
    assert "46×38×34 voxels, at once" in told
    assert "of 16×16×16" in told
    assert sorted(tmp_path.iterdir()) == before
    flipped = PredictOptions(tile=(16, 16, 16), tta=True)
    found = forecast(scan, bundle, str(tmp_path / "out.h5"), flipped)
    once = forecast(scan, bundle, str(tmp_path / "out.h5"), TILED)
    assert found.tiles == 8 * once.tiles
    assert found.redundancy == pytest.approx(8 * once.redundancy)
    assert min(once.seconds, found.seconds) > 0
    monkeypatch.setattr("vol3d.workflows.forecast._seconds", lambda _run: 0.01)
    monkeypatch.setattr("vol3d.workflows.forecast._preparing", lambda *_scan: 0.0)
    times = [forecast(scan, bundle, str(tmp_path / "out.h5"), choice).seconds for choice in (TILED, flipped)]
    assert times[1] - times[0] == pytest.approx(0.01 * (found.tiles - once.tiles))
    monkeypatch.undo()
    monkeypatch.setattr("vol3d.workflows.forecast._seconds", lambda _run: 0.0)
    asked = []
    monkeypatch.setattr("vol3d.workflows.forecast._preparing", lambda *told: asked.append(told[-1]) or 0.0)
    forecast(scan, bundle, str(tmp_path / "out.h5"), flipped)
    assert asked == [pytest.approx(found.redundancy)]  # tiles are scaled as they are cut
    started = forecast(scan, bundle, str(tmp_path / "out.h5"), TILED, starting=1000.0)
    assert 1000 < started.seconds < 1030
    assert once.bytes > PROGRAM_BYTES + stored_bytes(io.info(scan), bundle)


def test_a_forecast_in_parts_keeps_within_the_memory(model, tmp_path, monkeypatch):
    _, bundle = model
    scan = write_scan(tmp_path / "scan.h5")
    monkeypatch.setattr("vol3d.workflows.large.array_bytes", lambda *_: 9e9)
    found = forecast(scan, bundle, str(tmp_path / "out.h5"), PredictOptions(max_memory_gb=6))
    assert found.in_parts
    assert found.bytes <= 6e9
    assert "in parts" in found.lines()[0]


def test_prediction_in_parts_plans_as_the_dry_run_does(model, tmp_path, monkeypatch):
    _, bundle = model
    scan, output = write_scan(tmp_path / "scan.h5"), str(tmp_path / "out.h5")
    choice, told, held = PredictOptions(max_memory_gb=6), [], [4e8]
    monkeypatch.setattr("vol3d.workflows.large.array_bytes", lambda *_: 9e9)
    monkeypatch.setattr("vol3d.io.resident_bytes", lambda: held[-1])
    opened = io.opened_scan
    monkeypatch.setattr("vol3d.io.opened_scan", lambda *told, **how: held.append(6e8) or opened(*told, **how))
    for place in ("large", "forecast"):
        monkeypatch.setattr(
            f"vol3d.workflows.{place}.plan_in_parts", lambda *given: told.append(given[-1]) or plan_in_parts(*given)
        )
    forecast(scan, bundle, output, choice)
    predict_large(scan, bundle, output, choice, Quiet())
    assert len(held) == 2, "chunks were kept"
    assert told[0] == told[1]


@pytest.mark.parametrize(("others", "runs"), [(10, 2), (200, 4), (1000, 20), (10**6, 20)])
def test_the_more_is_to_come_the_longer_a_tile_is_timed(others, runs, monkeypatch):
    taken = []
    monkeypatch.setattr("vol3d.workflows.forecast._TIMED_SECONDS", (1.0, 10.0))
    monkeypatch.setattr("vol3d.workflows.forecast._seconds", lambda run: taken.append(run()) or 0.5)
    assert _later_seconds(lambda: None, others) == 0.5
    assert len(taken) == runs


def test_a_forecast_counts_the_classifier_and_the_new_grid(tmp_path, monkeypatch):
    image, classes = balls()
    config = {key: value for key, value in TINY.items() if key != "network"} | {
        "pixel_classifier": {"use": "yes", "steps": 20}
    }
    result = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=config, output=tmp_path / "run")
    scan = write_scan(tmp_path / "scan.h5")
    bare = dataclasses.replace(result.bundle, classifier=None, pool_weight=0.0)
    choice = PredictOptions(tile=(16, 16, 16))
    monkeypatch.setattr("vol3d.workflows.forecast._classifying", lambda *_: 1e6)
    with_it, without = (forecast(scan, one, str(tmp_path / "o.h5"), choice) for one in (result.bundle, bare))
    assert with_it.seconds > 1e6 > without.seconds
    coarse = dataclasses.replace(bare, preprocessing=bare.preprocessing | {"spacing_mm": [2.0, 2.0, 2.0]})
    assert forecast(scan, coarse, str(tmp_path / "o.h5"), choice).shape == (23, 19, 17)
    assert obstacle(result.bundle, choice) is None
    assert "one spacing" in obstacle(coarse, choice)
    monkeypatch.setattr("vol3d.workflows.large.array_bytes", lambda *_: 9e9)
    small = PredictOptions(tile=(16, 16, 16), max_memory_gb=4)
    monkeypatch.setattr("vol3d.workflows.forecast._classifying_in_parts", lambda *_: 1e6)
    monkeypatch.setattr("vol3d.workflows.large._said_bytes", lambda *_: 0.0)
    in_parts, bare_parts = (forecast(scan, one, str(tmp_path / "o.h5"), small) for one in (result.bundle, bare))
    assert in_parts.in_parts
    assert in_parts.seconds > 1e6 > bare_parts.seconds
    assert in_parts.disk == 3 * 4 * 46 * 38 * 34
    assert "on disk, for a while" in in_parts.lines()[2]
    assert "disk" not in bare_parts.lines()[2]


def test_the_time_of_a_classifier_grows_with_the_scan(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))  # whatever is timed takes a second
    classifier = PixelClassifier(1, 2, Recipe((1.0, 4.0)))
    assert _classifying(classifier, (1000, 100, 20), (1.0, 1.0, 1.0)) == 1000 * 100 / 96**2


def test_the_time_of_a_classifier_in_parts_knows_what_lies_around_them(monkeypatch):
    class Timed(ByBox):
        """Takes 1 s for a million voxels of a box, and 2 s for a million around it."""

        def first(self, box):
            self.clock[0] += 1e-6 * box.voxels

        def second(self, box, first):
            assert first(box).shape == (self.told, *box.size)
            self.clock[0] += 2e-6 * self.looked_at(box)

    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Timed, "clock", clock, raising=False)
    asked = Timed(PixelClassifier(1, 2, Recipe((1.0, 4.0))), (1000, 400, 400), (1.0, 1.0, 1.0), _noise(1))
    part = Box((340, 40, 40), (320, 320, 320))
    assert asked.looked_at(part) > 2 * part.voxels
    around = sum(asked.looked_at(one) for one in parts_of(asked.shape, 320))
    assert around < asked.looked_at(part) * 1000 * 400 * 400 / 320**3
    assert _classifying_in_parts(asked, part) == pytest.approx(1000 * 400 * 400 * 1e-6 + 2e-6 * around, rel=1e-6)
