"""What RELIABILITY promises about files: every test bears its number."""

import gzip
import os
import pickle
import subprocess
import sys
import textwrap
import time

import h5py
import nibabel
import numpy as np
import pytest

from vol3d import io
from vol3d.errors import FileFormatError, GeometryError, LabelError, ResourceError, Vol3dError
from vol3d.volume import Affine, Volume

SHAPE = (12, 10, 8)
VOXELS = np.random.default_rng(0).integers(-500, 1500, SHAPE).astype(np.int16)
CODES = np.random.default_rng(1).integers(0, 5, SHAPE).astype(np.uint8)
SCAN = Volume(CODES[np.newaxis], Affine.from_spacing((1, 1, 1)))


def saved(path, array=VOXELS, affine=None, **fields):
    image = nibabel.Nifti1Image(array, np.diag([2.0, 3, 4, 1]) if affine is None else affine)
    for key, value in fields.items():
        image.header[key] = value
    nibabel.save(image, path)
    return str(path)


def grid(path, affine, suffix="nii"):
    like = Volume(CODES[np.newaxis], Affine(affine))
    io.write_labels(f"{path}.{suffix}", CODES, like, names=None, overwrite=True)
    return io.read(f"{path}.{suffix}" + (":label" if suffix == "h5" else ""))


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_r01_every_truncation_of_a_nii_gz_is_refused(tmp_path):
    whole = (tmp_path / "a.nii.gz", saved(tmp_path / "a.nii.gz"))[0].read_bytes()
    cut = tmp_path / "cut.nii.gz"
    for percent in range(100):
        cut.write_bytes(whole[: len(whole) * percent // 100])
        with pytest.raises(FileFormatError, match=r"cut\.nii\.gz.*truncated") as error:
            io.read(str(cut))
        one_line(error)
    cut.write_bytes(whole[:-1])
    with pytest.raises(FileFormatError, match="before their checksum"):
        io.read(str(cut))


def test_r02_every_truncation_of_a_nii_is_refused(tmp_path):
    saved(tmp_path / "a.nii")
    whole = (tmp_path / "a.nii").read_bytes()
    cut = tmp_path / "cut.nii"
    for length in [*range(0, len(whole), len(whole) // 100), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match="truncated"):
            io.read(str(cut))


def test_r03_gzip_bit_flip_is_refused_1000_times(tmp_path):
    saved(tmp_path / "a.nii.gz")
    whole = (tmp_path / "a.nii.gz").read_bytes()
    right = io.read(str(tmp_path / "a.nii.gz"))
    rng = np.random.default_rng(3)
    refused = 0
    for place in rng.choice(len(whole) * 8, 1000, replace=False):
        data = bytearray(whole)
        data[place // 8] ^= 1 << (place % 8)
        (tmp_path / "b.nii.gz").write_bytes(data)
        try:
            volume = io.read(str(tmp_path / "b.nii.gz"))
        except FileFormatError:
            refused += 1
            continue
        np.testing.assert_array_equal(volume.array, right.array)  # the harmless bits of gzip's own header
        np.testing.assert_array_equal(volume.affine.matrix, right.affine.matrix)
    assert refused > 985


def test_r03_the_last_member_counts_and_so_do_bytes_after_it(tmp_path):
    saved(tmp_path / "a.nii")
    data = (tmp_path / "a.nii").read_bytes()
    path = tmp_path / "b.nii.gz"
    members = [gzip.compress(data[at : at + 300]) for at in range(0, len(data), 300)]
    for good in (b"".join(members), b"".join(members) + bytes(1000), b"".join(members) + gzip.compress(b"")):
        path.write_bytes(good)
        np.testing.assert_array_equal(io.read(str(path)).array[0], VOXELS)
    damaged = bytearray(b"".join([*members, gzip.compress(b"padding")]))
    damaged[-5] ^= 1
    for bad, message in (
        (bytes(damaged), "corrupt"),
        (b"".join(members) + b"garbage", "foreign bytes"),
        (b"".join(members) + bytes(300_000) + b"garbage", "foreign bytes"),
    ):
        path.write_bytes(bad)
        with pytest.raises(FileFormatError, match=message):
            io.read(str(path))


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_r04_a_header_that_promises_more_is_refused_before_allocating(tmp_path, suffix):
    saved(tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    header["dim"] = [3, 30000, 30000, 30000, 1, 1, 1, 1]
    data[:348] = header.binaryblock
    (tmp_path / f"b.{suffix}").write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    start = time.monotonic()
    with pytest.raises(FileFormatError, match="its header promises 54 TB, the file can hold"):
        io.read(str(tmp_path / f"b.{suffix}"))
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("suffix", ["nii.gz", "h5", "nrrd"])
def test_r05_nan_and_inf_are_refused_with_their_count(tmp_path, suffix):
    array = np.random.default_rng(0).random((1, 200, 100, 60)).astype(np.float32)  # more than one block
    array[0, 3, 4, 5], array[0, 199, 99, 59], array[0, 0, 0, 0] = np.nan, np.inf, -np.inf
    path = str(tmp_path / f"a.{suffix}")
    io.write_image(path, array, Volume(array, Affine.from_spacing((1, 1, 1))))
    with pytest.raises(FileFormatError, match=r"has 3 voxel\(s\) that are NaN or infinite.*--nan VALUE"):
        io.read(path)
    np.testing.assert_array_equal(io.read(path, nan=-7).array, np.where(np.isfinite(array), array, -7))


def test_r06_sform_and_qform_that_disagree_are_refused(tmp_path):
    affine = np.diag([2.0, 3, 4, 1])
    for shift, message in ((0.19, None), (0.21, "disagree")):  # voxels are 2 mm: 0.095 and 0.105 of one
        moved = affine.copy()
        moved[0, 3] = shift
        image = nibabel.Nifti1Image(VOXELS, affine)
        image.set_sform(affine, 2)
        image.set_qform(moved, 1)
        nibabel.save(image, tmp_path / "a.nii.gz")
        path = str(tmp_path / "a.nii.gz")
        if message is None:
            np.testing.assert_allclose(io.read(path).affine.matrix, affine)
            continue
        with pytest.raises(GeometryError, match=r"a\.nii\.gz: sform and qform disagree.*--xform sform or"):
            io.read(path)
        np.testing.assert_allclose(io.read(path, xform="sform").affine.matrix, affine)
        scan = io.read(path, xform="qform")
        np.testing.assert_allclose(scan.affine.matrix, moved, atol=1e-6)
        io.write_labels(str(tmp_path / "b.nii.gz"), CODES, scan, names=None)
        after = nibabel.load(tmp_path / "b.nii.gz")
        np.testing.assert_allclose(after.get_qform(), moved, atol=1e-6)
        np.testing.assert_allclose(after.get_sform(), affine, atol=1e-6)


@pytest.mark.parametrize("suffix", ["nii.gz", "h5", "nrrd", "mha"])
def test_r07_sheared_and_oblique_affines_are_kept_to_1e5_of_a_voxel(tmp_path, suffix):
    rng = np.random.default_rng(7)
    for shear in (0.0, 0.1):
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = rotation @ np.array([[0.7, shear, 0], [0, 1.1, shear], [0, 0, 2.5]])
        affine[:3, 3] = (10.1, -20.2, 30.3)
        exact = affine.astype(np.float32).astype(np.float64)  # what NIfTI can hold
        back = grid(tmp_path / "a", exact, suffix)
        assert Affine(exact).corner_distance(back.affine, SHAPE) < 1e-5


def test_r08_grids_that_differ_little_are_one_and_others_are_refused(tmp_path):
    affine = np.diag([2.0, 2, 2, 1])
    image = grid(tmp_path / "image", affine)
    near, far = affine.copy(), affine.copy()
    near[0, 3], far[0, 3] = 0.0019, 0.0021
    image.require_same_grid(grid(tmp_path / "near", near))
    image.require_same_grid(grid(tmp_path / "near", near, "nrrd"))
    with pytest.raises(GeometryError, match=r"image\.nii and .*far\.nii are not on one grid: 12×10×8 .*against 12"):
        image.require_same_grid(grid(tmp_path / "far", far))


def test_r09_a_label_of_2_9999_is_3_and_2_5_is_none(tmp_path):
    array = np.full(SHAPE, 2.9999, np.float32)
    labels = io.read_labels(saved(tmp_path / "a.nii.gz", array))
    assert labels.array.dtype == np.uint8
    assert (labels.array == 3).all()
    array[3, 4, 5] = 2.5
    with pytest.raises(LabelError, match=r"a\.nii\.gz holds 2\.5, which is no label code"):
        io.read_labels(saved(tmp_path / "a.nii.gz", array))


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "h5", "nrrd", "mha", "mhd"])
@pytest.mark.parametrize("top", [255, 256, 65535, 65536, 2**32 - 1, 2**53 + 1, 2**64 - 1])
def test_r10_large_codes_are_exact(tmp_path, suffix, top):
    codes = np.array([[[0, 1], [top - 1, top]]], dtype=np.uint64)
    like = Volume(np.zeros((1, *codes.shape)), Affine.from_spacing((1, 1, 1)))
    io.write_labels(str(tmp_path / f"a.{suffix}"), codes, like, names={top: "top"})
    back = io.read_labels(str(tmp_path / f"a.{suffix}"))
    np.testing.assert_array_equal(back.array[0], codes)
    assert back.array.dtype == np.min_scalar_type(top)
    assert back.attributes["class_names"] == {str(top): "top"}


def test_r11_four_dimensions_and_rgb_need_a_channel(tmp_path):
    rng = np.random.default_rng(0)
    series = rng.integers(0, 99, (*SHAPE, 3)).astype(np.int16)
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in "RGB":
        colours[name] = rng.integers(0, 255, SHAPE)
    for array, part in (
        (series, lambda c: series[..., c]),
        (series[..., np.newaxis, :], lambda c: series[..., c]),  # a vector image: x, y, z, 1, channel
        (colours, lambda c: colours["RGB"[c]]),
    ):
        path = saved(tmp_path / "a.nii.gz", array)
        with pytest.raises(FileFormatError, match=r"has 3 channels.*Select one with --channel 0 … 2"):
            io.read(path)
        with pytest.raises(FileFormatError, match="channel 3 is not among them"):
            io.read(path, channel=3)
        with pytest.raises(FileFormatError, match="3 channels"):
            io.read_labels(path)
        for channel in range(3):
            np.testing.assert_array_equal(io.read(path, channel=channel).array[0], part(channel))
        assert io.info(path)["channels"] == 3


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_r12_byte_order_extremes_and_scaling_are_as_in_nibabel(tmp_path, suffix):
    extreme = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint16)
    extreme[0, 0, 0] = 65535
    for order in "<>":
        for slope, inter in ((1, 0), (0.1, -3.7), (2, -1024), (0, 5), (np.nan, 0)):
            path = tmp_path / f"a.{suffix}"
            header = nibabel.Nifti1Header(endianness=order)
            header.set_data_shape(SHAPE)
            header.set_data_dtype(np.dtype(np.uint16).newbyteorder(order))
            header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, inter, 352
            header["magic"] = b"n+1"
            header.set_sform(np.eye(4), 1)
            data = header.binaryblock + bytes(4) + extreme.astype(f"{order}u2").tobytes(order="F")
            path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
            ours, theirs = io.read(str(path)), np.asanyarray(nibabel.load(path).dataobj)
            np.testing.assert_array_equal(ours.array[0], theirs)
            assert ours.array.dtype.isnative
            if slope in (1, 0) or np.isnan(slope):
                assert ours.array[0, 0, 0, 0] == 65535
                assert ours.array.dtype == np.uint16


def test_r16_the_file_that_was_named_is_read(tmp_path):
    saved(tmp_path / "a.nii", np.ones(SHAPE, np.uint8))
    saved(tmp_path / "a.nii.gz", np.full(SHAPE, 2, np.uint8))
    assert io.read(str(tmp_path / "a.nii")).array.max() == 1
    assert io.read(str(tmp_path / "a.nii.gz")).array.max() == 2
    (tmp_path / "a.nii").unlink()
    with pytest.raises(FileFormatError, match="does not exist"):
        io.read(str(tmp_path / "a.nii"))


def script(text, *arguments, timeout=120):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
        check=False, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


KILLS = """
    import os, random, signal, sys, time
    import h5py, nibabel, numpy, SimpleITK
    from vol3d import io
    from vol3d.volume import Affine, Volume

    folder, suffix, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    path = f"{folder}/a.{suffix}"
    rng = numpy.random.default_rng(0)
    noise = rng.integers(0, 200, (60, 50, 40)).astype(numpy.uint8)
    scan = Volume(noise[None], Affine.from_spacing((1, 1, 1)))

    def write(step):
        io.write_labels(path, noise + numpy.uint8(step % 50), scan, names={step: "step"}, overwrite=True)

    def read():
        if not os.path.exists(path):
            return "none"
        difference = io.read_labels(path).array[0] - noise
        assert difference.min() == difference.max(), "half a file"
        return int(difference.max())

    start = time.monotonic()
    write(0)
    duration = time.monotonic() - start
    interrupted, seen = 0, set()
    for round in range(rounds):
        fresh = round % 5 == 0
        if fresh:
            os.unlink(path)
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            for step in range(10_000):
                if step > 0 or fresh:
                    os.write(tell, b"x")  # a write that matters begins
                write(round + step)
        os.read(told, 1)
        time.sleep(random.Random(round).uniform(0.0, 1.5 * duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told), os.close(tell)
        interrupted += any(name.startswith(".") for name in os.listdir(folder))
        found = read()
        assert found != "none" or fresh, "the old file is gone"
        seen.add(found)
    write(7)
    rest = [name for name in os.listdir(folder) if name.startswith(".")]
    print(interrupted, len(seen), len(rest), read())
"""


@pytest.mark.parametrize("suffix", ["nii.gz", "h5", "nrrd"])
def test_r18_kill_9_leaves_the_old_file_a_complete_one_or_none(tmp_path, suffix):
    done = script(KILLS, tmp_path, suffix, 50)
    assert done.returncode == 0, done.stderr
    interrupted, kinds, rest, value = map(int, done.stdout.split())
    assert interrupted >= 10  # kills that fell into the middle of a write
    assert kinds >= 2
    assert rest == 0  # the next writer sweeps up what the killed ones left
    assert value == 7


FULL = """
    import os, resource, sys
    import h5py, nibabel, numpy, SimpleITK
    from vol3d import io
    from vol3d.errors import ResourceError
    from vol3d.volume import Affine, Volume

    folder, suffix = sys.argv[1:]
    path = f"{folder}/a.{suffix}"
    rng = numpy.random.default_rng(0)
    old, new = (rng.integers(0, 200, (50, 50, 50)).astype(numpy.uint8) for _ in range(2))
    scan = Volume(old[None], Affine.from_spacing((1, 1, 1)))
    io.write_labels(path, old, scan, names={1: "old"})
    before = open(path, "rb").read()
    refused = 0
    for limit in numpy.linspace(0, len(before), 21, dtype=int)[:20]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        try:
            io.write_labels(path, new, scan, names={1: "new"}, overwrite=True)
        except ResourceError as error:
            refused += "nothing was changed" in str(error) and "\\n" not in str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert open(path, "rb").read() == before, "damaged"
    io.write_labels(path, new, scan, names={1: "new"}, overwrite=True)
    assert (io.read_labels(path).array[0] == new).all()
    print(refused, sum(name.startswith(".") for name in os.listdir(folder)))
"""


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "h5", "nrrd", "mha"])
def test_r24_a_full_disk_leaves_the_old_file_as_it_was(tmp_path, suffix):
    done = script(FULL, tmp_path, suffix)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["20", "0"]


RESERVED = """
    import resource, sys
    import numpy
    from vol3d import io
    from vol3d.io import atomic
    from vol3d.volume import Affine, Volume

    whole = atomic.reserve

    def reserve(path, size):  # from here on not a byte more than was reserved
        whole(path, size)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    atomic.reserve = reserve
    rng = numpy.random.default_rng(0)
    for step, shape in enumerate([(1, 1, 1, 1), (3, 65, 66, 67), (2, 1, 1, 20_000), (1, 130, 64, 64), (1, 2, 700, 3)]):
        array = rng.integers(0, 2**63, shape)  # does not compress
        like = Volume(array, Affine([[0, 1, 0, 5], [1, 0, 0, 5], [0, 0, 1, 5], [0, 0, 0, 1]]))
        name = f"{sys.argv[1]}/a.h5:group{step}/deep/data"
        io.write_image(name, array, like, channel_names=["long name " * 200] * shape[0])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert (io.read(name).array == array).all()
    print("ok")
"""


def test_r24_what_hdf5_reserves_is_enough(tmp_path):
    done = script(RESERVED, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr


class Trap:
    """Leaves a trace where a pickle of it is loaded."""

    def __reduce__(self):
        return (os.mkdir, ("trap",))


def test_r30_object_arrays_are_refused_and_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.array([Trap()], dtype=object))
    with pytest.raises(FileFormatError, match="unknown kind of file"):
        io.read("a.npy")
    with h5py.File("a.h5", "w") as file:
        file["raw"] = np.void(pickle.dumps(Trap()))
        file.create_dataset("label", (2, 2, 2), dtype=h5py.special_dtype(vlen=np.uint8))
    for name in ("a.h5:raw", "a.h5:label"):
        with pytest.raises(FileFormatError, match="expected"):
            io.read(name)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.h5", "a.npy"]


def test_r31_hdf5_links_out_of_the_file_are_refused(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["group/raw"] = CODES
    (tmp_path / "secret.bin").write_bytes(CODES.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["inner/raw"] = CODES
        file["raw"] = h5py.ExternalLink("secret.h5", "group/raw")
        file["group"] = h5py.ExternalLink("secret.h5", "group")
        file["soft"] = h5py.SoftLink("/group/raw")
        file["folder"] = h5py.SoftLink("group")
        file["fine"] = h5py.SoftLink("inner")
        file.create_dataset("stored", SHAPE, "u1", external=[(str(tmp_path / "secret.bin"), 0, CODES.size)])
        layout = h5py.VirtualLayout(SHAPE, "u1")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "group/raw", SHAPE)
        file.create_virtual_dataset("virtual", layout)
    path = tmp_path / "a.h5"
    for name in ("raw", "group/raw", "soft", "folder/raw"):
        for action in (io.read, io.info):
            with pytest.raises(FileFormatError, match=r"a\.h5:.*link to another file, which is not followed"):
                action(f"{path}:{name}")
    for name in ("stored", "virtual"):
        with pytest.raises(FileFormatError, match="lie in other files"):
            io.read(f"{path}:{name}")
    np.testing.assert_array_equal(io.read(f"{path}:fine/raw").array[0], CODES.transpose(2, 1, 0))
    for name in ("group/new", "raw", "folder/deep/new"):
        with pytest.raises(FileFormatError, match="link to another file"):
            io.write_labels(f"{path}:{name}", CODES, SCAN, names=None, overwrite=True)
    with h5py.File(tmp_path / "secret.h5") as file:
        assert list(file["group"]) == ["raw"]
    assert [entry["name"] for entry in io.info(str(path))["datasets"]] == ["inner/raw", "stored", "virtual"]


def test_r32_bombs_are_refused_under_the_budget(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:  # a small file that declares 32 TB
        file.create_dataset("raw", (32_000, 32_000, 32_000), "u1", chunks=(64, 64, 64), compression="gzip")
        file.create_dataset("tall", (4, 4, 4), "f8", chunks=(600, 600, 600), maxshape=(None,) * 3, compression="gzip")
        file.create_dataset("empty", (9, 9, 9), "u1", chunks=(3, 3, 3))
    assert (tmp_path / "a.h5").stat().st_size < 10_000
    with pytest.raises(ResourceError, match=r"declares voxels that take 32\.8 TB"):
        io.read(str(tmp_path / "a.h5"))
    with pytest.raises(ResourceError, match="memory budget is 100 MB"):
        io.read(f"{tmp_path}/a.h5:tall", max_bytes=10**8)
    with pytest.raises(FileFormatError, match="stores none of them"):
        io.read(f"{tmp_path}/a.h5:empty")

    zeros = np.zeros((256, 256, 256), np.uint8)
    packed = saved(tmp_path / "z.nii.gz", zeros)
    io.write_labels(str(tmp_path / "z.nrrd"), zeros, Volume(zeros[None], Affine.from_spacing((1, 1, 1))), names=None)
    for path in (packed, str(tmp_path / "z.nrrd")):
        with pytest.raises(ResourceError, match="memory budget is 1 MB"):
            io.read(path, max_bytes=10**6)

    saved(tmp_path / "s.nii", CODES)
    (tmp_path / "tail.nii.gz").write_bytes(gzip.compress((tmp_path / "s.nii").read_bytes() + bytes(50 << 20)))
    start = time.monotonic()
    with pytest.raises(FileFormatError, match="beyond the voxels"):
        io.read(str(tmp_path / "tail.nii.gz"))
    assert time.monotonic() - start < 0.5

    header = nibabel.Nifti1Image(CODES, np.eye(4)).header
    header["vox_offset"], header["magic"] = 2**30, b"n+1"
    (tmp_path / "lead.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(5 << 20)))
    for action in (io.read, io.info):
        with pytest.raises(FileFormatError, match="puts the voxels at byte"):
            action(str(tmp_path / "lead.nii.gz"))


def test_r32_scaling_counts_too(tmp_path):
    path = tmp_path / "a.nii"
    saved(path, np.zeros((100, 100, 100), np.uint8))
    data = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    header["scl_slope"] = 0.5
    path.write_bytes(header.binaryblock + data[348:])
    with pytest.raises(ResourceError, match="take 9 MB"):
        io.read(str(path), max_bytes=8_000_000)
    assert io.read(str(path), max_bytes=9_000_000).array.dtype == np.float64


@pytest.mark.parametrize("suffix", ["h5", "nrrd", "mha"])
def test_truncated_and_flipped_files_of_other_formats_never_crash(tmp_path, suffix):
    codes = np.random.default_rng(0).integers(0, 4, (20, 20, 20)).astype(np.uint8)
    like = Volume(codes[np.newaxis], Affine.from_spacing((1, 1, 1)))
    io.write_labels(str(tmp_path / f"a.{suffix}"), codes, like, names=None)
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for percent in range(0, 100, 4):
        cut.write_bytes(whole[: len(whole) * percent // 100])
        with pytest.raises(Vol3dError, match=r"cut\."):
            io.read_labels(str(cut))
