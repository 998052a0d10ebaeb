"""The streaming engine: slabs, blending, flips, memory, and what must not pass silently."""

import logging
import math
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vol3d.config import UNetConfig
from vol3d.errors import GeometryError, ModelError, ResourceError
from vol3d.inference import bytes_per_voxel, plan_for, plan_tiles, predict_flips, predict_slabs, whole_pass
from vol3d.inference.blend import Canvas, profile, weights
from vol3d.inference.forward import Runner, all_finite
from vol3d.networks import UNet
from vol3d.volume import Box

LIMITS = {"memory_bytes": math.inf, "bytes_per_voxel": 1.0}
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def unet(padding, dtype=torch.float32, seed=5, **parts):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(UNetConfig(padding=padding, **({"encoder": ((3,), (4,))} | parts)), 2, 3).to(dtype)


def scan(*shape, dtype=np.float32):
    return np.random.default_rng(len(shape)).standard_normal((2, *shape)).astype(dtype)


def joined(slabs):
    return np.concatenate([slab.values for slab in slabs], axis=1)


pytestmark = pytest.mark.usefixtures("single_threaded")


class Fussy(nn.Module):
    """A network on a device that holds a number of voxels, and at most some passes of more than half of them."""

    def __init__(self, network, voxels, passes=None):
        super().__init__()
        self.network, self.voxels, self.passes = network, voxels, passes
        self.margin, self.total_stride, self.classes = network.margin, network.total_stride, network.classes
        self.input_size = network.input_size

    def forward(self, image):
        voxels, spent = image[0, 0].numel(), False
        if self.passes is not None and voxels > self.voxels / 2:
            self.passes -= 1
            spent = self.passes < 0
        if voxels > self.voxels or spent:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.network(image)


class Constant(nn.Module):
    """Answers the same logits everywhere, or `poison` where the image exceeds 100."""

    margin, total_stride, classes = (0, 0, 0), (4, 4, 4), 2

    def __init__(self, poison=0.0):
        super().__init__()
        self.poison = poison

    def input_size(self, size):
        return tuple(size)

    def forward(self, image):
        logits = torch.tensor([0.7, -0.2]).reshape(1, 2, 1, 1, 1) * torch.ones_like(image[:, :1])
        return torch.where(image[:, :1] > 100, self.poison, logits)


class Broken(Constant):
    def forward(self, _image):
        raise RuntimeError("something else")


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(*(st.integers(1, 18),) * 3),
    st.tuples(*(st.sampled_from((8, 12)),) * 3),
    st.floats(0, 0.6),
    st.booleans(),
)
def test_blended_constants_stay_constant(shape, patch, overlap, flips):
    made = Constant()
    plan = plan_for(made, shape, patch=patch, overlap=overlap, **LIMITS)
    predict = predict_flips if flips else predict_slabs
    logits = joined(predict(made, np.zeros((1, *shape), np.float32), plan, logits=True))
    assert logits.shape == (2, *shape)
    assert (logits[0] == np.float32(0.7)).all()
    assert (logits[1] == np.float32(-0.2)).all()


def test_weights_are_gaussian_and_never_vanish():
    line = profile(64, blended=True)
    assert line.argmax() in (31, 32)
    assert line[32 + 8] / line[32] == pytest.approx(math.exp(-0.5 * (8.5**2 - 0.5**2) / 64))
    assert line.min() == 1e-3
    np.testing.assert_array_equal(line, line[::-1])
    block = weights((8, 4, 2), (True, True, False), torch.float32)
    assert block.shape == (8, 4, 2)
    assert (block[..., 0] == block[..., 1]).all()


def test_probabilities_are_blended_not_logits():
    made = unet("same")
    image = scan(20, 12, 8)
    plan = plan_for(made, (20, 12, 8), patch=(12, 12, 8), **LIMITS)
    assert len(plan.tiles) == 2
    sums, total = np.zeros((3, 20, 12, 8)), np.zeros((20, 12, 8))
    for tile in plan.tiles:
        x = tile.output.slices()[0]
        logits = made.eval()(torch.from_numpy(image[None, :, x])).detach()
        weight = weights((12, 12, 8), (True, True, True), torch.float64).numpy()
        sums[:, x] += torch.softmax(logits, 1)[0].numpy() * weight
        total[x] += weight
    np.testing.assert_allclose(joined(predict_slabs(made, image, plan)), sums / total, atol=1e-6)


