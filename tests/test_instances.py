from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vol3d.errors import ConfigError, GeometryError, LabelError, ModelError
from vol3d.instances import InstanceRules, InstanceScheme, SemanticClass, encode, instances_from, join, split
from vol3d.metrics.instances import instance_scores

law = settings(max_examples=60)
seeds = st.integers(0, 2**32 - 1)
CELLS = InstanceScheme.for_instances("cell")
STREET = InstanceScheme(
    (SemanticClass(4, "road", False), SemanticClass(1, "car", True), SemanticClass(0, "sky", False),
     SemanticClass(7, "tree", True)), divisor=100,
)  # fmt: skip
UNIT = (1.0, 1.0, 1.0)
RAW = InstanceRules(smoothing_mm=0, min_volume_mm3=0, hole_volume_mm3=0)


# The scheme


def test_outputs_of_a_scheme() -> None:
    assert CELLS.names == ("background", "cell inside", "cell border")
    assert STREET.names == ("road", "car inside", "car border", "sky", "tree inside", "tree border")
    assert len(STREET) == 6
    assert STREET.codes.tolist() == [4, 1, 1, 0, 7, 7]
    assert (STREET.things, STREET.stuff) == ((1, 7), (4, 0))
    assert STREET.index(7, "border") == 5
    assert STREET.output_table().names == STREET.names
    with pytest.raises(LabelError, match="no 'stuff' output"):
        STREET.index(7, "stuff")


def test_a_scheme_survives_json() -> None:
    for scheme in (CELLS, STREET):
        assert InstanceScheme.from_json(json.loads(json.dumps(scheme.to_json()))) == scheme


_GOOD: dict[str, Any] = CELLS.to_json()
_ENTRY = _GOOD["classes"][0]


@pytest.mark.parametrize(
    "value",
    [
        None, [], "scheme", {}, {**_GOOD, "more": 1}, {"classes": _GOOD["classes"]}, {**_GOOD, "divisor": 1.0},
        {**_GOOD, "divisor": True}, {**_GOOD, "divisor": 1}, {**_GOOD, "divisor": 2**80}, {**_GOOD, "classes": {}},
        {**_GOOD, "classes": []}, {**_GOOD, "classes": [_ENTRY]}, {**_GOOD, "classes": [_ENTRY, _ENTRY]},
        {**_GOOD, "classes": [{**_ENTRY, "code": -1}, _GOOD["classes"][1]]},
        {**_GOOD, "classes": [{**_ENTRY, "code": 5}, _GOOD["classes"][1]]},
        {**_GOOD, "classes": [{**_ENTRY, "code": 2**40}, _GOOD["classes"][1]]},
        {**_GOOD, "classes": [{**_ENTRY, "code": False}, _GOOD["classes"][1]]},
        {**_GOOD, "classes": [{**_ENTRY, "thing": 0}, _GOOD["classes"][1]]},
        {**_GOOD, "classes": [{**_ENTRY, "name": 3}, _GOOD["classes"][1]]},
        {**_GOOD, "classes": [{**_ENTRY, "name": "x" * 5000}, _GOOD["classes"][1]]},
        {**_GOOD, "classes": [{"code": 0}, _GOOD["classes"][1]]}, {**_GOOD, "classes": [0, 1]},
        {**_GOOD, "classes": [_ENTRY] * 100000},
    ],
)  # fmt: skip
def test_hostile_schemes_are_refused(value: object) -> None:
    with pytest.raises(ModelError, match="expected a scheme") as error:
        InstanceScheme.from_json(value)
    assert len(str(error.value)) < 400


def test_what_label_values_mean() -> None:
    codes, numbers = CELLS.meaning(np.array([[0, 3], [70000, 1]]))
    assert codes.tolist() == [[0, 1], [1, 1]]
    assert numbers.tolist() == [[0, 3], [70000, 1]]
    codes, numbers = STREET.meaning(np.array([400, 103, 0, 701], np.uint16))
    assert codes.tolist() == [4, 1, 0, 7]
    assert numbers.tolist() == [0, 3, 0, 1]
    for value, why in ((200, "no such class"), (100, "needs an instance number"), (402, "stuff has"), (-1, "from 0")):
        with pytest.raises(LabelError, match=why):
            STREET.meaning(np.array([0, value]))
    with pytest.raises(LabelError, match="integer"):
        STREET.meaning(np.array([0.0]))


