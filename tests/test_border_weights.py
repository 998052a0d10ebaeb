from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vol3d.errors import ConfigError, GeometryError, LabelError
from vol3d.losses import border_weights

law = settings(deadline=None, max_examples=80)
SEEDS = st.integers(0, 2**31 - 1)
SHAPES = st.sampled_from([(9, 8, 1), (6, 5, 4), (1, 11, 7), (7, 7, 5)])
SPACINGS = st.sampled_from([(1.0, 1.0, 1.0), (0.3, 0.5, 2.0), (2.0, 0.7, 0.7)])
SIGMAS = st.sampled_from([None, 0.2, 1.0, 20.0])
PLANES = [(0, 2), (1, 3), (2, 1), (2, 3)]
ISOTROPIC = (1.0, 1.0, 1.0)


def _case(seed: int, shape: tuple[int, ...], labeled: float, objects: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    instances = rng.choice([3, 5, 6, 200], shape) * (rng.random(shape) < objects)
    return instances, rng.random(shape) < labeled


def _term(instances: np.ndarray, labeled: np.ndarray, spacing: tuple[float, ...], w0: float, sigma: float | None):
    """The map of one plane or volume, voxel by voxel and object by object."""
    known = np.where(labeled, instances, 0)
    if sigma is None:
        sigma = 5 * min(s for s, n in zip(spacing, known.shape, strict=True) if n > 1)
    places = {code: np.argwhere(known == code) for code in np.unique(known[known > 0])}
    weights = np.zeros(known.shape)
    for voxel in np.argwhere(labeled):
        near = {code: np.sqrt((((p - voxel) * spacing) ** 2).sum(1)).min() for code, p in places.items()}
        own = known[tuple(voxel)]
        weights[tuple(voxel)] = 1
        if own:
            window = known[tuple(slice(max(0, i - 1), i + 2) for i in voxel)]
            if not ((window > 0) & (window != own)).any():
                continue
        if len(near) > 1:
            d1, d2 = sorted(near.values())[:2]
            weights[tuple(voxel)] += w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return weights


def _in_planes(instances, labeled, spacing, planes, w0, sigma) -> np.ndarray:
    weights = labeled.astype(float)
    for axis, index in planes:
        part = [np.take(a, index, axis) for a in (instances, labeled)]
        found = _term(*part, tuple(s for a, s in enumerate(spacing) if a != axis), w0, sigma)
        view = np.moveaxis(weights, axis, 0)
        view[index] = np.maximum(view[index], found)
    return weights


@law
@given(SEEDS, SHAPES, SPACINGS, SIGMAS, st.sampled_from([0.0, 1e-9, 1.0, 10.0]))
def test_dense_labels_equal_brute_force(
    seed: int, shape: tuple[int, ...], spacing: tuple[float, ...], sigma: float | None, w0: float
) -> None:
    instances, labeled = _case(seed, shape, 0.85)
    labeled.flat[: labeled.size // 2] = True
    found = border_weights(instances, labeled, spacing, w0=w0, sigma_mm=sigma)
    assert found.dtype == np.float32
    assert np.allclose(found, _term(instances, labeled, spacing, w0, sigma), rtol=1e-5, atol=1e-6)


@law
@given(SEEDS, SPACINGS, SIGMAS, st.lists(st.sampled_from(PLANES), min_size=1, max_size=3, unique=True))
def test_annotated_planes_equal_brute_force(
    seed: int, spacing: tuple[float, ...], sigma: float | None, planes: list[tuple[int, int]]
) -> None:
    instances, labeled = _case(seed, (8, 7, 9), 0.8)
    annotated = np.zeros_like(labeled)
    for axis, index in planes:
        np.moveaxis(annotated, axis, 0)[index] = True
    annotated[0, 0, 0] = True  # labeled, but in no plane
    labeled &= annotated
    found = border_weights(instances, labeled, spacing, planes=planes, sigma_mm=sigma)
    assert np.allclose(found, _in_planes(instances, labeled, spacing, planes, 10.0, sigma), rtol=1e-5, atol=1e-6)


@law
@given(SEEDS, st.booleans(), st.booleans())
def test_what_stands_at_unlabeled_voxels_changes_nothing(seed: int, sparse: bool, foreground: bool) -> None:
    instances, labeled = _case(seed, (8, 7, 9), 0.3 if sparse else 0.9)
    if foreground:
        instances = instances > 0
    garbage = np.random.default_rng(seed + 1).permutation(instances.ravel()).reshape(instances.shape)
    if not foreground:
        garbage -= 100
    other = np.where(labeled, instances, garbage)
    found, again = (border_weights(a, labeled, (0.5, 1.0, 2.0), planes=PLANES) for a in (instances, other))
    assert np.array_equal(found, again)
    assert (found[~labeled] == 0).all()
    assert (found[labeled] >= 1).all()


@law
@given(SEEDS, st.booleans())
def test_a_foreground_has_its_connected_parts_as_objects(seed: int, sparse: bool) -> None:
    instances, labeled = _case(seed, (8, 7, 9), 0.3 if sparse else 0.9, objects=0.1)
    foreground = instances > 0
    found = border_weights(foreground, labeled, ISOTROPIC, planes=PLANES if sparse else [])
    if not sparse:
        parts, _ = ndimage.label(foreground & labeled, np.ones((3, 3, 3)))
        assert np.array_equal(found, border_weights(parts, labeled, ISOTROPIC))
        return
    expected = labeled.astype(np.float32)
    for plane in PLANES:
        view = tuple(plane[1] if a == plane[0] else slice(None) for a in range(3))
        parts = np.zeros(foreground.shape, int)
        parts[view], _ = ndimage.label((foreground & labeled)[view], np.ones((3, 3)))
        expected = np.maximum(expected, border_weights(parts, labeled, ISOTROPIC, planes=[plane]))
    assert np.array_equal(found, expected)


@law
@given(SEEDS, st.permutations(range(3)), st.booleans())
def test_order_of_axes_and_numbers_of_objects_do_not_matter(seed: int, order: list[int], mirrored: bool) -> None:
    instances, labeled = _case(seed, (8, 7, 9), 0.9)
    spacing = (0.3, 0.5, 2.0)
    step = -1 if mirrored else 1
    found = border_weights(instances, labeled, spacing)
    renumbered = np.where(instances > 0, 256 - instances, 0).astype(np.uint8)
    turned = [a.transpose(order)[::step] for a in (renumbered, labeled)]
    again = border_weights(*turned, [spacing[a] for a in order])
    assert np.array_equal(found.transpose(order)[::step], again)


def test_a_gap_between_two_objects_by_hand() -> None:
    line = np.array([1, 1, 0, 0, 2, 2, 0, 0])
    instances = np.repeat(line.reshape(-1, 1, 1), 5, axis=1)
    found = border_weights(instances, np.ones(instances.shape, bool), (0.5, 0.5, 9.0), w0=4.0, sigma_mm=1.0)
    gap = 1 + 4 * np.exp(-((3 * 0.5) ** 2) / 2)
    right = [1 + 4 * np.exp(-((d1 + d2) ** 2) / 2) for d1, d2 in [(0.5, 2.5), (1.0, 3.0)]]
    assert np.allclose(found[:, 2, 0], [1, 1, gap, gap, 1, 1, *right])


def test_touching_objects_are_raised_along_their_common_boundary_alone() -> None:
    instances = np.ones((6, 6, 1), int)
    instances[3:] = 2
    found = border_weights(instances, np.ones(instances.shape, bool), ISOTROPIC, sigma_voxels=2.0)
    raised = 1 + 10 * np.exp(-1 / 8)
    assert np.allclose(found[:, 0, 0], [1, 1, raised, raised, 1, 1])
    diagonal = np.diag([1, 2])[..., None]
    corner = border_weights(diagonal, np.ones(diagonal.shape, bool), ISOTROPIC, sigma_voxels=2.0)
    assert corner[0, 0, 0] == corner[1, 1, 0] == pytest.approx(1 + 10 * np.exp(-2 / 8))


def test_sigma_follows_the_finest_spacing_of_each_plane() -> None:
    instances = np.zeros((20, 20, 20), int)
    instances[5], instances[8] = 1, 2
    labeled = np.zeros(instances.shape, bool)
    labeled[:, :, 4] = labeled[:, 3, :] = True
    found = border_weights(instances, labeled, (0.4, 0.2, 0.1), planes=[(2, 4), (1, 3)])
    assert found[6, 15, 4] == pytest.approx(1 + 10 * np.exp(-(1.2**2) / 2 / (5 * 0.2) ** 2))
    assert found[6, 3, 15] == pytest.approx(1 + 10 * np.exp(-(1.2**2) / 2 / (5 * 0.1) ** 2))
    assert found[6, 3, 4] == found[6, 15, 4]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_objects_have_no_border(count: int) -> None:
    instances = np.zeros((6, 5, 4), int)
    instances[2, 2, 2] = count
    labeled = np.ones(instances.shape, bool)
    assert (border_weights(instances, labeled, ISOTROPIC) == 1).all()
    assert not border_weights(instances, ~labeled, ISOTROPIC).any()


def test_a_single_slice_is_measured_in_2d_however_little_is_labeled() -> None:
    instances, labeled = _case(3, (12, 1, 9), 0.3)
    found = border_weights(instances, labeled, (1.0, 3.0, 0.5))
    assert np.allclose(found, _term(instances, labeled, (1.0, 3.0, 0.5), 10.0, None), atol=1e-6)


def test_hundreds_of_objects_in_a_large_plane_take_well_under_a_second() -> None:
    rng = np.random.default_rng(5)
    instances = np.zeros((512, 512, 3), np.int64)
    corners = [(x, y) for x in range(0, 500, 22) for y in range(0, 500, 22)]
    for number, (x, y) in enumerate(corners, start=1):
        instances[x : x + rng.integers(12, 23), y : y + rng.integers(12, 23)] = 7 * number
    labeled = np.zeros(instances.shape, bool)
    labeled[:, :, 1] = True
    start = time.process_time()
    found = border_weights(instances, labeled, ISOTROPIC, planes=[(2, 1)])
    assert time.process_time() - start < 2  # slow machines included
    assert len(corners) > 500
    assert found[:, :, 1].max() > 8


def test_what_does_not_fit_is_refused() -> None:
    instances, labeled = _case(1, (6, 5, 4), 0.9)
    sparse = np.zeros_like(labeled)
    sparse[2, 2] = True
    with pytest.raises(GeometryError, match="one grid"):
        border_weights(instances[1:], labeled, ISOTROPIC)
    with pytest.raises(GeometryError, match="one grid"):
        border_weights(instances[0], labeled[0], ISOTROPIC)
    for spacing in ((1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, float("nan"))):
        with pytest.raises(GeometryError, match="three spacings"):
            border_weights(instances, labeled, spacing)
    for plane in ((3, 0), (0, 6), (-1, 0), (1, -1)):
        with pytest.raises(GeometryError, match="planes of a grid"):
            border_weights(instances, labeled, ISOTROPIC, planes=[plane])
    for wrong in ({"w0": -1.0}, {"w0": float("inf")}, {"sigma_mm": 0.0}, {"sigma_voxels": float("nan")}):
        with pytest.raises(ConfigError, match="σ > 0"):
            border_weights(instances, labeled, ISOTROPIC, **wrong)
    with pytest.raises(LabelError, match="negative"):
        border_weights(-instances, labeled, ISOTROPIC)
    with pytest.raises(LabelError, match="bool labeled"):
        border_weights(instances.astype(float), labeled, ISOTROPIC)
    with pytest.raises(LabelError, match="no plane"):
        border_weights(instances, sparse, ISOTROPIC)
