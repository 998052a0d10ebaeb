"""Accuracy from few slices in the same time: vol3d, a random forest and a MONAI script; and what each part is worth.

    python benchmarks/accuracy.py DATA [--table main|ablation|long|gpu] [--only TEXT] [--jobs N] [--missing]

DATA: a folder with nuclei_a.h5, ovule_walls.h5, isbi2012_em.h5 and mni152_*.nii.gz. Each row is a process of its own,
with all cores (with --jobs N: an equal part of them, which the row says). Rows are kept in
benchmarks/results/accuracy.jsonl and not run again; --only runs those anew whose name has TEXT. Slices are counted
across the stored axes: z, y, x of HDF5, x, y, z of NIfTI. Scores are on voxels that nobody painted. The tables go into
docs/accuracy.md. gpu: vol3d's rows on the first GPU; those of nnU-Net are printed by nnunet_peer.py, to be added.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import few_slices
import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "accuracy.jsonl"
PAGE = HERE.parent / "docs" / "accuracy.md"
VOLUMES = ("nuclei_a", "ovule_walls", "isbi2012_em", "mni152")
FEW, USUAL, MANY = (1, 1, 1), (3, 3, 2), (5, 5, 3)
METHODS = ("vol3d", "random forest", "MONAI script")
ON_GPU = ("vol3d on a GPU", "nnU-Net v2 on a GPU")
PARTS = {
    "default": [],
    "no pixel classifier": ["pixel_classifier.use=no"],
    "BatchNorm frozen halfway": ["training.batch_statistics=frozen"],
    "no averaged weights": ["training.ema_decay=0"],
    "no flips": ["augment.flip_probability=0"],
    "no rotation, scaling, deformation": ["augment.spatial_probability=0"],
    "no gamma": ["augment.gamma_probability=0"],
    "equal class weights": ["loss.class_weights=none"],
    "nothing held out": ["training.hold_out_every=0"],
    "with soft Dice": ["loss.dice=1"],
    "float32": ["training.precision=float32"],
    "3-D network": ["network.plan=unet", "network.dimensions=3"],
    "width 12": ["network.plan=unet", "network.width=12"],
    "width 24": ["network.plan=unet", "network.width=24"],
}


def load(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, tuple[float, ...], bool]:
    """Image float32 (X, Y, Z), codes uint8 (X, Y, Z), spacing in mm, and whether the file stores z, y, x."""
    if name == "mni152":
        from vol3d import io

        image, dense = (io.read(str(folder / f"mni152_{kind}.nii.gz")) for kind in ("t1", "tissue"))
        return image.array[0].astype(np.float32), dense.array[0].astype(np.uint8), image.spacing_mm, False
    image = few_slices.volume(folder / f"{name}.h5", "raw")
    if name == "ovule_walls":
        from skimage.segmentation import find_boundaries

        cells = few_slices.volume(folder / f"{name}.h5", "instances").array[0]
        dense = find_boundaries(cells, mode="thick")
    else:
        dense = few_slices.volume(folder / f"{name}.h5", "label").array[0]
    return image.array[0].astype(np.float32), dense.astype(np.uint8), image.spacing_mm, True


def vol3d_default(image, truth, mask, spacing, seconds, seed=0, overrides=(), device="cpu"):
    """`vol3d train` with its defaults, then `vol3d predict`; returns codes and facts about the run."""
    from vol3d.volume import Affine, Volume
    from vol3d.workflows.outputs import PredictOptions
    from vol3d.workflows.predict import predict
    from vol3d.workflows.train import train

    affine = Affine.from_spacing(tuple(spacing))
    scan = Volume(image[None], affine, "scan")
    labels = Volume(np.where(mask, truth, 255).astype(np.uint8)[None], affine, "labels")
    training = {"time_budget_s": seconds, "seed": seed, "device": device}
    options = {"labels": {"unlabeled": (255,)}, "training": training}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = train(scan, labels, output=f"{folder}/run", options=options, overrides=overrides)
        trained = time.monotonic() - begin
        record = json.loads((Path(folder) / "run" / "run.json").read_text(encoding="utf-8"))
        codes = predict(scan, result.bundle, options=PredictOptions(device=device)).codes
    found = record.get("calibration") or {}
    facts = {
        "iterations": result.iterations,
        "training_seconds": round(trained, 1),
        "first_preview_seconds": record.get("first_preview_seconds"),
        "held_out_iou": None if result.score is None else round(result.score.value, 4),
        "temperature": round(result.bundle.temperature, 4),
        "pool_weight": result.bundle.pool_weight,
        "prior_share": found.get("prior_share"),
        "ece_before": _ece(found, "before"),
        "ece_after": _ece(found, "after"),
    }
    return codes, facts


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("no GPU was found")
    return torch.cuda.get_device_name()


def _ece(calibration: dict, when: str) -> float | None:
    from vol3d.metrics import Reliability
    from vol3d.workflows.calibration import Calibration

    if not calibration:
        return None
    if when == "after" and not Calibration.from_json(calibration).helps:
        when = "untempered" if calibration.get("untempered") else "before"
    return round(Reliability.from_json(calibration[when]).expected_calibration_error, 5)


def row(key: dict, folder: Path) -> dict:
    """Run one row. key: method, part, volume, slices, seconds, seed."""
    image, truth, spacing, turned = load(folder, key["volume"])
    slices = tuple(key["slices"][::-1] if turned else key["slices"])
    mask = few_slices.annotated(truth, slices)
    begin = time.monotonic()
    facts: dict = {}
    device, where = "cpu", few_slices.machine()
    if key["method"] == ON_GPU[0]:
        device, where = "cuda", f"{_gpu()}, {where}"
    if key["method"] in {METHODS[0], ON_GPU[0]}:
        parts = PARTS[key["part"]]
        codes, facts = vol3d_default(image, truth, mask, spacing, key["seconds"], key["seed"], parts, device)
    else:
        from accuracy_peers import monai_script, random_forest

        peer = {"random forest": random_forest, "MONAI script": monai_script}[key["method"]]
        codes = peer(image, truth, mask, spacing, key["seconds"])
    taken = time.monotonic() - begin
    found, wanted = codes[~mask], truth[~mask]
    ious = {}
    for code in range(1, int(truth.max()) + 1):
        either = int(((found == code) | (wanted == code)).sum())
        ious[str(code)] = round(float(((found == code) & (wanted == code)).sum() / either), 4) if either else None
    return {
        **key,
        "iou": ious,
        "mean_iou": round(float(np.mean([v for v in ious.values() if v is not None])), 4),
        "all_seconds": round(taken, 1),
        **facts,
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "machine": where,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def wanted_rows(table: str) -> list[dict]:
    """The keys of a table's rows."""
    if table == "main":
        cells = [(v, USUAL) for v in VOLUMES] + [(v, s) for s in (FEW, MANY) for v in ("nuclei_a", "ovule_walls")]
        return [_key(m, "default", v, s, 300, 0) for v, s in cells for m in METHODS]
    if table == "gpu":
        return [_key(ON_GPU[0], "default", v, USUAL, 300, 0) for v in ("nuclei_a", "ovule_walls")]
    if table == "long":
        return [_key("vol3d", "default", "nuclei_a", USUAL, 1200, 0)]
    two = ("nuclei_a", "ovule_walls")
    rows = [_key("vol3d", "default", v, USUAL, 120, seed) for seed in (0, 1, 2) for v in two]
    return rows + [_key("vol3d", part, v, USUAL, 120, 0) for part in PARTS if part != "default" for v in two]


