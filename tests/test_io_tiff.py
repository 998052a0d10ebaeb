"""TIFF: what ImageJ, OME and others say of axes and voxel sizes; whole files only; nothing a TIFF cannot keep."""

import importlib.util
import re

import h5py
import numpy as np
import PIL.Image
import pytest
import tifffile
from workflow_parts import balls, drawn_bundle, painted, refused

import vol3d
from vol3d import io
from vol3d.cli.main import main
from vol3d.config import UNetConfig, parse_config
from vol3d.errors import ConfigError, FileFormatError, GeometryError, ResourceError
from vol3d.networks import build
from vol3d.transforms import Preprocessing
from vol3d.volume import Affine, Volume
from vol3d.workflows.cases import gather, load
from vol3d.workflows.listener import Quiet

STACK = np.random.default_rng(0).integers(0, 60_000, (5, 8, 7)).astype(np.uint16)  # z, y, x
SIZED = Affine.from_spacing((0.0002, 0.0003, 0.001))


def tiff(path, array=STACK, **options):
    tifffile.imwrite(path, array, **options)
    return str(path)


def imagej(path, array=STACK, axes="ZYX", resolution=(5.0, 2.5), **said):
    return tiff(path, array, imagej=True, resolution=resolution, metadata={"axes": axes, **said})


def ome(path, array=STACK, axes="ZYX", **said):
    return tiff(path, array, ome=True, metadata={"axes": axes, **said})


def test_stacks_read_as_they_were_stored(tmp_path):
    for number, path in enumerate(
        [
            imagej(tmp_path / "imagej.tif"),
            ome(tmp_path / "a.ome.tif"),
            tiff(tmp_path / "shaped.tif"),
            tiff(tmp_path / "pages.tif", metadata=None),
            tiff(tmp_path / "big.tiff", bigtiff=True, byteorder=">"),
            tiff(tmp_path / "packed.tif", compression="zlib", predictor=True),
            tiff(tmp_path / "tiles.tif", np.pad(STACK, ((0, 0), (0, 8), (0, 9))), tile=(16, 16)),
        ]
    ):
        read = io.read(path)
        assert read.array.dtype == np.uint16, number
        np.testing.assert_array_equal(read.array[0].transpose(2, 1, 0)[:, :8, :7], STACK, err_msg=path)
    assert io.info(path)["stored_order"] == "zyx"
    plane = io.read(tiff(tmp_path / "plane.tif", STACK[0]))
    np.testing.assert_array_equal(plane.array[0, :, :, 0].T, STACK[0])
    mask = io.read_labels(tiff(tmp_path / "mask.tif", STACK > 9, photometric="minisblack"))
    np.testing.assert_array_equal(mask.array[0].T, STACK > 9)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"unit": "um", "spacing": 1.5}, (0.0002, 0.0004, 0.0015)),
        ({"unit": "micron", "spacing": 1.5}, (0.0002, 0.0004, 0.0015)),
        ({"unit": "\\u00B5m", "spacing": 1.5}, (0.0002, 0.0004, 0.0015)),
        ({"unit": "mm"}, (0.2, 0.4, 1.0)),  # a depth of 1 is left out
        ({"unit": "cm", "spacing": -0.1}, (2.0, 4.0, 1.0)),  # downwards
        ({"unit": "um", "zunit": "nm", "spacing": 500.0}, (0.0002, 0.0004, 0.0005)),
        ({"unit": "pixel", "spacing": 1.5}, None),
        ({"unit": "inch"}, None),  # the dpi of a picture
        ({"unit": "inch", "spacing": 0.1}, (5.08, 10.16, 2.54)),
        ({"unit": "Micrometres"}, (0.0002, 0.0004, 0.001)),
        ({}, None),
    ],
)
def test_imagej_says_how_large_voxels_are(tmp_path, said, expected):
    path = imagej(tmp_path / "a.tif", **said)
    facts, read = io.info(path), io.read(path)
    assert facts["spacing_mm"] == pytest.approx(expected or (1, 1, 1), rel=1e-6)
    assert facts["orientation"] == "RAS"
    assert facts.get("spacing_assumed", False) == (expected is None) == read.attributes.get("spacing_assumed", False)
    assert read.spacing_mm == pytest.approx(facts["spacing_mm"])


