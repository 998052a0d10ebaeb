"""Memory of prediction: a scan larger than the memory in a child process with a budget, killed once and taken up again.

    python benchmarks/memory.py [--shape 2048,2048,512] [--budget 1GB] [--parts large whole train]

large: a uint8 HDF5 scan (2.1 GB with the default shape) goes through a tiny network by `vol3d predict --max-memory`.
The process is killed (SIGKILL) after a third of the planes and the same command is run again. Printed: what a dry run
expects, the peak resident size of either process over the budget, the time, and how many planes the second run found.
whole: a float32 NIfTI file of 512³ voxels, at once and under 1.4 GB; the peak over the size of its array, and what a
scan of one tile of the size that is planned at once takes, which is the program and the network: the rest is what a
scan costs.
The network is the same: three classes, two levels, four channels, drawn weights; with valid convolutions tiles do not
overlap.
train: three slices of a uint8 HDF5 scan of 1024×1024×512 voxels are painted, one across each axis, and learned from for
two minutes: reading what patches need from disk, and holding the scan; the peak over the scan as float32. Patches are
cut by the main process here: what another one shares with it would count twice.
"""

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import nibabel
import numpy as np
from side_by_side import keep, show

from vol3d.bundle import ModelBundle
from vol3d.config import AnyNetworkConfig, UNetConfig
from vol3d.networks import build
from vol3d.transforms import Preprocessing
from vol3d.volume import LabelTable

PARTS = ["large", "whole", "train"]
SIDE = 512
VOL3D = str(Path(sys.executable).with_name("vol3d"))


def save_model(path: Path, network: AnyNetworkConfig, weights: dict, patch: list[int] | None = None) -> None:
    """A model file of a network for one channel and three classes, as if it had learned from 8-bit scans of 1 mm."""
    ModelBundle(
        network=network,
        in_channels=1,
        weights=weights,
        preprocessing=Preprocessing().to_json(),
        labels=LabelTable.from_codes([0, 1, 2]),
        statistics="running",
        training_range={
            "spacing_mm": {"minimum": [1.0] * 3, "maximum": [1.0] * 3},
            "orientations": ["RAS"],
            "intensities": [{"p1": 0.0, "p99": 255.0}],
            "channel": None,
            "patch": patch,
        },
        provenance={},
    ).save(path)


def save_tiny_model(path: Path, padding: str) -> None:
    network = _tiny(padding)
    save_model(path, network, build(network, 1, 3).state_dict())


def _tiny(padding: str) -> UNetConfig:
    return UNetConfig(encoder=((4, 4), (8, 8)), padding=padding)


def write_scan(path: Path, shape: tuple[int, ...]) -> None:
    """Smooth in places, with noise; slab by slab."""
    rng = np.random.default_rng(0)
    x, y, z = shape
    wave = 60 * (np.sin(np.arange(y) / 20)[:, None] + np.sin(np.arange(x) / 31))
    with h5py.File(path, "w") as file:
        data = file.create_dataset("raw", (z, y, x), np.uint8, chunks=tuple(min(64, n) for n in (z, y, x)))
        data.attrs["element_size_um"] = [1000.0] * 3
        for start in range(0, z, 64):
            planes = 128 + 8 * rng.standard_normal((min(64, z - start), y, x), dtype=np.float32)
            planes += wave
            data[start : start + len(planes)] = np.clip(planes, 0, 255).astype(np.uint8)


def run(command: list[str], watch: Path | None = None, stop_at: int | None = None) -> dict:
    """Run a command; its peak resident size, the time, how it ended. stop_at: kill it when `watch` is so large."""
    begin, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            if stop_at is not None and watch is not None and watch.exists() and watch.stat().st_size >= stop_at:
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.05)
        said.seek(0)
        text = said.read().decode(errors="replace")
    return {"peak GB": peak / 1e9, "seconds": time.perf_counter() - begin, "code": process.returncode, "said": text}


