"""2-D networks across any axis, and their average over several axes."""

import itertools
import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from vol3d.config import UNetConfig
from vol3d.errors import GeometryError, ModelError, ResourceError
from vol3d.inference import plan_axes, plan_for, plan_tiles, predict_axes, predict_flips, predict_slabs, whole_pass
from vol3d.networks import build

LIMITS = {"memory_bytes": math.inf, "bytes_per_voxel": 1.0}
COST = {"bytes_per_voxel": 500.0, "classes": 3}
SHAPES = st.tuples(*(st.integers(1, 11),) * 3)


pytestmark = pytest.mark.usefixtures("single_threaded")


def unet(padding="valid", dtype=torch.float64, classes=3, **parts):
    """A 2-D network that tells its two axes apart."""
    parts = {"dimensions": 2, "encoder": ((3,), (4,)), "pooling": ((2, 3),), "normalization": "none"} | parts
    return build(UNetConfig(padding=padding, **parts), 2, classes).to(dtype)


def scan(shape, dtype=np.float64):
    return np.random.default_rng(len(shape)).standard_normal((2, *shape)).astype(dtype)


def joined(slabs):
    slabs = list(slabs)
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
    return np.concatenate([slab.values for slab in slabs], axis=1)


def softmax(values):
    return torch.softmax(torch.from_numpy(values), 0).numpy()


class Fussy(nn.Module):
    """A network on a device that holds a number of voxels."""

    def __init__(self, network, voxels):
        super().__init__()
        self.network, self.voxels = network, voxels
        self.margin, self.total_stride, self.classes = network.margin, network.total_stride, network.classes
        self.input_size = network.input_size

    def forward(self, image):
        if image[:, 0].numel() > self.voxels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.network(image)


class Constant(nn.Module):
    """Answers the same logits everywhere."""

    margin, total_stride, classes = (0, 0), (4, 4), 2

    def input_size(self, size):
        return tuple(size)

    def forward(self, image):
        return torch.tensor([0.7, -0.2]).reshape(1, 2, 1, 1) * torch.ones_like(image[:, :1])


@pytest.mark.parametrize("planes", [0, 1, 2])
@settings(max_examples=40, deadline=None)  # 120 over all axes
@given(st.data())
def test_any_tiling_across_any_axis_equals_the_whole(planes, data):
    made = unet()
    shape = data.draw(SHAPES, "shape")
    image = scan(shape)
    axes = plan_for(made, shape, planes=planes, **LIMITS).axes
    tile = tuple(data.draw(st.sampled_from(axis.sizes()), "tile") for axis in axes)
    plan = plan_for(made, shape, planes=planes, tile=tile, **LIMITS)
    assume(len(plan.tiles) <= 30)
    whole = whole_pass(made, image, planes=planes)
    turned = whole_pass(made, np.moveaxis(image, 1 + planes, -1).copy())
    np.testing.assert_allclose(whole, np.moveaxis(turned, -1, 1 + planes), atol=1e-12)
    tiled = joined(predict_slabs(made, image, plan, logits=True))
    assert np.abs(tiled - whole).max() <= 1e-10 * max(np.ptp(whole), 1.0)


@pytest.mark.parametrize("padding", ["valid", "same"])
@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 2), st.tuples(st.integers(2, 9), st.integers(3, 9)), st.booleans())
def test_planes_across_an_axis_are_planes_across_z_of_the_turned_volume(padding, shape, planes, wanted, flips):
    made = unet(padding)
    image = scan(shape)
    tile = made.input_size(wanted)
    turned_image = np.moveaxis(image, 1 + planes, -1).copy()
    plan = plan_for(made, shape, planes=planes, patch=tile, **LIMITS)
    turned_plan = plan_for(made, turned_image.shape[1:], patch=tile, **LIMITS)
    predict = predict_flips if flips else predict_slabs
    turned = np.moveaxis(joined(predict(made, turned_image, turned_plan)), -1, 1 + planes)
    np.testing.assert_allclose(joined(predict(made, image, plan)), turned, atol=1e-12)


