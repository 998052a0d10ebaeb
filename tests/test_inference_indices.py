"""Class indices instead of values of every class: the same labels in a fraction of the memory."""

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workflow_parts import drawn_bundle

from vol3d import io
from vol3d.config import InferenceConfig, UNetConfig
from vol3d.errors import GeometryError, ModelError, ResourceError
from vol3d.inference import bytes_per_voxel, plan_for, predict_axes, predict_slabs
from vol3d.inference.blend import most_probable
from vol3d.networks import build
from vol3d.transforms import Undo
from vol3d.volume import Affine, Slab, Volume
from vol3d.workflows.device import Device
from vol3d.workflows.large import predict_large
from vol3d.workflows.listener import Quiet
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.predict import predict
from vol3d.workflows.tiling import require_sight, tile_plans

pytestmark = pytest.mark.usefixtures("single_threaded")
LIMITS = {"memory_bytes": 1e9, "bytes_per_voxel": 1.0}


def valid_network(classes=4):
    return build(
        UNetConfig(encoder=((3,), (4,)), padding="valid"), 1, classes, generator=torch.Generator().manual_seed(1)
    ).eval()


def scan(shape):
    return np.random.default_rng(sum(shape)).standard_normal((1, *shape)).astype(np.float32)


def joined(slabs):
    slabs = list(slabs)
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
    return np.concatenate([slab.values for slab in slabs], axis=1)


@given(st.tuples(*(st.integers(1, 13),) * 3), st.tuples(*(st.sampled_from((12, 14, 20)),) * 3))
def test_indices_are_those_of_the_largest_values(shape, tile):
    network, image = valid_network(), scan(shape)
    values, indices = (plan_for(network, shape, tile=tile, indices=wanted, **LIMITS) for wanted in (False, True))
    found = joined(predict_slabs(network, image, indices))
    assert found.dtype == np.int16
    assert found.shape == (1, *shape)
    exact = joined(predict_slabs(network, image, values, logits=True))
    assert np.array_equal(found[0], exact.argmax(0))


@given(st.integers(1, 5), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_first_of_equal_values_is_the_most_probable_class(classes, channels_last, seed):
    values = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, (classes, 4, 5, 6)).astype(np.float32))
    laid = values.movedim(0, -1).contiguous().movedim(-1, 0) if channels_last else values
    assert np.array_equal(most_probable(laid).numpy(), values.numpy().argmax(0))


def test_a_plan_across_axes_hands_them_on_too():
    network, image = valid_network(), scan((21, 18, 17))
    plan = plan_for(network, (21, 18, 17), tile=(14, 14, 14), indices=True, **LIMITS)
    assert plan.indices
    parts = [joined(predict_axes(network, image, (plan,)))]
    late = list(predict_axes(network, image, (plan,), first_plane=9))
    assert late[0].start == 9
    assert np.array_equal(np.concatenate([slab.values for slab in late], axis=1), parts[0][:, 9:])


def test_they_take_a_fraction_of_the_memory():
    network = valid_network(classes=10)
    demand = bytes_per_voxel(network, in_channels=1)
    plans = [
        plan_for(network, (600, 600, 300), memory_bytes=2e8, bytes_per_voxel=demand, indices=wanted)
        for wanted in (False, True)
    ]
    assert plans[1].voxels < 0.6 * plans[0].voxels
    assert max(plan.bytes for plan in plans) <= 2e8


def test_blended_tiles_and_flips_need_values():
    same = build(UNetConfig(encoder=((3,), (4,)), padding="same"), 1, 3)
    assert not plan_for(same, (30, 30, 30), tile=(16, 16, 16), indices=True, **LIMITS).indices
    plan = plan_for(valid_network(), (30, 30, 30), indices=True, **LIMITS)
    with pytest.raises(ModelError, match="cannot be averaged over flips"):
        plan.flipped()


def test_a_scan_in_parts_gets_the_labels_of_the_whole(tmp_path):
    network = UNetConfig(encoder=((3,), (4,)), padding="valid")
    bundle = drawn_bundle(network, valid_network(3).state_dict(), codes=(0, 7, 300))
    whole = Volume(scan((40, 33, 35)), Affine.from_spacing((1.0, 1.0, 1.0)), "scan")
    io.write_image(str(tmp_path / "scan.h5"), whole.array, whole)
    for tta in (False, True):
        choice = PredictOptions(tile=(20, 20, 20), tta=tta, preview=False)
        predict_large(str(tmp_path / "scan.h5"), bundle, str(tmp_path / f"{tta}.h5"), choice, Quiet())
        exact = predict(whole, bundle, options=PredictOptions(tile=(20, 20, 20), tta=tta)).codes
        full = predict(whole, bundle, options=PredictOptions(tile=(20, 20, 20), tta=tta, probabilities=True))
        assert np.array_equal(full.codes, exact)
        with h5py.File(tmp_path / f"{tta}.h5") as file:
            codes = file["label"][()].transpose()
        assert np.array_equal(codes, exact)
        assert codes.max() == 300


def test_smaller_tiles_hand_on_the_same_indices():
    network, image = valid_network(), scan((30, 25, 28))
    plan = plan_for(network, (30, 25, 28), tile=(20, 20, 20), indices=True, **LIMITS)
    assert plan.smaller().indices
    found = [joined(predict_slabs(network, image, one)) for one in (plan, plan.smaller())]
    assert np.array_equal(*found)


def test_a_network_that_would_see_too_little():
    network = build(UNetConfig(encoder=((8, 8), (16, 16)), padding="same"), 1, 3)
    shape, patch = (2000, 2000, 500), (48, 48, 48)

    def plan(memory, tile=None):
        settings = InferenceConfig(max_memory_gb=memory, tile=tile)
        return require_sight(tile_plans(network, shape, Device("cpu"), settings, patch=patch), patch, settings)[0]

    with pytest.raises(ResourceError, match=r"half the patch .* 24×24×24 voxels, needs (\S+) GB of memory") as refused:
        plan(0.4)
    needed = float(str(refused.value).partition("needs ")[2].split()[0])
    found = plan(1.01 * needed)
    assert min(found.size) >= 24
    assert found.bytes <= 1.01e9 * needed
    assert plan(0.4, (8, 48, 48)).size == (8, 48, 48)  # as it was asked for
    thin = tile_plans(network, (12, 2000, 500), Device("cpu"), InferenceConfig(max_memory_gb=0.9), patch=patch)
    assert require_sight(thin, patch, InferenceConfig(max_memory_gb=0.9)) == thin


def test_indices_are_labels_and_no_probabilities():
    undo = Undo((3, 4, 5), Affine.from_spacing((1.0, 1.0, 1.0)), Affine.from_spacing((1.0, 1.0, 1.0)).orientation)
    indices = np.random.default_rng(0).integers(0, 3, (1, 3, 4, 5)).astype(np.int16)
    assert np.array_equal(undo.labels([Slab(0, indices)], 3), indices[0])
    with pytest.raises(GeometryError, match="expected 3 classes"):
        undo.probabilities([Slab(0, indices)], 3)
