"""Boxes around labeled voxels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vol3d.sampling import regions_around, whole_region, with_whole_slices
from vol3d.sampling.windows import judged_part
from vol3d.volume import Affine, SparseLabels


def painted(shape, planes, part=slice(None)):
    asked = np.zeros(shape, dtype=bool)
    for axis, index in planes:
        asked[(slice(None),) * axis + (index,)] = True
    keep = np.zeros_like(asked)
    keep[part] = True
    return asked & keep


def put_back(regions, shape):
    count = np.zeros(shape, dtype=int)
    for region in regions:
        count[region.box.slices()] += region.asked
    return count


@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 39)), max_size=5),
    st.lists(st.tuples(*[st.integers(0, 39)] * 3), max_size=4),
    st.tuples(*[st.integers(0, 9)] * 3),
)
@settings(max_examples=200, deadline=None)
def test_every_voxel_is_asked_for_once_with_its_surroundings(shape, planes, voxels, halo):
    asked = painted(shape, [(axis, index) for axis, index in planes if index < shape[axis]])
    for voxel in voxels:
        if all(v < n for v, n in zip(voxel, shape, strict=True)):
            asked[voxel] = True
    regions = regions_around(asked, halo)
    assert np.array_equal(put_back(regions, shape), asked)
    for region in regions:
        places = np.argwhere(region.asked) + region.box.start
        for axis in range(3):
            low, high = places[:, axis].min(initial=shape[axis]), places[:, axis].max(initial=0)
            assert region.box.start[axis] <= max(0, low - halo[axis])
            assert region.box.stop[axis] >= min(shape[axis], high + halo[axis] + 1) or not len(places)


def test_two_slices_of_a_large_volume_are_two_boxes():
    asked = painted((200, 240, 190), [(0, 60), (2, 90)])
    regions = regions_around(asked, (16, 16, 16))
    assert sorted(region.box.size for region in regions) == [(33, 240, 190), (200, 240, 33)]
    assert sum(region.box.voxels for region in regions) < 0.4 * asked.size


def test_slices_side_by_side_share_a_box():
    [region] = regions_around(painted((100, 50, 50), [(0, 40), (0, 46)]), (16, 16, 16))
    assert region.box.start == (24, 0, 0)
    assert region.box.size == (39, 50, 50)


@pytest.mark.parametrize("planes", [[(0, i) for i in range(20)], [(0, 3), (0, 10), (0, 17)]])
def test_what_fills_the_volume_is_the_volume(planes):
    asked = painted((20, 20, 20), planes)
    [region] = regions_around(asked, (5, 5, 5))
    [whole] = whole_region(asked)
    assert region.box == whole.box
    assert np.array_equal(region.asked, asked)


def test_half_painted_slices_are_made_whole():
    asked = painted((20, 20, 20), [(1, 7)], (slice(None), slice(None), slice(0, 12)))
    assert np.array_equal(with_whole_slices(asked), painted((20, 20, 20), [(1, 7)]))
    scribble = painted((20, 20, 20), [(1, 7)], (slice(None), slice(None), slice(0, 4)))
    assert np.array_equal(with_whole_slices(scribble), scribble)


def test_parts_of_slices_far_from_each_other_are_boxes_of_their_own():
    asked = np.zeros((400, 300, 300), dtype=bool)
    asked[50, :100, :100] = True
    asked[380, 200:, 200:] = True
    regions = regions_around(asked, (10, 10, 10))
    assert sum(region.box.voxels for region in regions) < 0.02 * asked.size
    assert np.array_equal(put_back(regions, asked.shape), asked)


def windowed(shape, planes, classes, **limits):
    labeled = painted(shape, planes)
    affine = Affine.from_spacing((1.0, 1.0, 1.0))
    return judged_part(SparseLabels(classes, labeled, affine), int(classes.max()) + 1, (8, 8, 8), **limits)


def test_of_many_held_out_voxels_a_part_is_looked_at():
    classes = np.zeros((300, 300, 40), np.uint8)
    classes[260:290, 10:30] = 1  # in one corner of the slice only
    part = windowed(classes.shape, [(2, 20)], classes, most=1e6, enough=9e5)
    assert set(np.unique(part.classes[part.labeled])) == {0, 1}
    assert part.labeled[:, :, 20].any()
    assert not part.labeled[:, :, :20].any()
    assert 0.2 < part.labeled.sum() / 300**2 < 0.6
    assert windowed(classes.shape, [(2, 20)], classes, most=3e6, enough=9e5) is None


def test_at_least_one_cube_is_looked_at():
    classes = np.zeros((300, 300, 40), np.uint8)
    part = windowed(classes.shape, [(2, 20)], classes, most=1, enough=1)
    assert part.labeled.sum() == 128**2
