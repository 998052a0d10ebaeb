"""Prediction: vol3d beside MONAI's sliding window, the paper's network beside the machine's matrix rate, the planner.

    python benchmarks/inference.py [--shape 192,160,144] [--parts sliding flips matrix quick planner] [--device cuda]

sliding: the small 3-D network (`vol3d train --dimensions 3`), with drawn weights and BatchNorm's statistics from the
image, goes through one volume: by `predict_slabs`, as `vol3d predict` does it, and by MONAI's `SlidingWindowInferer`
(Gaussian blending, overlap 0.25) with windows of 48 (the training patch) and 96 voxels, with 96 also while freed memory
is kept and comes in large pages, as the commands do it; vol3d also within 0.2 GB. Every row is a process of its own;
its memory is what the resident size of the process grew by, from before it was warmed up, on a GPU the most that was
allocated there. Both in float32, on a GPU in bf16 too, and the volume comes from the host and goes back there. Seam
error: the largest difference of a class probability to one pass over the whole volume. flips: the same, averaged over
the eight flips of the volume as `vol3d predict --tta` does it, and by eight runs of the inferer. matrix: the paper's 3D
U-Net on one tile of 132×132×116, in GFLOP/s, plain and as vol3d runs it, over the best rate of a large matrix product.
quick: the same tile in bf16, and in int8 by OpenVINO, and how many of its labels are those of float32. planner:
operations of the paper's network for a volume of 256×256×200, over those of one mirrored pass. The ratio is the fastest
sliding window's time over vol3d's.
"""

import argparse
import copy
import functools
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import time
from contextlib import nullcontext

import numpy as np
import torch
from side_by_side import keep, seconds, show
from torch.utils.flop_counter import FlopCounterMode

from vol3d.config import UNetConfig, parse_config
from vol3d.inference import bytes_per_voxel, plan_for, predict_flips, predict_slabs, whole_pass
from vol3d.inference.forward import Runner, whole_float32
from vol3d.inference.int8 import in_int8
from vol3d.inference.planning import plan_tiles
from vol3d.networks import Network, build, reestimate
from vol3d.networks.folding import fold_batch_norm
from vol3d.workflows.allocator import freed_memory_kept
from vol3d.workflows.device import Device, emulates_bf16
from vol3d.workflows.plan import Grid, make_plan

THREE = {"network": {"plan": "unet", "dimensions": 3}}
TILE, VOLUME = (132, 132, 116), (256, 256, 200)
WINDOWS = {"MONAI window 48": 48, "MONAI window 96": 96}
KEPT = ", memory kept"
OURS, LESS, HALF, FLIPPED = "vol3d", "vol3d within 0.2 GB", ", bf16", ", 8 flips"
MEMORY = {OURS: 4e9, LESS: 0.2e9}
FLIPS = [axes for count in range(4) for axes in itertools.combinations((0, 1, 2), count)]
PARTS = ("sliding", "flips", "matrix", "quick", "planner")


