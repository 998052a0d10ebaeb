"""Reading and writing whatever the format: values, budgets, messages."""

import json
import subprocess
import sys
import tracemalloc

import nibabel
import numpy as np
import pytest

from vol3d import io
from vol3d.errors import ConfigError, FileFormatError, GeometryError, LabelError, ResourceError
from vol3d.io import budget
from vol3d.volume import Affine, Volume

SHAPE = (3, 4, 5)
SCAN = Volume(np.zeros((1, *SHAPE)), Affine.from_spacing((1, 1, 1)), "scan")


def stored(path, array):
    array = np.asarray(array)
    io.write_image(str(path), np.broadcast_to(array, (1, *SHAPE)), SCAN, overwrite=True)
    return str(path)


def test_nothing_heavy_is_imported_before_it_is_needed():
    heavy = "('torch', 'monai', 'SimpleITK', 'nibabel', 'h5py', 'scipy')"
    code = f"import sys, vol3d.io; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_info_is_plain_json(tmp_path):
    for suffix in ("nii.gz", "h5", "nrrd", "mha"):
        facts = io.info(stored(tmp_path / f"a.{suffix}", np.float32(1)))
        assert json.loads(json.dumps(facts)) == facts
        assert facts["shape"] == [3, 4, 5]
        assert facts["orientation"] == "RAS"
        assert facts["axes"][2] == {"axis": "z", "size": 5, "spacing_mm": 1.0, "towards": "S"}


def test_info_of_a_damaged_geometry_lists_the_problem(tmp_path):
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.set_qform(np.diag([2, 1, 1, 1]), 1)
    nibabel.save(image, tmp_path / "a.nii")
    facts = io.info(str(tmp_path / "a.nii"))
    assert "affine" not in facts
    assert facts["units"] == "unknown"
    assert "disagree" in facts["problems"][0]


@pytest.mark.parametrize("action", [io.read, io.read_labels, io.read_weights, io.info])
def test_missing_files_folders_and_unknown_suffixes(tmp_path, action):
    with pytest.raises(FileFormatError, match="does not exist"):
        action(str(tmp_path / "a.nii"))
    (tmp_path / "b.h5").mkdir()
    with pytest.raises(FileFormatError, match="is a folder"):
        action(str(tmp_path / "b.h5"))
    with pytest.raises(FileFormatError, match=r"unknown kind of file. Volumes end in \.nii\.gz"):
        action(str(tmp_path / "a.dcm"))
    with pytest.raises(FileFormatError, match="cannot be read"):
        action(str(tmp_path / ("x" * 300 + ".nii")))


def test_unreadable_files_are_named(tmp_path, monkeypatch):
    name = stored(tmp_path / "a.nii", np.uint8(1))

    def broken(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vol3d.io.nifti.open_stream", broken)
    for action in (io.read, io.info):
        with pytest.raises(FileFormatError, match=r"a\.nii cannot be read: Permission denied"):
            action(name)

    def full(*_args):
        raise MemoryError

    monkeypatch.setattr("vol3d.io.nifti.open_stream", full)
    with pytest.raises(ResourceError, match="does not fit into memory"):
        io.read(name)


def test_xform_is_one_of_two(tmp_path):
    with pytest.raises(ConfigError, match="sform or qform"):
        io.read(stored(tmp_path / "a.nii", np.uint8(1)), xform="best")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8, np.uint64])
def test_labels_take_the_smallest_unsigned_dtype(tmp_path, dtype):
    labels = io.read_labels(stored(tmp_path / "a.nii.gz", dtype(100)))
    assert labels.array.dtype == np.uint8
    assert (labels.array == 100).all()


