"""What was drawn by hand stays as it was drawn, and is told from what was predicted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workflow_parts import TINY, UNLABELED, balls, painted

import vol3d
from vol3d import io
from vol3d.bundle import ModelBundle
from vol3d.config import LabelsConfig, TaskSpec
from vol3d.errors import ConfigError, GeometryError, LabelError
from vol3d.volume import Affine, LabelTable, Volume
from vol3d.workflows.drawn import (
    Drawn,
    drawn_codes,
    find_drawn,
    keep_drawn,
    provenance,
    require_classes,
    run_labels,
    with_drawn,
    write_provenance,
)
from vol3d.workflows.outcomes import Outcome

AFFINE = Affine.from_spacing((1.0, 1.5, 2.0), (3.0, -4.0, 5.0))
Trained = tuple[Path, ModelBundle]
TABLE = LabelTable.from_codes([0, 1, 40, 300])


def volume(codes: np.ndarray, name: str = "drawn.nii.gz", affine: Affine = AFFINE) -> Volume:
    return Volume(codes[None], affine, name)


def scan_like(codes: np.ndarray) -> Volume:
    return Volume(np.zeros((1, *codes.shape), np.float32), AFFINE, "scan.nii.gz")


# pure functions


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=60)
def test_drawn_voxels_keep_their_code_and_all_others_the_prediction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, 3))
    codes = rng.choice([0, 1, 40, 300, 250, 254, 255], size=shape).astype(np.uint16)
    codes.flat[0] = 40
    predicted = rng.choice([0, 1, 40, 300], size=shape).astype(np.uint16)
    meaning = LabelsConfig(unlabeled=(254, 255), one_of={250: (0, 1)})
    found, mask = drawn_codes(scan_like(codes), volume(codes), meaning, TABLE)
    kept = keep_drawn(predicted, found, mask)
    sure = np.isin(codes, [0, 1, 40, 300])
    assert kept.dtype == np.uint16
    assert np.array_equal(mask, sure)
    assert np.array_equal(kept[sure], codes[sure])
    assert np.array_equal(kept[~sure], predicted[~sure])
    assert np.array_equal(provenance(mask), sure.astype(np.uint8))
    assert np.array_equal(keep_drawn(kept, found, mask), kept)


def test_annotated_slices_dense_labels_and_classes_nobody_painted() -> None:
    codes = np.random.default_rng(0).choice([0, 1, 40], size=(5, 6, 7)).astype(np.uint8)
    scan = scan_like(codes)
    _, mask = drawn_codes(scan, volume(codes), LabelsConfig(annotated_slices={"z": (2, 4)}), TABLE)
    inside = np.zeros(codes.shape, bool)
    inside[..., [2, 4]] = True
    assert np.array_equal(mask, inside)
    found, mask = drawn_codes(scan, volume(codes), LabelsConfig(dense=True), TABLE)
    assert mask.all()
    assert np.array_equal(found, codes)
    _, mask = drawn_codes(scan, volume(codes), LabelsConfig(dense=True, not_painted={"drawn": (300,)}), TABLE)
    assert np.array_equal(mask, codes > 0)


def test_a_class_of_the_model_may_be_unlabeled_in_a_file_of_corrections() -> None:
    codes = np.zeros((4, 4, 4), np.uint8)
    codes[1, 1] = 40
    found, mask = drawn_codes(scan_like(codes), volume(codes), LabelsConfig(unlabeled=(0,)), TABLE)
    assert np.array_equal(mask, codes == 40)
    assert (keep_drawn(np.ones_like(codes), found, mask) == np.where(codes == 40, 40, 1)).all()


def test_strange_codes_other_grids_and_ambiguous_files_are_refused() -> None:
    codes = np.zeros((4, 4, 4), np.uint8)
    codes[0] = 7
    scan = scan_like(codes)
    with pytest.raises(LabelError, match="holds code 7, which the model does not know; it knows 0 background"):
        drawn_codes(scan, volume(codes), LabelsConfig(dense=True), TABLE)
    with pytest.raises(LabelError, match=r"code 0 covers 75.0 %"):
        drawn_codes(scan, volume(codes), LabelsConfig(), TABLE)
    with pytest.raises(GeometryError, match="are not on one grid"):
        drawn_codes(scan, volume(codes, affine=Affine.from_spacing((1, 1, 1))), LabelsConfig(dense=True), TABLE)
    with pytest.raises(LabelError, match="expected voxels drawn by hand, found none"):
        drawn_codes(scan, volume(codes), LabelsConfig(unlabeled=(0, 7)), TABLE)
    with pytest.raises(GeometryError, match="of one shape"):
        keep_drawn(codes[1:], codes, codes > 0)
    # what lies outside the annotated slices means nothing
    _, mask = drawn_codes(scan, volume(codes), LabelsConfig(annotated_slices={"x": (2,)}), TABLE)
    assert mask.sum() == 16


def test_the_outcome_shows_what_was_drawn() -> None:
    codes = np.full((3, 3, 3), 255, np.uint16)
    codes[0], codes[1, 1, 1] = 300, 40
    scan = scan_like(codes)
    found, mask = drawn_codes(scan, volume(codes), LabelsConfig(unlabeled=(255,)), TABLE)
    before = Outcome(np.ones_like(codes), {}, np.ones(codes.shape, np.uint8), TABLE, None, "")
    drawn = Drawn(found, mask, "drawn.nii.gz")
    after = with_drawn(before, drawn, TABLE)
    assert np.array_equal(after.array, np.where(mask, codes, 1))
    assert np.array_equal(TABLE.codes[after.shown], after.array)
    assert after.shown.dtype == np.uint8
    assert after.said == "10 voxels as drawn in drawn.nii.gz"
    assert (before.array == 1).all()


@pytest.mark.parametrize("suffix", [".nii.gz", ".h5", ".nrrd", ".mha"])
def test_provenance_lies_beside_the_label_map_on_its_grid(tmp_path: Path, suffix: str) -> None:
    mask = np.random.default_rng(0).random((4, 5, 6)) < 0.3
    scan = Volume(np.zeros((1, 4, 5, 6), np.float32), AFFINE, "scan")
    target = str(tmp_path / f"scan_seg{suffix}")
    path = write_provenance(target, mask, scan)
    assert path == tmp_path / f"scan_seg_provenance{suffix}"
    found = io.read_labels(str(path))
    scan.require_same_grid(found)
    assert found.array.dtype == np.uint8
    assert np.array_equal(found.array[0], mask)
    assert {int(code): name for code, name in found.attributes["class_names"].items()} == {0: "predicted", 1: "drawn"}
    with pytest.raises(ConfigError, match="exists already"):
        write_provenance(target, mask, scan)
    write_provenance(target, mask, scan, overwrite=True)


def test_provenance_keeps_the_scans_forms(tmp_path: Path) -> None:
    affine = np.diag([0.5, 0.6, 0.7, 1.0])
    affine[:3, 3] = 1, 2, 3
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), affine)
    image.set_sform(affine, 2)
    image.set_qform(affine, 1)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    scan = io.read(str(tmp_path / "scan.nii.gz"))
    stored = nibabel.load(write_provenance(str(tmp_path / "scan_seg.nii.gz"), np.ones((4, 5, 6), bool), scan))
    assert (int(stored.header["sform_code"]), int(stored.header["qform_code"])) == (2, 1)
    assert np.allclose(stored.affine, affine)
    assert stored.get_data_dtype() == np.uint8


# labels of a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelBundle]:
    """A run on two scans; of a third no voxel is labeled."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for seed, name in enumerate("abc"):
        image, classes = balls(shape=(20, 18, 16), seed=seed)
        like = Volume(image[None], AFFINE, name)
        io.write_image(str(folder / "images" / f"{name}.nii.gz"), image[None], like)
        sparse = painted(classes) if name != "a" else np.full_like(classes, UNLABELED)
        io.write_labels(str(folder / "labels" / f"{name}.nii.gz"), sparse, like, names=None)
    config = TINY | {"training": TINY["training"] | {"iterations": 1, "validations": 0}}
    with pytest.warns(UserWarning, match="no labeled voxel"):
        run = vol3d.train(
            str(folder / "images"), str(folder / "labels"), unlabeled=UNLABELED, config=config, output=folder / "run"
        )
    return folder, run.bundle


