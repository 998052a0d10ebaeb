"""Our HDF5 reader inside MONAI's own loading transform."""

import h5py
import numpy as np
import pytest
from monai.data import ImageReader, MetaTensor
from monai.transforms import LoadImage, LoadImaged

from vol3d import io
from vol3d.errors import GeometryError

SHAPE = (4, 5, 6)


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["raw"] = rng.random((3, *SHAPE[::-1])).astype(np.float32)
        file["label"] = rng.integers(0, 3, SHAPE[::-1]).astype(np.uint8)
        file["far"] = rng.random(SHAPE[::-1])
        file["holes"] = np.full(SHAPE[::-1], np.nan)
        for name in ("raw", "label", "far", "holes"):
            file[name].attrs["element_size_um"] = [2000.0, 500.0, 250.0 if name != "far" else 100.0]
    return str(tmp_path / "f.h5")


def test_load_imaged_takes_h5(path):
    load = LoadImaged(["image", "label"], reader=io.HDF5Reader, ensure_channel_first=True)
    data = load({"image": path, "label": f"{path}:label"})
    image, label = data["image"], data["label"]
    assert isinstance(image, MetaTensor)
    assert image.shape == (3, *SHAPE)
    assert label.shape == (1, *SHAPE)
    np.testing.assert_array_equal(image.numpy(), io.read(path).array)
    np.testing.assert_array_equal(label.numpy(), io.read_labels(path).array)
    np.testing.assert_allclose(image.affine.numpy(), np.diag([0.25, 0.5, 2.0, 1.0]))
    np.testing.assert_allclose(image.pixdim.numpy(), [0.25, 0.5, 2.0])


def test_options_reach_the_reader(path):
    assert issubclass(io.HDF5Reader, ImageReader)
    assert LoadImage(reader=io.HDF5Reader("label"))(path).shape == SHAPE
    assert LoadImage(reader=io.HDF5Reader(channel=1))(path).shape == SHAPE
    assert LoadImage(reader=io.HDF5Reader, dataset="holes", nan=5.0)(path).max() == 5
    with pytest.raises(RuntimeError, match=r"f\.h5:holes has 120 voxel"):
        LoadImage(reader=io.HDF5Reader)(f"{path}:holes")


def test_several_files_become_channels_of_one_grid(path):
    reader = io.HDF5Reader()
    array, meta = reader.get_data(reader.read([f"{path}:label", path]))
    assert array.shape == (4, *SHAPE)
    assert meta["original_channel_dim"] == 0
    with pytest.raises(GeometryError, match="not on one grid"):
        reader.get_data(reader.read([f"{path}:label", f"{path}:far"]))
    single, meta = reader.get_data(reader.read(f"{path}:label")[0])
    assert single.shape == SHAPE
    assert np.isnan(meta["original_channel_dim"])


def test_suffixes():
    reader = io.HDF5Reader()
    assert reader.verify_suffix(["a.h5:raw", "b.hdf5"])
    assert not reader.verify_suffix("a.nii")
    assert not reader.verify_suffix(["a.h5", "b.txt"])
