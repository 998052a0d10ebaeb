"""HDF5: stored ZYX or CZYX, voxel sizes in µm, several datasets in one file."""

import h5py
import numpy as np
import pytest

from vol3d import io
from vol3d.errors import ConfigError, FileFormatError, GeometryError, LabelError, ResourceError
from vol3d.volume import Affine, Volume

SHAPE = (4, 5, 6)  # x, y, z


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        raw = file.create_dataset("raw", data=rng.integers(0, 255, SHAPE[::-1]).astype(np.uint8), compression="gzip")
        raw.attrs["element_size_um"] = [2.0, 0.5, 0.25]
        file.create_dataset("label", data=rng.integers(0, 3, SHAPE[::-1]).astype(np.int16))
        file.create_dataset("paper", data=rng.random((3, *SHAPE[::-1])).astype(">f4"))
        file.create_dataset("group/mask", data=rng.random(SHAPE[::-1]) > 0.5)
        file.create_dataset("plane", data=np.arange(20.0).reshape(5, 4))
        file["text"] = "words"
        file["soft"] = h5py.SoftLink("/group/mask")
        file["folder"] = h5py.SoftLink("group")
        file["group/up"] = h5py.SoftLink("mask")
        file["nowhere"] = h5py.SoftLink("/missing")
        file["circle"] = h5py.SoftLink("/circle")
    return tmp_path / "f.h5"


def stored(path, name):
    with h5py.File(path) as file:
        return file[name][()]


def test_zyx_becomes_xyz_and_micrometres_become_mm(path):
    volume = io.read(str(path))
    assert volume.array.shape == (1, *SHAPE)
    np.testing.assert_array_equal(volume.array[0], stored(path, "raw").transpose(2, 1, 0))
    np.testing.assert_allclose(volume.affine.matrix, np.diag([0.00025, 0.0005, 0.002, 1]), rtol=1e-12)
    assert volume.affine.codes == "RAS"
    assert volume.attributes == {}
    assert io.info(str(path))["stored_order"] == "zyx"


def test_czyx_gives_all_channels_or_the_one_asked_for(path):
    volume = io.read(f"{path}:paper")
    assert volume.array.shape == (3, *SHAPE)
    assert volume.array.dtype == np.dtype("f4")
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, stored(path, "paper").transpose(0, 3, 2, 1))
    assert volume.attributes == {"spacing_assumed": True}
    np.testing.assert_array_equal(io.read(f"{path}:paper", channel=2).array, volume.array[2:])
    np.testing.assert_array_equal(io.read(str(path), channel=0).array, io.read(str(path)).array)
    for dataset, channel in (("paper", 3), ("raw", 1), ("paper", -1)):
        with pytest.raises(FileFormatError, match=f"channel {channel} is not among them"):
            io.read(f"{path}:{dataset}", channel=channel)
    assert io.info(f"{path}:paper")["channels"] == 3


def test_labels_masks_planes_and_the_size_of_the_whole_file(path):
    labels = io.read_labels(str(path))
    assert labels.array.dtype == np.uint8
    mask = io.read_labels(f"{path}:group/mask")
    np.testing.assert_array_equal(mask.array[0], stored(path, "group/mask").transpose(2, 1, 0))
    assert io.read(f"{path}:plane").shape == (4, 5, 1)
    with h5py.File(path, "r+") as file:
        file.attrs["element_size_um"] = [3.0, 2.0, 1.0]
        file["plane"].attrs["element_size_um"] = [2.0, 1.0]
    np.testing.assert_allclose(io.read_labels(str(path)).spacing_mm, (0.001, 0.002, 0.003))
    np.testing.assert_allclose(io.read(f"{path}:plane").spacing_mm, (0.001, 0.002, 0.001))
    with pytest.raises(LabelError, match="3 channels"):
        io.read_labels(f"{path}:paper")


