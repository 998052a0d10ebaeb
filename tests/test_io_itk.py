"""NRRD, MHA and MHD: whole files only, one channel, millimetres."""

import gzip
import zlib

import numpy as np
import pytest
import SimpleITK

from vol3d import io
from vol3d.errors import FileFormatError, GeometryError
from vol3d.volume import Affine, Volume

SHAPE = (4, 5, 6)
CODES = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.uint8)
SCAN = Volume(CODES[np.newaxis], Affine.from_spacing((0.5, 1, 2), (1, 2, 3)))
NRRD = (
    "NRRD0004\ntype: {kind}\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: {encoding}\n{extra}\n"
)
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = {packed}\n{extra}DimSize = {sizes}\n"
    "ElementType = {kind}\nElementDataFile = {where}\n"
)


def nrrd(path, data=None, *, kind="uchar", sizes="4 5 6", encoding="raw", extra=""):
    data = CODES.tobytes(order="F") if data is None else data
    path.write_bytes(NRRD.format(kind=kind, sizes=sizes, encoding=encoding, extra=extra).encode() + data)
    return str(path)


def meta(path, data=None, *, kind="MET_UCHAR", sizes="4 5 6", packed=False, where="LOCAL", extra=""):
    data = CODES.tobytes(order="F") if data is None else data
    text = META.format(kind=kind, sizes=sizes, packed=packed, where=where, extra=extra)
    path.write_bytes(text.encode() + data)
    return str(path)


def test_hand_made_files_read(tmp_path):
    raw = CODES.tobytes(order="F")
    packed = gzip.compress(raw)
    for name in (
        nrrd(tmp_path / "a.nrrd"),
        nrrd(tmp_path / "b.nrrd", packed, encoding="gzip"),
        nrrd(tmp_path / "c.nrrd", extra='space units: "mm" "mm" "mm"\n'),
        meta(tmp_path / "d.mha"),
        meta(
            tmp_path / "e.mha",
            zlib.compress(raw),
            packed=True,
            extra=f"CompressedDataSize = {len(zlib.compress(raw))}\n",
        ),
        meta(tmp_path / "f.mha", extra="DistanceUnits = mm\n"),
    ):
        np.testing.assert_array_equal(io.read(name).array[0], CODES)


def test_mhd_reads_the_file_beside_it_and_no_other(tmp_path):
    (tmp_path / "v.raw").write_bytes(CODES.tobytes(order="F"))
    np.testing.assert_array_equal(io.read(meta(tmp_path / "a.mhd", b"", where="v.raw")).array[0], CODES)
    for where in ("/etc/passwd", "../v.raw", "LIST", "v%d.raw 1 4 1", "..", "deep\\v.raw"):
        with pytest.raises(FileFormatError, match="only one file beside it"):
            io.read(meta(tmp_path / "b.mhd", b"", where=where))
    with pytest.raises(FileFormatError, match=r"voxel file w\.raw cannot be read"):
        io.read(meta(tmp_path / "c.mhd", b"", where="w.raw"))


def test_mhd_is_written_as_one_file_that_others_read(tmp_path):
    io.write_labels(str(tmp_path / "a.mhd"), CODES, SCAN, names=None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mhd"]
    theirs = SimpleITK.ReadImage(str(tmp_path / "a.mhd"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(theirs).transpose(2, 1, 0), CODES)


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_channels_times_and_planes(tmp_path, suffix):
    path = str(tmp_path / f"a.{suffix}")
    data = np.random.default_rng(0).random((6, 5, 4, 3)).astype(np.float32)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(data, isVector=True), path)
    with pytest.raises(FileFormatError, match=r"3 channels.*--channel 0 … 2"):
        io.read(path)
    np.testing.assert_array_equal(io.read(path, channel=2).array[0], data[..., 2].transpose(2, 1, 0))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(data, isVector=False), path)
    assert io.info(path)["shape"] == [3, 4, 5]
    np.testing.assert_array_equal(io.read(path, channel=5).array[0], data[5].transpose(2, 1, 0))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(data[0, :, :, 0]), path)
    assert io.read(path).shape == (4, 5, 1)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(data[0, :, :, :2].astype(complex).view(complex)), path)
    with pytest.raises(FileFormatError, match=r"complex|2 channels"):  # MetaImage keeps complex numbers as channels
        io.read(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": "4 5 7"}, "truncated"),
        ({"sizes": "4 5 99999999999999999999"}, "truncated|positive"),
        ({"sizes": "4 5 -6"}, "positive number"),
        ({"sizes": "4"}, "1 axes"),
        ({"kind": "block"}, "'block'"),
        ({"encoding": "text"}, "encoding 'text'"),
        ({"encoding": "gzip"}, "corrupt"),
        ({"extra": "data file: other.raw\n"}, "another place"),
        ({"extra": "byte skip: 4\n"}, "another place"),
        ({"extra": 'space units: "um" "um" "um"\n'}, "measures in 'um'"),
        ({"extra": "dimension: 2\n"}, "cannot be read as .nrrd"),
    ],
)
def test_bad_nrrd_is_refused(tmp_path, fields, message):
    with pytest.raises(FileFormatError, match=message):
        io.read(nrrd(tmp_path / "a.nrrd", **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": "4 5 7"}, "truncated"),
        ({"kind": "MET_LONG"}, "MET_LONG"),
        ({"extra": "HeaderSize = -1\n"}, "foreign header"),
        ({"extra": "ElementNumberOfChannels = x\n"}, "'x'"),
        ({"extra": "DistanceUnits = um\n"}, "measures in 'um'"),
        ({"extra": "no equals sign\n"}, "not a MetaImage"),
        ({"packed": True}, "corrupt"),
        ({"packed": True, "data": zlib.compress(CODES.tobytes())[:-3]}, "truncated"),
        ({"packed": True, "data": zlib.compress(CODES.tobytes()) + b"more"}, "foreign bytes"),
    ],
)
def test_bad_metaimage_is_refused(tmp_path, fields, message):
    with pytest.raises(FileFormatError, match=message):
        io.read(meta(tmp_path / "a.mha", **fields))


def test_headers_that_never_end_or_are_none(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\ntype: uchar\nsizes: 1")
    (tmp_path / "b.nrrd").write_bytes(b"JPEG")
    (tmp_path / "c.mha").write_bytes(b"a = b\n" * 20_000)
    for name, message in (("a.nrrd", "does not end"), ("b.nrrd", "not an NRRD"), ("c.mha", "does not end")):
        with pytest.raises(FileFormatError, match=message):
            io.read(str(tmp_path / name))


def test_info_of_damaged_files(tmp_path):
    (tmp_path / "b.nrrd").write_bytes(b"JPEG")
    with pytest.raises(FileFormatError, match=r"cannot be read as \.nrrd"):
        io.info(str(tmp_path / "b.nrrd"))


def test_contradicting_headers_and_flat_geometry(tmp_path, monkeypatch):
    name = nrrd(tmp_path / "a.nrrd")
    monkeypatch.setattr("vol3d.io.itk.require_whole", lambda *_: 1)
    with pytest.raises(FileFormatError, match="contradicts itself"):
        io.read(name)
    monkeypatch.undo()

    def flat(*_args):
        raise GeometryError("a.nrrd: its header holds no valid geometry")

    monkeypatch.setattr("vol3d.io.itk._affine", flat)
    with pytest.raises(GeometryError, match="no valid geometry"):
        io.read(name)
    assert "no valid geometry" in io.info(name)["problems"][0]