def test_ome_says_how_large_voxels_are_and_what_channels_are_called(tmp_path):
    sizes = {"PhysicalSizeX": 200, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.3, "PhysicalSizeZ": 1}
    two = np.stack([STACK, STACK + 1], axis=1)
    path = ome(tmp_path / "a.ome.tif", two, "ZCYX", Channel={"Name": ["dapi", "gfp"]}, **sizes)
    read = io.read(path)
    assert read.spacing_mm == pytest.approx((0.0002, 0.0003, 0.001))
    assert read.attributes == {"channel_names": ["dapi", "gfp"]}
    np.testing.assert_array_equal(read.array.transpose(0, 3, 2, 1), two.transpose(1, 0, 2, 3))
    one = io.read(path, channel=1)
    np.testing.assert_array_equal(one.array[0].T, STACK + 1)
    assert one.attributes == {"channel": 1}
    bare = ome(tmp_path / "bare.ome.tif")
    assert io.read(bare).attributes == {"spacing_assumed": True}
    del sizes["PhysicalSizeZ"]
    half = ome(tmp_path / "half.ome.tif", **sizes)
    with pytest.raises(GeometryError, match=r"half.*along x, y and not along z.*Fiji"):
        io.read(half)
    assert "along x, y and not along z" in io.info(half)["problems"][0]
    assert io.read(ome(tmp_path / "flat.ome.tif", STACK[0], "YX", **sizes)).spacing_mm[2] == pytest.approx(0.001)


def test_channels_and_colors_are_channels(tmp_path):
    two = np.stack([STACK, STACK + 1])
    path = imagej(tmp_path / "a.tif", two.transpose(1, 0, 2, 3), "ZCYX", unit="um")
    np.testing.assert_array_equal(io.read(path).array.transpose(0, 3, 2, 1), two)
    colors = np.random.default_rng(1).integers(0, 255, (5, 8, 7, 3)).astype(np.uint8)
    path = tiff(tmp_path / "rgb.tif", colors, photometric="rgb")
    np.testing.assert_array_equal(io.read(path).array.transpose(3, 2, 1, 0), colors)
    with pytest.raises(Exception, match="3 channels; labels have one"):
        io.read_labels(path)


def test_axes_that_are_no_volume_are_refused(tmp_path):
    for path, message in (
        (imagej(tmp_path / "t.tif", axes="TYX"), r"time points and no z \(T 5 × Y 8 × X 7\).*Fiji"),
        (imagej(tmp_path / "tz.tif", np.stack([STACK, STACK]), "TZYX"), "axes T 2 × Z 5"),
        (tiff(tmp_path / "four.tif", np.stack([STACK, STACK])), "axes Q 2 × Q 5"),
        (tiff(tmp_path / "complex.tif", STACK.astype(np.complex64)), "complex64"),
    ):
        with pytest.raises(FileFormatError, match=message):
            io.read(path)
        with pytest.raises(FileFormatError, match=message):
            io.info(path)
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(STACK)
        file.write(STACK[:, :4])
    with pytest.raises(FileFormatError, match=r"page 5 .* another size or type than the one before"):
        io.read(str(tmp_path / "two.tif"))
    with tifffile.TiffWriter(tmp_path / "twice.tif") as file:
        file.write(STACK)
        file.write(STACK)
    with pytest.raises(FileFormatError, match=r"2 images"):
        io.read(str(tmp_path / "twice.tif"))


