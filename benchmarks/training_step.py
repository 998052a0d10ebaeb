"""A training step: with its pipeline beside the same step on one fixed batch, and beside peers' networks.

    python benchmarks/training_step.py [--device cpu|cuda] [--parts pipeline peers batches]

On a CPU the small 3-D network (`vol3d train --dimensions 3`) on the embedded sample; on a GPU the paper's 3D U-Net.
pipeline: drawing, warping and intensities included, over a step on a batch that is there already, by turns. On a GPU
also with the patches cut by processes, and with the network compiled. peers: MONAI's BasicUNet and DynUNet and
nnU-Net's PlainConvUNet (left out where it is not installed), one AdamW step under cross entropy on random patches, in
GFLOP/s of convolutions (forward and backward, as counted by PyTorch); networks differ in size, so what is compared is
the time of the same work. Peers run as they come, and with channels last and a fused optimizer as vol3d does; their
patch is the same, rounded down to what they take. On a GPU also batches of the paper's patch, and the rate of a large
matrix product in bf16. The ratio is the best peer's seconds per GFLOP over vol3d's.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from side_by_side import keep, seconds, show
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vol3d.config import Config, parse_config
from vol3d.networks import build
from vol3d.training import time_steps
from vol3d.transforms import Preprocessing
from vol3d.workflows.cases import gather, load
from vol3d.workflows.cutting import Cutting, choose_cutting
from vol3d.workflows.device import pick_device
from vol3d.workflows.listener import Quiet
from vol3d.workflows.objective import make_loss
from vol3d.workflows.patches import PatchCutter, patch_dataset
from vol3d.workflows.plan import Grid, make_plan
from vol3d.workflows.processes import open_fabric
from vol3d.workflows.stages import fit_settings

SAMPLES = Path(__file__).parent.parent / "data_samples"
THREE = {"network": {"plan": "unet", "dimensions": 3}}
PAPER = {
    "network": {"encoder": [[32, 64], [64, 128], [128, 256], [256, 512]], "padding": "valid", "normalization": "batch"},
    "sampling": {"patch_size": [132, 132, 116], "batch_size": 1},
}
AUGMENT = {"spatial_probability": 1.0, "gamma_probability": 0.5}
STEPS, TURNS = 12, 3
WORKERS = 8
PEER_STRIDE = 16
SIDE = 8192
BATCHES = (1, 2, 4)
PARTS = ("pipeline", "peers", "batches")


class Fixed:
    """The first samples of a source again and again: a pipeline that takes no time."""

    def __init__(self, source, count: int) -> None:
        self._kept = [source[i] for i in range(count)]

    def __getitem__(self, index: int, /):
        return self._kept[index % len(self._kept)]


def ours(device_name: str):
    """The network on the embedded sample, and what a step of it takes; on a GPU the paper's, every patch deformed."""
    chosen = THREE if device_name == "cpu" else {**PAPER, "augment": AUGMENT}
    config: Config = parse_config({"labels": {"unlabeled": 3}, "pixel_classifier": {"use": "no"}, **chosen})
    files = gather([str(SAMPLES / "scan.nii.gz")], [str(SAMPLES / "scan_sparse.nii.gz")], [])
    cases, meaning = load(files, config, Preprocessing(**config.preprocess.model_dump()), Quiet())
    device = pick_device(device_name)
    grids = [Grid(case.shape, case.spacing_mm, case.scan["order"]) for case in cases]
    plan = make_plan(config, grids, cases[0].image.shape[0], meaning.table.names, device)
    network = build(plan.network, plan.channels, plan.outputs, generator=torch.Generator().manual_seed(0))
    labels = [case.labels for case in cases]
    loss = make_loss(plan.config.loss, meaning, labels, network)
    cut = PatchCutter(plan.patch, plan.geometry.margin, plan.config.augment, plan.planes)
    fabric = open_fabric(device, 1)
    cuttings = {"the whole pipeline": choose_cutting(plan, cases, fabric.device)}
    if plan.device.is_gpu:
        cuttings[f"the whole pipeline, {WORKERS} processes"] = Cutting(WORKERS)
    sources = {
        name: (patch_dataset(cases, labels, cut, 0, cutting.images(cases)), cutting.workers)
        for name, cutting in cuttings.items()
    }
    return plan, network, loss, sources, fabric