@pytest.mark.parametrize(("planes", "seen"), [(None, (0, 1)), (2, (0, 1)), (1, (0, 2)), (0, (1, 2))])
@pytest.mark.parametrize(("margin", "smallest"), [((16, 8), (18, 13)), ((0, 0), None)])
def test_a_plan_across_an_axis(planes, seen, margin, smallest):
    shape, across = (30, 40, 9), 2 if planes is None else planes
    common = {"margin": margin, "stride": (4, 3), "smallest": smallest, "planes": planes, **COST}
    roomy = plan_tiles(shape, memory_bytes=1e12, **common)
    assert (roomy.seen, roomy.dimensions, roomy.planes) == (seen, 2, across)
    assert len(roomy.tiles) == 1
    assert roomy.size[across] == shape[across]
    assert tuple(roomy.margin[axis] for axis in seen) == margin
    assert roomy.margin[across] == 0
    two = list(roomy.size)
    two[across] = 2
    least = float(roomy.budget.demands(two, roomy.axes)[0][0])
    in_plane = tuple(roomy.size[axis] for axis in seen)
    tight = plan_tiles(shape, memory_bytes=least, tile=in_plane, **common)
    assert tight.size == tuple(two)  # as many planes as the memory holds
    covered = np.zeros(shape, dtype=int)
    for tile in tight.tiles:
        covered[tile.output.slices()] += 1
    assert (covered == 1).all()
    starts = [tile.output.start[0] for tile in tight.tiles]
    assert starts == sorted(starts)
    assert tight.flipped().flip_axes == seen
    assert plan_tiles(shape, memory_bytes=least, tile=two, **common).size == tight.size
    assert plan_tiles(shape, memory_bytes=1e12, patch=two, **common).seen == seen


def test_little_memory_takes_few_planes_at_a_time_and_only_then_smaller_tiles():
    common = {"margin": (0, 0), "stride": (4, 4), "planes": 0, "patch": (64, 64), "host_memory_bytes": 1e12, **COST}
    sizes = [plan_tiles((100, 64, 64), memory_bytes=mb * 1e6, **common).size for mb in (1000, 20, 2.2, 1)]
    assert sizes[0] == (100, 64, 64)
    assert 1 < sizes[1][0] < 100
    assert sizes[1][1:] == (64, 64)
    assert sizes[2] == (1, 64, 64)
    assert sizes[3][0] == 1
    assert sizes[3][1:] < (64, 64)
    thin = plan_tiles((100, 64, 64), memory_bytes=1e12, **(common | {"host_memory_bytes": 1.5e6}))
    assert thin.size[1:] == (64, 64)
    assert thin.thickness < 100


def test_planes_that_make_no_sense_are_refused():
    flat = {"margin": (0, 0), "stride": (4, 4), **LIMITS, "classes": 2}
    solid = {"margin": (0, 0, 0), "stride": (4, 4, 4), **LIMITS, "classes": 2}
    with pytest.raises(ModelError, match="axis 0, 1 or 2"):
        plan_tiles((9, 9, 9), planes=3, **flat)
    with pytest.raises(ModelError, match="3-D network sees all axes"):
        plan_tiles((9, 9, 9), planes=2, **solid)
    with pytest.raises(ModelError, match=r"2 sizes .*found \(8,\)"):
        plan_tiles((9, 9, 9), tile=(8,), **flat)
    with pytest.raises(ModelError, match=r"3 sizes .*found \(8, 8\)"):
        plan_tiles((9, 9, 9), tile=(8, 8), **solid)
    assert plan_tiles((9, 9, 9), **solid).planes is None


def test_the_smallest_input_that_a_same_padded_network_states_is_kept():
    common = {"margin": (0, 0), "stride": (8, 8), "patch": (64, 64), **LIMITS, "classes": 2}
    assert plan_tiles((5, 30, 3), smallest=(16, 12), **common).size == (16, 32, 3)
    assert plan_tiles((5, 30, 3), smallest=(1, 1), **common).size == (8, 32, 3)


def test_r26_out_of_memory_takes_fewer_planes_across_x(caplog):
    made = unet()
    image = scan((9, 12, 10))
    plan = plan_for(made, (9, 12, 10), planes=0, **LIMITS)
    expected = joined(predict_slabs(made, image, plan))
    with caplog.at_level(logging.WARNING):
        found = joined(predict_slabs(Fussy(made, 0.2 * math.prod(plan.size)), image, plan))
    assert "smaller" in caplog.text
    np.testing.assert_allclose(found, expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(4, 12), st.sets(st.integers(0, 2), min_size=1), st.booleans())