# Targets


def _labels(seed: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]], tuple[float, ...]]:
    """(blocky instance labels, mask, planes that it covers, spacing)."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 8, 3))
    coarse = rng.integers(0, 4, [-(-n // 3) for n in shape])
    values = np.kron(coarse, np.ones((3, 3, 3), int))[tuple(slice(n) for n in shape)]
    if rng.random() < 0.4:
        return values, rng.random(shape) < rng.choice([0.5, 0.95, 1.1]), [], tuple(rng.choice([0.5, 1, 2], 3))
    labeled = rng.random(shape) < rng.choice([0, 0.2])
    planes = [(axis, int(i)) for axis in range(3) for i in rng.permutation(shape[axis])[: rng.integers(0, 3)]]
    for axis, i in planes:
        labeled[(slice(None),) * axis + (i,)] = True
    return values, labeled, planes, tuple(rng.choice([0.5, 1, 2], 3))


def _is_border(values: np.ndarray, known: np.ndarray, at: tuple[int, ...], spacing: Any, border_mm: Any) -> bool:
    """Whether voxel `at` meets something else, looking at every known voxel one by one."""
    for other in map(tuple, np.argwhere(known & (values != values[at]))):
        steps = np.abs(np.subtract(other, at))
        touches = steps.sum() == 1
        if touches and (border_mm is None or values[other] > 0):
            return True
        if border_mm is not None and np.linalg.norm(steps * spacing) <= border_mm + 1e-9:
            return True
    return False


def _encode_slowly(
    values: np.ndarray, labeled: np.ndarray, planes: list[tuple[int, int]], spacing: Any, border_mm: Any
) -> np.ndarray:
    result = np.zeros(values.shape, int)
    for at in map(tuple, np.argwhere(labeled & (values > 0))):
        known = []
        for axis, index in planes:
            if at[axis] == index:
                first = last = index
                while (axis, first - 1) in planes:
                    first -= 1
                while (axis, last + 1) in planes:
                    last += 1
                slab = np.zeros(values.shape, bool)
                slab[(slice(None),) * axis + (slice(first, last + 1),)] = True
                known.append(slab & labeled)
        known = known or [labeled]
        result[at] = 2 if any(_is_border(values, k, at, spacing, border_mm) for k in known) else 1
    return result


@law
@given(seeds, st.sampled_from([None, 0.5, 1.0, 1.5, 2.3]))
def test_targets_agree_with_looking_at_every_voxel(seed: int, border_mm: float | None) -> None:
    values, labeled, planes, spacing = _labels(seed)
    classes = encode(values, labeled, planes, spacing, CELLS, border_mm)
    assert classes.dtype == np.uint8
    assert np.array_equal(classes, _encode_slowly(values, labeled, planes, spacing, border_mm))


@law
@given(seeds, st.sampled_from([None, 1.5]))
def test_values_under_unlabeled_voxels_and_numbering_change_nothing(seed: int, border_mm: float | None) -> None:
    values, labeled, planes, spacing = _labels(seed)
    rng = np.random.default_rng(seed)
    classes = encode(values, labeled, planes, spacing, CELLS, border_mm)
    renamed = np.concatenate([[0], 1 + rng.permutation(70000)])[values]
    garbage = np.where(labeled, renamed, rng.integers(-(2**31), 2**31, values.shape))
    assert np.array_equal(encode(garbage, labeled, planes, spacing, CELLS, border_mm), classes)


@law
@given(seeds, st.permutations([0, 1, 2]), st.sampled_from([None, 1.5]))
def test_targets_turn_with_the_volume(seed: int, order: list[int], border_mm: float | None) -> None:
    values, labeled, planes, spacing = _labels(seed)
    turned = encode(
        values.transpose(order), labeled.transpose(order), [(order.index(a), i) for a, i in planes],
        [spacing[a] for a in order], CELLS, border_mm,
    )  # fmt: skip
    assert np.array_equal(turned, encode(values, labeled, planes, spacing, CELLS, border_mm).transpose(order))


def test_touching_cells_get_a_wall_on_both_sides() -> None:
    values = np.repeat([0, 1, 2, 0], [2, 4, 4, 2])[:, None, None]
    everywhere = np.ones(values.shape, bool)
    line = lambda border_mm, spacing: encode(values, everywhere, [], spacing, CELLS, border_mm).ravel().tolist()  # noqa: E731
    assert line(None, UNIT) == [0, 0, 2, 1, 1, 2, 2, 1, 1, 2, 0, 0]
    assert line(2.0, UNIT) == [0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0]
    assert line(0.3, UNIT) == [0, 0, 1, 1, 1, 2, 2, 1, 1, 1, 0, 0]  # no border voxel is that near, the wall stays
    assert line(0.3, (0.1, 1.0, 1.0)) == [0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0]
    assert line(0.1, (0.1, 1.0, 1.0)) == line(None, UNIT)


def test_the_edge_and_the_unknown_are_no_border() -> None:
    values = np.full((5, 5, 5), 3)
    assert (encode(values, np.ones(values.shape, bool), [], UNIT, CELLS) == 1).all()
    values[:, :, 2:] = 9
    plane = np.zeros(values.shape, bool)
    plane[:, :, 1] = True
    classes = encode(values, plane, [(2, 1)], UNIT, CELLS, border_mm=3.0)
    assert (classes[:, :, 1] == 1).all()
    plane[:, :, 2] = True  # a second plane beside it: the wall between them is known
    assert (encode(values, plane, [(2, 1), (2, 2)], UNIT, CELLS)[:, :, 1:3] == 2).all()


def test_targets_of_several_classes() -> None:
    values = np.repeat([400, 101, 701, 0], [2, 3, 3, 2])[None, :, None]
    classes = encode(values, np.ones(values.shape, bool), [], UNIT, STREET)
    assert classes.ravel().tolist() == [0, 0, 2, 1, 2, 5, 4, 5, 3, 3]


def test_many_outputs_need_wider_targets() -> None:
    many = InstanceScheme((SemanticClass(0, "b", False), *(SemanticClass(i, f"t{i}", True) for i in range(1, 200))))
    values = np.full((2, 2, 2), 199 * 1000 + 1)
    classes = encode(values, np.ones(values.shape, bool), [], UNIT, many)
    assert classes.dtype == np.uint16
    assert (classes == 397).all()


def test_targets_refuse_what_makes_no_sense() -> None:
    values, mask = np.ones((3, 3, 3), int), np.ones((3, 3, 3), bool)
    with pytest.raises(GeometryError, match="one shape"):
        encode(values, mask[:2], [], UNIT, CELLS)
    with pytest.raises(GeometryError, match="plane 3 across axis 1"):
        encode(values, mask, [(1, 3)], UNIT, CELLS)
    with pytest.raises(GeometryError, match="spacings"):
        encode(values, mask, [], (1.0, 0.0, 1.0), CELLS)
    with pytest.raises(ConfigError, match="border width"):
        encode(values, mask, [], UNIT, CELLS, border_mm=0.0)
    with pytest.raises(LabelError, match="from 0 up"):
        encode(-values, mask, [], UNIT, CELLS)
    assert not encode(-values, ~mask, [], UNIT, CELLS).any()


# Instances from probabilities


def _certain(classes: np.ndarray, outputs: int) -> np.ndarray:
    """Probabilities of a network that is right and rather sure."""
    return np.stack([np.where(classes == k, 0.9, 0.1 / (outputs - 1)) for k in range(outputs)]).astype(np.float32)


def _balls(shape: tuple[int, ...], *balls: tuple[tuple[float, ...], float]) -> np.ndarray:
    """Labels 1…n of balls (centre, radius); where balls overlap the nearer centre wins."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distances = np.stack([np.linalg.norm(grid - np.array(c), axis=-1) / r for c, r in balls])
    return np.where(distances.min(axis=0) <= 1, distances.argmin(axis=0) + 1, 0)