def pipeline_rows(plan, network, loss, sources, fabric) -> list[dict]:
    settings = fit_settings(plan, 1000)
    source = sources["the whole pipeline"][0]
    fixed = Fixed(source, plan.batch_size)
    ways = {"a fixed batch": (fixed, settings)}
    ways |= {name: (data, replace(settings, workers=workers)) for name, (data, workers) in sources.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, (data, how) in ways.items():
            taken[name].append(time_steps(network, data, loss, how, fabric, STEPS, 120.0))
    if plan.device.is_gpu:
        how = replace(settings, compile=True)
        taken["a fixed batch, compiled"] = [time_steps(network, fixed, loss, how, fabric, STEPS, 120.0)]
    wait = torch.cuda.synchronize if plan.device.is_gpu else lambda: None
    wait()
    begin = time.perf_counter()
    for number in range(20):
        source[number]
    wait()
    cutting = (time.perf_counter() - begin) / 20
    rows = [{"what": name, "seconds": statistics.median(values)} for name, values in taken.items()]
    for row in rows:
        row["over fixed"] = row["seconds"] / rows[0]["seconds"]
    return [*rows, {"what": f"cutting {plan.batch_size} patches alone", "seconds": cutting * plan.batch_size}]


def peers(channels: int, classes: int) -> dict[str, Callable[[], nn.Module]]:
    from monai.networks.nets import BasicUNet, DynUNet

    def dyn() -> nn.Module:
        return DynUNet(3, channels, classes, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[32, 64, 128, 256])

    def plain() -> nn.Module:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet

        return PlainConvUNet(
            channels,
            4,
            [32, 64, 128, 256],
            nn.Conv3d,
            3,
            [1, 2, 2, 2],
            2,
            classes,
            2,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"affine": True},
            nonlin=nn.LeakyReLU,
        )

    return {"PlainConvUNet": plain, "MONAI DynUNet": dyn, "MONAI BasicUNet": lambda: BasicUNet(3, channels, classes)}


def rate(network: nn.Module, image: torch.Tensor, truth: torch.Tensor, half: bool, quick: bool = True) -> dict:
    """GFLOP of a step and seconds it takes: forward, cross entropy, backward, AdamW. quick: channels last, fused."""
    device = image.device
    network.to(device).train()
    if quick:
        network.to(memory_format=torch.channels_last_3d)
        image = image.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=quick and device.type == "cuda")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            answer = network(image)
            loss = nn.functional.cross_entropy(answer, truth)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    with FlopCounterMode(display=False) as counter:
        step()
    taken = []
    for _ in range(8):
        begin = time.perf_counter()
        step()
        taken.append(time.perf_counter() - begin)
    work, median = counter.get_total_flops() / 1e9, statistics.median(taken)
    memory = {"GB": torch.cuda.max_memory_allocated() / 1e9} if device.type == "cuda" else {}
    return {"GFLOP": work, "seconds": median, "GFLOP/s": work / median, "s per TFLOP": 1000 * median / work, **memory}


def answered(plan) -> list[int]:
    return [n - m for n, m in zip(plan.patch, plan.geometry.margin, strict=True)]


def batch_rows(plan, device: torch.device) -> list[dict]:
    """The planned network with one patch a step and with several, beside a matrix product in bf16."""
    if device.type != "cuda":
        return []
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))

    def product() -> None:
        torch.matmul(a, b)
        torch.cuda.synchronize()

    rows = [{"network": f"matrix product, {SIDE}³", "GFLOP/s": 2e-9 * SIDE**3 / seconds(product, 20)}]
    for count in BATCHES:
        network = build(plan.network, plan.channels, plan.outputs, generator=torch.Generator().manual_seed(0))
        truth = torch.zeros(count, *answered(plan), dtype=torch.long, device=device)
        several = torch.randn(count, plan.channels, *plan.patch, device=device)
        found = rate(network, several, truth, plan.device.precision != "float32")
        rows.append({"network": f"vol3d, {count} patches a step", **found})
        rows[-1]["of the product"] = found["GFLOP/s"] / rows[0]["GFLOP/s"]
    return rows


def peer_rows(plan, device: torch.device) -> list[dict]:
    """Seconds of the same work, in vol3d's network and in others."""
    half = plan.device.precision != "float32"
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(plan.batch_size, plan.channels, *plan.patch, generator=generator).to(device)
    truth = torch.zeros(plan.batch_size, *answered(plan), dtype=torch.long, device=device)
    network = build(plan.network, plan.channels, plan.outputs, generator=generator)
    rows = [{"network": "vol3d, as planned", **rate(network, image, truth, half)}]
    taken = [n // PEER_STRIDE * PEER_STRIDE for n in plan.patch]
    image = image[(..., *(slice(n) for n in taken))].contiguous()
    truth = torch.zeros(plan.batch_size, *taken, dtype=torch.long, device=device)
    for name, make in peers(plan.channels, plan.outputs).items():
        for quick in (False, True):
            try:
                found = rate(make(), image, truth, half, quick)
            except ImportError as missing:
                print(f"{name}: not measured, {missing}")
                break
            rows.append({"network": f"{name}, channels last" if quick else name, **found})
            show(rows[-1:])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    plan, network, loss, sources, fabric = ours(options.device)
    print(f"{plan.network.kind}, patch {'×'.join(map(str, plan.patch))}, {plan.batch_size} a step, {fabric.device}")
    makers = {
        "peers": lambda: peer_rows(plan, fabric.device),
        "batches": lambda: batch_rows(plan, fabric.device),
        "pipeline": lambda: pipeline_rows(plan, network, loss, sources, fabric),
    }
    for part in options.parts:
        rows, ratio = makers[part](), None
        if part == "peers":
            ratio = min(row["s per TFLOP"] for row in rows[1:]) / rows[0]["s per TFLOP"]
        if rows:
            show(rows)
            print()
            keep("training_step", rows, ratio, device=options.device)


if __name__ == "__main__":
    main()
