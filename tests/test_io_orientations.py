"""The 48 ways to lay a grid along the world's axes, and real scans: nibabel and SimpleITK must agree with us."""

import itertools
import os

import nibabel
import numpy as np
import pytest
import SimpleITK

from vol3d import io
from vol3d.volume import Affine, Volume

SHAPE = (3, 4, 5)
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SCANS = ("ct_torso", "mr_torso", "mni152_t1")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def itk_affine(path):
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine, SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)


def volume_along(order, signs, turn=0.0):
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
    matrix = np.zeros((4, 4))
    for axis, (world, sign, size) in enumerate(zip(order, signs, (0.5, 1.25, 3.0), strict=True)):
        matrix[world, axis] = sign * size
    matrix[:3, :3] = rotation @ matrix[:3, :3]
    matrix[:, 3] = (-7.5, 12.25, 100.0, 1.0)
    codes = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE)
    return Volume(codes[np.newaxis], Affine(matrix))


@pytest.mark.parametrize("turn", [0.0, 0.3], ids=["straight", "oblique"])
def test_48_orientations_are_written_for_nibabel_and_simpleitk(tmp_path, turn):
    seen = set()
    for order, signs in ORIENTATIONS:
        volume = volume_along(order, signs, turn)
        path = tmp_path / "a.nii.gz"
        io.write_labels(str(path), volume.array[0], volume, names=None, overwrite=True)
        theirs = nibabel.load(path)
        itk, itk_voxels = itk_affine(path)
        back = io.read_labels(str(path))
        for affine in (theirs.affine, itk, back.affine.matrix, theirs.get_qform()):
            np.testing.assert_allclose(affine, volume.affine.matrix, atol=1e-5)
        for voxels in (np.asanyarray(theirs.dataobj), itk_voxels, back.array[0]):
            np.testing.assert_array_equal(voxels, volume.array[0])
        assert back.affine.codes == volume.affine.codes == "".join(nibabel.aff2axcodes(theirs.affine))
        seen.add(volume.affine.codes)
    assert len(seen) == 48


@pytest.mark.parametrize("suffix", ["nrrd", "mha", "mhd", "h5"])
def test_48_orientations_come_back_from_every_format(tmp_path, suffix):
    for order, signs in ORIENTATIONS:
        volume = volume_along(order, signs)
        path = tmp_path / f"a.{suffix}"
        io.write_labels(str(path), volume.array[0], volume, names=None, overwrite=True)
        back = io.read_labels(str(path))
        np.testing.assert_allclose(back.affine.matrix, volume.affine.matrix, atol=1e-9)
        np.testing.assert_array_equal(back.array, volume.array)
        if suffix != "h5":
            np.testing.assert_allclose(itk_affine(path)[0], volume.affine.matrix, atol=1e-9)


def test_48_orientations_written_by_simpleitk_are_read(tmp_path):
    for order, signs in ORIENTATIONS:
        volume = volume_along(order, signs)
        image = SimpleITK.GetImageFromArray(volume.array[0].transpose(2, 1, 0))
        matrix = LPS_TO_RAS @ volume.affine.matrix
        image.SetSpacing(volume.spacing_mm)
        image.SetOrigin(matrix[:3, 3])
        image.SetDirection((matrix[:3, :3] / volume.affine.spacing).ravel())
        for suffix in ("nii", "nrrd", "mha"):
            SimpleITK.WriteImage(image, str(tmp_path / f"b.{suffix}"))
            back = io.read_labels(str(tmp_path / f"b.{suffix}"))
            np.testing.assert_allclose(back.affine.matrix, volume.affine.matrix, atol=1e-5)
            np.testing.assert_array_equal(back.array, volume.array)


@pytest.mark.parametrize("scan", SCANS)
def test_real_scans_keep_their_geometry(tmp_path, shared_data, scan):
    path = shared_data / f"{scan}.nii.gz"
    volume = io.read(str(path))
    theirs = nibabel.load(path)
    np.testing.assert_array_equal(volume.array[0], np.asanyarray(theirs.dataobj))
    np.testing.assert_allclose(volume.affine.matrix, theirs.affine, atol=1e-12)
    codes = (volume.array[0] > volume.array.mean()).astype(np.uint8)
    written = io.write_labels(str(tmp_path / "seg.nii.gz"), codes, volume, names={0: "outside", 1: "inside"})
    after = nibabel.load(written)
    for key in ("qform_code", "sform_code", "xyzt_units"):
        assert after.header[key] == theirs.header[key]
    np.testing.assert_array_equal(after.affine, theirs.affine)
    assert nibabel.aff2axcodes(after.affine) == nibabel.aff2axcodes(theirs.affine)
    np.testing.assert_allclose(itk_affine(written)[0], itk_affine(path)[0], atol=1e-6)
    np.testing.assert_array_equal(itk_affine(written)[1], codes)


def test_real_labels_and_microscopy(shared_data):
    organs = io.read_labels(str(shared_data / "ct_torso_organs.nii.gz"))
    organs.require_same_grid(io.read(str(shared_data / "ct_torso.nii.gz")))
    assert organs.attributes["class_names"]["1"] == "spleen"
    assert organs.array.max() == 117
    nuclei = io.read(str(shared_data / "nuclei_a.h5"))
    np.testing.assert_allclose(nuclei.affine.spacing * 1000, [0.12678642, 0.12678642, 0.28371837], rtol=1e-6)
    nuclei.require_same_grid(io.read_labels(str(shared_data / "nuclei_a.h5")))
    assert io.info(str(shared_data / "isbi2012_em.h5"))["shape"] == [512, 512, 30]
