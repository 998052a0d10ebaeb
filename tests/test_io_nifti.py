"""NIfTI: what the header says, in both directions, against nibabel."""

import json

import nibabel
import numpy as np
import pytest

from vol3d import io
from vol3d.errors import FileFormatError, GeometryError
from vol3d.io.nifti_header import COMMENT
from vol3d.volume import Affine, StoredForms, Volume

SHAPE = (4, 5, 6)


def codes(shape=SHAPE, dtype=np.uint8):
    return np.random.default_rng(1).integers(0, 5, shape).astype(dtype)


def oblique(scale=1.0):
    turn = np.deg2rad(20)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, -1.0]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.5, 0.75, 2.0]) * scale
    affine[:3, 3] = np.array([-10.0, 20.0, 33.3]) * scale
    return affine


def saved(path, array, affine=None, *, qform=1, sform=1, **fields):
    image = nibabel.Nifti1Image(array, affine if affine is not None else np.eye(4))
    image.set_qform(image.affine, qform)
    image.set_sform(image.affine, sform)
    for key, value in fields.items():
        image.header[key] = value
    nibabel.save(image, path)
    return str(path)


def patched(path, name, **fields):
    """A copy of an uncompressed NIfTI with header fields overwritten, byte for byte."""
    data = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    for key, value in fields.items():
        header[key] = value
    data[:348] = header.binaryblock
    other = path.with_name(name)
    other.write_bytes(data)
    return str(other)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_dtype_reads_as_nibabel_reads_it(tmp_path, dtype, suffix):
    array = (np.random.default_rng(0).random(SHAPE) * 100).astype(dtype)
    image = nibabel.Nifti1Image(array, oblique(), dtype=array.dtype)
    nibabel.save(image, tmp_path / f"a{suffix}")
    volume = io.read(str(tmp_path / f"a{suffix}"))
    assert volume.array.dtype == array.dtype
    assert volume.array.shape == (1, *SHAPE)
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine.matrix, nibabel.load(tmp_path / f"a{suffix}").affine, rtol=0, atol=1e-12)


def test_scaled_integers_with_whole_scaling_are_float32_and_exact(tmp_path):
    name = saved(tmp_path / "a.nii", codes(dtype=np.int16))
    name = patched(tmp_path / "a.nii", "b.nii", scl_slope=2, scl_inter=-1024)
    volume = io.read(name)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], np.asanyarray(nibabel.load(name).dataobj))


def test_infinite_intercept_is_refused(tmp_path):
    saved(tmp_path / "a.nii", codes())
    with pytest.raises(FileFormatError, match="not finite"):
        io.read(patched(tmp_path / "a.nii", "b.nii", scl_slope=2, scl_inter=np.inf))


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("mm", 1.0), ("micron", 0.001), ("unknown", 1.0)])
def test_units_become_mm_and_are_written_back(tmp_path, unit, factor):
    image = nibabel.Nifti1Image(codes(), oblique())
    image.header.set_xyzt_units(unit, "sec")
    image.set_qform(oblique(), 1)
    nibabel.save(image, tmp_path / "a.nii")
    scan = io.read(str(tmp_path / "a.nii"))
    np.testing.assert_allclose(scan.affine.spacing, np.array([0.5, 0.75, 2.0]) * factor, rtol=1e-6)
    io.write_labels(str(tmp_path / "b.nii"), codes(), scan, names=None)
    before, after = nibabel.load(tmp_path / "a.nii").header, nibabel.load(tmp_path / "b.nii").header
    assert after["xyzt_units"] == before["xyzt_units"]
    np.testing.assert_allclose(after.get_sform(), before.get_sform(), atol=1e-6)
    io.read(str(tmp_path / "b.nii")).require_same_grid(scan)


@pytest.mark.parametrize(("qform", "sform"), [(0, 0), (0, 2), (1, 0), (3, 4), (1, 1)])
def test_output_copies_both_forms_and_codes(tmp_path, qform, sform):
    affine = np.diag([2.0, 3.0, 4.0, 1.0]) if (qform, sform) == (0, 0) else oblique()
    name = saved(tmp_path / "a.nii.gz", codes(), affine, qform=qform, sform=sform)
    scan = io.read(name)
    io.write_labels(str(tmp_path / "b.nii.gz"), codes(), scan, names={1: "one"})
    before, after = nibabel.load(name), nibabel.load(tmp_path / "b.nii.gz")
    for key in ("qform_code", "sform_code", "xyzt_units"):
        assert after.header[key] == before.header[key]
    np.testing.assert_allclose(after.header["pixdim"][:4], before.header["pixdim"][:4], rtol=1e-6)
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-5)
    if qform:
        np.testing.assert_allclose(after.get_qform(), before.get_qform(), atol=1e-5)


