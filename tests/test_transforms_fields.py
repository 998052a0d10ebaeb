"""Spatial parameters, the B-spline field and the sampling grid."""

import json

import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vol3d.errors import ConfigError
from vol3d.transforms import SpatialAugmentation, SpatialParams, linear_part, resample, sampling_grid
from vol3d.transforms.fields import control_points
from vol3d.transforms.mirror import fold, fold_index
from vol3d.transforms.spline import interpolation_weights

MICROSCOPE = (0.00176, 0.00176, 0.00204)


def reference_grid(params, size, spacing, anchor_patch, anchor_volume):
    """The same map written down anew, point by point: SciPy's spline and plain matrices, float64."""
    spacing = np.asarray(spacing)
    a, b, c = params.rotation_rad
    rotation = scipy.spatial.transform.Rotation.from_euler("xyz", [a, b, c]).as_matrix()
    signs = np.where(params.flips, -1, 1)
    points = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij")).reshape(3, -1).astype(float)
    anchor = np.asarray(anchor_patch, dtype=float)[:, None]
    mm = (points - anchor) * spacing[:, None]
    moved = rotation @ (np.asarray(params.scale)[:, None] * signs[:, None] * mm) / spacing[:, None]
    result = np.asarray(anchor_volume, dtype=float)[:, None] + moved
    if params.displacements is not None:
        step = params.control_spacing_voxels * spacing.min()

        def control(p):
            centre = (np.array(size)[:, None] - 1) / 2
            middle = (np.array(params.displacements.shape[1:])[:, None] - 1) / 2
            return (p - centre) * spacing[:, None] / step + middle

        for axis in range(3):
            coefficients = scipy.ndimage.spline_filter(params.displacements[axis].astype(float), 3, mode="mirror")
            at = [
                scipy.ndimage.map_coordinates(coefficients, control(p), order=3, prefilter=False, mode="mirror")
                for p in (points, anchor)
            ]
            result[axis] += (at[0] - at[1]) * spacing.min() / spacing[axis]
    return result.reshape(3, *size)


@pytest.mark.parametrize("points", [1, 2, 3, 6, 11])
def test_spline_weights_equal_scipys_spline_filter(points):
    rng = np.random.default_rng(points)
    values = rng.normal(size=points)
    at = rng.uniform(0, max(points - 1, 0), 50)
    ours = interpolation_weights(at, points) @ values
    if points == 1:
        np.testing.assert_allclose(ours, values[0])
        return
    coefficients = scipy.ndimage.spline_filter1d(values, 3, mode="mirror")
    theirs = scipy.ndimage.map_coordinates(coefficients, at[None], order=3, prefilter=False, mode="mirror")
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("points", [4, 7])
def test_spline_weights_equal_scipys_clamped_interpolating_spline(points):
    values = np.random.default_rng(0).normal(size=points)
    spline = scipy.interpolate.make_interp_spline(np.arange(points), values, k=3, bc_type="clamped")
    at = np.linspace(0, points - 1, 41)
    np.testing.assert_allclose(interpolation_weights(at, points) @ values, spline(at), atol=1e-9)