def test_soft_links_inside_the_file_are_followed(path):
    mask = io.read(f"{path}:group/mask").array
    for name in ("soft", "folder/mask", "folder/up", "/soft/", "./group/./mask"):
        np.testing.assert_array_equal(io.read(f"{path}:{name}").array, mask)
    with pytest.raises(FileFormatError, match="circle"):
        io.read(f"{path}:circle")
    for name in ("nowhere", "group", "raw/inside"):
        with pytest.raises(FileFormatError, match="has no dataset"):
            io.read(f"{path}:{name}")


def test_a_missing_dataset_lists_what_there_is(path, tmp_path):
    with pytest.raises(FileFormatError, match=r"no dataset 'raaw'; it holds group/mask, label.*Name one, such as"):
        io.read(f"{path}:raaw")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(FileFormatError, match="no dataset at all"):
        io.read(str(tmp_path / "empty.h5"))
    assert io.info(str(tmp_path / "empty.h5"))["datasets"] == []
    with pytest.raises(FileFormatError, match="no dataset 'x'"):
        io.info(f"{path}:x")
    assert io.info(f"{path}:group/mask")["dtype"] == "bool"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(5), "expected z, y, x"),
        (np.zeros((1, 1, 2, 2, 2)), "expected z, y, x"),
        (np.zeros((20, 8, 8, 3)), "channels first"),
        (np.zeros((0, 2, 2)), "expected z, y, x"),
        (np.zeros((2, 2, 2), complex), "plain real numbers"),
        (np.zeros((2, 2, 2), [("r", "u1"), ("g", "u1")]), "plain real numbers"),
    ],
)
def test_other_datasets_are_refused(tmp_path, data, message):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = data
    with pytest.raises(FileFormatError, match=message):
        io.read(str(tmp_path / "a.h5"))


@pytest.mark.parametrize("sizes", [[1.0, 2.0], [0.0, 1.0, 1.0], [np.nan, 1, 1], [1.0, 1, 1, 1], "words"])
def test_bad_voxel_sizes_are_refused(path, sizes):
    with h5py.File(path, "r+") as file:
        file["raw"].attrs["element_size_um"] = sizes
    with pytest.raises(GeometryError, match="three positive numbers"):
        io.read(str(path))


def test_a_new_dataset_leaves_the_others_alone(path):
    before = {name: stored(path, name) for name in ("raw", "label", "paper", "plane")}
    scan = io.read(str(path))
    codes = np.full(SHAPE, 7, np.uint32)
    io.write_labels(f"{path}:deep/er/seg", codes, scan, names={7: "seven"})
    for name, data in before.items():
        np.testing.assert_array_equal(stored(path, name), data)
    with h5py.File(path) as file:
        dataset = file["deep/er/seg"]
        assert dataset.dtype == np.uint8
        assert dataset.compression == "gzip"
        assert dataset.chunks is not None
        np.testing.assert_allclose(dataset.attrs["element_size_um"], [2.0, 0.5, 0.25])
        assert "vol3d_affine" not in dataset.attrs
        assert file.get("soft", getlink=True).path == "/group/mask"
    back = io.read_labels(f"{path}:deep/er/seg")
    assert back.attributes == {"class_names": {"7": "seven"}}
    back.require_same_grid(scan)


def test_an_existing_dataset_needs_overwrite(path):
    scan = io.read(str(path))
    codes = np.ones(SHAPE, np.uint8)
    with pytest.raises(ConfigError, match=r"f\.h5:label exists already.*--overwrite"):
        io.write_labels(f"{path}:label", codes, scan, names=None)
    assert stored(path, "label").max() == 2
    io.write_labels(f"{path}:label", codes, scan, names=None, overwrite=True)
    assert stored(path, "label").max() == 1
    io.write_labels(f"{path}:soft", codes, scan, names=None, overwrite=True)  # the link goes, what it led to stays
    assert stored(path, "group/mask").dtype == bool
    assert stored(path, "soft").dtype == np.uint8