def test_affine_precedence_is_said(tmp_path):
    for qform, sform, source in ((1, 2, "sform"), (1, 0, "qform"), (0, 0, "pixdim")):
        name = saved(tmp_path / f"{source}.nii", codes(), oblique(), qform=qform, sform=sform)
        volume = io.read(name)
        assert volume.attributes["affine_source"] == source
        np.testing.assert_allclose(volume.affine.matrix, nibabel.load(name).affine, atol=1e-9)
        assert io.info(name)["affine_source"] == source


def test_written_header_resets_display_and_scaling_and_takes_the_smallest_dtype(tmp_path):
    name = saved(tmp_path / "a.nii", codes(dtype=np.int16), cal_max=900, cal_min=-3)
    scan = io.read(patched(tmp_path / "a.nii", "b.nii", scl_slope=2, scl_inter=5))
    for highest, dtype in ((255, "uint8"), (256, "uint16"), (65536, "uint32"), (2**32, "uint64")):
        labels = np.zeros(SHAPE, np.uint64)
        labels[0, 1, 2] = highest
        io.write_labels(str(tmp_path / f"{dtype}.nii"), labels, scan, names=None)
        image = nibabel.load(tmp_path / f"{dtype}.nii")
        assert image.get_data_dtype() == np.dtype(dtype)
        assert image.dataobj.slope == 1
        assert image.dataobj.inter == 0
        assert image.header["cal_max"] == image.header["cal_min"] == 0
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), labels)
    assert name


def test_class_names_live_in_a_comment_extension(tmp_path):
    scan = Volume(codes()[np.newaxis], Affine.from_spacing((1, 2, 3)))
    names = {0: "Hintergrund", 1: "tübülé 細胞", 70000: 'a "quoted" \\ name'}
    io.write_labels(str(tmp_path / "a.nii.gz"), codes(), scan, names=names)
    (extension,) = nibabel.load(tmp_path / "a.nii.gz").header.extensions
    assert extension.get_code() == COMMENT == 6
    assert io.read_labels(str(tmp_path / "a.nii.gz")).attributes["class_names"] == {str(k): v for k, v in names.items()}
    assert io.info(str(tmp_path / "a.nii.gz"))["class_names"]["1"] == "tübülé 細胞"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.nii.gz"]


@pytest.mark.parametrize(
    ("code", "content"),
    [(6, b"plain words"), (6, b'{"vol3d": 3}'), (6, b"[1, 2]"), (6, b'{"vol3d": {"class_names": [1]}}'), (44, b"\0\1")],
)
def test_foreign_extensions_are_passed_over(tmp_path, code, content):
    image = nibabel.Nifti1Image(codes(), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, content))
    nibabel.save(image, tmp_path / "a.nii")
    volume = io.read_labels(str(tmp_path / "a.nii"))
    np.testing.assert_array_equal(volume.array[0], codes())
    assert "class_names" not in volume.attributes


def test_a_broken_extension_ends_the_list_of_extensions(tmp_path):
    saved(tmp_path / "a.nii", codes())
    data = (tmp_path / "a.nii").read_bytes()
    header = nibabel.Nifti1Header(data[:348], check=False)
    header["vox_offset"] = 368
    (tmp_path / "b.nii").write_bytes(header.binaryblock + b"\1\0\0\0" + b"\xff" * 16 + data[352:])
    np.testing.assert_array_equal(io.read(str(tmp_path / "b.nii")).array[0], codes())


def test_caret_label_tables_give_class_names(tmp_path):
    image = nibabel.Nifti1Image(codes(), np.eye(4))
    xml = b'<CaretExtension><Label Key="3" Red="0.1"><![CDATA[spleen]]></Label><Label Key="x"/></CaretExtension>'
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(30, xml))
    nibabel.save(image, tmp_path / "a.nii")
    assert io.read_labels(str(tmp_path / "a.nii")).attributes["class_names"] == {"3": "spleen"}


def test_nifti2_reads_and_long_axes_are_written_as_nifti2(tmp_path):
    array = codes((40000, 2, 3))
    nibabel.save(nibabel.Nifti2Image(array, oblique()), tmp_path / "a.nii.gz")
    scan = io.read(str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(scan.array[0], array)
    io.write_labels(str(tmp_path / "b.nii.gz"), array, scan, names={0: "x"})
    image = nibabel.load(tmp_path / "b.nii.gz")
    assert image.header["sizeof_hdr"] == 540
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array)
    io.read_labels(str(tmp_path / "b.nii.gz")).require_same_grid(scan)


@pytest.mark.parametrize("shape", [(7,), (7, 8), (7, 8, 1), (7, 1, 1), (7, 8, 9, 1), (7, 8, 9, 1, 1)])
def test_missing_and_single_axes(tmp_path, shape):
    name = saved(tmp_path / "a.nii", codes(shape))
    assert io.read(name).shape == (*shape, 1, 1)[:3]


