"""Reading a volume through a grid, exact crops, and patches."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vol3d.errors import ConfigError, GeometryError
from vol3d.transforms import SpatialAugmentation, SpatialParams, crop, cut_patch, output_box, resample, sampling_grid
from vol3d.volume import Box

shapes = st.tuples(*[st.integers(1, 7)] * 3)
starts = st.tuples(*[st.integers(-25, 25)] * 3)
seeds = st.integers(0, 2**32 - 1)


def reflected(array, box):
    """numpy's own padding, which replicates one-voxel axes too."""
    padded = np.pad(array, [(0, 0)] + [(40, 40)] * 3, mode="reflect")
    return padded[(slice(None), *(slice(a + 40, b + 40) for a, b in zip(box.start, box.stop, strict=True)))]


@settings(max_examples=200, deadline=None)
@given(shapes, starts, shapes, seeds)
def test_crop_is_exact_inside_and_mirrored_beyond(shape, start, size, seed):
    array = np.random.default_rng(seed).integers(0, 60000, (2, *shape)).astype(np.uint16)
    box = Box(start, size)
    expected = reflected(array, box)
    ours = crop(array, box)
    assert ours.dtype == array.dtype
    assert ours.flags.writeable
    assert np.array_equal(ours, expected)
    assert np.array_equal(crop(torch.from_numpy(array), box).numpy(), expected)
    assert np.array_equal(crop(array[0], box), expected[0])


@settings(max_examples=200, deadline=None)
@given(shapes, starts, shapes, seeds, st.sampled_from(["float32", "uint8", "uint16", "int16", "bool", "float64"]))
def test_a_still_grid_equals_the_crop(shape, start, size, seed, dtype):
    array = np.random.default_rng(seed).integers(0, 200, (2, *shape)).astype(dtype)
    grid = sampling_grid(SpatialParams(), size, (1, 2, 3), (0, 0, 0), start)
    expected = crop(array, Box(start, size))
    nearest = resample(torch.from_numpy(array), grid, "nearest")
    assert nearest.numpy().dtype == array.dtype
    assert np.array_equal(nearest.numpy(), expected)
    linear = resample(torch.from_numpy(array), grid, "linear")
    assert linear.dtype == torch.float32
    np.testing.assert_allclose(linear.numpy(), expected.astype(np.float32), atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(shapes, seeds, st.floats(0.5, 60))
def test_resampling_equals_scipy_anywhere(shape, seed, reach):
    rng = np.random.default_rng(seed)
    array = rng.uniform(-1, 1, (1, *shape)).astype(np.float32)
    grid = rng.uniform(-reach, reach, (3, 3, 4, 5)).astype(np.float32)
    linear = resample(torch.from_numpy(array), torch.from_numpy(grid), "linear")[0].numpy()
    wide = np.pad(array[0], 64, mode="reflect").astype(float)
    np.testing.assert_allclose(linear, scipy.ndimage.map_coordinates(wide, grid + 64.0, order=1), atol=2e-4)
    nearest = resample(torch.from_numpy(array), torch.from_numpy(grid), "nearest")[0].numpy()
    clear = (np.abs(np.abs(grid % 1) - 0.5) > 1e-3).all(axis=0)
    index = tuple(np.round(grid).astype(int) + 64)
    assert np.array_equal(nearest[clear], wide[index].astype(np.float32)[clear])


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">i2", "<u2", "u1"])
def test_any_memory_gives_the_same_values(mode, dtype):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 100, (2, 9, 8, 7)).astype(dtype)
    grid = torch.from_numpy(rng.uniform(-9, 19, (3, 4, 5, 6)).astype(np.float32))
    expected = resample(torch.from_numpy(array.astype(array.dtype.newbyteorder("="))), grid, mode)
    locked = array.copy()
    locked.flags.writeable = False
    flipped = np.ascontiguousarray(array[:, ::-1, :, ::-1])[:, ::-1, :, ::-1]
    cut = np.zeros((2, 12, 12, 12), dtype=dtype)
    cut[:, 1:10, 2:10, 3:10] = array
    turned = np.asfortranarray(array)
    for same in (array, locked, flipped, cut[:, 1:10, 2:10, 3:10], turned):
        assert torch.equal(resample(same, grid, mode), expected)
    assert torch.equal(resample(torch.from_numpy(array.astype("f4"))[..., :], grid, mode).float(), expected.float())


def test_only_what_is_needed_is_read(tmp_path):
    poisoned = np.full((1, 60, 50, 40), np.nan, dtype=np.float32)
    poisoned[:, 20:41, 10:31, 10:31] = 1
    params = SpatialParams(rotation_rad=(0, 0, np.pi / 4))
    grid = sampling_grid(params, (9, 9, 9), (1, 1, 1), (4, 4, 4), (30, 20, 20))
    assert torch.equal(resample(poisoned, grid, "linear"), torch.ones(1, 9, 9, 9))
    poisoned.flags.writeable = False
    assert torch.equal(resample(poisoned, grid, "linear"), torch.ones(1, 9, 9, 9))


