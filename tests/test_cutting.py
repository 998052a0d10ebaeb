"""Where patches are cut, and that it changes none of them."""

import numpy as np
import pytest
import torch

from vol3d.config import AugmentConfig, parse_config
from vol3d.training import FitSettings
from vol3d.volume import Affine, SparseLabels
from vol3d.workflows import cutting
from vol3d.workflows.case import Case
from vol3d.workflows.cutting import Cutting, choose_cutting
from vol3d.workflows.device import Device
from vol3d.workflows.patches import PatchCutter, patch_dataset
from vol3d.workflows.plan import Grid, make_plan
from vol3d.workflows.stages import fit_settings

CPU, GPU = Device("cpu"), Device("cuda:0", "bf16")
HERE, THERE = torch.device("cpu"), torch.device("cuda", 0)
VOXELS = 100 * 90 * 80


def plan_on(device, **sampling):
    config = parse_config({"network": {"plan": "unet", "dimensions": 3}, "sampling": sampling})
    return make_plan(config, [Grid((100, 90, 80), (1.0, 1.0, 1.0))], 1, ("a", "b"), device)


def scan(shape=(100, 90, 80)):
    rng = np.random.default_rng(0)
    labeled = np.zeros(shape, bool)
    labeled[:, :, 5::20] = True
    labels = SparseLabels(rng.integers(0, 2, shape, np.uint8), labeled, Affine.from_spacing((1.0, 1.0, 2.0)))
    return Case("scan", torch.from_numpy(rng.normal(size=(1, *shape)).astype(np.float32)), labels, (1.0, 1.0, 2.0), {})


def test_a_cpu_cuts_in_this_process():
    case = scan()
    found = choose_cutting(plan_on(CPU), [case], HERE)
    assert found == Cutting(0)
    assert found.images([case])[0] is case.image


def test_what_is_configured_is_done():
    assert choose_cutting(plan_on(CPU, workers=3), [scan()], HERE) == Cutting(3)
    assert choose_cutting(plan_on(GPU, workers=2), [scan()], THERE) == Cutting(2)
    assert choose_cutting(plan_on(GPU, workers=0), [scan()], THERE) == Cutting(0)


def test_a_gpu_cuts_large_patches_of_volumes_that_fit(monkeypatch):
    taken = VOXELS * (4 + 2 * 8)
    monkeypatch.setattr(cutting.os, "cpu_count", lambda: 6)
    for total, expected in ((6.1 * taken, Cutting(0, THERE)), (5.9 * taken, Cutting(5))):
        monkeypatch.setattr(cutting, "total_bytes", lambda _device, total=total: total)
        assert choose_cutting(plan_on(GPU), [scan()], THERE) == expected
    assert choose_cutting(plan_on(GPU), [scan()], THERE, 2) == Cutting(2)
    assert choose_cutting(plan_on(GPU, patch_size=[48, 48, 48]), [scan()], THERE) == Cutting(0)


def test_settings_take_the_workers():
    settings = fit_settings(plan_on(CPU), 7, 3)
    assert isinstance(settings, FitSettings)
    assert (settings.iterations, settings.workers, fit_settings(plan_on(CPU), 7).workers) == (7, 3, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_cuts_the_patches_of_a_cpu():
    case = scan()
    cut = PatchCutter((40, 40, 32), (0, 0, 0), AugmentConfig(spatial_probability=0.5, flip_probability=0.5))
    here = patch_dataset([case], [case.labels], cut, 0)
    there = patch_dataset([case], [case.labels], cut, 0, Cutting(0, THERE).images([case]))
    for number in range(8):
        one, other = here[number], there[number]
        assert all(other[name].is_cuda for name in one)
        assert (one["image"] - other["image"].cpu()).abs().max() < 1e-4 * (case.image.max() - case.image.min())
        assert float((one["classes"] == other["classes"].cpu()).float().mean()) > 0.999