@pytest.mark.parametrize(
    ("dataset", "message"), [("group", "is a group"), ("raw/inside", "not a group"), ("nowhere/x", "cannot be written")]
)
def test_places_that_cannot_take_a_dataset(path, dataset, message):
    size = path.stat().st_size
    with pytest.raises(FileFormatError, match=message):
        io.write_labels(f"{path}:{dataset}", np.ones(SHAPE, np.uint8), io.read(str(path)), names=None, overwrite=True)
    assert path.stat().st_size == size
    assert [entry.name for entry in path.parent.iterdir()] == ["f.h5"]


def test_a_turned_grid_is_kept_in_our_own_attribute(tmp_path):
    affine = Affine([[0, -0.5, 0, 1], [0.25, 0, 0, 2], [0, 0, -2, 3], [0, 0, 0, 1]])
    array = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float32)
    scan = Volume(array, affine)
    io.write_image(str(tmp_path / "a.h5"), array, scan, channel_names=["r", "g", "b"])
    back = io.read(str(tmp_path / "a.h5"))
    np.testing.assert_array_equal(back.affine.matrix, affine.matrix)
    np.testing.assert_array_equal(back.array, array)
    assert back.attributes == {"channel_names": ["r", "g", "b"]}
    assert "channel_names" not in io.read(str(tmp_path / "a.h5"), channel=1).attributes
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["raw"].shape == (3, 6, 5, 4)


def test_large_volumes_span_several_chunks(tmp_path):
    codes = np.random.default_rng(0).integers(0, 3, (70, 65, 130)).astype(np.uint16)
    scan = Volume(codes[np.newaxis], Affine.from_spacing((1, 1, 1)))
    io.write_labels(str(tmp_path / "a.h5"), codes, scan, names=dict.fromkeys(range(5000), "x" * 50))
    back = io.read_labels(str(tmp_path / "a.h5"))
    np.testing.assert_array_equal(back.array[0], codes)
    assert len(back.attributes["class_names"]) == 5000
    raw_bytes = codes.size
    assert (tmp_path / "a.h5").stat().st_size < raw_bytes  # the reserved space is given back


def test_a_file_that_is_no_hdf5(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"no HDF5" * 100)
    scan = Volume(np.zeros((1, *SHAPE)), Affine.from_spacing((1, 1, 1)))
    for action in (
        lambda: io.read(str(tmp_path / "a.h5")),
        lambda: io.info(str(tmp_path / "a.h5")),
        lambda: io.write_labels(str(tmp_path / "a.h5"), np.ones(SHAPE, np.uint8), scan, names=None, overwrite=True),
    ):
        with pytest.raises(FileFormatError, match=r"a\.h5.*cannot be read as HDF5"):
            action()
    assert (tmp_path / "a.h5").read_bytes() == b"no HDF5" * 100


def test_damaged_chunks_are_noticed(path, tmp_path):
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        start = file["raw"].id.get_chunk_info(0).byte_offset
    data[start + 40] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="corrupt"):
        io.read(str(path))


def test_info_describes_the_usual_or_only_dataset(path, tmp_path):
    assert io.info(str(path))["dataset"] == "raw"
    assert {entry["name"] for entry in io.info(str(path))["datasets"]} >= {"raw", "label", "paper", "group/mask"}
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["only"] = np.zeros((2, 3, 4))
    facts = io.info(str(tmp_path / "one.h5"))
    assert facts["dataset"] == "only"
    assert facts["shape"] == [4, 3, 2]
    assert facts["spacing_assumed"] is True
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = np.zeros((2, 3, 4)), np.zeros(3)
    assert "shape" not in io.info(str(tmp_path / "two.h5"))


def test_budget_counts_chunks(path):
    with pytest.raises(ResourceError, match="memory budget"):
        io.read(str(path), max_bytes=100)
