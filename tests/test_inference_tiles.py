"""Planning of tiles: pure arithmetic."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vol3d import inference
from vol3d.config import InferenceConfig, UNetConfig
from vol3d.errors import GeometryError, ModelError, ResourceError
from vol3d.inference import Budget, plan_tiles
from vol3d.inference.axes import Axis
from vol3d.inference.budget import cheapest, largest
from vol3d.networks import build
from vol3d.workflows.device import Device
from vol3d.workflows.tiling import tile_plans

PAPER = {"margin": (88, 88, 88), "stride": (8, 8, 8), "smallest": (92, 92, 92)}
COST = {"bytes_per_voxel": 500.0, "classes": 3}


@st.composite
def valid_axes(draw, longest=60):
    stride = draw(st.sampled_from((1, 2, 4, 6, 8)))
    margin = 2 * draw(st.integers(1, 12))
    return Axis(draw(st.integers(1, longest)), margin, stride, margin + draw(st.integers(1, stride)))


@st.composite
def blended_axes(draw):
    stride = draw(st.sampled_from((1, 2, 4, 8)))
    return Axis(draw(st.integers(1, 120)), 0, stride, stride, draw(st.floats(0, 0.95)))


@settings(max_examples=300)
@given(valid_axes(), st.data())
def test_outputs_lie_side_by_side_and_begin_at_multiples_of_the_stride(axis, data):
    size = data.draw(st.sampled_from(axis.sizes()))
    spans = axis.spans(size)
    assert spans[0].output_start == 0
    assert [s.output_start + s.output_size for s in spans] == [*(s.output_start for s in spans[1:]), axis.length]
    for span in spans:
        assert span.output_start % axis.stride == 0
        assert span.start == span.output_start - axis.margin // 2
        assert (span.size - axis.smallest) % axis.stride == 0
        assert axis.smallest <= span.size <= size
        assert 1 <= span.output_size <= span.size - axis.margin
    assert size <= axis.at_least(axis.length + axis.margin)


@settings(max_examples=300)
@given(blended_axes(), st.data())
def test_blended_tiles_cover_overlap_and_stay_aligned(axis, data):
    size = data.draw(st.sampled_from(axis.sizes()))
    spans = axis.spans(size)
    assert spans[0].start == 0
    assert spans[-1].start + size == axis.whole
    for one, other in itertools.pairwise(spans):
        assert other.start % axis.stride == 0
        assert other.start > one.start
        assert one.start + size - other.start >= min(axis.overlap * size, size - axis.stride) - 1e-9


def test_surplus_of_the_papers_tile_is_discarded_and_it_steps_by_40():
    plan = plan_tiles((248, 44, 20), (88, 88, 88), (8, 8, 8), tile=(132, 132, 116), memory_bytes=1e12, **COST)
    assert plan.size == (132, 132, 108)
    starts = [tile.output.start[0] for tile in plan.tiles]
    assert starts == [0, 40, 80, 120, 160, 200, 240]
    assert [tile.output.size[0] for tile in plan.tiles] == [40] * 6 + [8]
    assert plan.tiles[-1].input.size == (100, 132, 108)
    assert plan.tiles[0].input.start == (-44, -44, -44)


@settings(max_examples=200, deadline=None)
@given(st.tuples(valid_axes(30), valid_axes(30), valid_axes(30)), st.floats(0, 1))
def test_the_cheapest_tile_within_the_memory_is_found(axes, share):
    least = tuple(axis.sizes()[0] for axis in axes)
    most = tuple(axis.whole for axis in axes)
    unlimited = Budget(math.inf, 10.0, 2)
    low, high = (float(unlimited.demands(size, axes)[0][0]) for size in (least, most))
    budget = Budget(low + share * (high - low), 10.0, 2)

    def through(size):
        return math.prod(sum(s.size for s in axis.spans(n)) for axis, n in zip(axes, size, strict=True))

    chosen = cheapest(axes, budget)
    assert budget.fits(chosen, axes)
    thinned = [list(axis.sizes())[:: max(1, len(axis.sizes()) // 5)] for axis in axes]
    assert through(chosen) == min(through(s) for s in [chosen, *itertools.product(*thinned)] if budget.fits(s, axes))


def test_thrift_takes_less_memory_for_little_more_work():
    facts = {"margin": (16,) * 3, "stride": (2,) * 3, "smallest": (18,) * 3, **COST, "memory_bytes": 14e9}
    dear, sparing = (plan_tiles((512, 512, 512), **facts, thrift=thrift) for thrift in (0.0, 0.1))
    assert dear.voxels < sparing.voxels <= 1.1 * dear.voxels
    taken = [float(plan.budget.demands(plan.size, plan.axes)[0][0]) for plan in (dear, sparing)]
    assert taken[1] < 0.5 * taken[0]
    alone = [plan_tiles((20, 20, 20), **facts, thrift=thrift).size for thrift in (0.0, 0.5)]
    assert alone[0] == alone[1]  # so little memory is not worth any work


@pytest.mark.parametrize("margin", [(16, 16, 0), (0, 0, 0)])
def test_thrift_makes_no_small_tiles_where_these_cost_nothing(margin):
    facts = {"margin": margin, "stride": (2, 2, 1), "smallest": tuple(2 + m for m in margin), **COST, "overlap": 0.0}
    plans = [plan_tiles((512, 512, 512), **facts, memory_bytes=14e9, thrift=thrift) for thrift in (0.0, 0.1)]
    assert plans[0].size == plans[1].size


def test_a_cpu_is_thrifty_unless_it_is_told_what_to_take():
    network = build(UNetConfig(encoder=((4, 4), (8, 8)), padding="valid"), 1, 3)
    free, limited = (
        tile_plans(network, (512,) * 3, Device("cpu"), InferenceConfig(max_memory_gb=limit))[0].budget.thrift
        for limit in (None, 8.0)
    )
    assert free > limited == 0


def test_more_memory_never_costs_more():
    costs = [
        plan_tiles((200, 180, 60), memory_bytes=gb * 1e9, **PAPER, **COST).voxels for gb in (0.6, 0.7, 1, 2, 4, 8, 40)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 292 * 268 * 148  # one tile; 292 is the first valid size ≥ 200 + 88
    assert costs[0] > 4 * costs[-1]


def test_r25_memory_that_holds_no_tile_is_refused_with_the_estimate():
    with pytest.raises(ResourceError, match=r"smallest tile, 100×100×100 voxels, needs 0\.\d+ GB of memory; 0\.1 GB"):
        plan_tiles((100, 100, 100), memory_bytes=1e8, **PAPER, **COST)
    with pytest.raises(ResourceError, match="host memory"):
        plan_tiles((100, 900, 900), memory_bytes=1e12, host_memory_bytes=1e6, **PAPER, **COST)
    with pytest.raises(ResourceError, match="tile asked for"):
        plan_tiles((100, 100, 100), memory_bytes=1e9, tile=(188, 188, 188), **PAPER, **COST)
    with pytest.raises(ResourceError, match="1 voxels"):
        plan_tiles((100, 100, 100), memory_bytes=1e12, most_voxels=1, **PAPER, **COST)


def test_host_and_device_have_budgets_of_their_own():
    roomy = plan_tiles((200, 200, 200), memory_bytes=4e9, host_memory_bytes=1e12, **PAPER, **COST)
    thin = plan_tiles((200, 200, 200), memory_bytes=4e9, host_memory_bytes=3e7, **PAPER, **COST)
    assert thin.thickness < roomy.thickness
    assert roomy.bytes > 3e9


def test_invalid_tiles_are_refused_naming_the_nearest_valid_ones():
    with pytest.raises(ModelError, match=r"130 voxels along Y .*take 124 or 132"):
        plan_tiles((200, 200, 200), memory_bytes=1e12, tile=(132, 130, 132), **PAPER, **COST)
    with pytest.raises(ModelError, match=r"92 voxels along X .*take 100"):  # answers 4 of a stride of 8
        plan_tiles((200, 200, 200), memory_bytes=1e12, tile=(92, 132, 132), **PAPER, **COST)
    with pytest.raises(ModelError, match="tile, patch or smallest"):
        plan_tiles((200, 200, 200), (88, 88, 88), (8, 8, 8), memory_bytes=1e12, **COST)
    with pytest.raises(ModelError, match="even margins"):
        plan_tiles((20, 20, 20), (3, 4, 4), (1, 1, 1), memory_bytes=1e12, tile=(9, 9, 9), **COST)
    with pytest.raises(GeometryError, match="non-empty"):
        plan_tiles((20, 0, 20), memory_bytes=1e12, **PAPER, **COST)


def test_a_patch_tells_the_valid_sizes_as_the_smallest_does():
    told = plan_tiles((90, 80, 70), (88, 88, 88), (8, 8, 8), patch=(132, 132, 116), memory_bytes=1e9, **COST)
    assert told.size == plan_tiles((90, 80, 70), memory_bytes=1e9, **PAPER, **COST).size


def test_r15_volumes_smaller_than_a_tile_or_one_voxel_thick():
    plan = plan_tiles((3, 50, 1), memory_bytes=1e12, **PAPER, **COST)
    assert plan.size == (92, 140, 92)
    assert len(plan.tiles) == 1
    assert plan.tiles[0].output.size == (3, 50, 1)
    blended = plan_tiles((3, 50, 1), (0, 0, 0), (8, 8, 4), patch=(64, 64, 64), memory_bytes=1e12, **COST)
    assert blended.size == (8, 56, 4)
    assert blended.tiles[0].output.size == (3, 50, 1)


def test_a_same_padded_network_gets_the_patch_it_was_trained_on():
    plan = plan_tiles((200, 100, 30), (0, 0, 0), (8, 8, 4), patch=(96, 96, 64), memory_bytes=1e12, **COST)
    assert plan.size == (96, 96, 32)
    assert plan.blended == (True, True, True)
    assert [t.output.start for t in plan.tiles][:2] == [(0, 0, 0), (0, 8, 0)]


def test_a_blended_tile_shrinks_evenly_and_gets_thinner_where_the_buffers_are_too_large():
    def shrunk(**limits):
        return plan_tiles((200, 200, 200), (0, 0, 0), (8, 8, 8), patch=(96, 96, 96), **(COST | limits)).size

    assert shrunk(memory_bytes=3e8, host_memory_bytes=1e12) == (80, 80, 88)
    assert shrunk(memory_bytes=1e12, host_memory_bytes=4e7) == (48, 96, 96)
    assert shrunk(memory_bytes=1e9, bytes_per_voxel=1.0, classes=100)[1:] == (96, 96)


def test_largest_takes_what_is_wanted_where_it_fits():
    axes = (Axis(50, 0, 4, 4, 0.25),) * 3
    assert largest((24, 20, 16), axes, Budget(math.inf, 1.0, 2)) == (24, 20, 16)


@pytest.mark.parametrize(("margin", "smallest"), [((16, 16), (18, 18)), ((0, 0), None)])
def test_planes_of_a_2d_network_are_a_batch(margin, smallest):
    common = {"margin": margin, "stride": (4, 4), "smallest": smallest, **COST}
    roomy = plan_tiles((30, 40, 9), memory_bytes=1e12, **common)
    assert roomy.dimensions == 2
    assert roomy.size[2] == 9
    assert len(roomy.tiles) == 1
    least = Budget(math.inf, **COST).demands((*roomy.size[:2], 2), roomy.axes)[0][0]
    tight = plan_tiles((30, 40, 9), memory_bytes=float(least), tile=roomy.size[:2], **common)
    assert tight.size == (*roomy.size[:2], 2)
    assert tight.margin == (*margin, 0)
    covered = np.zeros(tight.shape, dtype=int)
    for tile in tight.tiles:
        covered[tile.output.slices()] += 1
    assert (covered == 1).all()


def test_r26_smaller_plans_get_smaller_until_there_is_none():
    plan = plan_tiles((100, 60, 30), memory_bytes=1e12, **PAPER, **COST)
    sizes = [math.prod(plan.size)]
    while sizes[-1] > 100**3:
        plan = plan.smaller()
        sizes.append(math.prod(plan.size))
    with pytest.raises(ResourceError, match="out of memory with the smallest tile"):
        plan.smaller()
    assert sizes == sorted(set(sizes), reverse=True)
    assert len(sizes) > 3
    assert sizes[1] <= sizes[0] / 2


def test_flipped_plans_hold_the_reflected_tiles_of_every_flip_in_the_order_of_planes():
    plan = plan_tiles((50, 30, 1), (88, 88, 88), (8, 8, 8), tile=(108, 108, 92), memory_bytes=1e12, **COST)
    flipped = plan.flipped()
    assert flipped.flip_axes == (0, 1)
    assert len(flipped.tiles) == 4 * len(plan.tiles)
    starts = [tile.output.start[0] for tile in flipped.tiles]
    assert starts == sorted(starts)
    assert flipped.thickness == plan.thickness
    for tile in flipped.tiles:
        assert tile.reflected(tile.flips, plan.shape).input in {t.input for t in plan.tiles}
    covered = np.zeros(plan.shape, dtype=int)
    for tile in flipped.tiles:
        covered[tile.output.slices()] += 1
    assert (covered == 4).all()


def test_buffers_are_as_thick_as_a_tile_however_long_the_volume():
    plans = [
        plan_tiles((n, 60, 60), (0, 0, 0), (8, 8, 8), patch=(64, 64, 64), memory_bytes=1e12, **COST).flipped()
        for n in (100, 1000)
    ]
    assert plans[0].thickness == plans[1].thickness == 64
    assert plans[0].bytes == plans[1].bytes


def test_planning_needs_no_torch():
    code = "import sys, vol3d.inference as i; i.plan_tiles; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        inference.nothing_of_that_name  # noqa: B018


def test_a_same_padded_network_gets_the_cheapest_tile_that_sees_enough():
    facts = {"bytes_per_voxel": 290.0, "classes": 3}
    shape, margin, stride = (256, 256, 256), (0, 0, 0), (8, 8, 8)
    large = plan_tiles(shape, margin, stride, memory_bytes=4e9, **facts)
    cheap = plan_tiles(shape, margin, stride, memory_bytes=4e9, sight=(48, 48, 48), **facts)
    assert 4 * cheap.voxels < large.voxels  # tiles of the largest size that fits overlap by far more than they must
    assert min(cheap.size) >= 96
    assert cheap.bytes <= 4e9
    tight = plan_tiles(shape, margin, stride, memory_bytes=1.5e8, sight=(48, 48, 48), **facts)
    assert 48 <= min(tight.size) < 96
    assert tight.bytes <= 1.5e8
    least = plan_tiles(shape, margin, stride, memory_bytes=6e7, sight=(48, 48, 48), **facts)
    assert least == plan_tiles(shape, margin, stride, memory_bytes=6e7, **facts)  # too little for what should be seen
    assert plan_tiles(shape, margin, stride, memory_bytes=9e9, sight=(48, 48, 48), **facts).size == shape
    planes = plan_tiles(shape, (0, 0), (8, 8), planes=1, memory_bytes=1e9, sight=(80, 80), **facts)
    assert min(planes.size[0], planes.size[2]) >= 160
    asked = plan_tiles(shape, margin, stride, memory_bytes=4e9, sight=(48, 48, 48), tile=(64, 64, 64), **facts)
    assert asked.size == (64, 64, 64)