def test_labels_that_are_none(tmp_path):
    for value, message in ((-1.0, "holds -1"), (np.nan, "holds nan"), (np.inf, "holds inf"), (1e30, "no label code")):
        with pytest.raises(LabelError, match=message):
            io.read_labels(stored(tmp_path / "a.nii", np.float64(value)))
    with pytest.raises(LabelError, match="holds -3"):
        io.read_labels(stored(tmp_path / "a.h5", np.int16(-3)).replace(".h5", ".h5:raw"))


def test_weights(tmp_path):
    weights = io.read_weights(stored(tmp_path / "a.nii", np.float64(0.25)))
    assert weights.array.dtype == np.float32
    assert (weights.array == 0.25).all()
    assert io.read_weights(stored(tmp_path / "b.nii", np.uint8(3))).array.dtype == np.float32
    io.write_image(f"{tmp_path}/w.h5:weight", weights.array, SCAN)
    assert io.read_weights(str(tmp_path / "w.h5")).array.max() == np.float32(0.25)
    for value, message in ((-0.5, "found -0.5"), (1e300, "found 1e.300"), (np.nan, "NaN")):
        with pytest.raises(FileFormatError, match=message):
            io.read_weights(stored(tmp_path / "a.nii", np.float64(value)))
    io.write_image(f"{tmp_path}/c.h5:weight", np.ones((2, *SHAPE)), SCAN)
    with pytest.raises(LabelError, match="2 channels; weights have one"):
        io.read_weights(str(tmp_path / "c.h5"))


def test_writing_refuses_what_does_not_fit(tmp_path):
    path = str(tmp_path / "a.nii")
    for codes, error in ((np.zeros((3, 4, 6), np.uint8), GeometryError), (np.zeros(SHAPE), LabelError)):
        with pytest.raises(error, match=r"a\.nii: expected"):
            io.write_labels(path, codes, SCAN, names=None)
    for array in (np.zeros(SHAPE), np.zeros((1, 3, 4, 6)), np.zeros((1, *SHAPE), complex)):
        with pytest.raises(GeometryError, match=r"a\.nii: expected"):
            io.write_image(path, array, SCAN)
    with pytest.raises(ConfigError, match="as many names"):
        io.write_image(path, np.zeros((2, *SHAPE)), SCAN, channel_names=["one"])
    io.write_labels(path, np.ones(SHAPE, bool), SCAN, names=None)
    assert io.read_labels(path).array.dtype == np.uint8
    with pytest.raises(ConfigError, match="--overwrite"):
        io.write_image(path, np.zeros((1, *SHAPE)), SCAN)


def test_float32_is_read_without_a_second_copy(tmp_path):
    array = np.random.default_rng(0).random((1, 128, 128, 64), dtype=np.float32)  # 4 MB
    like = Volume(array, Affine.from_spacing((1, 1, 1)))
    for suffix in ("nii", "nii.gz", "h5"):
        path = str(tmp_path / f"a.{suffix}")
        io.write_image(path, array, like)
        io.info(path)
        tracemalloc.start()
        volume = io.read(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        np.testing.assert_array_equal(volume.array, array)
        assert peak < array.nbytes + 3.5e6


def test_budget_is_the_free_memory_unless_given(monkeypatch, tmp_path):
    assert 0 < io.available_memory() < 2**50
    monkeypatch.setattr(budget, "_CGROUP", tmp_path)
    free = io.available_memory()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert io.available_memory() > 0.5 * free
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200\nactive_file 30\n")
    assert io.available_memory() == 5000 - 1000 + 230
    with pytest.raises(ResourceError, match="this machine has free 4230 bytes"):
        budget.Budget.of(None).require("a.nii", 10**14)


@pytest.mark.parametrize(
    ("count", "text"), [(512, "512 bytes"), (12_345, "12.3 kB"), (32 * 10**12, "32 TB"), (10**22, "1e+04 EB")]
)
def test_bytes_for_people(count, text):
    assert budget.bytes_text(count) == text


def test_lazy_names():
    with pytest.raises(AttributeError, match="no attribute 'NIfTIReader'"):
        _ = io.NIfTIReader