def _key(method: str, part: str, volume: str, slices: tuple[int, ...], seconds: float, seed: int) -> dict:
    return {
        "method": method,
        "part": part,
        "volume": volume,
        "slices": list(slices),
        "seconds": seconds,
        "seed": seed,
    }


def name_of(key: dict) -> str:
    """What --only looks at, and by which rows are told apart."""
    slices = ",".join(map(str, key["slices"]))
    return f"{key['method']} / {key['part']} / {key['volume']} ({slices}) {key['seconds']:g} s seed {key['seed']}"


def kept() -> dict[str, dict]:
    """Rows by name; of several the last."""
    if not RESULTS.is_file():
        return {}
    return {name_of(one): one for one in map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())}


def run_one(key: dict, options: argparse.Namespace) -> None:
    """One row in a process of its own."""
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    command = [sys.executable, __file__, str(options.data), "--row", json.dumps(key)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name_of(key)} failed:\n{done.stderr[-2000:]}", flush=True)
        return
    line = done.stdout.strip().splitlines()[-1]
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


def main_table(rows: dict[str, dict]) -> str:
    """Volumes × methods: mean IoU, the worst class in brackets."""
    lines = [f"| volume | slices | {' | '.join(METHODS)} |", "|---|---|" + "---|" * len(METHODS)]
    gains = []
    for key in wanted_rows("main")[:: len(METHODS)]:
        cells, means = [], {}
        for method in METHODS:
            found = rows.get(name_of({**key, "method": method}))
            if found is None:
                cells.append("not measured")
                continue
            means[method] = found["mean_iou"]
            worst = min(v for v in found["iou"].values() if v is not None)
            least = f" ({worst:.3f})" if len(found["iou"]) > 1 else ""
            cells.append(f"{found['mean_iou']:.3f}{least}, {found['all_seconds']:.0f} s")
        if METHODS[0] in means and METHODS[1] in means and key["slices"] == list(USUAL):
            gains.append(means[METHODS[0]] - means[METHODS[1]])
        lines.append(f"| {key['volume']} | {','.join(map(str, key['slices']))} | {' | '.join(cells)} |")
    if gains:
        lines += ["", f"At (3,3,2), vol3d − random forest: {np.mean(gains):+.3f} on average over {len(gains)} volumes."]
    return "\n".join(lines)