PAIR = _balls((30, 20, 20), ((9, 9, 9), 7), ((20, 10, 9), 7))


def _dense(values: np.ndarray, scheme: InstanceScheme = CELLS) -> np.ndarray:
    return _certain(encode(values, np.ones(values.shape, bool), [], UNIT, scheme), len(scheme))


def _same_objects(one: np.ndarray, other: np.ndarray) -> bool:
    return instance_scores(one, other, (0.0,)).voi == pytest.approx(0, abs=1e-12)


def test_certain_probabilities_give_the_objects_back() -> None:
    classes, ids = instances_from(_dense(PAIR), CELLS, UNIT, RAW)
    assert (classes.dtype, ids.dtype) == (np.uint8, np.uint16)
    assert np.array_equal(classes > 0, PAIR > 0)
    assert instance_scores(ids, PAIR).ap[0.95] == 1.0
    smoothed = instances_from(_dense(PAIR), CELLS, UNIT)[1]
    assert instance_scores(smoothed, PAIR).ap[0.85] == 1.0


@law
@given(seeds)
def test_every_thing_is_an_object_and_numbers_run_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 3))
    logits = 3 * rng.standard_normal((len(STREET), *shape))
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(rng.choice([np.float32, np.float16]))
    before = probabilities.copy()
    rules = InstanceRules(
        smoothing_mm=float(rng.choice([0, 0.7])), min_volume_mm3=float(rng.choice([0, 3])),
        split=bool(rng.random() < 0.5), distance_weight=float(rng.choice([0, 0.1])), hole_volume_mm3=2.0,
    )  # fmt: skip
    classes, ids = instances_from(probabilities, STREET, (1.0, 0.5, 2.0), rules)
    assert np.array_equal(probabilities, before)
    assert set(np.unique(classes)) <= {0, 1, 4, 7}
    assert np.array_equal(ids > 0, np.isin(classes, STREET.things))
    for code in STREET.things:
        numbers, first = np.unique(ids[classes == code], return_index=True)
        assert numbers.tolist() == list(range(1, len(numbers) + 1))
        assert (np.diff(first) > 0).all()
        for number in numbers:
            assert ((ids == number) & (classes == code)).sum() >= rules.min_volume_mm3
    again = instances_from(probabilities, STREET, (1.0, 0.5, 2.0), rules)
    assert np.array_equal(again[0], classes)
    assert np.array_equal(again[1], ids)


