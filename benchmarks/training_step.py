"""A training step: with its pipeline beside the same step on one fixed batch, and beside peers' networks.

    python benchmarks/training_step.py [--device cpu|cuda]

On a CPU the small 3-D network (`vol3d train --dimensions 3`) on the embedded sample; on a GPU the paper's 3D U-Net.
pipeline: drawing, warping and intensities included, over a step on a batch that is there already, by turns. peers:
MONAI's BasicUNet and DynUNet and nnU-Net's PlainConvUNet (left out where it is not installed), one AdamW step under
cross entropy on random patches of the same size, in GFLOP/s of convolutions (forward and backward, as counted by
PyTorch); networks differ in size, so what is compared is the time of the same work. The ratio is the best peer's
seconds per GFLOP over vol3d's.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from side_by_side import keep, show
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vol3d.config import Config, parse_config
from vol3d.networks import build
from vol3d.training import time_steps
from vol3d.transforms import Preprocessing
from vol3d.workflows.cases import gather, load
from vol3d.workflows.device import pick_device
from vol3d.workflows.listener import Quiet
from vol3d.workflows.objective import make_loss
from vol3d.workflows.patches import PatchCutter, patch_dataset
from vol3d.workflows.plan import Grid, make_plan
from vol3d.workflows.processes import open_fabric
from vol3d.workflows.stages import fit_settings

SAMPLES = Path(__file__).parent.parent / "data_samples"
THREE = {"network": {"plan": "unet", "dimensions": 3}}
STEPS, TURNS = 12, 3


class Fixed:
    """The first samples of a source again and again: a pipeline that takes no time."""

    def __init__(self, source, count: int) -> None:
        self._kept = [source[i] for i in range(count)]

    def __getitem__(self, index: int, /):
        return self._kept[index % len(self._kept)]


def ours(device_name: str):
    """The planned network on the embedded sample, and what a step of it takes."""
    config: Config = parse_config({"labels": {"unlabeled": 3}, "pixel_classifier": {"use": "no"}, **THREE})
    files = gather([str(SAMPLES / "scan.nii.gz")], [str(SAMPLES / "scan_sparse.nii.gz")], [])
    cases, meaning = load(files, config, Preprocessing(**config.preprocess.model_dump()), Quiet())
    device = pick_device(device_name)
    grids = [Grid(case.shape, case.spacing_mm, case.scan["order"]) for case in cases]
    plan = make_plan(config, grids, cases[0].image.shape[0], meaning.table.names, device)
    network = build(plan.network, plan.channels, plan.outputs, generator=torch.Generator().manual_seed(0))
    labels = [case.labels for case in cases]
    loss = make_loss(plan.config.loss, meaning, labels, network)
    cut = PatchCutter(plan.patch, plan.geometry.margin, plan.config.augment, plan.planes)
    source, fabric = patch_dataset(cases, labels, cut, 0), open_fabric(device, 1)
    return plan, network, loss, source, fabric


def pipeline_rows(plan, network, loss, source, fabric) -> list[dict]:
    settings = fit_settings(plan, 1000)
    fixed = Fixed(source, plan.batch_size)
    taken: dict[str, list[float]] = {"a fixed batch": [], "the whole pipeline": []}
    for _ in range(TURNS):
        for name, data in zip(taken, (fixed, source), strict=True):
            taken[name].append(time_steps(network, data, loss, settings, fabric, STEPS, 120.0))
    begin = time.perf_counter()
    for number in range(20):
        source[number]
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

    return {"MONAI BasicUNet": lambda: BasicUNet(3, channels, classes), "MONAI DynUNet": dyn, "PlainConvUNet": plain}


def rate(network: nn.Module, image: torch.Tensor, truth: torch.Tensor, half: bool) -> dict:
    """GFLOP of a step and seconds it takes: forward, cross entropy, backward, AdamW."""
    device = image.device
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

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
    return {"GFLOP": work, "seconds": median, "GFLOP/s": work / median, "s per TFLOP": 1000 * median / work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    plan, network, loss, source, fabric = ours(options.device)
    pipeline = pipeline_rows(plan, network, loss, source, fabric)
    print(f"{plan.network.kind}, patch {'×'.join(map(str, plan.patch))}, {plan.batch_size} a step, {fabric.device}")
    show(pipeline)
    print()
    half = plan.device.precision != "float32"
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(plan.batch_size, plan.channels, *plan.patch, generator=generator).to(fabric.device)
    answered = [n - m for n, m in zip(plan.patch, plan.geometry.margin, strict=True)]
    truth = torch.zeros(plan.batch_size, *answered, dtype=torch.long, device=fabric.device)
    rows = [{"network": "vol3d, as planned", **rate(network, image, truth, half)}]
    truth = torch.zeros(plan.batch_size, *plan.patch, dtype=torch.long, device=fabric.device)
    for name, make in peers(plan.channels, plan.outputs).items():
        try:
            rows.append({"network": name, **rate(make(), image, truth, half)})
        except ImportError as missing:
            print(f"{name}: not measured, {missing}")
    show(rows)
    ratio = min(row["s per TFLOP"] for row in rows[1:]) / rows[0]["s per TFLOP"]
    keep("training_step", [*pipeline, *rows], ratio)


if __name__ == "__main__":
    main()