def scene(shape: tuple[int, ...]) -> tuple[Network, np.ndarray]:
    """The planned network, its statistics those of the image, and an image with structure and noise."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.sin(np.linspace(0, n / 9, n, dtype=np.float32)) for n in shape], indexing="ij")
    image = (sum(axes) + 0.3 * rng.normal(size=shape)).astype(np.float32)[None]
    plan = make_plan(parse_config(THREE), [Grid(shape, (1.0, 1.0, 1.0))], 1, ("a", "b", "c"), Device("cpu"))
    network = build(plan.network, 1, 3, generator=torch.Generator().manual_seed(0))
    reestimate(network, [torch.from_numpy(image[None, :, :n, :n, :n].copy()) for n in (48, 64)])
    return network.eval(), image


def sliding_rows(ways: list[str], shape: tuple[int, ...], device: str) -> list[dict]:
    """Ways through the volume, measured in this process; one of them, but on a GPU all."""
    import monai.inferers  # noqa: F401  so that what it takes is there in every row

    network, image = scene(shape)
    network.to(device)
    if ways == ["seam"]:
        whole = torch.softmax(torch.from_numpy(whole_pass(network, image, device=device)), 0).numpy()
        names = (*MEMORY, *WINDOWS)
        return [{"seam": {way: float(np.abs(_through(way, network, image, device) - whole).max()) for way in names}}]
    small, rows = image[:, :64, :64, :64].copy(), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for way in ways:
        with freed_memory_kept() if _keeps(way) else nullcontext():
            _through(way, network, small if device == "cpu" else image, device)  # kernels are chosen
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            begin = time.perf_counter()
            _through(way, network, image, device)
        rows.append({"way": way, "seconds": time.perf_counter() - begin})
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        rows[-1]["GB"] = (grown if device == "cpu" else torch.cuda.max_memory_allocated()) / 1e9
    return rows


def _keeps(way: str) -> bool:
    """Whether freed memory is kept and comes in large pages, as the commands do it."""
    return way.startswith(OURS) or KEPT in way


def _through(way: str, network: Network, image: np.ndarray, device: str) -> np.ndarray:
    half, flipped = HALF in way, FLIPPED in way
    name = way.partition(",")[0]
    if name in MEMORY:
        precision = "bf16" if half else "float32"
        need = bytes_per_voxel(network, in_channels=1, precision=precision)
        shape = (int(image.shape[1]), int(image.shape[2]), int(image.shape[3]))
        plan = plan_for(network, shape, memory_bytes=MEMORY[name], bytes_per_voxel=need)
        through = predict_flips if flipped else predict_slabs
        found = through(network, image, plan, device=device, precision=precision)
        return np.concatenate([slab.values for slab in found], axis=1)
    if flipped:
        return sum(_turned(_slid(name, network, _turned(image, axes), device, half), axes) for axes in FLIPS) / 8
    return _slid(name, network, image, device, half)


def _turned(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.flip(array, [1 + axis for axis in axes]).copy()


def _slid(name: str, network: Network, image: np.ndarray, device: str, half: bool) -> np.ndarray:
    """Class probabilities by MONAI's sliding window."""
    from monai.inferers import SlidingWindowInferer

    side = WINDOWS[name]
    inferer = SlidingWindowInferer((side,) * 3, sw_batch_size=1, overlap=0.25, mode="gaussian")
    exact = whole_float32() if device == "cuda" and not half else nullcontext()  # as vol3d computes
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half), exact:
        return torch.softmax(inferer(torch.from_numpy(image)[None].to(device), network).float(), 1)[0].cpu().numpy()


def sliding(shape: tuple[int, ...], device: str, flips: str = "") -> tuple[list[dict], float]:
    """Rows and the best peer's time over vol3d's. flips: what is added to the names of ways."""
    rows = []
    windows = list(WINDOWS)[-1:] if flips else list(WINDOWS)
    ways = [n + flips + h for h in (("",) if device == "cpu" else ("", HALF)) for n in (*windows, *MEMORY)]
    if device == "cpu":
        ways.insert(len(windows), f"{windows[-1]}{flips}{KEPT}")
    for part in [*([] if flips else [["seam"]]), *([[way] for way in ways] if device == "cpu" else [ways])]:
        row, size = json.dumps(part), ",".join(map(str, shape))
        command = [sys.executable, __file__, "--row", row, "--shape", size, "--device", device]
        pages = {"THP_MEM_ALLOC_ENABLE": "1"} if _keeps(part[0]) else {}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **pages})
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        rows += json.loads(done.stdout.strip().splitlines()[-1])
    seams = {} if flips else rows.pop(0)["seam"]
    for row in rows:
        if seams:
            row["seam error"] = seams.get(row["way"], "")
        row["shape"] = "×".join(map(str, shape))
    of_peers = min(row["seconds"] for row in rows if not row["way"].startswith(OURS))
    return rows, of_peers / min(row["seconds"] for row in rows if row["way"].startswith(OURS))