@law
@given(seeds, st.sampled_from([1e-3, 4.0]))
def test_defaults_follow_the_voxel_size(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([1, 1, 1], (7, 8, 6)).transpose(3, 0, 1, 2).astype(np.float32)
    spacing = np.array([1.0, 2.0, 0.5])
    one, other = (instances_from(probabilities, CELLS, s)[1] for s in (spacing, factor * spacing))
    assert np.array_equal(one, other)


def test_without_rules_classes_are_the_likeliest() -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(6), (6, 6, 6)).transpose(3, 0, 1, 2).astype(np.float32)
    classes, _ = instances_from(probabilities, STREET, UNIT, RAW)
    p = probabilities
    expected = np.array([4, 1, 0, 7])[np.argmax([p[0], p[1] + p[2], p[3], p[4] + p[5]], axis=0)]
    assert np.array_equal(classes, expected)


def _leaking() -> np.ndarray:
    """Two touching balls whose wall the network missed altogether."""
    classes = encode(PAIR > 0, np.ones(PAIR.shape, bool), [], UNIT, CELLS)
    return _certain(classes, 3)


def test_a_leaking_border_is_split_at_the_neck() -> None:
    ids = instances_from(_leaking(), CELLS, UNIT)[1]
    assert instance_scores(ids, PAIR).ap[0.8] == 1.0
    merged = instances_from(_leaking(), CELLS, UNIT, InstanceRules(split=False))[1]
    assert merged.max() == 1
    deep = instances_from(_leaking(), CELLS, UNIT, InstanceRules(split_depth_mm=20.0))[1]
    assert deep.max() == 1


def test_distance_moves_walls_to_the_neck() -> None:
    """Where nothing else tells, objects that grow by distance meet where the inside is narrowest."""
    ids = instances_from(_leaking(), CELLS, UNIT, InstanceRules(distance_weight=0.1, smoothing_mm=0))[1]
    assert instance_scores(ids, PAIR).ap[0.8] == 1.0


def test_thin_and_tiny_objects_survive() -> None:
    values = np.zeros((20, 20, 20), int)
    values[2:4, 2:18, 2:18] = 1  # a plate of two voxels: all border
    values[10:13, 10:13, 10:13] = 2
    values[16, 16, 4:16] = 3
    ids = instances_from(_dense(values), CELLS, UNIT, RAW)[1]
    assert _same_objects(ids, values)
    assert ids.max() == 3


