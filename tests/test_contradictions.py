"""Files, names and codes that contradict each other are refused, and what is said of a result is true of it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from test_io_itk import CODES as SMALL
from test_io_itk import meta, nrrd
from test_nothing_lost import CODES, GRID, NOISE, volume
from workflow_parts import UNLABELED, balls, drawn_bundle, painted, refused, write_case

import vol3d
from vol3d import io
from vol3d.config import LabelsConfig, UNetConfig, parse_config
from vol3d.errors import ConfigError, FileFormatError, GeometryError, LabelError, ResourceError
from vol3d.metrics import Reliability
from vol3d.networks import build
from vol3d.report.planes import planes_through
from vol3d.sampling import hold_out
from vol3d.transforms import Preprocessing
from vol3d.volume import Affine, SparseLabels, Volume
from vol3d.workflows.calibration import Calibration, _second_half
from vol3d.workflows.cases import TrainingFiles, gather, load
from vol3d.workflows.drawn import drawn_codes
from vol3d.workflows.gaps import with_border_weights
from vol3d.workflows.labels import decide
from vol3d.workflows.listener import Quiet
from vol3d.workflows.patches import TrainingCase

pytestmark = pytest.mark.usefixtures("single_threaded", "blank_pictures")
DENSE = LabelsConfig(dense=True)


# what a reference says


def sliced(classes: np.ndarray, planes: tuple[int, ...] = (6, 13, 20)) -> np.ndarray:
    """Whole slices across z, everything else 0, as a painting tool leaves them."""
    codes = np.zeros_like(classes)
    codes[:, :, list(planes)] = classes[:, :, list(planes)]
    return codes


def test_unpainted_voxels_are_not_taken_for_background_of_a_reference(tmp_path, capsys):
    _, classes = balls()
    with pytest.raises(LabelError, match=r"3 slices.*--annotated-slices z=6,13,20"):
        vol3d.evaluate(classes, sliced(classes))
    assert vol3d.evaluate(classes, sliced(classes), annotated_slices={"z": [6, 13, 20]}).mean_iou == 1
    assert vol3d.evaluate(classes, sliced(classes), dense=True).mean_iou < 1
    assert vol3d.evaluate(classes, classes).mean_iou == 1
    for name, codes in (("seg", classes), ("truth", sliced(classes))):
        io.write_labels(str(tmp_path / f"{name}.nii.gz"), codes, Volume(codes[None], GRID), names=None)
    said = refused(capsys, "evaluate", tmp_path / "seg.nii.gz", tmp_path / "truth.nii.gz")
    assert "truth.nii.gz: nearly all codes but 0 lie in 3 slices" in said


def test_a_code_that_was_predicted_cannot_mean_unlabeled():
    _, classes = balls()
    named = Volume(classes[None], GRID, "seg", attributes={"class_names": {"0": "background", "1": "ball"}})
    with pytest.raises(LabelError, match=r"seg holds code 0 \(background\), which means unlabeled in label array"):
        vol3d.evaluate(named, classes, unlabeled=0, leave_out=sliced(classes))
    bare = vol3d.evaluate(classes, classes, unlabeled=0)  # of a tool that writes 0 where it says nothing, perhaps
    assert bare.voxels == int((classes > 0).sum())
    sparse = painted(classes)
    assert vol3d.evaluate(classes, sparse, unlabeled=UNLABELED).mean_iou == 1


def test_two_files_that_number_their_classes_differently_are_not_compared():
    _, classes = balls()
    names = {"0": "background", "1": "liver", "2": "kidney"}
    classes[2:5, 2:5, 2:5] = 2
    one = Volume(classes[None], GRID, "one", attributes={"class_names": names})
    other = Volume(classes[None], GRID, "other", attributes={"class_names": {"1": "Kidney", "2": "Liver"}})
    with pytest.raises(LabelError, match="one calls code 1 'liver', which is code 2 in other"):
        vol3d.evaluate(one, other)
    assert vol3d.evaluate(one, Volume(classes[None], GRID, "bare")).scores[1].name == "liver"
    for wrong in ({"1": "tumour"}, {"1": "kidney"}):
        drawn = Volume(classes[None], GRID, "drawn", attributes={"class_names": wrong})
        with pytest.raises(LabelError, match="calls code 1"):
            decide([one, drawn], DENSE)
        scan = Volume(np.zeros((1, *classes.shape)), GRID, "scan")
        with pytest.raises(LabelError, match="the model calls it 'liver'"):
            drawn_codes(scan, drawn, DENSE, decide([one], DENSE).table)
    said = Volume(classes[None], GRID, "said", attributes={"class_names": {"1": "class 1", "0": "nothing"}})
    assert decide([one, said], DENSE).table.names == ("nothing", "class 1", "kidney")
    named = [{"code": code, "name": name} for code, name in ((0, "background"), (1, "a"), (2, "b"))]
    assert (
        decide([one, other], parse_config({"labels": {"dense": True, "classes": named}}).labels).table.names[1] == "a"
    )


def test_panoptic_names_may_stand_under_class_codes_or_values():
    codes = np.zeros((8, 8, 8), np.uint16)
    codes[:2], codes[4:6] = 1001, 1002
    one = Volume(codes[None], GRID, "one", attributes={"class_names": {"0": "background", "1000": "nucleus"}})
    other = Volume(codes[None], GRID, "other", attributes={"class_names": {"0": "background", "1": "nucleus"}})
    assert vol3d.evaluate(one, other, task="panoptic").names[1] == "nucleus"


def test_small_flat_things_of_a_dense_reference_are_no_slices():
    codes = np.zeros((64, 64, 40), np.uint8)
    codes[10:16, 10:16, 10:12], codes[40:46, 30:36, 30] = 1, 1
    assert vol3d.evaluate(codes, codes).mean_iou == 1


def test_voxels_without_a_size_have_no_distances_in_mm(tmp_path):
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["label"] = CODES
    names = [str(tmp_path / f"{name}.h5") for name in ("a", "b")]
    assert vol3d.evaluate(*names, dense=True).mean_iou == 1
    with pytest.raises(GeometryError, match="size of the voxels, which both files lack"):
        vol3d.evaluate(*names, dense=True, surface=True)
    with pytest.raises(ConfigError, match="voxel size of arrays"):
        vol3d.evaluate(*names, dense=True, spacing_mm=(1, 1, 2))
    for name in names:
        with h5py.File(name, "r+") as file:
            file["label"].attrs["element_size_um"] = (2000.0, 1000.0, 1000.0)
    found = vol3d.evaluate(*names, dense=True, surface=True).surface
    assert found is not None
    assert found[1].hausdorff_mm == 0
    assert any("not in the file" in line for line in vol3d.check(CODES, CODES, dense=True).lines()) is False


def test_a_thing_without_a_number_is_not_scored_as_if_it_were_not_there():
    codes = np.zeros((8, 8, 8), np.uint16)
    codes[:2], codes[4:6] = 1001, 1000
    with pytest.raises(LabelError, match=r"128 voxels are of class 1.*no object number .code 1000"):
        vol3d.evaluate(codes, codes, task="panoptic")
    assert vol3d.evaluate(codes, codes, task="panoptic", things=[2]).scores[1].pq == 1


# files


def test_sizes_of_hdf5_voxels_agree_or_are_refused(tmp_path):
    path = str(tmp_path / "a.h5")
    turned = Affine.from_spacing((1, 1, 2), (5, 0, 0))
    io.write_labels(path, CODES, Volume(CODES[None], turned), names=None)
    assert io.read(f"{path}:label").affine.spacing.tolist() == [1, 1, 2]
    with h5py.File(path, "r+") as file:
        file["label"].attrs["element_size_um"] = (3000.0, 1000.0, 1000.0)
    with pytest.raises(GeometryError, match=r"2000×1000×1000 µm in vol3d_affine, of 3000×1000×1000 µm"):
        io.read(f"{path}:label")
    with h5py.File(path, "r+") as file:
        del file["label"].attrs["vol3d_affine"]
        file["label"].attrs["element_size_um"] = (0.5, 0.5)
    with pytest.raises(GeometryError, match="three positive numbers"):
        io.read(f"{path}:label")


@pytest.mark.parametrize("shape", [(1, 40, 40, 1), (1, 40, 40, 3), (12, 40, 40, 1), (40, 40, 3)])
def test_channels_that_come_last_are_not_taken_for_an_axis(shape, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = np.zeros(shape, np.uint8)
    with pytest.raises(FileFormatError, match="looks like"):
        io.read(str(tmp_path / "a.h5"))


def test_channels_that_come_first_are_read(tmp_path):
    several = np.random.default_rng(0).random((1, 5, 3, 40, 40)).astype(np.float32)[0]  # five channels, three along x
    io.write_image(str(tmp_path / "a.h5"), several, Volume(several[:1], GRID))
    assert np.array_equal(io.read(f"{tmp_path}/a.h5:raw").array, several)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["raw"] = np.zeros((40, 40, 3), np.uint8)
        file.attrs["element_size_um"] = (1.0, 1.0, 1.0)
    assert io.read(str(tmp_path / "b.h5")).shape == (3, 40, 40)


def test_a_thin_scan_of_known_voxels_is_read_as_written(tmp_path):
    thin = np.random.default_rng(0).integers(0, 2, (3, 40, 40)).astype(np.uint8)
    io.write_labels(str(tmp_path / "a.h5"), thin, Volume(thin[None], GRID), names=None)
    assert np.array_equal(io.read_labels(str(tmp_path / "a.h5")).array[0], thin)


def test_headers_that_declare_too_little_or_another_unit_are_refused(tmp_path):
    wide = np.random.default_rng(0).integers(0, 999, (40, 40, 40)).astype(np.uint16).tobytes()
    for name in (
        meta(tmp_path / "a.mha", wide, sizes="40 40 40"),
        nrrd(tmp_path / "a.nrrd", wide, sizes="40 40 40"),
    ):
        with pytest.raises(FileFormatError, match="beyond the voxels that its header declares"):
            io.read(name)
    with pytest.raises(FileFormatError, match="measures in 'um'"):
        io.read(nrrd(tmp_path / "b.nrrd", extra='units: "um" "um" "um"\n'))
    with pytest.raises(FileFormatError, match="intensities that are to be scaled"):
        io.read(meta(tmp_path / "b.mha", extra="ElementToIntensityFunctionSlope = 2\n"))
    plain = meta(
        tmp_path / "c.mha", extra="ElementToIntensityFunctionSlope = 1\nElementToIntensityFunctionOffset = 0\n"
    )
    assert np.array_equal(io.read(plain).array[0], SMALL)


def test_the_voxels_of_a_header_are_part_of_its_digest(tmp_path):
    header = meta(tmp_path / "a.mhd", b"", where="a.raw")
    found = []
    for codes in (SMALL, SMALL[::-1]):
        (tmp_path / "a.raw").write_bytes(codes.tobytes(order="F"))
        found.append(io.sha256(header))
    assert found[0] != found[1]


def test_names_lie_beside_the_voxels_and_not_beside_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "seg.mha", tmp_path / "seg.mha"
    scan = Volume(CODES[None], GRID)
    io.write_labels(str(target), CODES, scan, names={1: "liver"})
    link.symlink_to(target)
    io.write_labels(str(link), CODES, scan, names={1: "kidney"}, overwrite=True)
    for path in (target, link):
        assert io.read_labels(str(path)).attributes["class_names"] == {"1": "kidney"}
    assert not (tmp_path / "seg.mha.json").exists()


def test_a_file_that_somebody_changes_meanwhile_keeps_the_change(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    scan = Volume(CODES[None], GRID)
    io.write_labels(f"{path}:one", CODES, scan, names=None)
    fill = io.hdf5_write._fill

    def and_paint(*arguments):
        fill(*arguments)
        monkeypatch.undo()
        with h5py.File(path, "r+") as file:
            file["painted"] = CODES

    monkeypatch.setattr(io.hdf5_write, "_fill", and_paint)
    with pytest.raises(ResourceError, match="changed by another program while two was written"):
        io.write_labels(f"{path}:two", CODES, scan, names=None)
    with h5py.File(path) as file:
        assert sorted(file) == ["one", "painted"]
    io.write_labels(f"{path}:two", CODES, scan, names=None)
    with h5py.File(path) as file:
        assert sorted(file) == ["one", "painted", "two"]


def test_results_beside_scans_are_no_scans(tmp_path):
    for name in ("a", "b"):
        write_case(tmp_path, name)
        for tag in ("_seg", "_paint", "_seg_uncertainty"):
            io.write_labels(str(tmp_path / f"{name}{tag}.nii.gz"), CODES, volume(CODES), names=None)
    (tmp_path / "labels").mkdir()
    for name in ("a", "b"):
        for kind in ("sparse", "dense"):
            (tmp_path / f"{name}_{kind}.nii.gz").rename(tmp_path / "labels" / f"{name}_{kind}.nii.gz")
    found = gather([str(tmp_path)], [str(tmp_path / "labels" / "*_sparse.nii.gz")], [])
    assert [Path(str(image)).name for image in found.images] == ["a.nii.gz", "b.nii.gz"]
    painting = gather([str(tmp_path)], [str(tmp_path / f"{name}_paint.nii.gz") for name in "ab"], [])
    assert [Path(str(drawn)).name for drawn in painting.labels] == ["a_paint.nii.gz", "b_paint.nii.gz"]


# what is held out, and what is said of it


def test_a_slice_that_became_two_on_a_finer_grid_is_held_out_as_one():
    classes = np.zeros((16, 16, 16), np.uint8)
    classes[4:12, 4:12] = 1
    codes = np.full(classes.shape, UNLABELED, np.uint8)
    for z in (1, 4, 7, 10, 13):
        codes[:, :, z] = classes[:, :, z]
    affine = Affine.from_spacing((1, 1, 2))
    files = TrainingFiles((Volume(NOISE, affine, "scan"),), (Volume(codes[None], affine, "labels"),))
    cases, _ = load(
        files, parse_config({"labels": {"unlabeled": [UNLABELED]}}), Preprocessing(spacing_mm=(1, 1, 1)), Quiet()
    )
    (case,) = cases
    assert case.shape == (16, 16, 32)
    split = hold_out(case.labels, 2, name=case.file_plane)
    assert split.validation is not None
    held, trained = (
        {case.file_plane(2, int(z)) for z in np.flatnonzero(part.labeled.any(axis=(0, 1)))}
        for part in (split.validation, split.training)
    )
    assert not held & trained
    assert "2 of 5 slices (z=4, z=10)" in split.said
    (half,) = _second_half([case.labels], [case.file_plane])
    sides = {case.file_plane(2, z): set() for z in range(32)}
    for z in np.flatnonzero(case.labels.labeled.any(axis=(0, 1))):
        sides[case.file_plane(2, int(z))] |= set(np.unique(half[:, :, z]).tolist())
    assert [len(found) for found in sides.values() if found] == [1] * 5


def reliability(sure: float) -> Reliability:
    """Of two classes, the first one right in 60 of 100 voxels that it has the probability `sure` in."""
    classes = np.repeat([0, 1], [60, 40])
    return Reliability.of(np.tile(np.array([[sure], [1 - sure]]), (1, 100)), classes)


def test_a_temperature_that_does_not_help_is_not_reported():
    good, bad, bare = reliability(0.6), reliability(0.99), reliability(0.9)
    found = Calibration(2.0, bare, bad, (1.9, 2.1), 0.5, 0.65, good)
    assert not found.helps
    assert (found.stored, found.final, found.changes) == (1.0, good, True)
    assert "temperature 1 (2 does not help)" in found.said
    assert f"{100 * good.expected_calibration_error:.2f} %, −log" in found.said
    assert not Calibration(2.0, good, bad, (1.9, 2.1)).changes
    assert Calibration(2.0, bad, good, (1.9, 2.1)).final is good


def test_very_thin_planes_are_known():
    (plane,) = [cut for cut in planes_through((0, 0, 0), (400, 400, 12), GRID) if cut.axis == 0]
    assert plane.is_thinner_than(8)
    assert not planes_through((0, 0, 0), (400, 400, 50), GRID)[1].is_thinner_than(8)


# border weights


def test_border_weights_of_one_slice_are_those_of_the_plane_and_no_confidence():
    classes = np.zeros((24, 24, 1), np.uint8)
    classes[4:20, 4:8], classes[4:20, 14:18], classes[16:20, 4:18] = 1, 1, 1  # one cell in the shape of a U
    labels = SparseLabels(classes, np.ones(classes.shape, bool), GRID, weight=np.full(classes.shape, 0.5, np.float32))
    config = parse_config({"labels": {"dense": True}, "loss": {"border": 10}})
    scan = Volume(np.zeros((1, *classes.shape), np.float32), GRID, "scan")
    cases, meaning = load(
        TrainingFiles((scan,), (Volume(classes[None], GRID, "labels"),)), config, Preprocessing(), Quiet()
    )
    case = with_border_weights(cases[0], meaning, config.loss, (2,))
    assert case.border is not None
    assert case.border.max() == 1  # there is one object and no gap
    assert case.labels.weight is None
    apart = classes.copy()
    apart[16:20, 8:14] = 0
    files = TrainingFiles((scan,), (Volume(apart[None], GRID, "labels"),))
    case = with_border_weights(load(files, config, Preprocessing(), Quiet())[0][0], meaning, config.loss, (2,))
    assert case.border is not None
    assert case.border[10, 10, 0] > 3
    weight = TrainingCase(case, labels).weight.numpy()
    np.testing.assert_allclose(weight, 0.5 * case.border)


def test_gaps_lie_where_background_is_whatever_its_code():
    codes = np.full((24, 24, 1), 2, np.uint8)
    codes[:, 4:9], codes[:, 13:18] = 1, 0  # wall and inside; 2 is background
    names = {"0": "inside", "1": "wall", "2": "background"}
    drawn = Volume(codes[None], GRID, "labels", attributes={"class_names": names})
    config = parse_config({"labels": {"dense": True}, "loss": {"border": 10}})
    scan = Volume(np.zeros((1, *codes.shape), np.float32), GRID, "scan")
    cases, meaning = load(TrainingFiles((scan,), (drawn,)), config, Preprocessing(), Quiet())
    border = with_border_weights(cases[0], meaning, config.loss).border
    assert border is not None
    assert border[12, 10, 0] > 3
    assert border[12, 15, 0] == 1


@pytest.mark.parametrize(
    ("loss", "task", "said"),
    [
        ({"class_weights": [0, 0]}, "semantic", "class_weights. must be above 0"),
        ({"deep_supervision": [0, 1, 1]}, "semantic", "the first of the weights"),
        ({"border": 10, "border_classes": [1]}, "panoptic", "border_classes. is for task semantic"),
    ],
)
def test_losses_that_learn_nothing_or_ignore_something_are_refused(loss, task, said):
    with pytest.raises(ConfigError, match=said):
        parse_config({"loss": loss, "task": task})


def test_large_tiles_give_memory_back_and_small_ones_do_not(monkeypatch):
    from vol3d.workflows import predict as module

    network = UNetConfig(encoder=((2, 2), (4, 4)), padding="same")
    bundle = drawn_bundle(network, build(network, 1, 2).state_dict(), patch=[16, 16, 16])
    calls = []
    monkeypatch.setattr(module, "keep_less", lambda: calls.append(1))
    scan = np.random.default_rng(0).uniform(-9, 9, (40, 40, 40)).astype(np.float32)
    vol3d.predict(scan, bundle, spacing_mm=(1, 1, 1), tile=(32, 32, 32), device="cpu")
    assert not calls
    monkeypatch.setattr("vol3d.workflows.at_once._LARGE", 32**3)
    vol3d.predict(scan, bundle, spacing_mm=(1, 1, 1), tile=(32, 32, 32), device="cpu")
    assert len(calls) > 1
    calls.clear()
    vol3d.predict(scan, bundle, spacing_mm=(1, 1, 1), device="cpu")
    assert not calls  # one tile: it goes back at the end
