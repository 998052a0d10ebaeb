"""Entropy and mutual information: their laws, slab by slab, and on the scan's own grid."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from workflow_parts import balls

from vol3d import io
from vol3d.bundle import ModelBundle
from vol3d.config import InferenceConfig, TaskSpec, UNetConfig
from vol3d.errors import ConfigError, GeometryError, ModelError, ResourceError
from vol3d.inference import (
    Member,
    normalized_entropy,
    plan_axes,
    plan_for,
    predict_axes,
    predict_slabs,
    predict_uncertainty,
    whole_pass,
)
from vol3d.metrics import tempered
from vol3d.networks import build
from vol3d.report import uncertainty_png
from vol3d.report.uncertainty import most_uncertain
from vol3d.transforms import Preprocessing
from vol3d.volume import Affine, LabelTable, Volume
from vol3d.workflows.device import Device
from vol3d.workflows.listener import Quiet
from vol3d.workflows.outcomes import outcome
from vol3d.workflows.uncertainty import (
    CHANNELS,
    UncertainPass,
    labels_and_uncertainty,
    require_uncertainty_room,
    uncertainty_path,
    write_uncertainty,
)

pytestmark = pytest.mark.usefixtures("single_threaded")
LIMITS = {"memory_bytes": math.inf, "bytes_per_voxel": 1.0}
CPU = Device("cpu", "float32")
SHAPES = st.tuples(*(st.integers(1, 11),) * 3)


def unet(padding="valid", dimensions=3, seed=0, dtype=torch.float64, classes=3):
    parts = {"dimensions": dimensions, "encoder": ((3,), (4,)), "padding": padding, "normalization": "none"}
    return build(UNetConfig(**parts), 2, classes, generator=torch.Generator().manual_seed(seed)).to(dtype)


def scan(shape, dtype=np.float64):
    return np.random.default_rng(len(shape)).standard_normal((2, *shape)).astype(dtype)


def plans_of(made, shape, tile=6):
    if len(made.margin) == 2:
        return plan_axes(made, shape, **LIMITS)
    return (plan_for(made, shape, tile=made.input_size((tile,) * 3), overlap=0.3, **LIMITS),)


def joined(slabs):
    """(probabilities, entropy, mutual information, expected entropy, confidence) of the whole volume."""
    slabs = list(slabs)
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
    shares = np.concatenate([slab.probabilities for slab in slabs], axis=1)
    names = ("entropy", "mutual_information", "expected_entropy", "confidence")
    return shares, *(np.concatenate([getattr(slab, name) for slab in slabs]) for name in names)


class Constant(nn.Module):
    """Answers the same logits everywhere."""

    margin, total_stride = (0, 0, 0), (2, 2, 2)

    def __init__(self, *logits):
        super().__init__()
        self.logits, self.classes = torch.tensor(logits).reshape(1, -1, 1, 1, 1), len(logits)

    def input_size(self, size):
        return tuple(-(-n // 2) * 2 for n in size)

    def forward(self, image):
        return self.logits * torch.ones_like(image[:, :1])


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


# Entropy


def test_entropy_is_one_where_all_is_equal_and_zero_where_one_is_certain():
    for classes in (2, 3, 7):
        assert normalized_entropy(np.full((classes, 2, 3), 1 / classes)) == pytest.approx(1)
        certain = np.zeros((classes, 4), np.float32)
        certain[1] = 1
        found = normalized_entropy(certain)
        assert found.dtype == np.float32
        assert (found == 0).all()
    assert (normalized_entropy(np.ones((1, 5), np.float32)) == 0).all()
    assert (normalized_entropy(np.zeros((3, 5))) == 0).all()  # where no tile answered
    assert normalized_entropy(np.array([0.9, 0.1]))[()] == pytest.approx(0.4689955935892812)


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda p: sum(p) > 0.01), min_size=1))
def test_entropy_lies_between_zero_and_one_whatever_the_order(rows):
    shares = (np.array(rows) / np.sum(rows, axis=1, keepdims=True)).T
    found = normalized_entropy(shares)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(normalized_entropy(shares[::-1]), found, atol=1e-12)


# Members


@pytest.mark.parametrize(("padding", "dimensions"), [("valid", 3), ("same", 3), ("valid", 2), ("same", 2)])
@settings(max_examples=10)
@given(SHAPES, st.sets(st.integers(0, 2)))
def test_probabilities_are_those_of_prediction(padding, dimensions, shape, flips):
    made, image = unet(padding, dimensions), scan(shape)
    plans = plans_of(made, shape)
    shares, entropy, mutual, _, confidence = joined(
        predict_uncertainty([Member(made, plans, 1.3)], image, flip_axes=tuple(flips))
    )
    facts = {"flip_axes": tuple(flips), "temperature": 1.3}
    expected = np.concatenate([s.values for s in predict_axes(made, image, plans, **facts)], axis=1)
    np.testing.assert_allclose(shares, expected, atol=1e-12)
    np.testing.assert_allclose(entropy, normalized_entropy(expected), atol=1e-12)
    np.testing.assert_allclose(confidence, expected.max(axis=0), atol=1e-12)
    assert (mutual >= 0).all()
    assert (mutual <= entropy + 1e-12).all()


@settings(max_examples=10)
@given(SHAPES, st.sets(st.integers(0, 2), min_size=1))
def test_slab_by_slab_equals_the_whole_volume_flip_by_flip(shape, axes):
    networks, image = [unet(seed=1), unet(seed=2)], scan(shape)
    found = joined(
        predict_uncertainty([Member(n, plans_of(n, shape), 0.8) for n in networks], image, flip_axes=tuple(axes))
    )
    members = []
    for made in networks:
        for chosen in np.ndindex(*(2 if axis in axes else 1 for axis in range(3))):
            turn = tuple(1 + axis for axis in range(3) if chosen[axis])
            logits = np.flip(whole_pass(made, np.ascontiguousarray(np.flip(image, turn))), turn)
            members.append(tempered(logits.reshape(3, -1), 0.8).reshape(3, *shape))
    mean = np.mean(members, axis=0)
    expected = np.mean([normalized_entropy(one) for one in members], axis=0)
    np.testing.assert_allclose(found[0], mean, atol=1e-9)
    np.testing.assert_allclose(found[1], normalized_entropy(mean), atol=1e-9)
    np.testing.assert_allclose(found[2], normalized_entropy(mean) - expected, atol=1e-9)
    np.testing.assert_allclose(found[3], expected, atol=1e-9)


@pytest.mark.parametrize(("padding", "dimensions"), [("valid", 3), ("same", 3), ("valid", 2)])
@settings(max_examples=8)
@given(SHAPES, st.sets(st.integers(0, 2)))
def test_uncertainty_commutes_with_flips_of_the_volume(padding, dimensions, shape, axes):
    made, image = unet(padding, dimensions), scan(shape)
    member = Member(made, plans_of(made, shape))
    turn = tuple(1 + axis for axis in axes)
    straight = joined(predict_uncertainty([member], image, flip_axes=(0, 1, 2)))
    turned = joined(predict_uncertainty([member], np.flip(image, turn), flip_axes=(0, 1, 2)))
    np.testing.assert_allclose(turned[0], np.flip(straight[0], turn), atol=1e-12)
    for one, other in zip(turned[1:], straight[1:], strict=True):
        np.testing.assert_allclose(one, np.flip(other, tuple(axis - 1 for axis in turn)), atol=1e-12)


def test_identical_members_agree():
    made, image = unet(dtype=torch.float32), scan((14, 11, 9), np.float32)
    plans = plans_of(made, (14, 11, 9))
    alone = joined(predict_uncertainty([Member(made, plans)], image))
    several = joined(predict_uncertainty([Member(made, plans)] * 3, image))
    assert alone[2].max() < 1e-6
    assert several[2].max() < 1e-6
    assert alone[0].dtype == alone[1].dtype == alone[2].dtype == np.float32
    np.testing.assert_array_equal(several[0], alone[0])
    np.testing.assert_allclose(alone[1], alone[3], atol=1e-6)


def test_members_that_contradict_each_other_disagree_about_everything():
    one, other = Constant(50.0, -50.0), Constant(-50.0, 50.0)
    members = [Member(made, (plan_for(made, (7, 4, 3), **LIMITS),)) for made in (one, other)]
    shares, entropy, mutual, expected, confidence = joined(predict_uncertainty(members, np.zeros((1, 7, 4, 3))))
    np.testing.assert_allclose(shares, 0.5)
    np.testing.assert_allclose(entropy, 1)
    np.testing.assert_allclose(mutual, 1)
    np.testing.assert_allclose(expected, 0, atol=1e-6)
    np.testing.assert_allclose(confidence, 0.5)


def test_an_even_network_is_uncertain_and_not_in_disagreement():
    made = Constant(2.0, 2.0, 2.0)
    member = Member(made, (plan_for(made, (9, 4, 3), patch=(4, 4, 4), overlap=0.5, **LIMITS),))
    _, entropy, mutual, _, _ = joined(predict_uncertainty([member], np.zeros((1, 9, 4, 3)), flip_axes=(0, 1, 2)))
    np.testing.assert_allclose(entropy, 1, atol=1e-6)
    np.testing.assert_allclose(mutual, 0, atol=1e-6)


def test_a_single_class_is_certain():
    made = Constant(3.0)
    shares, entropy, mutual, _, _ = joined(
        predict_uncertainty([Member(made, (plan_for(made, (5, 4, 3), **LIMITS),))], np.zeros((1, 5, 4, 3)))
    )
    assert (shares == 1).all()
    assert (entropy == 0).all()
    assert (mutual == 0).all()


def test_networks_of_other_tiles_and_temperatures_go_together():
    shape = (23, 9, 8)
    one, other, image = unet(seed=1), unet("same", seed=2), scan(shape)
    plans = [plans_of(one, shape, 3), (plan_for(other, shape, **LIMITS),)]
    found = joined(predict_uncertainty([Member(one, plans[0], 2.0), Member(other, plans[1], 0.5)], image))
    parts = [
        np.concatenate([s.values for s in predict_slabs(made, image, own[0], temperature=t)], axis=1)
        for made, own, t in ((one, plans[0], 2.0), (other, plans[1], 0.5))
    ]
    np.testing.assert_allclose(found[0], np.mean(parts, axis=0), atol=1e-12)


def test_slabs_are_thin_and_come_before_the_last_tile_has_run():
    shape = (60, 6, 6)
    networks = [unet(seed=1), unet(seed=2)]
    heard = []
    members = [Member(made, plans_of(made, shape, 4)) for made in networks]
    stream = predict_uncertainty(members, scan(shape), flip_axes=(1,), progress=lambda *at: heard.append(at))
    first = next(stream)
    assert first.probabilities.shape[1] <= 16
    assert heard[-1][0] < 0.5 * heard[-1][1]
    assert all(slab.probabilities.shape[1] <= 16 for slab in stream)
    assert heard[-1][0] == heard[-1][1] == sum(plan.flipped((1,)).voxels for m in members for plan in m.plans)


def test_needed_voxels_get_the_same_and_others_nothing():
    shape = (30, 9, 8)
    made, image = unet("same"), scan(shape)
    member = Member(made, plans_of(made, shape))
    needed = np.zeros(shape, bool)
    needed[14, 3:5, 2] = True
    full = joined(predict_uncertainty([member], image, flip_axes=(0,)))
    part = joined(predict_uncertainty([member], image, flip_axes=(0,), needed=needed))
    for one, other in zip(part, full, strict=True):
        np.testing.assert_array_equal(one[..., needed], other[..., needed])
        assert (one[..., 0, :, :] == 0).all()
    with pytest.raises(GeometryError, match="mask"):
        predict_uncertainty([member], image, needed=needed[1:])


def test_too_large_tiles_get_smaller():
    shape = (24, 12, 10)
    made, image = unet(), scan(shape)
    expected = joined(predict_uncertainty([Member(made, plans_of(made, shape))], image))
    fussy = Fussy(made, math.prod(plans_of(made, shape, 6)[0].size))
    found = joined(predict_uncertainty([Member(fussy, (plan_for(made, shape, **LIMITS),))], image))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)
    with pytest.raises(ResourceError, match="smallest tile"):
        list(predict_uncertainty([Member(Fussy(made, 10), plans_of(made, shape))], image))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_an_error(poison):
    made = Constant(poison, 0.0)
    with pytest.raises(ModelError, match="NaN or infinite"):
        list(predict_uncertainty([Member(made, (plan_for(made, (4, 4, 4), **LIMITS),))], np.zeros((1, 4, 4, 4))))


def test_members_that_do_not_fit_are_refused():
    made, few = unet(), unet(classes=2)
    with pytest.raises(ModelError, match="one set of classes"):
        predict_uncertainty([Member(n, plans_of(n, (9, 9, 9))) for n in (made, few)], scan((9, 9, 9)))
    with pytest.raises(ModelError, match="one set of classes"):
        predict_uncertainty([Member(made, plans_of(made, (9, 9, n))) for n in (8, 9)], scan((9, 9, 9)))
    for nothing in ([], [Member(made, ())], [Member(made, plans_of(made, (9, 9, 9))), Member(made, ())]):
        with pytest.raises(ModelError, match="one set of classes"):
            predict_uncertainty(nothing, scan((9, 9, 9)))
    with pytest.raises(ModelError, match="2 channels"):
        predict_uncertainty([Member(made, plans_of(made, (9, 9, 9)))], scan((9, 9, 9))[:1])
    with pytest.raises(ModelError, match="temperature above 0"):
        predict_uncertainty([Member(made, plans_of(made, (9, 9, 9)), 0.0)], scan((9, 9, 9)))


# On the scan's own grid


def bundle(dimensions=3, seed=0, spacing_mm=None, classes=2, **parts):
    config = UNetConfig(dimensions=dimensions, encoder=((4,), (6,)), padding="valid", normalization="none")
    made = build(config, 1, classes, generator=torch.Generator().manual_seed(seed))
    return ModelBundle(
        network=config,
        in_channels=1,
        weights=dict(made.state_dict()),
        preprocessing=Preprocessing(spacing_mm=spacing_mm).to_json(),
        labels=LabelTable.from_codes(list(range(classes))),
        **({"task": TaskSpec(planes=(0, 1, 2) if dimensions == 2 else ())} | parts),
    )


def volume(shape=(26, 24, 22), turned=True):
    image, _ = balls(shape)
    matrix = np.diag([1.0, 1.0, 1.0, 1.0])
    if turned:
        matrix = np.array([[0, 0, 1.0, 0], [-1.0, 0, 0, 5], [0, 1.5, 0, 0], [0, 0, 0, 1]])
    return Volume(image[None], Affine(matrix), "scan")


@pytest.mark.parametrize("spacing_mm", [None, (1.3, 1.1, 1.2)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_labels_and_uncertainty_come_from_one_pass(spacing_mm, dimensions):
    model, given = bundle(dimensions, spacing_mm=spacing_mm, temperature=1.5), volume()
    image = Preprocessing.from_json(model.preprocessing).apply(given)
    labels, maps = labels_and_uncertainty(model, image.array, image.undo, CPU, InferenceConfig(), Quiet())
    assert labels.shape == given.shape
    assert maps.shape == (2, *given.shape)
    assert maps.dtype == np.float32
    assert ((maps >= 0) & (maps <= 1)).all()
    assert (maps[1] <= maps[0] + 1e-5).all()
    assert maps[1].max() > 1e-4
    found = UncertainPass([(model, model.build())], image.array, CPU, InferenceConfig(), Quiet())
    shares = image.undo.probabilities(found.slabs(), 2)
    np.testing.assert_array_equal(labels, shares.argmax(axis=0))
    np.testing.assert_array_equal(found.maps(image.undo), maps)
    if spacing_mm is None:
        np.testing.assert_allclose(maps[0], normalized_entropy(shares), atol=1e-5)


def test_outcomes_take_their_probabilities_from_the_same_pass():
    model, given = bundle(), volume()
    image = Preprocessing.from_json(model.preprocessing).apply(given)
    found = UncertainPass([(model, model.build())], image.array, CPU, InferenceConfig(), Quiet())
    with pytest.raises(GeometryError, match="slabs over all"):
        found.maps(image.undo)
    made = outcome(model, found.slabs, image.undo, given, probabilities=True)
    maps = found.maps(image.undo)
    np.testing.assert_allclose(maps[0], normalized_entropy(made.probabilities), atol=1e-5)
    again = outcome(model, found.slabs, image.undo, given, probabilities=False)
    np.testing.assert_array_equal(again.array, made.array)
    np.testing.assert_array_equal(found.maps(image.undo), maps)
    with pytest.raises(ConfigError, match="ask for probabilities"):
        next(found.slabs(True))


def test_several_models_are_members():
    models, given = [bundle(seed=0), bundle(seed=1, temperature=2.0)], volume(turned=False)
    image = Preprocessing.from_json(models[0].preprocessing).apply(given)
    pairs = [(model, model.build()) for model in models]
    both = UncertainPass(pairs, image.array, CPU, InferenceConfig(), Quiet(), flip_axes=())
    image.undo.labels(both.slabs(), 2)
    alone = UncertainPass(pairs[:1], image.array, CPU, InferenceConfig(), Quiet(), flip_axes=())
    image.undo.labels(alone.slabs(), 2)
    assert alone.maps(image.undo)[1].max() < 1e-5
    assert both.maps(image.undo)[1].max() > 1e-3
    with pytest.raises(ModelError, match="same classes"):
        UncertainPass(
            [*pairs, (bundle(classes=3), bundle(classes=3).build())], image.array, CPU, InferenceConfig(), Quiet()
        )


def test_values_have_no_uncertainty():
    model = bundle(classes=1, task=TaskSpec(kind="regression"))
    image = Preprocessing.from_json(model.preprocessing).apply(volume())
    with pytest.raises(ConfigError, match="--uncertainty"):
        UncertainPass([(model, model.build())], image.array, CPU, InferenceConfig(), Quiet())


# Files and pictures


def test_maps_are_written_beside_the_prediction(tmp_path):
    given, target = volume(), str(tmp_path / "scan_seg.nii.gz")
    maps = np.random.default_rng(0).random((2, *given.shape)).astype(np.float32)
    require_uncertainty_room(target, overwrite=False, preview=True)
    path, picture = write_uncertainty(target, maps, given)
    assert path == uncertainty_path(target) == str(tmp_path / "scan_seg_uncertainty.nii.gz")
    assert picture == tmp_path / "scan_seg_uncertainty.png"
    assert picture.read_bytes()[:4] == b"\x89PNG"
    for channel in (0, 1):
        read = io.read(path, channel=channel)
        np.testing.assert_array_equal(read.array[0], maps[channel])
        np.testing.assert_allclose(read.affine.matrix, given.affine.matrix)
    assert io.info(path)["channel_names"] == list(CHANNELS)
    with pytest.raises(ConfigError, match="exists already"):
        require_uncertainty_room(target, overwrite=False, preview=False)
    (tmp_path / "scan_seg_uncertainty.nii.gz").unlink()
    with pytest.raises(ConfigError, match=r"uncertainty\.png exists already"):
        require_uncertainty_room(target, overwrite=False, preview=True)
    require_uncertainty_room(target, overwrite=True, preview=True)
    assert write_uncertainty(target, maps, given, overwrite=True, preview=False)[1] is None
    path, _ = write_uncertainty(str(tmp_path / "scan_seg.h5:label"), maps, given, preview=False)
    assert path == str(tmp_path / "scan_seg_uncertainty.h5:label")
    np.testing.assert_array_equal(io.read(path, channel=1).array[0], maps[1])


def test_the_most_uncertain_region_is_found():
    values = np.zeros((40, 9, 17), np.float32)
    values[3, 2, 2] = 1.0  # a single voxel is no region
    values[24:32, 0:8, 8:16] = 0.3
    assert most_uncertain(values) == (28, 4, 12)
    ragged = np.zeros((9, 9, 9), np.float32)
    ragged[8, 8, 8] = 0.5
    assert most_uncertain(ragged) == (8, 8, 8)
    assert most_uncertain(np.zeros((1, 3, 2), np.float32)) == (0, 2, 1)


def test_a_picture_of_any_volume_is_drawn(tmp_path):
    for number, shape in enumerate([(20, 18, 16), (30, 30, 1)]):
        maps = np.linspace(0, 1, 2 * math.prod(shape), dtype=np.float32).reshape(2, *shape)
        path = uncertainty_png(tmp_path / f"{number}.png", maps[0], Affine.from_spacing((1, 1, 2)), maps, CHANNELS)
        assert path.stat().st_size > 1000
    with pytest.raises(GeometryError, match="one grid"):
        uncertainty_png(tmp_path / "x.png", np.zeros((4, 4, 4)), Affine.from_spacing((1, 1, 2)), maps, CHANNELS)
