"""Distances between surfaces, against a search over all pairs, against MONAI, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vol3d import metrics
from vol3d.errors import ConfigError, GeometryError, LabelError
from vol3d.metrics import (
    average_symmetric_surface_distance,
    hausdorff,
    hausdorff_percentile,
    surface_dice,
    surface_distances,
)

UNIT = (1.0, 1.0, 1.0)
SKEW = (0.7, 1.0, 2.5)
law = settings(deadline=None, max_examples=100)
shapes = st.tuples(*[st.integers(1, 5)] * 3)
spacings = st.tuples(*[st.sampled_from([0.3, 0.5, 1.0, 2.04])] * 3)


@st.composite
def pairs(draw):
    """Two masks of one shape, possibly empty."""
    shape = draw(shapes)
    return draw(hnp.arrays(bool, shape)), draw(hnp.arrays(bool, shape))


def slow_surface(mask):
    """Surface voxels by the definition, one by one."""
    found = []
    for voxel in np.argwhere(mask):
        for axis, step in ((a, s) for a in range(3) for s in (-1, 1)):
            if mask.shape[axis] == 1 and mask.size > 1:
                continue
            beside = voxel.copy()
            beside[axis] += step
            if not 0 <= beside[axis] < mask.shape[axis] or not mask[tuple(beside)]:
                found.append(voxel)
                break
    return np.array(found, dtype=float).reshape(-1, 3)


def slow_distances(prediction, reference, spacing):
    """Directed distances by a search over all pairs of surface voxels."""
    ours, theirs = slow_surface(prediction) * spacing, slow_surface(reference) * spacing
    if not len(ours) or not len(theirs):
        return np.full(len(ours), np.inf), np.full(len(theirs), np.inf)
    table = np.linalg.norm(ours[:, None] - theirs[None], axis=-1)
    return table.min(axis=1), table.min(axis=0)


@law
@given(pairs(), spacings, st.sampled_from([0.0, 0.3, 1.0, 1.5]), st.sampled_from([0.0, 50.0, 95.0, 100.0]))
def test_agrees_with_a_search_over_all_pairs(masks, spacing, tolerance, percentile):
    prediction, reference = masks
    there, back = slow_distances(prediction, reference, spacing)
    found = surface_distances(prediction, reference, spacing)
    assert np.allclose(found.to_reference, there)
    assert np.allclose(found.to_prediction, back)
    if not len(there) and not len(back):
        wanted = (0.0, 0.0, 0.0, 1.0)
    elif not len(there) or not len(back):
        wanted = (math.inf, math.inf, math.inf, 0.0)
    else:
        both = np.concatenate([there, back])
        at = max(np.percentile(there, percentile), np.percentile(back, percentile))
        wanted = (both.max(), at, both.mean(), np.mean(both <= tolerance * (1 + 1e-6)))
    assert hausdorff(prediction, reference, spacing) == pytest.approx(wanted[0])
    assert hausdorff_percentile(prediction, reference, spacing, percentile) == pytest.approx(wanted[1])
    assert average_symmetric_surface_distance(prediction, reference, spacing) == pytest.approx(wanted[2])
    assert surface_dice(prediction, reference, spacing, tolerance) == pytest.approx(wanted[3])


@law
@given(pairs(), spacings)
def test_sides_and_axes_can_be_exchanged(masks, spacing):
    one, other = surface_distances(*masks, spacing), surface_distances(*masks[::-1], spacing)
    assert np.array_equal(one.to_reference, other.to_prediction)
    turned = surface_distances(*(mask.transpose(2, 0, 1) for mask in masks), (spacing[2], *spacing[:2]))
    assert turned.hausdorff() == pytest.approx(one.hausdorff())
    assert turned.average() == pytest.approx(one.average())
    flipped = surface_distances(*(mask[::-1, :, ::-1] for mask in masks), spacing)
    assert np.allclose(np.sort(flipped.to_reference), np.sort(one.to_reference))


def _blobs(shape, seed):
    """Two smooth random objects that overlap in part and reach the border."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    first = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    second = first + 0.5 * ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    return first > np.quantile(first, 0.6), second > np.quantile(second, 0.6)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI about itself
@pytest.mark.parametrize("shape", [(20, 17, 14), (24, 20, 1), (24, 1, 20)])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_monai(shape, seed):
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    prediction, reference = _blobs(shape, seed)
    kept = [axis for axis in range(3) if shape[axis] > 1]
    ours, theirs = (torch.from_numpy(mask.squeeze()[None, None].astype(np.float32)) for mask in (prediction, reference))
    options = {"include_background": True, "spacing": [SKEW[axis] for axis in kept]}
    for percentile in (95, 50):
        wanted = compute_hausdorff_distance(ours, theirs, percentile=percentile, **options)
        found = hausdorff_percentile(prediction, reference, SKEW, percentile)
        assert found == pytest.approx(float(wanted), rel=1e-5)
    assert hausdorff(prediction, reference, SKEW) == pytest.approx(
        float(compute_hausdorff_distance(ours, theirs, **options)), rel=1e-5
    )
    assert average_symmetric_surface_distance(prediction, reference, SKEW) == pytest.approx(
        float(compute_average_surface_distance(ours, theirs, symmetric=True, **options)), rel=1e-5
    )
    for tolerance in (0.5, 1.1, 2.6):  # none a distance that float32 and float64 could place on two sides
        wanted = compute_surface_dice(ours, theirs, class_thresholds=[tolerance], **options)
        assert surface_dice(prediction, reference, SKEW, tolerance) == pytest.approx(float(wanted), rel=1e-6)