def test_vectors_are_the_displacements_at_the_control_points():
    weights = interpolation_weights(np.arange(6.0), 6)
    np.testing.assert_allclose(weights, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(interpolation_weights(np.linspace(-2, 9, 30), 6).sum(axis=1), 1, atol=1e-12)


def test_displacements_have_the_asked_spread_at_control_points():
    size, spacing = (129, 97, 65), (1.0, 1.0, 1.0)
    rms = []
    for seed in range(12):
        params = SpatialAugmentation(rotation_degrees=0, scale=(1, 1)).draw(np.random.default_rng(seed), size, spacing)
        grid = sampling_grid(params, size, spacing, (0, 0, 0), (0, 0, 0)).numpy()
        moved = grid - np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"))
        at_control = moved[:, ::32, ::32, ::32]  # the patch's corners are control points for these sizes
        vectors = params.displacements[:, 1:-1, 1:-1, 1:-1]
        np.testing.assert_allclose(at_control - at_control[:, :1, :1, :1], vectors - vectors[:, :1, :1, :1], atol=2e-4)
        rms.append(vectors.std())
    assert 3.7 < np.mean(rms) < 4.3  # unfiltered coefficients would give about 1.3 in three dimensions


@pytest.mark.parametrize(
    ("size", "spacing"), [((132, 132, 116), MICROSCOPE), ((40, 1, 30), (1, 1, 1)), ((20, 30, 8), (0.5, 0.7, 4.0))]
)
def test_control_points_cover_the_patch_and_one_more(size, spacing):
    points = control_points(size, spacing, 32.0)
    extent = (np.array(size) - 1) * spacing / (32 * min(spacing))
    assert all((np.array(points) - 1) / 2 - extent / 2 >= 1 - 1e-9)
    assert all((np.array(points) - 1) / 2 - extent / 2 < 2)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), MICROSCOPE, (0.5, 0.8, 3.0)])
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True)])
def test_grid_equals_an_independent_one(spacing, flips):
    size = (30, 26, 14)
    drawn = SpatialAugmentation(control_spacing_voxels=9.0).draw(np.random.default_rng(3), size, spacing)
    params = SpatialParams(drawn.rotation_rad, drawn.scale, flips, drawn.displacements, 9.0)
    grid = sampling_grid(params, size, spacing, (4, 20, 9), (17, 3, 11))
    assert grid.dtype == torch.float32
    expected = reference_grid(params, size, spacing, (4, 20, 9), (17, 3, 11))
    np.testing.assert_allclose(grid.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.8, 3.0)])
def test_patch_equals_an_independent_map_coordinates_warp(spacing):
    rng = np.random.default_rng(7)
    volume = rng.uniform(0, 1, (33, 41, 12)).astype(np.float32)
    size = (36, 30, 20)
    params = SpatialAugmentation().draw(rng, size, spacing)
    grid = sampling_grid(params, size, spacing, (10, 11, 12), (5, 30, 6))
    ours = resample(torch.from_numpy(volume)[None], grid, "linear")[0].numpy()
    expected = reference_grid(params, size, spacing, (10, 11, 12), (5, 30, 6))
    theirs = scipy.ndimage.map_coordinates(volume.astype(float), expected, order=1, mode="mirror")
    assert np.abs(ours - theirs).max() <= 1e-4


def test_a_ball_stays_a_ball_in_mm():
    spacing = np.array([0.5, 1.0, 2.0])
    shape = (81, 41, 21)
    centre = (np.array(shape) - 1) / 2
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    radius = np.linalg.norm((index - centre[:, None, None, None]) * spacing[:, None, None, None], axis=0)
    ball = torch.from_numpy(radius[None].astype(np.float32))
    params = SpatialParams(rotation_rad=(0.4, -0.3, 0.5))
    anchor = tuple(int(c) for c in centre)
    grid = sampling_grid(params, (61, 31, 15), spacing.tolist(), (30, 15, 7), anchor)
    turned = resample(ball, grid, "linear")[0].numpy()
    expected = radius[10:71, 5:36, 3:18]
    inside = expected < 7
    assert np.abs(turned - expected)[inside].max() < 0.7  # linear interpolation of a cone; a sheared one is off by 3
    distances = np.linalg.norm((grid.numpy() - centre[:, None, None, None]) * spacing[:, None, None, None], axis=0)
    np.testing.assert_allclose(distances, expected, atol=1e-4)
    matrix = np.diag(spacing) @ linear_part(params, spacing.tolist()) @ np.diag(1 / spacing)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)


sizes = st.tuples(*[st.integers(1, 24)] * 3)


