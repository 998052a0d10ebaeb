"""Every network on the same few slices, in the same time: the table of docs/networks.md.

    python benchmarks/networks.py DATA [--seconds 120] [--only NAME ...] [--jobs N]

DATA: a folder with nuclei_a.h5 (3-D; slices x, y, z = 2, 3, 3 painted) and isbi2012_em.h5 (2-D; three sections
painted). Each row is a process of its own: train, predict, score on voxels that nobody painted. Rows are kept in
benchmarks/results/networks.jsonl and not run again; --only runs the named ones anew. --jobs: rows run side by side, on
an equal part of the cores each.
"""

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "networks.jsonl"
PAGE = HERE.parent / "docs" / "networks.md"
BEGIN, END = "<!-- table: python benchmarks/networks.py DATA -->", "<!-- end of table -->"
WIDTH = {3: 12, 2: 16}
DATA = {"nuclei_a": 3, "isbi2012_em": 2}
NETWORKS = {
    "U-Net": {"plan": "unet"},
    "U-Net++": {"plan": "unet_plus_plus"},
    "UNet 3+": {"plan": "unet3plus"},
    "UNet 3+, classification-guided": {"plan": "unet3plus", "with": {"classification_guided": True}},
    "FCN-8s": {"plan": "fcn", "with": {"variant": "8s"}},
    "FCN-16s": {"plan": "fcn", "with": {"variant": "16s"}},
    "FCN-32s": {"plan": "fcn", "with": {"variant": "32s"}},
    "DeepLab v3+, output stride 8": {"plan": "deeplab_v3_plus", "with": {"output_stride": 8}},
    "DeepLab v3+, output stride 16": {"plan": "deeplab_v3_plus", "with": {"output_stride": 16}},
    "U-Net on ResNet-18": {"plan": "encoder_unet", "with": {"encoder": "resnet18"}},
    "U-Net on ResNeXt-50": {"plan": "encoder_unet", "with": {"encoder": "resnext50"}},
    "U-Net on EfficientNet-B0": {"plan": "encoder_unet", "with": {"encoder": "efficientnet-b0"}},
    "U-Net on DenseNet-121": {"plan": "encoder_unet", "with": {"encoder": "densenet121"}},
    "MONAI SegResNet": {"monai": "SegResNet", "arguments": {"init_filters": None}},
}


def network_config(name: str, image) -> dict:
    """The network of a row as configuration, planned for the image like any other."""
    from vol3d.config import parse_config
    from vol3d.workflows.device import pick_device
    from vol3d.workflows.plan import Grid, make_plan

    dimensions = DATA[image.name.partition(":")[0]]
    chosen = dict(NETWORKS[name])
    if "monai" in chosen:
        return {**chosen, "dimensions": dimensions, "arguments": {"init_filters": -(-WIDTH[dimensions] // 8) * 8}}
    extra = chosen.pop("with", {})
    config = parse_config({"network": {**chosen, "dimensions": dimensions, "width": WIDTH[dimensions]}})
    spacing = tuple(float(s) for s in image.affine.spacing)
    plan = make_plan(config, [Grid(image.shape, spacing)], 1, ("0", "1"), pick_device("cpu"))
    return {**plan.network.model_dump(mode="json"), **extra}


def row(name: str, data: str, folder: Path, seconds: float) -> dict:
    """Train, predict and score one network on one volume."""
    import few_slices

    import vol3d
    from vol3d.networks import parameter_count

    image, dense = few_slices.volume(folder / f"{data}.h5", "raw"), few_slices.volume(folder / f"{data}.h5", "label")
    truth = dense.array[0]
    mask = few_slices.annotated(truth, (2, 3, 3) if DATA[data] == 3 else (0, 0, 3))
    config = {"network": network_config(name, image), "labels": {"unlabeled": few_slices.UNLABELED}}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as run:
        result = vol3d.train(
            image, few_slices.painted(dense, mask), config=config, time_budget_s=seconds, output=f"{run}/run"
        )
        trained = time.monotonic() - begin
        predicted = vol3d.predict(image, result.bundle).codes
    threshold = few_slices.best_threshold_iou(image.array[0], truth, mask)
    return {
        "network": name,
        "data": data,
        "iou": round(few_slices.foreground_iou(predicted, truth, mask), 4),
        "best_threshold_iou": round(threshold, 4),
        "iterations": result.iterations,
        "parameters": parameter_count(result.bundle.build()),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "training_seconds": round(trained, 1),
        "predicting_seconds": round(time.monotonic() - begin - trained, 1),
        "budget_seconds": seconds,
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "machine": few_slices.machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def kept() -> dict[tuple[str, str], dict]:
    """The rows that were run before; the last of each."""
    if not RESULTS.is_file():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    return {(found["network"], found["data"]): found for found in rows}


def render(rows: dict[tuple[str, str], dict]) -> str:
    """The table, best on nuclei_a first."""
    lines = [
        "| network | nuclei_a, 3-D: IoU | iterations | parameters | peak memory | isbi2012_em, 2-D: IoU | iterations "
        "| parameters | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    names = [name for name in NETWORKS if all((name, data) in rows for data in DATA)]
    for name in sorted(names, key=lambda name: -rows[name, "nuclei_a"]["iou"]):
        cells = [
            f"{one['iou']:.3f} | {one['iterations']} | {one['parameters'] / 1e6:.2f} M | {one['peak_memory_gb']:.1f} GB"
            for one in (rows[name, data] for data in DATA)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if names:
        thresholds = [rows[names[0], data]["best_threshold_iou"] for data in DATA]
        lines.append(f"| *best global threshold* | *{thresholds[0]:.3f}* | | | | *{thresholds[1]:.3f}* | | | |")
        one = rows[names[0], "nuclei_a"]
        lines += [
            "",
            f"{one['machine']}, {one['threads']} thread(s) a row, {one['budget_seconds']:g} s of training a row, "
            f"width {WIDTH[3]} (3-D) and {WIDTH[2]} (2-D), {one['date']}. Peak memory is that of the whole process, "
            "libraries included.",
        ]
    return "\n".join(lines)


def run_one(name: str, data: str, options: argparse.Namespace) -> None:
    """One row in a process of its own."""
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    command = [sys.executable, __file__, str(options.data), "--row", name, data, "--seconds", str(options.seconds)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{name} on {data} failed:\n{done.stderr[-2000:]}", flush=True)
        return
    line = done.stdout.strip().splitlines()[-1]
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(row(*options.row, options.data, options.seconds)))
        return
    done = {} if options.only else kept()
    wanted = [(n, d) for n in options.only or NETWORKS for d in DATA if (n, d) not in done]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda pair: run_one(*pair, options), wanted))
    table = render(kept())
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    print(table)
    rows = kept()
    lost = [n for (n, d), r in rows.items() if d == "nuclei_a" and r["iou"] <= r["best_threshold_iou"]]
    print("below the best global threshold on nuclei_a: " + (", ".join(lost) or "none"))


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