def test_the_average_is_that_of_whole_passes_in_any_order(shape, wanted, axes, logits):
    made = unet()
    image = scan(shape)
    plans = plan_axes(made, shape, sorted(axes), tile=made.input_size((wanted, wanted)), **LIMITS)
    wholes = [whole_pass(made, image, planes=axis) for axis in axes]
    expected = np.mean(wholes if logits else [softmax(whole) for whole in wholes], axis=0)
    found = joined(predict_axes(made, image, plans, logits=logits))
    np.testing.assert_allclose(found, expected, atol=1e-10 * max(np.ptp(expected), 1.0))
    for order in itertools.permutations(plans):
        assert (joined(predict_axes(made, image, order, logits=logits)) == found).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("flips", [(), (0, 2)])
def test_one_axis_gives_what_its_plan_gives(axis, flips):
    made = unet("same", torch.float32)
    image = scan((37, 12, 9), np.float32)
    plan = plan_for(made, (37, 12, 9), planes=axis, patch=(8, 9), **LIMITS)
    alone = list(predict_flips(made, image, plan, axes=flips))
    average = list(predict_axes(made, image, [plan], flip_axes=flips))
    assert [slab.start for slab in alone] == [slab.start for slab in average]
    assert (joined(alone) == joined(average)).all()


@settings(max_examples=50, deadline=None)
@given(SHAPES, st.sets(st.integers(0, 2)))
def test_constants_stay_constant(shape, flips):
    made = Constant()
    plans = plan_axes(made, shape, patch=(8, 4), **LIMITS)
    image = np.zeros((1, *shape), np.float32)
    values = joined(predict_axes(made, image, plans, flip_axes=flips, logits=True))
    assert (values[0] == np.float32(0.7)).all()
    assert (values[1] == np.float32(-0.2)).all()


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_needed_voxels_get_the_same_and_progress_is_that_of_all_plans(padding):
    made = unet(padding, torch.float32)
    shape = (26, 18, 9)
    image = scan(shape, np.float32)
    plans = plan_axes(made, shape, tile=made.input_size((8, 8)), overlap=0.4, **LIMITS)
    needed = np.zeros(shape, dtype=bool)
    needed[13, :, 4:] = needed[14, 3] = True
    for flips in ((), (0, 1, 2)):
        heard = []
        full = joined(predict_axes(made, image, plans, flip_axes=flips))
        part = joined(
            predict_axes(
                made, image, plans, flip_axes=flips, needed=needed, progress=lambda *at, to=heard: to.append(at)
            )
        )
        assert (part[:, needed] == full[:, needed]).all()
        assert (part[:, ~needed] != full[:, ~needed]).any()
        done, total = zip(*heard, strict=True)
        assert len(set(total)) == 1
        assert list(done) == sorted(done)
        assert done[-1] == total[0] < 0.8 * sum(plan.flipped(flips).voxels for plan in plans)
    assert not joined(predict_axes(made, image, plans, needed=np.zeros(shape, dtype=bool))).any()
    with pytest.raises(GeometryError, match="mask of shape"):
        predict_axes(made, image, plans, needed=needed[1:])


@pytest.mark.parametrize("padding", ["valid", "same"])
@settings(max_examples=25, deadline=None)
@given(SHAPES, st.sets(st.integers(0, 2), min_size=1))
def test_flips_commute_with_the_average(padding, shape, axes):
    made = unet(padding)
    image = scan(shape)
    plans = plan_axes(made, shape, tile=made.input_size((5, 5)), **LIMITS)
    spatial = tuple(1 + axis for axis in axes)
    straight = joined(predict_axes(made, image, plans, flip_axes=axes))
    flipped = joined(predict_axes(made, np.flip(image, spatial), plans, flip_axes=axes))
    np.testing.assert_allclose(flipped, np.flip(straight, spatial), atol=1e-12)
    np.testing.assert_allclose(straight.sum(0), 1, atol=1e-12)