@pytest.mark.parametrize("other", [STACK[3, :4], STACK[3].astype(np.uint8), STACK[3].T])
def test_a_page_unlike_the_others_is_not_filled_in(tmp_path, other):
    """tifffile looks at the first pages and the last, and takes the others to be alike."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number in range(12):
            file.write(np.ascontiguousarray(other) if number == 3 else STACK[0], metadata=None, contiguous=False)
    with pytest.raises(FileFormatError, match="page 3 "):
        io.read(str(tmp_path / "a.tif"))


def rewritten(path, change, **said):
    """An OME-TIFF whose description was changed."""
    ome(path, **said)
    with tifffile.TiffFile(path) as file:
        xml = change(file.ome_metadata)
    with tifffile.TiffWriter(path) as file:
        for number, plane in enumerate(STACK):
            file.write(plane, description=xml if number == 0 else None, metadata=None, contiguous=False)
    return str(path)


def test_a_description_that_does_not_fit_is_refused(tmp_path):
    def without_planes(xml):
        return re.sub(r"<TiffData.*?(/>|</TiffData>)", "", xml)

    def three_planes(xml):
        return re.sub(r"<TiffData[^>]*?(/>|>.*?</TiffData>)", '<TiffData IFD="0" PlaneCount="3"/>', xml)

    def other_size(xml):
        return xml.replace('SizeX="7"', 'SizeX="70"')

    def two_images(xml):
        image = re.search(r"<Image .*</Image>", xml, re.DOTALL)[0]
        return xml.replace(image, re.sub(r"<TiffData.*?(/>|</TiffData>)", "", image) + image)

    for change, message in (
        (without_planes, "does not fit its pages|not all of them are in the file"),
        (three_planes, "not all of them are in the file"),
        (other_size, "does not fit its pages"),
    ):
        with pytest.raises(FileFormatError, match=message):
            io.read(rewritten(tmp_path / f"{change.__name__}.tif", change))
    with pytest.raises(GeometryError, match="speaks of 2 images"):
        io.read(rewritten(tmp_path / "b.tif", two_images, PhysicalSizeX=1, PhysicalSizeY=1, PhysicalSizeZ=1))


def test_a_unit_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(GeometryError, match="'ms', which is no unit of length"):
        io.read(imagej(tmp_path / "time.tif", unit="um", zunit="ms"))
    path = imagej(tmp_path / "a.tif", unit="parsec")
    with pytest.raises(GeometryError, match=r"'parsec', which is no unit of length.*Fiji"):
        io.read(path)
    assert "'parsec'" in io.info(path)["problems"][0]


@pytest.mark.parametrize(("kind", "value"), [(11, np.float32(2.5)), (4, np.uint32(2)), (2, None)])
def test_a_resolution_of_another_type_is_a_number_or_refused(tmp_path, kind, value):
    path = tmp_path / "a.tif"
    imagej(path, unit="um", spacing=1.0)
    data = bytearray(path.read_bytes())
    order = "<" if data[:2] == b"II" else ">"
    at = data.index(np.array([282, 5], f"{order}u2").tobytes())
    data[at + 2 : at + 4] = np.array(kind, f"{order}u2").tobytes()
    data[at + 8 : at + 12] = b"abc\0" if value is None else value.astype(value.dtype.newbyteorder(order)).tobytes()
    data[at + 4 : at + 8] = np.array(4 if value is None else 1, f"{order}u4").tobytes()
    path.write_bytes(data)
    if value is None:
        with pytest.raises(GeometryError, match="it says abc"):
            io.read(str(path))
    else:
        assert io.read(str(path)).spacing_mm[0] == pytest.approx(1e-3 / float(value))


@pytest.mark.parametrize("slices", [3, 4])
def test_slices_that_are_marked_as_colors_are_not_taken_for_channels(tmp_path, slices):
    planar = {"photometric": "rgb", "planarconfig": "separate"}  # what tifffile writes for so few slices, told nothing
    path = tiff(tmp_path / "a.tif", STACK[:slices].astype(np.uint8), **planar)
    with pytest.raises(FileFormatError, match=rf"{slices} planes that they are colors.*minisblack"):
        io.read(path)


KINDS = {
    "imagej": lambda path: imagej(path, unit="um"),
    "ome": ome,
    "shaped": tiff,
    "pages": lambda path: tiff(path, metadata=None),
    "packed": lambda path: tiff(path, compression="zlib"),
    "big": lambda path: tiff(path, bigtiff=True, byteorder=">"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_refused_or_read_as_it_was(tmp_path, kind):
    path = KINDS[kind](tmp_path / "a.tif")
    whole, cut = (tmp_path / "a.tif").read_bytes(), tmp_path / "cut.tif"
    exact, read = io.read(path).array, 0
    places = sorted({*range(0, len(whole), max(1, len(whole) // 150)), *range(len(whole) - 40, len(whole))})
    for place in places:
        cut.write_bytes(whole[:place])
        try:
            found = io.read(str(cut)).array
        except FileFormatError as error:
            assert "cut.tif" in str(error)  # noqa: PT017  some are read
            continue
        read += 1
        np.testing.assert_array_equal(found, exact)
    assert read < 40


def test_damage_is_refused_or_harmless(tmp_path):
    """Flipped bits of a compressed file: zlib's checksum guards voxels, our reading of directories the rest."""
    path = tiff(tmp_path / "a.tif", compression="zlib", metadata=None)
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    rng, shape = np.random.default_rng(0), io.read(path).array.shape
    wrong = 0
    for _ in range(300):
        at, bit = int(rng.integers(len(whole))), 1 << int(rng.integers(8))
        whole[at] ^= bit
        (tmp_path / "b.tif").write_bytes(whole)
        try:
            found = io.read(str(tmp_path / "b.tif")).array
            wrong += found.shape == shape and not (found[0].T == STACK).all()
        except (FileFormatError, GeometryError, ResourceError):
            pass
        whole[at] ^= bit
    assert wrong == 0