def test_the_labels_of_a_scan_of_the_run_are_found_by_content(trained: Trained, tmp_path: Path) -> None:
    folder, bundle = trained
    assert len(json.loads((folder / "run" / "run.json").read_text())["data"]) == 2
    for name in "bc":
        moved = tmp_path / f"elsewhere_{name}.nii.gz"
        shutil.copy(folder / "images" / f"{name}.nii.gz", moved)
        assert run_labels(moved, folder / "run") == str(folder / "labels" / f"{name}.nii.gz")
        drawn = find_drawn(str(moved), io.read(str(moved)), bundle, run=folder / "run")
        stored = io.read_labels(str(folder / "labels" / f"{name}.nii.gz")).array[0]
        assert np.array_equal(drawn.mask, stored != UNLABELED)
        assert np.array_equal(drawn.codes[drawn.mask], stored[drawn.mask])
        assert drawn.name.endswith(f"{name}.nii.gz")


def test_where_no_labels_can_be_found_they_are_asked_for(trained: Trained, tmp_path: Path) -> None:
    folder, bundle = trained
    run = folder / "run"
    scan = folder / "images" / "a.nii.gz"
    with pytest.raises(ConfigError, match=r"a.nii.gz is none of the scans that .* give its labels: --keep-drawn"):
        run_labels(scan, run)
    for alone in (None, tmp_path):
        with pytest.raises(ConfigError, match="a model without its run folder does not know"):
            find_drawn(scan, io.read(str(scan)), bundle, run=alone)
    copied = tmp_path / "run"
    copied.mkdir()
    record = json.loads((run / "run.json").read_text())
    record["data"][0]["labels"] = "0" * 64
    (copied / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="are gone or have changed since"):
        run_labels(folder / "images" / "b.nii.gz", copied)
    record["config"]["data"]["labels"] = ["<ndarray>"] * 3
    (copied / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="are gone or have changed since"):
        run_labels(folder / "images" / "c.nii.gz", copied)