def test_small_objects_go_to_their_neighbour_or_vanish() -> None:
    probabilities = _dense(PAIR)
    probabilities[:, 9:11, 9, 9] = np.array([0.02, 0.08, 0.9])[:, None]
    values = PAIR.copy()
    values[28, 18:20, 18] = 3  # two voxels, on their own
    values[2:4, 9, 9] = 4  # two voxels of another number, on the first ball
    probabilities = _dense(values)
    few, many = (
        instances_from(probabilities, CELLS, UNIT, InstanceRules(smoothing_mm=0, min_volume_mm3=v)) for v in (2, 3)
    )
    assert few[1][28, 18, 18] > 0
    assert many[1].max() == 2
    assert (many[0][28, 18:20, 18] == 0).all()
    assert (many[1][2:4, 9, 9] == many[1][9, 9, 9]).all()
    everything = instances_from(probabilities, CELLS, UNIT, InstanceRules(min_volume_mm3=1e6))
    assert not everything[0].any()
    assert not everything[1].any()


def test_given_up_things_become_the_likeliest_stuff() -> None:
    classes = np.zeros((6, 6, 6), int)
    classes[2, 2, 2] = 1
    probabilities = _certain(classes, 6)
    probabilities[:, 2, 2, 2] = [0.1, 0.5, 0.1, 0.2, 0.05, 0.05]
    rules = InstanceRules(smoothing_mm=0, min_volume_mm3=2.0)
    assert instances_from(probabilities, STREET, UNIT, rules)[0][2, 2, 2] == 0  # sky before road
    assert instances_from(probabilities, STREET, UNIT, RAW)[0][2, 2, 2] == 1


def _with_dark_spots() -> np.ndarray:
    """A ball with two holes that the network took for background: one inside, one open to the outside."""
    ball = _balls((24, 24, 24), ((11, 11, 11), 9))
    classes = encode(ball, np.ones(ball.shape, bool), [], UNIT, CELLS)
    classes[10:12, 11, 11] = 0
    classes[4:6, 11, 11] = 0
    classes[:4, 11, 11] = 0
    return _certain(classes, 3)


def test_holes_in_one_object_are_filled() -> None:
    """And do not make it two objects."""
    closed, kept = (
        instances_from(_with_dark_spots(), CELLS, UNIT, InstanceRules(smoothing_mm=0, hole_volume_mm3=v))
        for v in (2.0, 0.0)
    )
    assert closed[1].max() == 1
    assert (closed[1][10:12, 11, 11] == 1).all()
    assert (closed[0][10:12, 11, 11] == 1).all()
    assert (closed[1][:6, 11, 11] == 0).all()
    assert not kept[1][10:12, 11, 11].any()
    assert not kept[0][10:12, 11, 11].any()