def ablation_table(rows: dict[str, dict]) -> str:
    """What is left where a part is left out, and the default's spread over seeds; a line for every part with a row."""
    two = ("nuclei_a", "ovule_walls")
    seeds = {
        v: [
            rows[n]["mean_iou"] for s in (0, 1, 2) if (n := name_of(_key("vol3d", "default", v, USUAL, 120, s))) in rows
        ]
        for v in two
    }
    lines = [f"| | {' | '.join(two)} |", "|---|---|---|"]
    spread = [
        f"{np.mean(v):.3f} ± {np.std(v, ddof=1):.3f} ({len(v)} seeds)" if len(v) > 1 else "not measured"
        for v in seeds.values()
    ]
    lines.append(f"| default | {' | '.join(spread)} |")
    for part in list(PARTS)[1:]:
        cells = []
        measured = [rows.get(name_of(_key("vol3d", part, volume, USUAL, 120, 0))) for volume in two]
        if not any(measured):
            continue
        for volume, found in zip(two, measured, strict=True):
            base = seeds[volume]
            told = "not measured"
            if found is not None:
                told = f"{found['mean_iou']:.3f}" + (f" ({found['mean_iou'] - np.mean(base):+.3f})" if base else "")
            cells.append(told)
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gpu_table(rows: dict[str, dict]) -> str:
    """Volumes × methods on a GPU: the last row of each, whatever time it was given."""
    lines = [f"| volume | slices | {' | '.join(ON_GPU)} |", "|---|---|" + "---|" * len(ON_GPU)]
    for key in wanted_rows("gpu"):
        cells = []
        for method in ON_GPU:
            same = {**key, "method": method}
            same.pop("seconds")
            found = next((r for r in reversed(rows.values()) if {k: r[k] for k in same} == same), None)
            cells.append(
                "not measured"
                if found is None
                else f"{found['mean_iou']:.3f}, {found['iterations']} iterations in {found['training_seconds']:.0f} s"
            )
        lines.append(f"| {key['volume']} | {','.join(map(str, key['slices']))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def machines(rows: list[dict]) -> str:
    """Where the rows of a table were run."""
    found = sorted({f"{one['machine']}, {one['threads']} threads a row, {one['date']}" for one in rows})
    return "Measured on: " + "; ".join(found) + "." if found else ""


def write_page(rows: dict[str, dict]) -> None:
    """Put the tables between their marks in docs/accuracy.md."""
    page = PAGE.read_text(encoding="utf-8")
    for table, made in (("main", main_table(rows)), ("ablation", ablation_table(rows)), ("gpu", gpu_table(rows))):
        wanted = {name_of(key) for key in wanted_rows(table)}
        own = [one for name, one in rows.items() if name in wanted or (table == "gpu" and one["method"] in ON_GPU)]
        begin, end = f"<!-- table: {table} -->", f"<!-- end of table: {table} -->"
        before, after = page.partition(begin)[0], page.partition(end)[2]
        page = f"{before}{begin}\n{made}\n\n{machines(own)}\n{end}{after}"
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--table", choices=["main", "ablation", "long", "gpu"], default="main")
    parser.add_argument("--only", metavar="TEXT")
    parser.add_argument("--missing", action="store_true", help="with --only: not those that are there already")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(row(json.loads(options.row), options.data)))
        return
    done = kept() if options.only is None or options.missing else {}
    keys = [key for key in wanted_rows(options.table) if options.only is None or options.only in name_of(key)]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda key: run_one(key, options), [key for key in keys if name_of(key) not in done]))
    rows = kept()
    write_page(rows)
    tables = {"main": main_table, "ablation": ablation_table, "gpu": gpu_table}
    print(tables.get(options.table, main_table)(rows))


if __name__ == "__main__":
    main()
