"""File names: datasets, folders, globs, pairs, outputs."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from vol3d import io
from vol3d.errors import ConfigError, FileFormatError, ResourceError
from vol3d.volume import Affine, Volume

SCAN = Volume(np.zeros((1, 2, 3, 4)), Affine.from_spacing((1, 1, 1)))
CODES = np.ones((2, 3, 4), np.uint8)


@pytest.mark.parametrize(
    ("name", "path", "dataset"),
    [
        ("a.h5:raw", "a.h5", "raw"),
        ("x/a.HDF5:/group/raw/", "x/a.HDF5", "group/raw"),
        ("a.hdf:b:c", "a.hdf", "b:c"),
        ("a.h5", "a.h5", None),
        ("a.nii.gz", "a.nii.gz", None),
        ("odd:name.nii", "odd:name.nii", None),
    ],
)
def test_split_name(name, path, dataset):
    assert io.split_name(name) == (Path(path), dataset)


@pytest.mark.parametrize("name", ["a.h5:", "a.h5:/", "a.h5:../x"])
def test_a_colon_needs_a_dataset(name):
    with pytest.raises(ConfigError, match=r"such as a\.h5:raw"):
        io.split_name(name)


def test_is_volume_knows_suffixes_only():
    assert all(map(io.is_volume, ("a.nii", "A.NII.GZ", "a.h5:x", "a.hdf5", "b.c.nrrd", "a.mha", "a.mhd")))
    assert not any(map(io.is_volume, ("a.npy", ".nii", "a.gz", "folder", "a.h5x", "nii", "")))


def test_find_takes_files_folders_and_globs(tmp_path):
    for name in ("b.nii", "a.nii.gz", "c.h5", "notes.txt", ".vol3d-rest.tmp.nii", "d[1].mha"):
        (tmp_path / name).touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "e.nrrd").touch()
    inside = [str(tmp_path / name) for name in ("a.nii.gz", "b.nii", "c.h5", "d[1].mha")]
    assert io.find([str(tmp_path)]) == inside
    assert io.find([f"{tmp_path}/*"]) == inside
    assert io.find([f"{tmp_path}/**/*.nrrd"]) == [str(tmp_path / "deep" / "e.nrrd")]
    assert io.find([f"{tmp_path}/*.h5:raw", inside[0], f"{tmp_path}/a*"]) == [f"{inside[2]}:raw", inside[0]]
    assert io.find([inside[3]]) == [inside[3]]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("missing.nii", "no such file; a.nii.gz lies beside it"),
        ("a.nii", "no such file; a.nii.gz lies beside it"),
        ("zzz.nii", "no such file. Check the path"),
        ("nowhere/a.nii", "cannot be read"),
        ("*.mha", "no volume found there"),
        ("empty", "no volume found there"),
        ("notes.txt", "unknown kind of file"),
        ("x" * 300 + ".nii", "cannot be looked up"),
    ],
)
def test_find_says_what_is_wrong(tmp_path, pattern, message):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "missing.h5").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    if pattern == "missing.nii":
        message = "missing.h5 lies beside it"
    with pytest.raises(FileFormatError, match=message):
        io.find([str(tmp_path / pattern)])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["x/a.nii"], ["y/b.h5:q"]),
        (["a.nii.gz", "b.nii.gz"], ["l/b.nii", "l/a.nii"]),
        (["a.nii", "b.nii"], ["b_sparse.nii", "a_label.nii"]),
        (["a_image.nii", "b-img.nii"], ["a_labels.nii", "b.seg.nii"]),
        (["c_01_0000.nii.gz", "c_02_0000.nii.gz"], ["c_02.nii.gz", "c_01.nii.gz"]),
        (["case_0000.nii", "case_0001.nii"], ["case_0001_seg.nii", "case_0000_seg.nii"]),
        (["a.h5:raw", "b.h5:raw"], ["b.h5:label", "a.h5:label"]),
        (["a.h5:one/raw", "a.h5:two/raw"], ["a.h5:two/label", "a.h5:one/label"]),
        (["a.h5", "b.h5"], ["a_painted.nii.gz", "b_painted.nii.gz"]),
        (["p1/image.nii", "p2/image.nii"], ["p2/label.nii", "p1/label.nii"]),
        (["images/p1/x.nii", "images/p2/x.nii"], ["labels/p1/y.nii", "labels/p2/y.nii"]),
    ],
)
def test_pair_by_names(images, labels):
    pairs = io.pair(images, labels)
    assert [image for image, _ in pairs] == images
    assert sorted(label for _, label in pairs) == sorted(labels)
    if len(images) > 1:
        for image, label in pairs:
            clue = next(part for part in ("01", "02", "00", "one", "two", "p1", "p2", "a", "b") if part in image)
            assert clue in label


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (["a.nii", "b.nii"], ["a_seg.nii", "c_seg.nii"], "no partner for b.nii, c_seg.nii"),
        (["case_0000.nii", "case_0001.nii"], ["case_0001.nii", "case_0002.nii"], "no partner for"),
        (["a.nii", "b.nii"], ["a_seg.nii"], "2 image.* and 1 label .*no partner for b.nii"),
        (["a.nii", "a.nii.gz"], ["a_seg.nii", "b_seg.nii"], "no partner for b_seg.nii"),
        (["a.nii", "a.nii.gz"], ["a_seg.nii", "a_label.nii"], "more than one partner for a.nii, a.nii.gz, a_seg"),
        ([f"{i}.nii" for i in range(9)], ["x.nii"], "…"),
    ],
)
def test_pair_names_what_is_left_over(images, labels, message):
    with pytest.raises(ConfigError, match=message):
        io.pair(images, labels)


def test_outputs_lie_beside_the_scan():
    assert io.default_output("d/scan.nii.gz") == "d/scan_seg.nii.gz"
    assert io.default_output("d/scan.NII") == "d/scan_seg.NII"
    assert io.default_output("f.h5:raw") == "f_seg.h5:label"
    assert io.default_output("f.h5") == "f_seg.h5:label"
    assert io.default_output("f.h5:raw", "_p", dataset="raw") == "f_p.h5:raw"
    assert io.default_output("a.b.mhd", "_x") == "a.b_x.mhd"
    assert io.preview_path("d/scan_seg.nii.gz") == Path("d/scan_seg.png")
    assert io.preview_path("d/f.h5:label") == Path("d/f.png")


def test_require_writable_refuses_early(tmp_path, monkeypatch):
    taken = tmp_path / "a.nii.gz"
    taken.touch()
    for path, error, message in (
        (taken, ConfigError, "exists already. Give --overwrite"),
        (tmp_path / "a.png", FileFormatError, "unknown kind of file"),
        (tmp_path / "new" / "a.nii", ConfigError, "does not exist. Create it first"),
        (tmp_path / ("x" * 300 + ".nii"), ResourceError, "cannot be written"),
    ):
        with pytest.raises(error, match=message):
            io.require_writable(str(path), False)
    io.require_writable(str(taken), True)
    io.require_writable(str(tmp_path / "b.nii"))
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        io.require_writable(str(tmp_path / "folder.nii"), True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ResourceError, match="write-protected"):
        io.require_writable(str(tmp_path / "b.nii"))


def test_require_writable_looks_into_hdf5(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["label"] = CODES
    io.require_writable(f"{path}:other")
    io.require_writable(str(path), dataset="raw")
    with pytest.raises(ConfigError, match="exists already"):
        io.require_writable(str(path))


def test_a_sidecar_never_outlives_its_labels(tmp_path):
    path = str(tmp_path / "a.mha")
    io.write_labels(path, CODES, SCAN, names={1: "one"})
    (tmp_path / "a.mha").unlink()
    with pytest.raises(ConfigError, match="exists already"):
        io.require_writable(path)
    io.write_labels(path, CODES, SCAN, names=None, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mha"]
    (tmp_path / "a.mha.json").write_text('{"somebody": "else"}')
    io.write_labels(path, CODES, SCAN, names=None, overwrite=True)
    assert (tmp_path / "a.mha.json").exists()
    for text in ("not JSON", "[1]", '{"vol3d_class_names": "x"}'):
        (tmp_path / "a.mha.json").write_text(text)
        assert "class_names" not in io.read_labels(path).attributes


def test_sha256(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert io.sha256(str(tmp_path / "a.h5")) == io.sha256(f"{tmp_path}/a.h5:raw") == digest
    with pytest.raises(FileFormatError, match="cannot be read"):
        io.sha256(str(tmp_path / "b.h5"))