def test_images_are_written_with_channels_last_and_named(tmp_path):
    scan = Volume(np.zeros((1, *SHAPE)), Affine(oblique()))
    array = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float16)
    io.write_image(str(tmp_path / "p.nii.gz"), array, scan, channel_names=["a", "b", "c"])
    image = nibabel.load(tmp_path / "p.nii.gz")
    assert image.shape == (*SHAPE, 3)
    np.testing.assert_array_equal(np.moveaxis(np.asanyarray(image.dataobj), -1, 0), array.astype(np.float32))
    assert json.loads(image.header.extensions[0].get_content())["vol3d"]["channel_names"] == ["a", "b", "c"]
    assert io.info(str(tmp_path / "p.nii.gz"))["channel_names"] == ["a", "b", "c"]
    second = io.read(str(tmp_path / "p.nii.gz"), channel=1)
    np.testing.assert_array_equal(second.array[0], array[1].astype(np.float32))
    assert second.attributes["channel"] == 1
    assert "channel_names" not in second.attributes


def test_forms_that_no_longer_describe_the_affine_are_not_written(tmp_path):
    scan = io.read(saved(tmp_path / "a.nii", codes(), oblique()))
    moved = Volume(scan.array, scan.affine.shifted((1, 2, 3)), "moved", scan.forms)
    io.write_labels(str(tmp_path / "b.nii"), codes(), moved, names=None)
    found = io.read(str(tmp_path / "b.nii"))
    found.require_same_grid(moved)
    assert np.allclose(found.affine.matrix, moved.affine.matrix, atol=1e-5)
    strange = Volume(scan.array, scan.affine, "strange", StoredForms(pixdim=(1.0,) * 8))
    io.write_labels(str(tmp_path / "c.nii"), codes(), strange, names=None)
    found = io.read(str(tmp_path / "c.nii"))
    found.require_same_grid(scan)
    assert np.allclose(found.affine.matrix, scan.affine.matrix, atol=1e-5)


def test_impossible_quaternion(tmp_path):
    saved(tmp_path / "a.nii", codes(), oblique())
    broken = {"quatern_b": 0.9, "quatern_c": 0.9, "quatern_d": 0.9}
    with pytest.raises(GeometryError, match="--xform sform"):
        io.read(patched(tmp_path / "a.nii", "b.nii", **broken))
    assert io.read(str(tmp_path / "b.nii"), xform="sform").affine.codes == "RAI"
    with pytest.raises(GeometryError, match="qform is not a valid geometry"):
        io.read(str(tmp_path / "b.nii"), xform="qform")
    with pytest.raises(GeometryError, match="qform is not a valid geometry"):
        io.read(patched(tmp_path / "a.nii", "c.nii", sform_code=0, **broken))


def test_singular_sform(tmp_path):
    saved(tmp_path / "a.nii", codes(), oblique(), qform=0)
    name = patched(tmp_path / "a.nii", "b.nii", srow_x=[0, 0, 0, 0])
    with pytest.raises(GeometryError, match=r"b\.nii: its sform is not a valid geometry"):
        io.read(name)
    assert "not a valid geometry" in io.info(name)["problems"][0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [3, -4, 5, 6, 1, 1, 1, 1]}, "impossible dimensions"),
        ({"dim": [0, 4, 5, 6, 1, 1, 1, 1]}, "impossible dimensions"),
        ({"dim": [5, 4, 5, 1, 2, 3, 1, 1]}, "at most one more axis"),
        ({"datatype": 32}, "data type 32"),
        ({"vox_offset": 349}, "byte 349"),
        ({"vox_offset": np.nan}, "byte nan"),
        ({"vox_offset": 1e9}, "byte 1e"),
        ({"magic": b"ni1"}, "single-file"),
        ({"datatype": 128, "dim": [4, 4, 5, 2, 3, 1, 1, 1]}, "colours"),
    ],
)
def test_damaged_headers_are_refused_by_name(tmp_path, fields, message):
    saved(tmp_path / "a.nii", codes())
    with pytest.raises(FileFormatError, match=rf"b\.nii.*{message}"):
        io.read(patched(tmp_path / "a.nii", "b.nii", **fields))


def test_vox_offset_zero_means_the_usual_place(tmp_path):
    saved(tmp_path / "a.nii", codes())
    np.testing.assert_array_equal(io.read(patched(tmp_path / "a.nii", "b.nii", vox_offset=0)).array[0], codes())


def test_wrong_suffix_is_told(tmp_path):
    saved(tmp_path / "a.nii.gz", codes())
    (tmp_path / "a.nii.gz").rename(tmp_path / "a.nii")
    with pytest.raises(FileFormatError, match=r"name it \.nii\.gz"):
        io.read(str(tmp_path / "a.nii"))
    saved(tmp_path / "b.nii", codes())
    (tmp_path / "b.nii").rename(tmp_path / "b.nii.gz")
    with pytest.raises(FileFormatError, match="corrupt"):
        io.read(str(tmp_path / "b.nii.gz"))
    (tmp_path / "c.nii").write_bytes(b"no NIfTI at all")
    with pytest.raises(FileFormatError, match="not a NIfTI file"):
        io.read(str(tmp_path / "c.nii"))