def test_planes_in_other_files_are_missed(tmp_path):
    path = rewritten(tmp_path / "a.tif", lambda xml: xml.replace('SizeZ="5"', 'SizeZ="9"'))
    with pytest.raises(FileFormatError, match=r"speaks of 9 planes.*one of several"):
        io.read(path)


def test_a_file_that_declares_more_than_the_memory_is_refused(tmp_path):
    path = tiff(tmp_path / "a.tif")
    with pytest.raises(ResourceError, match="declares voxels"):
        io.read(path, max_bytes=STACK.nbytes - 1)


def test_compression_that_lacks_its_decoder_says_what_to_install(tmp_path):
    planes = [PIL.Image.fromarray(plane) for plane in STACK]
    planes[0].save(tmp_path / "a.tif", save_all=True, append_images=planes[1:], compression="tiff_lzw")
    if importlib.util.find_spec("imagecodecs"):
        np.testing.assert_array_equal(io.read(str(tmp_path / "a.tif")).array[0].T, STACK)
        return
    assert io.info(str(tmp_path / "a.tif"))["shape"] == [7, 8, 5]
    with pytest.raises(FileFormatError, match=r"a\.tif is compressed.*LZW.*pip install imagecodecs"):
        io.read(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("name", ["a.tif", "a.tiff", "a.ome.tif"])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i2", "f4", "f8"])
def test_what_is_written_is_read_and_other_programs_see_the_same(tmp_path, name, kind):
    array = (100 * np.random.default_rng(0).random((2, 7, 8, 5))).astype(kind)
    like, path = Volume(array[:1], SIZED), str(tmp_path / name)
    io.write_image(path, array, like, channel_names=["one", "two"])
    back = io.read(path)
    np.testing.assert_array_equal(back.array, array)
    assert back.attributes == {"channel_names": ["one", "two"]}
    like.require_same_grid(back)
    with tifffile.TiffFile(path) as file:
        stored = file.asarray()
        zyx = stored[:, 1] if file.is_imagej else stored[1]
        np.testing.assert_array_equal(zyx, array[1].T)
        assert file.is_imagej == (kind in {"u1", "u2", "f4"} and "ome" not in name)
        assert file.is_ome != file.is_imagej


def test_labels_names_and_a_missing_voxel_size_come_back(tmp_path):
    codes = np.random.default_rng(0).integers(0, 4, (7, 8, 5)).astype(np.uint8)
    path = str(tmp_path / "a.tif")
    io.write_labels(path, codes, Volume(codes[None], SIZED), names={2: "two"})
    back = io.read_labels(path)
    np.testing.assert_array_equal(back.array[0], codes)
    assert back.attributes == {"class_names": {"2": "two"}}
    unsized = io.read(tiff(tmp_path / "scan.tif"))
    io.write_labels(path, codes, unsized, names=None, overwrite=True)
    assert io.read_labels(path).attributes == {"spacing_assumed": True}


def test_what_a_tiff_cannot_keep_is_refused(tmp_path):
    codes = np.zeros((7, 8, 5), np.uint8)
    for affine in (Affine.from_spacing((1, 1, 1), (1, 0, 0)), Affine(np.diag([-1.0, -1.0, 1.0, 1.0]))):
        like = Volume(codes[None], affine, "scan.nii.gz")
        with pytest.raises(GeometryError, match=r"a\.tif: this format keeps the size of voxels alone.*scan\.nii\.gz"):
            io.write_labels(str(tmp_path / "a.tif"), codes, like, names=None)
        io.require_kept("a.h5", affine, "scan.nii.gz")
    like = Volume(codes[None], SIZED)
    with pytest.raises(FileFormatError, match="64-bit"):
        io.write_labels(str(tmp_path / "a.tif"), codes.astype(np.uint64), like, names=None, smallest=False)
    assert not list(tmp_path.iterdir())


def test_labels_without_a_voxel_size_have_that_of_their_scan(tmp_path):
    scan = io.read(imagej(tmp_path / "scan.tif", unit="um"))
    painted = io.read_labels(tiff(tmp_path / "painted.tif", (STACK > 9).astype(np.uint8)))
    scan.require_same_grid(painted)
    with pytest.raises(GeometryError, match="assumed, not in the file"):
        painted.require_same_grid(scan)  # of a scan it has to be known
    turned = Volume(scan.array, Affine(np.diag([-1.0, 1.0, 1.0, 1.0])), "turned")
    with pytest.raises(GeometryError):
        turned.require_same_grid(painted)
    shorter = io.read_labels(
        tiff(tmp_path / "shorter.tif", (STACK[2:, 1:] > 9).astype(np.uint16), photometric="minisblack")
    )
    with pytest.raises(GeometryError):
        scan.require_same_grid(shorter)


def test_a_tiff_that_is_none_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "a.tif").write_text("not a TIFF")
    assert "a.tif is not a TIFF file" in refused(capsys, "info", tmp_path / "a.tif")
    (tmp_path / "b.tif").touch()
    assert "b.tif is not a TIFF file" in refused(capsys, "info", tmp_path / "b.tif")


