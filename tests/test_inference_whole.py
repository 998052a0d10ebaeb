"""Law 3: what tiles say together equals one pass over the mirrored whole."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from vol3d.config import UNetConfig
from vol3d.inference import plan_for, plan_tiles, predict_slabs, whole_pass
from vol3d.networks import UNet

LIMITS = {"memory_bytes": math.inf, "bytes_per_voxel": 1.0}
NETWORKS = {
    "isotropic": {"encoder": ((2, 3), (4,)), "normalization": "none"},
    "batch norm": {"encoder": ((2,), (3,)), "normalization": "batch"},
    "anisotropic": {
        "encoder": ((2,), (3,), (4,)),
        "kernels": ((3, 3, 1), (3, 3, 3), (3, 1, 3)),
        "pooling": ((2, 2, 1), (3, 1, 2)),
        "normalization": "batch",
    },
    "interpolated": {"encoder": ((2,), (3,)), "up": "interpolate", "normalization": "none"},
    "no pooling": {"encoder": ((3, 3),), "normalization": "none"},
    "planes": {"encoder": ((2, 3), (4,)), "dimensions": 2, "normalization": "batch"},
}


pytestmark = pytest.mark.usefixtures("single_threaded")


def network(kind, dtype=torch.float64, padding="valid", classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = UNet(UNetConfig(padding=padding, **NETWORKS[kind]), 1, classes)
        for module in made.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
                nn.init.uniform_(module.running_mean, -1, 1)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
        return made.to(dtype)


def scan(shape, seed=0):
    return np.random.default_rng(seed).standard_normal((1, *shape))


def stitched(made, image, plan, **options):
    slabs = list(predict_slabs(made, image, plan, logits=True, **options))
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
    assert slabs[-1].stop == image.shape[1]
    return np.concatenate([slab.values for slab in slabs], axis=1)


@pytest.mark.parametrize("kind", NETWORKS)
@settings(max_examples=60, deadline=None)  # 360 over all networks
@given(st.data())
def test_any_tiling_equals_the_whole(kind, data):
    made = network(kind)
    shape = data.draw(st.tuples(*(st.integers(1, 14),) * 3), "shape")
    image = scan(shape, data.draw(st.integers(0, 5), "seed"))
    axes = plan_for(made, shape, **LIMITS).axes
    tile = tuple(data.draw(st.sampled_from(axis.sizes()), "tile") for axis in axes)
    plan = plan_for(made, shape, tile=tile, **LIMITS)
    assume(len(plan.tiles) <= 30)
    whole = whole_pass(made, image)
    assert whole.dtype == np.float64
    assert np.abs(stitched(made, image, plan) - whole).max() <= 1e-10 * max(np.ptp(whole), 1.0)


@pytest.mark.parametrize("kind", ["isotropic", "anisotropic", "planes"])
def test_the_whole_is_one_pass_over_the_padded_image(kind):
    made = network(kind).eval()
    for shape in ((13, 7, 5), (1, 4, 9), (2, 1, 1)):
        image = scan(shape)
        dims = made.dimensions
        size = made.input_size(shape[:dims])
        pad = [(m // 2, n - s - m // 2) for m, n, s in zip(made.margin, size, shape, strict=False)]
        padded = np.pad(image, [(0, 0), *pad, *[(0, 0)] * (3 - dims)], mode="reflect")
        with torch.no_grad():
            if dims == 3:
                logits = made(torch.from_numpy(padded)[None])[0].numpy()
            else:
                planes = [made(torch.from_numpy(padded[None, ..., z].copy()))[0].numpy() for z in range(shape[2])]
                logits = np.stack(planes, axis=-1)
        x, y, z = shape
        np.testing.assert_allclose(whole_pass(made, image), logits[:, :x, :y, :z], atol=1e-12)


@pytest.mark.parametrize("kind", ["isotropic", "anisotropic"])
def test_float32_keeps_to_a_ten_thousandth_of_the_range(kind):
    made = network(kind, torch.float32)
    image = scan((30, 22, 17)).astype(np.float32)
    whole = whole_pass(made, image)
    assert whole.dtype == np.float32
    sizes = set()
    for megabytes in (0.6, 0.8, 1.2, 10):
        plan = plan_for(made, (30, 22, 17), memory_bytes=megabytes * 1e6, bytes_per_voxel=50.0)
        sizes.add(plan.size)
        tiled = stitched(made, image, plan)
        assert np.abs(tiled - whole).max() <= 1e-4 * np.ptp(whole)
        ordered = np.sort(whole, axis=0)
        sure = ordered[-1] - ordered[-2] > 1e-4 * np.ptp(whole)
        assert (tiled.argmax(0) == whole.argmax(0))[sure].all()
    assert len(sizes) >= 3


def test_tiles_that_start_off_the_stride_would_break_the_law():
    made = network("isotropic")
    image = scan((24, 12, 12))
    whole = whole_pass(made, image)
    shifted = whole_pass(made, image[:, 1:])
    assert np.abs(shifted[:, 8:15, 6:8, 6:8] - whole[:, 9:16, 6:8, 6:8]).max() > 1e-3 * np.ptp(whole)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 3), (40, 2, 1)])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("kind", ["isotropic", "planes"])
def test_r15_images_smaller_than_a_tile_or_one_voxel_thick(kind, padding, shape):
    made = network(kind, torch.float32, padding)
    image = scan(shape).astype(np.float32)
    plan = plan_for(made, shape, patch=made.input_size((16,) * made.dimensions), **LIMITS)
    slabs = list(predict_slabs(made, image, plan))
    values = np.concatenate([slab.values for slab in slabs], axis=1)
    assert values.shape == (3, *shape)
    np.testing.assert_allclose(values.sum(axis=0), 1, atol=1e-6)
    assert whole_pass(made, image).shape == (3, *shape)


def test_needed_voxels_get_exactly_what_they_get_anyway():
    made = network("isotropic", torch.float32)
    image = scan((30, 20, 10)).astype(np.float32)
    plan = plan_tiles(
        (30, 20, 10), made.margin, made.total_stride, tile=made.input_size((8, 8, 8)), classes=3, **LIMITS
    )
    needed = np.zeros((30, 20, 10), dtype=bool)
    needed[9, :, :] = needed[:, 19, 2] = True
    heard = []
    part = stitched(made, image, plan, needed=needed, progress=lambda done, total: heard.append((done, total)))
    full = stitched(made, image, plan)
    assert (part[:, needed] == full[:, needed]).all()
    assert (part == 0).all(axis=0).mean() > 0.3
    assert heard[-1][0] == heard[-1][1] < plan.voxels