def resident(pid: int) -> int:
    """Most bytes that a process and its children have held."""
    total = 0
    for number in [pid, *children(pid)]:
        try:
            lines = Path(f"/proc/{number}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return total


def children(pid: int) -> list[int]:
    try:
        found = [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return found + [further for child in found for further in children(child)]


def large(folder: Path, model: Path, shape: tuple[int, ...], budget: str) -> list[dict]:
    scan, out = folder / "scan.h5", folder / "labels.h5"
    write_scan(scan, shape)
    command = [VOL3D, "predict", str(scan), "-m", str(model), "-o", str(out), "--max-memory", budget]
    part = folder / ".labels.h5.vol3d-part"
    limit = float(budget.removesuffix("GB"))
    said = run([*command, "--dry-run"])["said"].strip().splitlines()
    rows = [{"what": "forecast", "said": "; ".join(said[1:])}]
    third = shape[0] // 3 * shape[1] * shape[2]
    for what, stop in (("killed after a third", third), ("taken up again", None)):
        found = run(command, part, stop)
        told = [line.rpartition(": ")[2] for line in found.pop("said").splitlines() if "going on after" in line]
        rows.append({"what": what, **found, "of the budget": found["peak GB"] / limit, "said": " ".join(told)})
    if rows[1]["code"] != -signal.SIGKILL or rows[-1]["code"]:
        raise SystemExit(f"prediction failed: {rows}")
    with h5py.File(out) as file:
        assert file["label"].shape == shape[::-1]
    return rows


def whole(folder: Path, model: Path) -> list[dict]:
    rng = np.random.default_rng(0)

    def command(shape: tuple[int, ...], out: str, options: list[str]) -> list[str]:
        scan = folder / f"scan{'-'.join(map(str, shape))}.nii"
        if not scan.exists():
            data = rng.standard_normal(shape, dtype=np.float32)
            nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), scan)
        return [VOL3D, "predict", str(scan), "-m", str(model), "-o", str(folder / out), "--no-preview", *options]

    volume = (SIDE,) * 3
    said = run(command(volume, "none.nii.gz", ["--dry-run"]))["said"]
    tile = re.search(r"of (\d+)×(\d+)×(\d+)", said)
    if tile is None:
        raise SystemExit(said)
    margin = build(_tiny("valid"), 1, 3).margin
    one = tuple(int(n) - m for n, m in zip(tile.groups(), margin, strict=True))
    ways = (
        (f"at once, in tiles of {'×'.join(tile.groups())}", volume, []),
        ("--max-memory 1.4GB", volume, ["--max-memory", "1.4GB"]),
        ("one tile", one, ["--tile", *tile.groups()]),
    )
    rows, labels = [], []
    for what, shape, options in ways:
        found = run(command(shape, f"labels{len(rows)}.nii.gz", options))
        said = found.pop("said")
        if found["code"]:
            raise SystemExit(said)
        labels.append(np.asarray(nibabel.load(folder / f"labels{len(rows)}.nii.gz").dataobj))
        ratio = found["peak GB"] * 1e9 / (4.0 * math.prod(shape))
        rows.append({"what": f"{'×'.join(map(str, shape))} float32, {what}", **found, "of the array": ratio})
    rows[1]["labels that differ"] = float((labels[0] != labels[1]).mean())
    apart = 1e9 * (rows[0]["peak GB"] - rows[2]["peak GB"])
    rows[0]["beside program and network, of the array"] = apart / (4.0 * (math.prod(volume) - math.prod(one)))
    return rows


def train(folder: Path) -> list[dict]:
    shape = (1024, 1024, 512)
    scan, labels = folder / "scan.h5", folder / "labels.h5"
    write_scan(scan, shape)
    x, y, z = shape
    with h5py.File(scan) as file, h5py.File(labels, "w") as out:
        drawn = out.create_dataset("label", (z, y, x), np.uint8, chunks=(64, 64, 64), fillvalue=255, compression="lzf")
        drawn.attrs["element_size_um"] = [1000.0] * 3
        for at in (np.s_[z // 3], np.s_[:, y // 3], np.s_[:, :, x // 3]):
            drawn[at] = file["raw"][at] > 128
    rows = []
    for what, by_box in (("read by box", "true"), ("held", "false")):
        run_folder = folder / by_box
        command = [VOL3D, "train", "-i", str(scan), "-l", str(labels), "--unlabeled", "255", "--time-budget", "2m"]
        found = run([*command, "-o", str(run_folder), "--set", f"data.by_box={by_box}", "--set", "sampling.workers=0"])
        said = found.pop("said")
        if found["code"]:
            raise SystemExit(said)
        iterations = json.loads((run_folder / "run.json").read_text())["iterations"]
        of_floats = found["peak GB"] * 1e9 / (4.0 * x * y * z)
        rows.append({"what": what, **found, "of the scan as float32": of_floats, "iterations": iterations})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="2048,2048,512")
    parser.add_argument("--budget", default="1GB")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--padding", choices=["valid", "same"], default="valid")
    options = parser.parse_args()
    shape = tuple(int(n) for n in options.shape.split(","))
    rows = []
    for part in options.parts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = folder / "model.safetensors"
            save_tiny_model(model, options.padding)
            if part == "train":
                found = train(folder)
            else:
                found = large(folder, model, shape, options.budget) if part == "large" else whole(folder, model)
        show(found)
        print()
        rows += [{"part": part, **row} for row in found]
    keep("memory", rows)
    print(json.dumps({"shape": shape, "budget": options.budget}))


if __name__ == "__main__":
    main()