def test_a_stack_from_fiji_and_labels_from_napari_go_through_all_commands(tmp_path, capsys, blank_pictures):
    image, classes = balls()
    scan = imagej(
        tmp_path / "cells.tif", np.float32(image).transpose(2, 1, 0), resolution=(1e-3, 1e-3), unit="um", spacing=1e3
    )
    drawn = tiff(tmp_path / "cells_labels.tif", painted(classes).transpose(2, 1, 0))
    network = UNetConfig(encoder=((2, 2), (2, 2)), padding="same")
    model = drawn_bundle(network, build(network, 1, 2).state_dict()).save(tmp_path / "model.safetensors")
    assert main(["check", scan, drawn, "--unlabeled", "255"]) == 0
    assert (
        main(["predict", scan, "-m", str(model), "--provenance", drawn, "--unlabeled", "255", "--probabilities"]) == 0
    )
    found = io.read_labels(str(tmp_path / "cells_seg.tif"))
    io.read(scan).require_same_grid(found)
    known = painted(classes) != 255
    np.testing.assert_array_equal(found.array[0][known], classes[known])
    assert io.read(str(tmp_path / "cells_seg_probabilities.tif")).channels == 2
    truth = tiff(tmp_path / "truth.tif", classes.transpose(2, 1, 0))
    assert vol3d.evaluate(str(tmp_path / "cells_seg.tif"), truth, dense=True).mean_iou > 0
    assert main(["suggest", scan, "-m", str(model), "-l", drawn, "--unlabeled", "255", "-n", "1"]) == 0
    assert io.read_labels(str(tmp_path / "cells_paint.tif")).shape == image.shape
    capsys.readouterr()
    turned = str(tmp_path / "turned.nii.gz")
    io.write_image(turned, image[None], Volume(image[None], Affine(np.diag([-1.0, -1.0, 1.0, 1.0]))))
    for more in ([], ["--dry-run"]):
        said = refused(capsys, "predict", turned, "-m", model, "-o", tmp_path / "turned.tif", *more)
        assert "turned.tif: this format keeps the size of voxels alone" in said