def test_slabs_come_in_order_and_are_thin():
    made = unet("same", encoder=((2,),), kernels=((1, 1, 1),))
    image = scan(70, 3, 2)
    plan = plan_for(made, (70, 3, 2), patch=(40, 8, 8), **LIMITS)
    slabs = list(predict_slabs(made, image, plan))
    assert [s.start for s in slabs] == [0, *(s.stop for s in slabs[:-1])]
    assert slabs[-1].stop == 70
    assert max(s.values.shape[1] for s in slabs) <= 16
    assert all(s.values.dtype == np.float32 for s in slabs)
    np.testing.assert_allclose(joined(slabs), joined(predict_slabs(made, torch.from_numpy(image), plan)), atol=0)


def test_slabs_are_handed_on_before_the_last_tile_has_run():
    made = unet("valid")
    heard = []
    plan = plan_for(made, (40, 6, 6), tile=made.input_size((4, 6, 6)), **LIMITS)
    stream = predict_slabs(made, scan(40, 6, 6), plan, progress=lambda *at: heard.append(at))
    next(stream)
    assert len(heard) <= 2
    assert sum(1 for _ in stream) >= 8
    done = [at[0] for at in heard]
    assert done == sorted(done)
    assert heard[-1] == (plan.voxels, plan.voxels)


def test_a_ring_of_planes_takes_tiles_across_its_end():
    canvas = Canvas(1, 3, (7, 1, 1), 0, torch.float64)
    handed = []
    for start in (0, 2, 4):
        handed += canvas.finish(start)
        canvas.add(Box((start, 0, 0), (3, 1, 1)), torch.full((1, 3, 1, 1), float(start), dtype=torch.float64), None)
    handed += canvas.finish(7)
    np.testing.assert_allclose(joined(handed).ravel(), [0, 0, 1, 2, 3, 4, 4])


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_needed_voxels_get_the_same_whatever_else_is_left_out(padding):
    made = unet(padding)
    image = scan(26, 18, 9)
    plan = plan_for(made, (26, 18, 9), tile=made.input_size((8, 8, 8)), overlap=0.4, **LIMITS)
    needed = np.zeros((26, 18, 9), dtype=bool)
    needed[13, :, 4:] = needed[14, 3] = True
    heard = []
    for predict in (predict_slabs, predict_flips):
        part = joined(predict(made, image, plan, needed=needed, progress=lambda *at: heard.append(at)))
        full = joined(predict(made, image, plan))
        assert (part[:, needed] == full[:, needed]).all()
        assert (part[:, 0] == 0).all()
    assert heard[-1][1] < 0.8 * plan.flipped().voxels
    none = joined(predict_slabs(made, image, plan, needed=np.zeros((26, 18, 9), dtype=bool)))
    assert not none.any()
    with pytest.raises(GeometryError, match="mask of shape"):
        predict_slabs(made, image, plan, needed=needed[1:])


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("dimensions", [2, 3])
@settings(max_examples=50, deadline=None)  # 200 over all networks
@given(st.tuples(*(st.integers(1, 12),) * 3), st.sets(st.integers(0, 2)))
def test_flip_averaging_commutes_with_flips_of_the_volume(padding, dimensions, shape, axes):
    made = unet(padding, torch.float64, dimensions=dimensions)
    image = scan(*shape, dtype=np.float64)
    plan = plan_for(made, shape, tile=made.input_size((5,) * dimensions), **LIMITS)
    spatial = tuple(1 + axis for axis in axes)
    straight = joined(predict_flips(made, image, plan))
    flipped = joined(predict_flips(made, np.flip(image, spatial), plan))
    np.testing.assert_allclose(flipped, np.flip(straight, spatial), atol=1e-12)
    np.testing.assert_allclose(straight.sum(0), 1, atol=1e-12)


def test_flip_averaging_is_the_mean_over_flipped_volumes():
    made = unet("valid", torch.float64)
    image = scan(11, 6, 5, dtype=np.float64)
    plan = plan_for(made, (11, 6, 5), tile=made.input_size((4, 4, 4)), **LIMITS)
    mean = np.zeros((3, 11, 6, 5))
    for axes in ((), (1,), (3,), (1, 3)):
        turned = np.ascontiguousarray(np.flip(image, axes))
        mean += np.flip(joined(predict_slabs(made, turned, plan)), axes) / 4
    np.testing.assert_allclose(joined(predict_flips(made, image, plan, axes=(0, 2))), mean, atol=1e-12)