@settings(max_examples=200, deadline=None)
@given(sizes, sizes, st.integers(0, 2**32 - 1), st.tuples(*[st.floats(0.5, 3)] * 3), st.data())
def test_anchor_finds_exactly_the_drawn_voxel(size, shape, seed, spacing, data):
    anchor = tuple(data.draw(st.integers(0, n - 1)) for n in size)
    voxel = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    augmentation = SpatialAugmentation(deformation_voxels=8, control_spacing_voxels=6, flip_probability=0.5)
    params = augmentation.draw(np.random.default_rng(seed), size, spacing)
    grid = sampling_grid(params, size, spacing, anchor, voxel)
    assert np.abs(grid[(slice(None), *anchor)].numpy() - voxel).max() <= 1e-4
    codes = torch.zeros(1, *shape, dtype=torch.uint8)
    codes[(0, *voxel)] = 1
    assert resample(codes, grid, "nearest")[(0, *anchor)] == 1


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), sizes, st.floats(0, 1), st.floats(0, 1))
def test_same_seed_same_params_and_json_brings_them_back(seed, size, probability, deformation):
    augmentation = SpatialAugmentation(
        probability=probability, deformation_probability=deformation, flip_probability=0.5
    )
    first, second = (augmentation.draw(np.random.default_rng(seed), size, MICROSCOPE) for _ in range(2))
    again = SpatialParams.from_json(json.loads(json.dumps(first.to_json())))
    assert first == second == again
    assert hash(first) == hash(again)
    one, two = (sampling_grid(p, size, MICROSCOPE, (0, 0, 0), (1, 2, 3)) for p in (first, again))
    assert torch.equal(one, two)
    assert str(first) == str(again)


def test_a_thin_patch_stays_in_its_plane():
    params = SpatialAugmentation().draw(np.random.default_rng(0), (40, 30, 1), (1, 1, 4))
    assert params.rotation_rad[:2] == (0, 0)
    assert params.rotation_rad[2] != 0
    grid = sampling_grid(params, (40, 30, 1), (1, 1, 4), (3, 4, 0), (9, 9, 5))
    assert torch.allclose(grid[2], torch.full_like(grid[2], 5), atol=1e-6)


def test_switched_off_augmentation_draws_the_identity():
    params = SpatialAugmentation(probability=0).draw(np.random.default_rng(0), (9, 9, 9), (1, 1, 1))
    assert params.is_identity
    assert params == SpatialParams()
    assert params != "identity"
    assert "without deformation" in str(params)
    assert not SpatialParams(flips=(True, False, False)).is_identity
    drawn = SpatialAugmentation().draw(np.random.default_rng(0), (9, 9, 9), (1, 1, 1))
    assert not drawn.is_identity
    assert "rms" in str(drawn)
    with pytest.raises(ValueError, match="read-only"):
        drawn.displacements[0] = 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: SpatialAugmentation(probability=1.5),
        lambda: SpatialAugmentation(scale=(0, 1)),
        lambda: SpatialParams(scale=(1, 0, 1)),
        lambda: SpatialParams(scale=(1, np.inf, 1)),
        lambda: SpatialParams(rotation_rad=(0, np.nan, 0)),
        lambda: SpatialParams(displacements=np.zeros((2, 3, 3, 3), dtype=np.float32)),
        lambda: SpatialParams.from_json({"scale": 1}),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(ConfigError, match="expected"):
        make()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(-200, 200), min_size=1))
def test_folding_is_the_mirror_of_numpys_reflect(length, index):
    values = np.arange(length)
    padded = np.pad(values, 200, mode="reflect") if length > 1 else np.zeros(401, dtype=int)
    expected = padded[np.array(index) + 200]
    assert np.array_equal(fold_index(np.array(index), length), expected)
    assert np.array_equal(fold(torch.tensor(index, dtype=torch.float32), length).numpy(), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_grid_and_patch_are_the_same_on_cuda():
    rng = np.random.default_rng(0)
    params = SpatialAugmentation().draw(rng, (60, 50, 40), MICROSCOPE)
    volume = torch.from_numpy(rng.uniform(0, 1, (2, 50, 60, 20)).astype(np.float32))
    codes = torch.from_numpy(rng.integers(0, 4, (1, 50, 60, 20), dtype=np.uint8))
    there, here = (
        sampling_grid(params, (60, 50, 40), MICROSCOPE, (9, 9, 9), (20, 30, 10), device) for device in ("cuda", "cpu")
    )
    assert (there.cpu() - here).abs().max() <= 1e-4
    moved = resample(volume.cuda(), here.cuda(), "linear").cpu()
    assert (moved - resample(volume, here, "linear")).abs().max() <= 1e-4
    assert torch.equal(resample(codes.cuda(), here.cuda(), "nearest").cpu(), resample(codes, here, "nearest"))
