"""Laws for every format: what is written is what is read."""

import os
import string

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from vol3d import io
from vol3d.volume import Affine, Volume

SUFFIXES = ("nii", "nii.gz", "h5", "nrrd", "mha", "mhd")
TIFF = ("tif", "ome.tif")  # which keep the size of voxels alone, and no integers of 64 bits
MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@st.composite
def affines(draw):
    """Any rotation, voxel sizes from 1 nm to 10 mm, mirrored or not, some sheared."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    size = 10.0 ** draw(st.floats(-6, 1))
    shear = np.eye(3)
    shear[0, 1] = draw(st.sampled_from([0.0, 0.0, 0.2]))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ shear @ np.diag(size * rng.uniform(0.3, 3, 3))
    matrix[:3, 3] = size * rng.uniform(-200, 200, 3)
    return Affine(matrix)


shapes = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
highest = st.one_of(st.integers(0, 300), st.integers(65_000, 66_000), st.integers(2**32 - 2, 2**32), st.just(2**64 - 1))


@settings(MANY, max_examples=300)
@given(suffix=st.sampled_from(SUFFIXES), affine=affines(), shape=shapes, top=highest, seed=st.integers(0, 999))
def test_labels_come_back_exactly_on_the_same_grid(tmp_path, suffix, affine, shape, top, seed):
    codes = np.random.default_rng(seed).integers(0, top, shape, dtype=np.uint64, endpoint=True)
    codes.flat[0] = top
    like = Volume(np.zeros((1, *shape), np.float32), affine)
    path = str(tmp_path / f"a.{suffix}")
    io.write_labels(path, codes, like, names=None, overwrite=True)
    back = io.read_labels(path)
    np.testing.assert_array_equal(back.array[0], codes)
    assert back.array.dtype == np.min_scalar_type(top)
    like.require_same_grid(back)
    assert affine.corner_distance(back.affine, shape) < (1e-3 if "nii" in suffix else 1e-9)


@settings(MANY, max_examples=400)
@given(
    suffix=st.sampled_from(SUFFIXES + TIFF),
    kind=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]),
    shape=shapes,
    channels=st.integers(1, 3),
    fortran=st.booleans(),
    seed=st.integers(0, 999),
)
def test_images_come_back_exactly(tmp_path, suffix, kind, shape, channels, fortran, seed):
    array = (np.random.default_rng(seed).random((channels, *shape)) * 120).astype(kind)
    array = np.asfortranarray(array) if fortran else array
    assume(suffix not in TIFF or kind not in {"u8", "i8"})
    like = Volume(array, Affine.from_spacing((0.5, 1, 2)))
    path = str(tmp_path / f"a.{suffix}")
    io.write_image(path, array, like, overwrite=True)
    channel = seed % channels
    back = io.read(path, channel=channel)
    assert back.array.dtype == array.dtype
    np.testing.assert_array_equal(back.array[0], array[channel])
    facts = io.info(path)
    assert (facts["channels"], facts["dtype"], facts["shape"]) == (channels, array.dtype.name, list(shape))


names = st.dictionaries(st.integers(0, 2**40), st.text(string.printable + "äß細胞\u2028", max_size=12), max_size=5)


@pytest.mark.parametrize("suffix", SUFFIXES + TIFF)
@settings(MANY, max_examples=40)
@given(names=names)
def test_class_names_come_back(tmp_path, suffix, names):
    like = Volume(np.zeros((1, 2, 2, 2)), Affine.from_spacing((1, 1, 1)))
    path = str(tmp_path / f"a.{suffix}")
    io.write_labels(path, np.ones((2, 2, 2), np.uint8), like, names=names, overwrite=True)
    back = io.read_labels(path)
    assert back.attributes.get("class_names", {}) == {str(code): name for code, name in names.items()}
    assert len(list(tmp_path.iterdir())) == 1 + (suffix in ("mha", "mhd", *TIFF) and bool(names))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_move_between_formats(tmp_path, suffix):
    affine = Affine([[0, -0.5, 0, 1], [0.25, 0, 0, 2], [0, 0, -2, 3], [0, 0, 0, 1]])
    codes = np.random.default_rng(0).integers(0, 9, (3, 4, 5)).astype(np.uint8)
    first = Volume(codes[np.newaxis], affine)
    for step, other in enumerate((suffix, *SUFFIXES)):
        path = str(tmp_path / f"{step}.{other}")
        io.write_labels(path, first.array[0], first, names={3: "three"})
        first = io.read_labels(path)
    np.testing.assert_array_equal(first.array[0], codes)
    assert affine.corner_distance(first.affine, first.shape) < 1e-4
    assert first.attributes["class_names"] == {"3": "three"}