@pytest.mark.parametrize("passes", [None, 2])
@pytest.mark.parametrize("flips", [False, True])
def test_r26_out_of_memory_takes_smaller_tiles_and_gives_the_same_labels(passes, flips, caplog):
    made = unet("valid", torch.float64)
    image = scan(24, 20, 12, dtype=np.float64)
    plan = plan_for(made, (24, 20, 12), tile=made.input_size((6, 20, 12)), **LIMITS)
    predict = predict_flips if flips else predict_slabs
    expected = joined(predict(made, image, plan))
    room = math.prod(plan.size) if passes else 0.3 * math.prod(plan.size)
    heard = []
    with caplog.at_level(logging.WARNING):
        fussy = Fussy(made, room, passes)
        slabs = list(predict(fussy, image, plan, progress=lambda *at: heard.append(at)))
    assert "smaller" in caplog.text
    assert [s.start for s in slabs] == [0, *(s.stop for s in slabs[:-1])]
    np.testing.assert_allclose(joined(slabs), expected, atol=1e-10)
    assert (joined(slabs).argmax(0) == expected.argmax(0)).all()
    assert heard[-1][0] == heard[-1][1]


def test_r26_no_tile_small_enough_is_an_error():
    made = unet("valid")
    plan = plan_for(made, (12, 12, 12), **LIMITS)
    with pytest.raises(ResourceError, match="out of memory with the smallest tile"):
        list(predict_slabs(Fussy(made, 10), scan(12, 12, 12), plan))


def test_r26_blended_tiles_get_smaller_too():
    made = unet("same")
    plan = plan_for(made, (24, 20, 12), patch=(16, 16, 12), **LIMITS)
    values = joined(predict_slabs(Fussy(made, 16 * 16 * 12 - 1), scan(24, 20, 12), plan))
    np.testing.assert_allclose(values.sum(0), 1, atol=1e-6)


def test_other_errors_are_not_taken_for_lack_of_memory():
    made = Broken()
    plan = plan_for(made, (4, 4, 4), **LIMITS)
    with pytest.raises(RuntimeError, match="something else"):
        list(predict_slabs(made, np.zeros((1, 4, 4, 4), np.float32), plan))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_an_error_naming_the_place(poison):
    image = np.zeros((1, 40, 4, 4), np.float32)
    image[0, 37] = 1000
    plan = plan_for(Constant(), (40, 4, 4), patch=(8, 8, 8), overlap=0.0, **LIMITS)
    with pytest.raises(ModelError, match=r"NaN or infinite in voxels \(32–39, 0–3, 0–3\).*float32"):
        list(predict_slabs(Constant(poison), image, plan))


@pytest.mark.parametrize("poison", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("largest", [1.0, 3e38], ids=["sums stay finite", "sums overflow"])
def test_one_value_in_a_million_is_found(poison, largest):
    values = torch.full((3, 70, 70, 70), largest)
    values[1, ::2] *= -1
    if poison is not None:
        values[2, 3, 65, 8] = poison
    assert bool(all_finite(values)) == (poison is None)
    assert bool(all_finite(values.permute(3, 1, 2, 0))) == (poison is None)


def test_what_does_not_fit_the_plan_is_refused():
    made = unet("valid")
    plan = plan_for(made, (12, 12, 12), **LIMITS)
    with pytest.raises(ModelError, match="2 channels"):
        predict_slabs(made, scan(12, 12, 12)[:1], plan)
    with pytest.raises(ModelError, match=r"\(12, 12, 12\) voxels"):
        predict_slabs(made, scan(12, 12, 11), plan)
    with pytest.raises(ModelError, match="precision double"):
        predict_slabs(made, scan(12, 12, 12), plan, precision="double")
    other = plan_tiles((12, 12, 12), made.margin, made.total_stride, smallest=plan.size, classes=4, **LIMITS)
    with pytest.raises(ModelError, match="logits of shape"):
        list(predict_slabs(made, scan(12, 12, 12), other))


def test_the_network_stays_as_it_was():
    made = unet("valid", normalization="batch")
    made.train()
    made.head.eval()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    plan = plan_for(made, (12, 12, 12), **LIMITS)
    list(predict_slabs(made, scan(12, 12, 12), plan))
    assert made.training
    assert not made.head.training
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert torch.is_inference_mode_enabled() is False


def test_half_precision_is_close_and_hands_on_float32():
    made = unet("valid", encoder=((8,), (8,)))
    image = scan(12, 12, 12)
    plan = plan_for(made, (12, 12, 12), **LIMITS)
    half = joined(predict_slabs(made, image, plan, precision="bf16"))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - joined(predict_slabs(made, image, plan))).max() < 0.05


