"""How time and memory grow with the size of a volume and of a tile.

    python benchmarks/scaling.py [--parts predict parts train tile] [--sides 64 96 128 192 256] [--plot-only]

predict: `vol3d predict` of a NIfTI file of side³ voxels with the 3-D network that `vol3d train` plans on a CPU (drawn
weights), at once. parts: of an HDF5 file with --max-memory 1GB and the tiny network of `memory.py`, 256³ to 1024³.
train: one step of the planned network on a volume of side³ voxels with three painted slices. tile: `predict` of 192³
voxels in tiles of 48 to 192. Every row is a process of its own; seconds are of the whole process (train: of a step),
memory is the most that the process and its children held. Rows go to results/scaling.jsonl, curves to docs/scaling.png.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import nibabel
import numpy as np
import torch
from memory import VOL3D, run, save_model, save_tiny_model, write_scan
from side_by_side import RESULTS, keep, show

from vol3d.config import parse_config
from vol3d.networks import build, reestimate
from vol3d.training import time_steps
from vol3d.transforms import Preprocessing
from vol3d.workflows.cases import gather, load
from vol3d.workflows.device import Device
from vol3d.workflows.listener import Quiet
from vol3d.workflows.objective import make_loss
from vol3d.workflows.patches import PatchCutter, patch_dataset
from vol3d.workflows.plan import Grid, make_plan
from vol3d.workflows.processes import open_fabric
from vol3d.workflows.stages import fit_settings

PICTURE = Path(__file__).parent.parent / "docs" / "scaling.png"
PARTS = ("predict", "parts", "train", "tile")
SIDES, LARGE_SIDES, TILES, TILED_SIDE = (64, 96, 128, 192, 256), (256, 512, 1024), (48, 64, 96, 128, 192), 192
UNLABELED = 255
THREE = {"network": {"plan": "unet", "dimensions": 3}}


def noise(side: int) -> np.ndarray:
    """float32 (side, side, side), with structure."""
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(side, dtype=np.float32) / 9)
    return wave[:, None, None] + wave[:, None] + wave + 0.3 * rng.standard_normal((side,) * 3, dtype=np.float32)


def planned_model(path: Path) -> None:
    """The network that is planned on a CPU, with drawn weights and the statistics of noise."""
    plan = make_plan(parse_config(THREE), [Grid((128,) * 3, (1.0, 1.0, 1.0))], 1, ("a", "b", "c"), Device("cpu"))
    network = build(plan.network, 1, 3, generator=torch.Generator().manual_seed(0))
    image = torch.from_numpy(noise(64))[None, None]
    reestimate(network, [image, -image])
    save_model(path, plan.network, network.state_dict(), list(plan.patch))


def predicted(side: int, *more: str) -> dict:
    """`vol3d predict` of side³ voxels at once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planned_model(folder / "model.safetensors")
        nibabel.save(nibabel.Nifti1Image(noise(side), np.eye(4)), folder / "scan.nii")
        return _run([str(folder / "scan.nii"), "-m", str(folder / "model.safetensors"), *more])


