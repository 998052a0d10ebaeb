"""The compiled warp: against SciPy, against the sampling grid, and from any memory."""

import subprocess
import sys

import numba
import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transforms_fields import MICROSCOPE, reference_grid

from vol3d.errors import GeometryError
from vol3d.transforms import SpatialAugmentation, SpatialParams, cut_patch, output_box, resample
from vol3d.transforms.compiled import compiled
from vol3d.transforms.fields import place
from vol3d.transforms.warp import can_warp, warp_labeled, warp_linear, warp_nearest, warp_pair
from vol3d.volume import Box

shapes = st.tuples(*[st.integers(1, 9)] * 3)
seeds = st.integers(0, 2**32 - 1)
DTYPES = ["float32", "uint8", "uint16", "int16", "bool", "float64", "int64"]


def drawn(rng, size, spacing, *, deformed=True, flips=(False, False, False), control=9.0):
    found = SpatialAugmentation(control_spacing_voxels=control).draw(rng, size, spacing)
    return SpatialParams(
        found.rotation_rad, found.scale, flips, found.displacements if deformed else None, found.control_spacing_voxels
    )


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), MICROSCOPE, (0.5, 0.8, 3.0)])
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True)])
@pytest.mark.parametrize("deformed", [True, False])
def test_a_patch_equals_scipys_warp_in_float64(spacing, flips, deformed):
    rng = np.random.default_rng(7)
    shape, size, margin = (47, 41, 22), (36, 30, 20), (10, 8, 5)
    image = rng.uniform(0, 1, (2, *shape)).astype(np.float32)
    classes = rng.integers(0, 5, shape).astype(np.uint8)
    weight = rng.integers(0, 2, shape).astype(np.float32) * 0.7
    params = drawn(rng, size, spacing, deformed=deformed, flips=flips)
    at = ((10, 11, 12), (24, 30, 9))
    assert can_warp(image, classes, weight)
    patch, codes, trust = cut_patch(image, classes, weight, params, spacing, size, margin, *at)
    grid = reference_grid(params, size, spacing, *at)
    for channel, values in zip(image, patch.numpy(), strict=True):
        theirs = scipy.ndimage.map_coordinates(channel.astype(float), grid, order=1, mode="mirror")
        assert np.abs(values - theirs).max() <= 1e-4
    box = output_box(size, margin)
    inner = grid[(slice(None), *box.slices())]
    clear = (np.abs(np.abs(inner % 1) - 0.5) > 1e-3).all(axis=0)
    assert clear.mean() > 0.98
    wide = (np.pad(array, 64, mode="reflect") for array in (np.where(weight > 0, classes, 0), weight))
    index = tuple(np.round(inner).astype(int) + 64)
    for array, found in zip(wide, (codes, trust), strict=True):
        assert found.shape == box.size
        assert np.array_equal(found.numpy()[clear], array[index][clear])


@pytest.mark.parametrize("dtype", [DTYPES[0], *(pytest.param(one, marks=pytest.mark.slow) for one in DTYPES[1:])])
@settings(max_examples=60, deadline=None)
@given(shapes, shapes, seeds, st.booleans())
def test_compiled_code_reads_what_the_grid_reads(dtype, shape, size, seed, deformed):
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 2 if dtype == "bool" else 100, (2, *shape)).astype(dtype)
    params = drawn(rng, size, (1, 1, 2), deformed=deformed, flips=rng.random(3) < 0.5, control=4.0)
    start = tuple(int(rng.integers(n)) for n in size)
    inner = Box(start, tuple(int(rng.integers(1, n - a + 1)) for a, n in zip(start, size, strict=True)))
    placement = place(params, size, (1, 1, 2), start, rng.integers(-20, 20, 3))
    grid = placement.grid()
    patch = warp_linear(array, placement)
    expected = resample(torch.from_numpy(array), grid, "linear")
    assert patch.dtype == torch.float32
    np.testing.assert_allclose(patch.numpy(), expected.numpy(), atol=100 * 1e-4)
    answers = grid[(slice(None), *inner.slices())]
    clear = ((answers % 1 - 0.5).abs() > 1e-3).all(dim=0).numpy()
    nearest = warp_nearest(torch.from_numpy(array), placement, inner)
    together = warp_pair(array, torch.from_numpy(array), placement, inner)
    assert torch.equal(together[0], patch)
    assert torch.equal(together[1], nearest)
    assert together[1].dtype == nearest.dtype
    assert nearest.numpy().dtype == array.dtype
    there = resample(torch.from_numpy(array), answers, "nearest")
    assert np.array_equal(nearest.numpy()[:, clear], there.numpy()[:, clear])