def test_one_voxel_each():
    one, other = np.zeros((2, 6, 5, 4), bool)
    one[1, 1, 1] = other[3, 4, 3] = True
    wanted = math.sqrt((2 * 0.7) ** 2 + 3**2 + (2 * 2.5) ** 2)
    for measure in (hausdorff, hausdorff_percentile, average_symmetric_surface_distance):
        assert measure(one, other, SKEW) == pytest.approx(wanted)
        assert measure(one, one, SKEW) == 0.0
    assert surface_dice(one, other, SKEW, 5.9) == 0.0
    assert surface_dice(one, other, SKEW, 6.0) == 1.0


def test_shifted_cubes():
    one, other = np.zeros((2, 12, 12, 12), bool)
    one[2:7, 2:7, 2:7] = True
    other[2:7, 2:7, 4:9] = True
    assert hausdorff(one, other, SKEW) == pytest.approx(5.0)  # 2 voxels of 2.5 mm
    found = surface_distances(one, other, SKEW)
    assert found.to_reference.size == found.to_prediction.size == 5**3 - 3**3
    assert found.percentile(95) <= found.hausdorff()
    assert found.percentile(100) == found.hausdorff()
    assert hausdorff(one, other, (1, 1, 0.25)) == pytest.approx(0.5)


def test_a_cube_in_a_corner_has_a_surface_at_the_border():
    mask = np.zeros((8, 8, 8), bool)
    mask[:4, :4, :4] = True
    assert surface_distances(mask, mask, UNIT).to_reference.size == 4**3 - 2**3
    full = np.ones((4, 4, 4), bool)
    assert surface_distances(full, full, UNIT).to_reference.size == 4**3 - 2**3


def test_in_a_plane_the_missing_axis_makes_no_surface():
    plane = np.zeros((9, 1, 9), bool)
    plane[2:7, 0, 2:7] = True
    assert surface_distances(plane, plane, UNIT).to_reference.size == 16
    thick = np.repeat(plane, 3, axis=1)  # the same object with neighbours above and below: all of it is surface
    assert surface_distances(thick, thick, UNIT).to_reference.size == 25 * 2 + 16


def test_empty_objects():
    none, some = np.zeros((2, 4, 4, 4), bool)
    some[1, 1, 1] = True
    for measure in (hausdorff, hausdorff_percentile, average_symmetric_surface_distance):
        assert measure(none, none, UNIT) == 0.0
        assert measure(none, some, UNIT) == measure(some, none, UNIT) == math.inf
    assert surface_dice(none, none, UNIT, 1.0) == 1.0
    assert surface_dice(none, some, UNIT, 1.0) == surface_dice(some, none, UNIT, 1.0) == 0.0


def test_a_tolerance_of_one_voxel_reaches_the_next_one_wherever_it_lies():
    for start in range(30):
        one, other = np.zeros((2, 40, 1, 3), bool)
        one[start, 0, 1] = other[start + 1, 0, 1] = True
        assert surface_dice(one, other, (0.3, 1.0, 1.0), 0.3) == 1.0
        assert surface_dice(one, other, (float(np.float32(0.3)), 1.0, 1.0), 0.3) == 1.0
        assert surface_dice(one, other, (0.3, 1.0, 1.0), 0.2999) == 0.0


def test_refusals_say_what_was_found():
    mask = np.ones((3, 3, 3), bool)
    with pytest.raises(GeometryError, match=r"\(3, 3, 3\) and \(3, 3\)"):
        hausdorff(mask, mask[0], UNIT)
    with pytest.raises(GeometryError, match="one shape"):
        hausdorff(mask[0], mask[0], UNIT)
    with pytest.raises(GeometryError, match="three positive spacings"):
        hausdorff(mask, mask, (1, 0, 1))
    with pytest.raises(GeometryError, match="three positive spacings"):
        hausdorff(mask, mask, (1, math.nan, 1))
    with pytest.raises(LabelError, match="bool mask as reference, found uint8"):
        hausdorff(mask, mask.astype(np.uint8), UNIT)
    with pytest.raises(ConfigError, match="from 0 to 100, found 101"):
        hausdorff_percentile(mask, mask, UNIT, 101)
    for tolerance in (-1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="0 mm or more"):
            surface_dice(mask, mask, UNIT, tolerance)


def test_metrics_of_objects_are_there_when_asked_for():
    assert metrics.instance_scores(np.ones((2, 2), int), np.ones((2, 2), int)).objects == 1
    assert metrics.PanopticScore is type(metrics.panoptic_scores(*[np.ones((2, 2), int)] * 4, [1])[1])
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = metrics.nothing