def test_wrong_arguments_are_refused():
    grid = torch.zeros(3, 2, 2, 2)
    with pytest.raises(ConfigError, match="cubic"):
        resample(torch.zeros(1, 2, 2, 2), grid, "cubic")
    with pytest.raises(GeometryError, match="channels"):
        resample(torch.zeros(2, 2, 2), grid, "linear")
    with pytest.raises(GeometryError, match="box"):
        crop(np.zeros((1, 2, 2, 2)), Box((0, 0, 0), (1, 0, 1)))
    with pytest.raises(ConfigError, match="enlarge the patch"):
        output_box((88, 92, 92), (88, 88, 88))


def test_the_smaller_half_of_an_odd_margin_comes_first():
    assert output_box((132, 15, 9), (88, 5, 0)) == Box((44, 2, 0), (44, 10, 9))


def volume_and_labels(seed, shape=(20, 18, 12)):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    classes = rng.integers(0, 3, shape).astype(np.uint8)
    return image, classes, (rng.random(shape) < 0.2).astype(np.float32) * 2, rng


@settings(max_examples=200, deadline=None)
@given(seeds, st.booleans(), st.data())
def test_a_patch_holds_its_anchor_and_only_its_output_box(seed, still, data):
    image, classes, weight, rng = volume_and_labels(seed)
    size, margin = (14, 9, 11), (6, 4, 3)
    inner = output_box(size, margin)
    anchor = tuple(data.draw(st.integers(a, b - 1)) for a, b in zip(inner.start, inner.stop, strict=True))
    voxel = tuple(int(v) for v in rng.choice(np.argwhere(weight)))
    params = None if still else SpatialAugmentation().draw(rng, size, (1, 1, 2))
    patch, codes, weights = cut_patch(image, classes, weight, params, (1, 1, 2), size, margin, anchor, voxel)
    assert (patch.dtype, codes.dtype, weights.dtype) == (torch.float32, torch.int64, torch.float32)
    assert patch.shape == (2, *size)
    assert codes.shape == weights.shape == inner.size
    at = tuple(np.subtract(anchor, inner.start))
    assert weights[at] == weight[voxel]
    assert codes[at] == classes[voxel]
    np.testing.assert_allclose(patch[(slice(None), *anchor)], image[(slice(None), *voxel)], atol=1e-4)


@settings(max_examples=200, deadline=None)
@given(seeds, st.booleans())
def test_codes_under_unlabeled_voxels_change_nothing(seed, still):
    image, classes, weight, rng = volume_and_labels(seed)
    other = np.where(weight > 0, classes, rng.integers(0, 250, classes.shape)).astype(np.uint8)
    params = None if still else SpatialAugmentation().draw(rng, (10, 10, 10), (1, 1, 1))
    first, second = (
        cut_patch(image, c, weight, params, (1, 1, 1), (10, 10, 10), (4, 4, 4), (5, 5, 5), (3, 2, 1))
        for c in (classes, other)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_plain_and_moved_patches_agree_and_tensors_are_taken_too():
    image, classes, weight, _ = volume_and_labels(0)
    cut = ((1, 1, 1), (10, 8, 10), (4, 4, 4), (5, 5, 5), (3, 2, 1))
    tensors = [torch.from_numpy(a) for a in (image, classes, weight > 0)]
    plain = cut_patch(image, classes, weight > 0, None, *cut)
    nearly = SpatialParams(rotation_rad=(0.0, 0.0, 1e-7))
    for params, arrays in ((None, tensors), (SpatialParams(), tensors), (nearly, tensors), (nearly, (image, classes))):
        again = cut_patch(*arrays, *([weight > 0] if len(arrays) == 2 else []), params, *cut)
        assert (again[0] - plain[0]).abs().max() < 1e-4
        assert torch.equal(again[1], plain[1])
        assert torch.equal(again[2], plain[2])


def test_r15_a_volume_smaller_than_the_patch_and_one_voxel_thick_is_cut():
    image, classes, weight, rng = volume_and_labels(2, (5, 6, 1))
    weight[2, 3, 0] = 1
    for params in (None, SpatialAugmentation().draw(rng, (20, 20, 9), (1, 1, 3))):
        patch, codes, weights = cut_patch(
            image, classes, weight, params, (1, 1, 3), (20, 20, 9), (4, 4, 4), (9, 9, 4), (2, 3, 0)
        )
        assert torch.isfinite(patch).all()
        assert weights[7, 7, 2] == 1
        assert codes[7, 7, 2] == classes[2, 3, 0]