def test_labels_are_learned_in_the_voxels_of_the_scan(tmp_path):
    scan = imagej(tmp_path / "scan.tif", STACK, unit="um", spacing=5.0)
    codes = (STACK > 30_000).astype(np.uint8)
    codes[2] = 2
    config = parse_config({"labels": {"unlabeled": 2}, "preprocess": {"spacing_mm": [0.0004, 0.0004, 0.005]}})
    files = gather([scan], [tiff(tmp_path / "labels.tif", codes)], [])
    cases, _ = load(files, config, Preprocessing(**config.preprocess.model_dump()), Quiet())
    assert cases[0].labels.shape == cases[0].shape
    assert cases[0].labels.affine.spacing == pytest.approx([0.0004, 0.0004, 0.005])


def test_gaps_between_slices_are_measured_in_the_voxels_of_the_scan(tmp_path):
    scan = imagej(tmp_path / "scan.tif", np.zeros((60, 8, 7), np.uint16), unit="um", spacing=5.0)
    codes = np.full((60, 8, 7), 255, np.uint8)
    codes[[4, 8, 12], :4], codes[[4, 8, 12], 4:] = 0, 1
    found = vol3d.check(scan, tiff(tmp_path / "labels.tif", codes), unlabeled=255)
    assert found.problems == ()
    assert found.farthest.mm == pytest.approx(found.farthest.slices * 0.005)


def test_distances_take_the_voxel_size_of_the_file_that_has_it(tmp_path):
    codes = np.zeros((5, 8, 7), np.uint8)
    codes[1:4, 2:6, 2:5] = 1
    sized = imagej(tmp_path / "sized.tif", codes, unit="mm", spacing=2.0)
    bare = tiff(tmp_path / "bare.tif", np.roll(codes, 1, 0))
    for pair in ((sized, bare), (bare, sized)):
        scores = vol3d.evaluate(*pair, dense=True, surface=True).surface
        assert scores is not None
        assert scores[1].hausdorff_mm == pytest.approx(2.0)
    with pytest.raises(GeometryError, match="which both files lack"):
        vol3d.evaluate(bare, bare, dense=True, surface=True)


def test_a_voxel_size_that_is_not_known_stays_unknown(tmp_path):
    codes = np.zeros((7, 8, 5), np.uint8)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["raw"] = codes.T
    with io.opened_scan(str(tmp_path / "scan.h5")) as scan:
        frames = [scan.frame, io.read(str(tmp_path / "scan.h5"))]
    for number, like in enumerate(frames):
        for name in (f"{number}.tif", f"{number}.h5"):
            io.write_labels(str(tmp_path / name), codes, like, names=None)
            assert io.read_labels(str(tmp_path / name)).attributes == {"spacing_assumed": True}


def test_a_file_of_another_program_is_not_replaced_by_names_of_classes(tmp_path):
    codes = np.zeros((7, 8, 5), np.uint8)
    (tmp_path / "a.tif.json").write_text('{"Acquisition": "mine"}')
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"a\.tif\.json exists already and is not of vol3d"):
            io.write_labels(
                str(tmp_path / "a.tif"), codes, Volume(codes[None], SIZED), names={1: "one"}, overwrite=overwrite
            )
    assert (tmp_path / "a.tif.json").read_text() == '{"Acquisition": "mine"}'
