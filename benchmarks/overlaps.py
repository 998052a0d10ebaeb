"""How much tiles of a same-padded network need to overlap: agreement with one pass and with the truth, against overlap.

    python benchmarks/overlaps.py DATA [--volume nuclei_a] [--seconds 120]

The 3-D network as planned on a CPU, without the pixel classifier, learns from (3,3,2) slices; then it predicts that
volume in tiles of the training patch and of half as much again, with each overlap. Printed and kept: mean Dice of the
foreground classes to the labels of one pass over the whole volume, IoU to the truth on voxels that nobody painted,
seconds, and how many times a voxel goes through the network. `vol3d predict` overlaps by a quarter.
"""

import argparse
import time
from pathlib import Path

import few_slices
import numpy as np
from accuracy import USUAL, load
from side_by_side import keep, show

from vol3d.inference import plan_tiles
from vol3d.volume import Affine, Volume
from vol3d.workflows.outputs import PredictOptions
from vol3d.workflows.predict import predict
from vol3d.workflows.train import train

OVERLAPS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75)
FACTORS = (1.0, 1.5)
OPTIONS = {
    "labels": {"unlabeled": (255,)},
    "network": {"plan": "unet", "dimensions": 3},
    "pixel_classifier": {"use": "no"},
}


def dice(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean over the classes from 1 on that occur."""
    codes = [code for code in range(1, 1 + max(found.max(), wanted.max())) if (wanted == code).any()]
    both = [2 * ((found == c) & (wanted == c)).sum() / ((found == c).sum() + (wanted == c).sum()) for c in codes]
    return float(np.mean(both))


def iou(found: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Mean over the classes from 1 on, where nobody painted."""
    codes, f, t = range(1, 1 + int(truth.max())), found[~mask], truth[~mask]
    return float(np.mean([((f == c) & (t == c)).sum() / max(((f == c) | (t == c)).sum(), 1) for c in codes]))


def seen(scan: Volume, network, tile: tuple[int, ...], overlap: float) -> float:
    """How many times a voxel goes through the network."""
    _, x, y, z = scan.array.shape
    plan = plan_tiles(
        (x, y, z),
        network.margin,
        network.total_stride,
        memory_bytes=1e12,
        bytes_per_voxel=0.0,
        classes=network.classes,
        tile=tile,
        overlap=overlap,
    )
    return sum(tile.input.voxels for tile in plan.tiles) / (x * y * z)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--volume", default="nuclei_a")
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    image, truth, spacing, turned = load(options.data, options.volume)
    mask = few_slices.annotated(truth, USUAL[::-1] if turned else USUAL)
    affine = Affine.from_spacing(tuple(spacing))
    scan = Volume(image[None], affine, "scan")
    labels = Volume(np.where(mask, truth, 255).astype(np.uint8)[None], affine, "labels")
    run = f"runs/overlaps-{options.volume}-{time.time():.0f}"
    settings = {**OPTIONS, "training": {"time_budget_s": options.seconds, "seed": 0, "device": "cpu"}}
    result = train(scan, labels, output=run, options=settings)
    patch = tuple(result.bundle.training_range["patch"])
    network = result.bundle.build("cpu")
    begin = time.perf_counter()
    around = tuple(-(-n // 8) * 8 for n in truth.shape)
    whole = predict(scan, result.bundle, options=PredictOptions(tile=around, device="cpu")).codes
    rows = [{"tile": "whole", "overlap": "", "Dice to one pass": 1.0, "IoU": iou(whole, truth, mask)}]
    rows[0] |= {"seconds": time.perf_counter() - begin, "times through": 1.0}
    for factor in FACTORS:
        tile = tuple(
            min(-(-round(n * factor) // 8) * 8, -(-size // 8) * 8) for n, size in zip(patch, truth.shape, strict=True)
        )
        for overlap in OVERLAPS:
            begin = time.perf_counter()
            found = predict(scan, result.bundle, options=PredictOptions(tile=tile, overlap=overlap, device="cpu")).codes
            row = {"tile": "×".join(map(str, tile)), "overlap": overlap, "Dice to one pass": dice(found, whole)}
            row |= {"IoU": iou(found, truth, mask), "seconds": time.perf_counter() - begin}
            rows.append({**row, "times through": seen(scan, network, tile, overlap)})
    rows = [{"volume": options.volume, **row} for row in rows]
    show(rows)
    keep("overlaps", rows)


if __name__ == "__main__":
    main()