def matrix(device: str) -> list[dict]:
    """The paper's tile beside large matrix products: all threads and float32; on a GPU bf16."""
    sides = [(2048, 2048, 2048), (4096, 2048, 1024), (8192, 512, 512)] if device == "cpu" else [(8192, 8192, 8192)]
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    dtype, precision = (torch.float32, "float32") if device == "cpu" else (torch.bfloat16, "bf16")
    peak = 0.0
    for m, n, k in sides:
        a, b = torch.randn(m, k, dtype=dtype, device=device), torch.randn(k, n, dtype=dtype, device=device)
        peak = max(peak, 2e-9 * m * n * k / seconds(lambda a=a, b=b: (a @ b, wait()), 10))
    network = build(UNetConfig(padding="valid"), 1, 3, generator=torch.Generator().manual_seed(0)).eval()
    image = np.random.default_rng(0).normal(size=(1, *TILE)).astype(np.float32)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.from_numpy(image)[None])
    work = counter.get_total_flops() / 1e9
    shape = tuple(n - m for n, m in zip(TILE, network.margin, strict=True))
    inner = image[:, 44:-44, 44:-44, 44:-44]
    plan = plan_tiles(
        (shape[0], shape[1], shape[2]),
        network.margin,
        network.total_stride,
        memory_bytes=math.inf,
        bytes_per_voxel=0.0,
        classes=3,
        tile=TILE,
    )
    runner = Runner(network, inner, plan, torch.device(device), precision)
    network.to(device)

    def plain() -> None:
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            network(torch.from_numpy(image)[None].to(device)).cpu()

    rows = [{"what": "matrix product", "seconds": None, "GFLOP/s": peak, "share": 1.0}]
    for name, call in (
        ("plain PyTorch", plain),
        ("vol3d", lambda: [a.wait() for a in runner.answers(plan.tiles, plan, logits=True)]),
    ):
        taken = seconds(call, 3)
        rows.append({"what": name, "seconds": taken, "GFLOP/s": work / taken, "share": work / taken / peak})
    print(f"the paper's tile: {work:.0f} GFLOP")
    return rows


def quick() -> list[dict]:
    """The paper's tile in the precisions that `vol3d predict --precision` offers; statistics are the image's."""
    network = build(UNetConfig(padding="valid"), 1, 3, generator=torch.Generator().manual_seed(0))
    axes = np.meshgrid(*[np.sin(np.linspace(0, n / 9, n, dtype=np.float32)) for n in TILE], indexing="ij")
    noise = np.random.default_rng(0).normal(size=TILE)
    image = torch.from_numpy((sum(axes) + 0.3 * noise).astype(np.float32))[None, None]
    reestimate(network, [image])
    network.eval()
    small = network.input_size((1, 1, 1))
    examples = [image[..., at : at + small[0], at : at + small[1], : small[2]] for at in (0, 10, 20, 30)]
    begin = time.perf_counter()
    in_eights = in_int8(network, examples)
    converting = time.perf_counter() - begin
    folded = copy.deepcopy(network)
    fold_batch_norm(folded)
    last = folded.to(memory_format=torch.channels_last_3d)
    laid = image.to(memory_format=torch.channels_last_3d)

    def halves() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return last(laid)

    rows = []
    with torch.inference_mode():
        exact = last(laid).argmax(1)
        ways = {"float32": lambda: last(laid), "bf16": halves, "int8": lambda: in_eights(image)}
        if emulates_bf16():
            print("bf16: not measured, this processor would emulate it")
            del ways["bf16"]
        for name, call in ways.items():
            same = float((call().argmax(1) == exact).float().mean())
            rows.append({"precision": name, "seconds": seconds(call, 3), "same labels": same})
    rows[-1]["converting, s"] = converting
    return rows


def planner() -> list[dict]:
    """How much more goes through the paper's network than in one pass over the mirrored whole."""
    network = build(UNetConfig(padding="valid"), 1, 3)
    need = bytes_per_voxel(network, in_channels=1)
    once = work(network, network.input_size(VOLUME))
    rows = []
    for text, memory, tile in (
        ("tile 132×132×116", 1e12, TILE),
        ("8 GB", 8e9, None),
        ("24 GB", 24e9, None),
    ):
        plan = plan_for(network, VOLUME, memory_bytes=memory, bytes_per_voxel=need, tile=tile)
        size = "×".join(map(str, plan.size))
        total = sum(work(network, tile.input.size) for tile in plan.tiles)
        rows.append({"allowed": text, "tile": size, "tiles": len(plan.tiles), "redundancy": total / once})
    return rows


@functools.cache
def work(network: Network, size: tuple[int, ...]) -> int:
    """Operations of one pass, counted without computing it."""
    ghost = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ghost(torch.empty((1, 1, *size), device="meta"))
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="192,160,144")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="for sliding and matrix")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = tuple(int(n) for n in options.shape.split(","))
    if options.row:
        print(json.dumps(sliding_rows(json.loads(options.row), shape, options.device)))
        return
    rows: list[dict] = []
    ratio = None
    for part in options.parts:
        if part == "sliding":
            found, ratio = sliding(shape, options.device)
        elif part == "flips":
            found, _ = sliding(shape, options.device, FLIPPED)
        else:
            found = {"matrix": lambda: matrix(options.device), "quick": quick, "planner": planner}[part]()
        show(found)
        print()
        rows += [{"part": part, **row} for row in found]
    keep("inference", rows, ratio, device=options.device)


if __name__ == "__main__":
    main()