def test_two_labels_of_one_scan_are_not_chosen_between(trained: Trained, tmp_path: Path) -> None:
    folder, _ = trained
    record = json.loads((folder / "run" / "run.json").read_text())
    record["data"][1]["image"] = record["data"][0]["image"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="learned from several labels of it"):
        run_labels(folder / "images" / "b.nii.gz", tmp_path)


def test_datasets_of_one_hdf5_file_are_told_apart(trained: Trained, tmp_path: Path) -> None:
    folder, _ = trained
    path = tmp_path / "all.h5"
    with h5py.File(path, "w") as file:
        for name in ("raw", "raw2"):
            file[name] = np.zeros((4, 4, 4), np.float32)
        for name in ("label", "label2"):
            file[name] = np.zeros((4, 4, 4), np.uint8)
    record = json.loads((folder / "run" / "run.json").read_text())
    record["config"]["data"] |= {
        "images": [str(path), f"{path}:raw2"],
        "labels": [f"{path}:label", f"{path}:label2"],
    }
    record["data"] = [{"image": io.sha256(str(path)), "labels": io.sha256(str(path))}] * 2
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert run_labels(f"{path}:raw", tmp_path) == f"{path}:label"
    assert run_labels(f"{path}:raw2", tmp_path) == f"{path}:label2"


def test_labels_the_run_never_saw_need_their_meaning(trained: Trained) -> None:
    folder, bundle = trained
    run, scan = folder / "run", folder / "images" / "b.nii.gz"
    read = io.read(str(scan))
    codes = np.zeros(read.shape, np.uint8)
    codes[4, 4] = 1
    corrections = Volume(codes[None], AFFINE, "corrections")
    with pytest.raises(LabelError, match="did not learn from this file; say what is drawn in it: --unlabeled CODE"):
        find_drawn(scan, read, bundle, run=run, labels=corrections)
    drawn = find_drawn(scan, read, bundle, run=run, labels=corrections, meaning=LabelsConfig(unlabeled=(0,)))
    assert np.array_equal(drawn.mask, codes == 1)
    codes[5:] = UNLABELED  # the run's own code still holds
    for where in (run, None):
        drawn = find_drawn(scan, read, bundle, run=where, labels=corrections)
        assert np.array_equal(drawn.mask, codes != UNLABELED)


def test_slices_and_density_are_those_of_the_runs_own_files(trained: Trained, tmp_path: Path) -> None:
    folder, bundle = trained
    scan, labels = folder / "images" / "b.nii.gz", folder / "labels" / "b.nii.gz"
    read, stored = io.read(str(scan)), io.read_labels(str(labels))
    other = Volume(np.minimum(stored.array, 1), AFFINE, "other")
    record = json.loads((folder / "run" / "run.json").read_text())
    for meaning in ({"annotated_slices": {"x": [3]}}, {"dense": True}):
        record["config"]["labels"] = meaning | {"unlabeled": [UNLABELED]}
        (tmp_path / "run.json").write_text(json.dumps(record))
        drawn = find_drawn(scan, read, bundle, run=tmp_path)
        sure = stored.array[0] != UNLABELED
        assert drawn.mask.any()
        assert not (drawn.mask & ~sure).any()
        assert (drawn.mask.sum() < sure.sum()) == ("dense" not in meaning)
        with pytest.raises(LabelError, match="did not learn from this file"):
            find_drawn(scan, read, bundle, run=tmp_path, labels=other)


@pytest.mark.parametrize(("kind", "what"), [("regression", "values"), ("instances", "objects")])
def test_other_tasks_are_refused(trained: Trained, kind: str, what: str) -> None:
    folder, bundle = trained
    require_classes(bundle)
    other = TaskSpec.model_construct(**(dict(bundle.task) | {"kind": kind}))
    twin = object.__new__(ModelBundle)
    for name, value in (vars(bundle) | {"task": other}).items():
        object.__setattr__(twin, name, value)
    scan = folder / "images" / "b.nii.gz"
    with pytest.raises(ConfigError, match=f"of a class per voxel; this one predicts {what}: leave them out"):
        find_drawn(scan, io.read(str(scan)), twin, run=folder / "run")