def test_integer_images_are_taken():
    made = unet("same")
    image = (scan(9, 9, 9) * 20).astype(np.int16)
    plan = plan_for(made, (9, 9, 9), **LIMITS)
    expected = joined(predict_slabs(made, image.astype(np.float32), plan))
    np.testing.assert_array_equal(joined(predict_slabs(made, image, plan)), expected)


def test_memory_of_a_pass_is_known_without_running_it():
    made = nn.Sequential(nn.ReLU(), nn.AvgPool3d(2), nn.Upsample(scale_factor=2))
    # the image, which the caller holds, its ReLU and an eighth of that; 4 bytes a value, three tenths on top
    assert bytes_per_voxel(made, (8, 8, 8), in_channels=1) == pytest.approx(1.3 * 4 * (1 + 1 + 1 / 8))
    small = unet("same", encoder=((4,), (8,)))
    wide = unet("same", encoder=((8,), (16,)))
    one, two = (bytes_per_voxel(n, in_channels=2) for n in (small, wide))
    assert 1.7 < two / one < 2.0
    assert bytes_per_voxel(wide, (32, 32, 32), in_channels=2, precision="bf16") == pytest.approx(two / 2)
    assert all(not p.is_meta for p in wide.parameters())


TF32 = """
import sys, torch
from vol3d.inference.forward import whole_float32

cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
parts = [cudnn.conv, cudnn.rnn, matmul] if hasattr(cudnn, "conv") else []
LOOKS = [lambda: cudnn.allow_tf32, lambda: matmul.allow_tf32, torch.get_float32_matmul_precision]
LOOKS += [lambda part=part: part.fp32_precision for part in parts]


def looked():
    found = []
    for look in LOOKS:
        try:
            found.append(look())
        except RuntimeError:
            found.append("refused")
    return found


exec(sys.argv[1])
before = looked()
try:
    with whole_float32():
        meanwhile = looked()
        raise KeyError
except KeyError:
    pass
assert looked() == before, (before, looked())
assert True not in meanwhile[:2] and meanwhile[2] in {"highest", "refused"} and "tf32" not in meanwhile, meanwhile
"""
NEWER = [
    "cudnn.conv.fp32_precision = 'ieee'",
    "matmul.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = 'tf32'",
]


OLDER = ["cudnn.allow_tf32 = False", "torch.set_float32_matmul_precision('medium')"]


@pytest.mark.parametrize("chosen", ["pass", *(pytest.param(one, marks=pytest.mark.slow) for one in [*OLDER, *NEWER])])
def test_float32_is_not_tf32_meanwhile(chosen):
    if chosen in NEWER and not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this PyTorch has no such setting")
    done = subprocess.run([sys.executable, "-c", TF32, chosen], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_gpu_predicts_in_whole_float32():
    made = unet("valid", encoder=((4,), (4,)))
    plan = plan_for(made, (8, 8, 8), **LIMITS)
    runner = Runner(made, scan(8, 8, 8), plan, torch.device("cpu"), "float32")
    assert isinstance(runner._precision(), nullcontext)
    runner.device = torch.device("cuda")
    with runner._precision():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_gpu_says_what_the_cpu_says(padding, precision):
    made = unet(padding, encoder=((8, 8), (16, 16)))
    image = scan(40, 30, 20)
    plan = plan_for(made, (40, 30, 20), tile=made.input_size((16, 16, 16)), **LIMITS)
    here = joined(predict_slabs(made, image, plan))
    there = joined(predict_slabs(made, image, plan, device="cuda", precision=precision))
    assert np.abs(here - there).max() < (1e-5 if precision == "float32" else 0.05)
    if padding == "valid":
        whole = whole_pass(made, image, device="cuda")
        tiled = joined(predict_slabs(made, image, plan, device="cuda", logits=True))
        assert np.abs(whole - tiled).max() < 1e-4 * np.ptp(whole)


@gpu
@pytest.mark.gpu
def test_r26_a_gpu_out_of_memory_gives_the_same_labels():
    made = unet("valid", encoder=((16, 16), (16, 16)))
    image = scan(150, 150, 120)
    shape = (150, 150, 120)
    small = plan_for(made, shape, tile=made.input_size((32, 32, 32)), **LIMITS)
    expected = joined(predict_slabs(made, image, small, device="cuda"))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 4e8) / total)
    try:
        found = joined(predict_slabs(made, image, plan_for(made, shape, **LIMITS), device="cuda"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.abs(found - expected).max() < 1e-3