def test_flips_of_the_average_are_the_mean_over_flipped_volumes():
    made = unet()
    shape = (11, 6, 5)
    image = scan(shape)
    plans = plan_axes(made, shape, tile=made.input_size((4, 4)), **LIMITS)
    mean = np.zeros((3, *shape))
    for axes in ((), (1,), (3,), (1, 3)):
        turned = np.ascontiguousarray(np.flip(image, axes))
        mean += np.flip(joined(predict_axes(made, turned, plans)), axes) / 4
    np.testing.assert_allclose(joined(predict_axes(made, image, plans, flip_axes=(0, 2))), mean, atol=1e-12)


def test_memory_stays_flat_and_within_what_was_allowed():
    made = unet("same", torch.float32)
    shape = (70, 16, 15)
    allowed = 1.2e6
    plans = plan_axes(made, shape, memory_bytes=allowed, bytes_per_voxel=100.0)
    passes = [plan.budget.demands(plan.size, plan.axes) for plan in plans]
    assert max(float(p[0][0]) for p in passes) + sum(float(p[1][0]) for p in passes) <= allowed
    heard = []
    stream = predict_axes(made, scan(shape, np.float32), plans, progress=lambda *at: heard.append(at))
    first = next(stream)
    assert first.values.shape[1] <= 16
    assert heard[-1][0] < 0.8 * heard[-1][1] == 0.8 * sum(plan.voxels for plan in plans)
    assert max(slab.values.shape[1] for slab in stream) <= 16
    apart = plan_axes(made, shape, memory_bytes=allowed, host_memory_bytes=6e5, bytes_per_voxel=100.0)
    assert sum(float(p.budget.demands(p.size, p.axes)[1][0]) for p in apart) <= 6e5
    assert plan_axes(made, shape, (1,), memory_bytes=allowed, bytes_per_voxel=100.0) == (
        plan_for(made, shape, planes=1, memory_bytes=allowed, bytes_per_voxel=100.0),
    )
    with pytest.raises(ResourceError, match="host memory"):
        plan_axes(made, shape, memory_bytes=1e5, bytes_per_voxel=1.0)


def test_r26_the_average_goes_on_with_smaller_tiles():
    made = unet()
    shape = (13, 12, 9)
    image = scan(shape)
    plans = plan_axes(made, shape, **LIMITS)
    expected = joined(predict_axes(made, image, plans))
    heard = []
    fussy = Fussy(made, 0.3 * max(math.prod(plan.size) for plan in plans))
    found = joined(predict_axes(fussy, image, plans, progress=lambda *at: heard.append(at)))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert heard[-1][0] == heard[-1][1]


def test_plans_that_do_not_fit_each_other_are_refused():
    made = unet("same")
    image = scan((9, 8, 7))
    across = plan_axes(made, (9, 8, 7), **LIMITS)
    other = plan_for(made, (8, 8, 7), planes=0, **LIMITS)
    solid = plan_for(unet("same", dimensions=3, pooling=()), (9, 8, 7), **LIMITS)
    for plans in ((), (across[1], other), (across[0], solid)):
        with pytest.raises(ModelError, match="one network for one volume"):
            predict_axes(made, image, plans)
    with pytest.raises(ModelError, match=r"different axes, found \[0, 0\]"):
        predict_axes(made, image, (across[0], across[0].flipped()))


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_values_of_a_regression_are_averaged_as_they_are(padding):
    made = unet(padding, classes=1)
    with torch.no_grad():
        made.head.bias.fill_(50.0)
    shape = (10, 8, 9)  # tiles of same-padded networks fit it: flips then have equal weights everywhere
    image = scan(shape)
    wholes = [whole_pass(made, image, planes=axis) for axis in range(3)]
    plans = plan_axes(made, shape, **LIMITS)
    assert wholes[0].shape == (1, *shape)
    assert np.ptp(wholes[0]) > 0.1
    assert wholes[0].mean() > 10
    np.testing.assert_allclose(joined(predict_axes(made, image, plans, logits=True)), np.mean(wholes, 0), atol=1e-10)
    np.testing.assert_allclose(joined(predict_slabs(made, image, plans[1], logits=True)), wholes[1], atol=1e-10)
    turns = [np.flip(whole_pass(made, np.flip(image, a).copy(), planes=0), a) for a in ((), (2,), (3,), (2, 3))]
    found = joined(predict_flips(made, image, plans[0], logits=True))
    np.testing.assert_allclose(found, np.mean(turns, 0), atol=1e-10)