def predicted_in_parts(side: int) -> dict:
    """`vol3d predict` of side³ voxels from file to file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_model(folder / "model.safetensors", "valid")
        write_scan(folder / "scan.h5", (side,) * 3)
        return _run(
            [
                *(str(folder / "scan.h5"), "-m", str(folder / "model.safetensors")),
                *("-o", str(folder / "labels.h5"), "--max-memory", "1GB"),
            ]
        )


def _run(arguments: list[str]) -> dict:
    found = run([VOL3D, "predict", *arguments, "--no-preview"])
    if found["code"]:
        raise SystemExit(found["said"])
    return {"seconds": found["seconds"], "GB": found["peak GB"]}


def train_row(side: int) -> dict:
    """A step of the planned network, and what this process has held, on a volume of side³ voxels."""
    image = noise(side)
    labels = np.full(image.shape, UNLABELED, np.uint8)
    for place in (side // 4, side // 2, 3 * side // 4):
        labels[:, :, place] = (image[:, :, place] > 0).astype(np.uint8) + (image[:, :, place] > 1)
    with tempfile.TemporaryDirectory() as name:
        for file, array in (("scan", image), ("labels", labels)):
            with h5py.File(Path(name) / f"{file}.h5", "w") as stored:
                stored.create_dataset("data", data=array).attrs["element_size_um"] = [1000.0] * 3
        config = parse_config({"labels": {"unlabeled": UNLABELED}, "pixel_classifier": {"use": "no"}, **THREE})
        files = gather([f"{name}/scan.h5:data"], [f"{name}/labels.h5:data"], [])
        cases, meaning = load(files, config, Preprocessing(**config.preprocess.model_dump()), Quiet())
    device = Device("cpu")
    grids = [Grid(case.shape, case.spacing_mm, case.scan["order"]) for case in cases]
    plan = make_plan(config, grids, 1, meaning.table.names, device)
    network = build(plan.network, plan.channels, plan.outputs, generator=torch.Generator().manual_seed(0))
    sparse = [case.labels for case in cases]
    loss = make_loss(plan.config.loss, meaning, sparse, network)
    source = patch_dataset(cases, sparse, PatchCutter(plan.patch, plan.geometry.margin, plan.config.augment), 0)
    taken = time_steps(network, source, loss, fit_settings(plan, 1000), open_fabric(device, 1), 10, 120.0)
    return {"seconds": taken, "GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def rows_of(part: str, sides: list[int]) -> list[dict]:
    """The rows of one part, from small to large."""
    rows = []
    for size in {"parts": LARGE_SIDES, "tile": TILES}.get(part, sides):
        if part == "train":
            command = [sys.executable, __file__, "--row", str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.strip().splitlines()[-1])
        elif part == "tile":
            found = predicted(TILED_SIDE, "--tile", *[str(size)] * 3)
        else:
            found = predicted(size) if part == "predict" else predicted_in_parts(size)
        rows.append({"part": part, "side": size, **found})
    return rows


def latest() -> dict[str, list[dict]]:
    """The last rows that were kept of every part."""
    found: dict[str, list[dict]] = {}
    path = RESULTS / "scaling.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        run_rows = json.loads(line)["rows"]
        for part in {row["part"] for row in run_rows}:
            found[part] = [row for row in run_rows if row["part"] == part]
    return found


def plot(found: dict[str, list[dict]]) -> None:
    """Time and memory against voxels of the volume, and against the tile."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    told = {
        "predict": "predict, at once",
        "parts": "predict in parts, tiny network, 1 GB",
        "train": "a training step",
        "tile": "predict 192³ in tiles",
    }
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    panels = figure.subplots(2, 2)
    for row, parts in enumerate((("predict", "parts", "train"), ("tile",))):
        for column, (key, unit) in enumerate((("seconds", "seconds"), ("GB", "peak memory in GB"))):
            axes = panels[row][column]
            for part in parts:
                rows = found.get(part)
                if rows is None:
                    continue
                axes.plot([r["side"] for r in rows], [r[key] for r in rows], "o-", label=told[part])
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            sides = sorted({r["side"] for part in parts for r in found.get(part, [])})
            axes.set_xticks(sides, [str(side) for side in sides], minor=False)
            axes.set_xlabel("side of the volume in voxels" if row == 0 else "side of the tile in voxels")
            axes.set_ylabel(unit)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(visible=True, alpha=0.3)
            axes.legend(fontsize=8, loc=("upper left", "center right")[column] if row == 0 else "best")
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES)
    parser.add_argument("--plot-only", action="store_true")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(train_row(options.row)))
        return
    if not options.plot_only:
        rows = [row for part in options.parts for row in rows_of(part, list(options.sides))]
        show(rows)
        keep("scaling", rows)
    plot(latest())


if __name__ == "__main__":
    main()