def test_a_thing_within_a_thing_is_no_hole() -> None:
    values = np.where(_balls((24, 24, 24), ((11, 11, 11), 9)) > 0, 101, 400)
    values[10:13, 11, 11] = 701
    for scheme in (STREET, InstanceScheme(STREET.classes[::-1], 100)):
        classes = np.full(values.shape, scheme.index(4, "stuff"))
        classes[values == 101] = scheme.index(1, "inside")
        classes[values == 701] = scheme.index(7, "inside")
        codes, ids = instances_from(_certain(classes, 6), scheme, UNIT, InstanceRules(smoothing_mm=0, min_volume_mm3=0))
        assert np.array_equal(codes, values // 100)
        assert (ids[values == 701] == 1).all()


def test_a_gap_between_two_objects_is_no_hole() -> None:
    values = np.ones((9, 9, 9), int)
    values[5:] = 2
    values[4, 4, 4] = 0  # one voxel between the two, off the edge
    classes, ids = instances_from(_dense(values), CELLS, UNIT, InstanceRules(smoothing_mm=0))
    assert ids.max() == 2
    assert (ids[4, 4, 4], classes[4, 4, 4]) == (0, 0)


def test_a_slice_is_a_volume_of_one_voxel() -> None:
    flat = PAIR[:, :, 9:10]
    ids = instances_from(_leaking()[:, :, :, 9:10], CELLS, UNIT)[1]
    assert instance_scores(ids, flat).ap[0.8] == 1.0


def test_classes_are_told_apart_and_numbered_on_their_own() -> None:
    values = np.where(PAIR == 1, 105, np.where(PAIR == 2, 733, 400))
    values[:, :, :1] = 0
    classes, ids = instances_from(_dense(values, STREET), STREET, UNIT, RAW)
    assert np.array_equal(classes, values // 100)
    assert np.array_equal(ids, PAIR > 0)
    assert np.array_equal(np.unique(join(classes, ids, 100)), [0, 101, 400, 701])


def test_nothing_and_everything() -> None:
    nothing, everything = np.zeros((4, 5, 6), int), np.ones((4, 5, 6), int)
    classes, ids = instances_from(_dense(nothing), CELLS, UNIT)
    assert not classes.any()
    assert not ids.any()
    for rules in (InstanceRules(), RAW, InstanceRules(distance_weight=0.1)):
        assert (instances_from(_dense(everything), CELLS, UNIT, rules)[1] == 1).all()
    assert instances_from(_dense(nothing)[:, :0], CELLS, UNIT)[1].shape == (0, 5, 6)


def test_more_objects_than_16_bits_hold() -> None:
    values = np.zeros((82, 82, 82), int)
    values[::2, ::2, ::2] = 2  # every voxel a thing of its own
    ids = instances_from(_certain(values, 3), CELLS, UNIT, RAW)[1]
    assert ids.dtype == np.uint32
    assert ids.max() == 41**3
    assert np.array_equal(ids[::2, ::2, ::2].ravel(), np.arange(1, 41**3 + 1))


def test_probabilities_that_do_not_fit_are_refused() -> None:
    good = _dense(PAIR)
    with pytest.raises(ModelError, match="3 outputs"):
        instances_from(good[:2], CELLS, UNIT)
    with pytest.raises(ModelError, match="3 outputs"):
        instances_from(good[0], CELLS, UNIT)
    for wrong in (np.nan, np.inf, 7.0, -3.0):
        bad = good.copy()
        bad[:, 3, 3, 3] = wrong
        with pytest.raises(ModelError, match="from 0 to 1"):
            instances_from(bad, CELLS, UNIT, RAW)
    with pytest.raises(GeometryError, match="spacings"):
        instances_from(good, CELLS, (1.0, 1.0))


def test_rules_are_checked() -> None:
    for rule, value in itertools.product(("smoothing_mm", "min_volume_mm3", "distance_weight"), (-1.0, np.nan)):
        with pytest.raises(ConfigError, match=rule):
            InstanceRules(**{rule: value})
    with pytest.raises(ConfigError, match="seed_threshold"):
        InstanceRules(seed_threshold=1.0)
    exact = InstanceRules().resolve((0.5, 0.25, 2.0))
    assert (exact.smoothing_mm, exact.split_depth_mm, exact.min_voxels) == (0.25, 0.25, 20)
    assert exact.min_volume_mm3 == pytest.approx(20 * 0.25)


# Panoptic values


@given(seeds)
def test_join_and_split_are_inverse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    divisor = int(rng.choice([2, 7, 1000, 70000]))
    codes = rng.integers(0, rng.choice([1, 4, 300]), (3, 4, 2)).astype(np.uint16)
    ids = rng.integers(0, divisor, (3, 4, 2)).astype(np.uint32)
    values = join(codes, ids, divisor)
    assert values.dtype == (np.uint16 if values.max() <= 65535 else np.uint32)
    assert np.array_equal(values.astype(np.int64), codes.astype(np.int64) * divisor + ids)
    back = split(values, divisor)
    assert np.array_equal(back[0], codes)
    assert np.array_equal(back[1], ids)


def test_join_and_split_refuse_what_does_not_fit() -> None:
    ones = np.ones((2, 2), np.uint16)
    with pytest.raises(LabelError, match="Set the divisor to 10000"):
        join(ones, 1000 * ones)
    with pytest.raises(LabelError, match="Set the divisor to 10000"):
        join(ones, 9999 * ones, 100)
    with pytest.raises(LabelError, match="32-bit"):
        join(ones * 50000, ones, 10**6)
    with pytest.raises(GeometryError, match="one shape"):
        join(ones, ones[:1])
    with pytest.raises(LabelError, match="from 0 up"):
        join(ones, -1.0 * ones)
    with pytest.raises(LabelError, match="divisor from 2"):
        join(ones, 0 * ones, 1)
    with pytest.raises(LabelError, match="up to"):
        split(ones.astype(np.int64) << 40)
    with pytest.raises(LabelError, match="from 0 up"):
        split(-ones.astype(int))