@settings(max_examples=100, deadline=None)
@given(shapes, seeds)
def test_an_anchor_is_read_without_interpolation(shape, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(1, *shape)).astype(np.float32)
    classes, weight = rng.integers(1, 9, shape).astype(np.uint8), np.ones(shape, np.float32)
    size = (7, 6, 5)
    anchor, voxel = (tuple(int(rng.integers(n)) for n in extent) for extent in (size, shape))
    placement = place(drawn(rng, size, (1, 1, 1), deformed=False), size, (1, 1, 1), anchor, voxel)
    patch, codes, _ = warp_labeled(image, classes, weight, placement, Box((0, 0, 0), size))
    np.testing.assert_allclose(patch[(0, *anchor)], image[(0, *voxel)], rtol=1e-6, atol=1e-6)
    assert codes[anchor] == classes[voxel]


def test_what_is_not_a_number_spoils_only_its_neighbours():
    image = np.zeros((1, 20, 20, 20), dtype=np.float32)
    image[0, 10, 10, 10] = np.nan
    placement = place(
        drawn(np.random.default_rng(0), (16, 16, 16), (1, 1, 1)), (16, 16, 16), (1, 1, 1), (8,) * 3, (10,) * 3
    )
    spoilt = warp_linear(image, placement).isnan()
    assert 1 <= spoilt.sum() <= 30
    assert torch.equal(spoilt, resample(torch.from_numpy(image), placement.grid(), "linear").isnan())


def odd_memories(image, classes, weight):
    """The same arrays as memory that compiled code does not read."""
    yield image.astype(">f4"), classes, weight
    yield np.asfortranarray(image), classes, weight
    yield torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 2, 1))).permute(0, 3, 2, 1), classes, weight


def test_other_memory_is_read_through_a_grid_and_gives_the_same():
    rng = np.random.default_rng(3)
    image = rng.uniform(0, 1, (1, 19, 17, 15)).astype(np.float32)
    classes, weight = rng.integers(0, 3, image.shape[1:]).astype(np.uint8), np.ones(image.shape[1:], np.float32)
    params = drawn(rng, (12, 12, 12), (1, 1, 1))
    cut = (params, (1, 1, 1), (12, 12, 12), (4, 4, 4), (6, 6, 6), (9, 8, 7))
    expected = cut_patch(image, classes, weight, *cut)
    for arrays in odd_memories(image, classes, weight):
        assert not can_warp(*arrays)
        found = cut_patch(*arrays, *cut)
        assert (found[0] - expected[0]).abs().max() <= 1e-4
        assert (found[1] != expected[1]).float().mean() < 0.01
    assert not can_warp(torch.zeros(1, 4, 4, 4, dtype=torch.bfloat16))
    assert not can_warp(np.zeros((1, 4, 4, 4), np.float16))


def test_compiled_code_gets_arrays_on_one_grid_alone():
    image = np.zeros((1, 6, 6, 6), np.float32)
    placement = place(drawn(np.random.default_rng(0), (4, 4, 4), (1, 1, 1)), (4, 4, 4), (1, 1, 1), (2,) * 3, (3,) * 3)
    labels, inner = np.zeros((6, 6, 6), np.uint8), Box((0, 0, 0), (4, 4, 4))
    for arrays in ((image, labels[:5], labels), (image, labels, labels[:, :, :5]), (image[0], labels, labels)):
        with pytest.raises(GeometryError, match="on one grid"):
            warp_labeled(*arrays, placement, inner)
    with pytest.raises(GeometryError, match="on one grid"):
        warp_linear(image[:, :0], placement)
    with pytest.raises(GeometryError, match="on one grid"):
        warp_nearest(labels, placement, inner)
    with pytest.raises(GeometryError, match="one grid"):
        warp_pair(image, image[..., :1], placement, inner)


def test_values_to_regress_stay_floating_point():
    rng = np.random.default_rng(5)
    image, values = rng.normal(size=(1, 9, 9, 9)).astype(np.float32), rng.normal(size=(9, 9, 9)).astype(np.float32)
    weight = np.ones((9, 9, 9), bool)
    found = cut_patch(
        image, values, weight, drawn(rng, (5, 5, 5), (1, 1, 1)), (1, 1, 1), (5,) * 3, (0,) * 3, (2,) * 3, (4,) * 3
    )
    assert found[1].dtype == torch.float32
    assert np.isin(found[1].numpy(), values).all()


def test_without_a_folder_for_it_code_is_compiled_every_time(monkeypatch):
    real = numba.njit

    def refuses_to_keep(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", refuses_to_keep)

    def twice(number):
        return 2 * number

    assert compiled(twice)(21) == 42


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path):
    code = (
        "import numpy as np; from vol3d.transforms import *; from vol3d.transforms import warp_kernels as k\n"
        "p = SpatialAugmentation().draw(np.random.default_rng(0), (8, 8, 8), (1, 1, 1))\n"
        "a = np.zeros((1, 9, 9, 9), np.float32)\n"
        "cut_patch(a, a[0].astype(np.uint8), a[0], p, (1, 1, 1), (8, 8, 8), (0, 0, 0), (4, 4, 4), (4, 4, 4))\n"
        "print(len(k.warp_patch.stats.cache_hits), len(k.warp_patch.stats.cache_misses))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"NUMBA_CACHE_DIR": str(tmp_path), "PATH": ""},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert said == [["0", "1"], ["1", "0"]]
