"""Membranes of serial-section electron microscopy: 2-D U-Net with border weights, six annotated sections.

    python benchmarks/em2d.py DATA [--minutes 15] [--sections 6] [--border 10] [--picture FILE.png]

DATA: a folder with isbi2012_em.h5. Scores are on the other sections: IoU of membranes; adapted Rand error and variation
of information of the cells, which are the connected parts of what is no membrane, section by section. The probability
above which a voxel is membrane is 0.5, and the one with the least Rand error on the annotated sections.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import few_slices
import numpy as np
from scipy import ndimage

import vol3d
from vol3d.metrics.instances import instance_scores
from vol3d.report import preview_png


def cells(membrane: np.ndarray) -> np.ndarray:
    """Connected parts of what is no membrane, numbered, in every section across Z by itself."""
    numbers, last = np.zeros(membrane.shape, np.uint32), 0
    for z in range(membrane.shape[2]):
        parts, count = ndimage.label(~membrane[..., z])
        numbers[..., z] = np.where(parts > 0, parts + last, 0)
        last += count
    return numbers


def partition(membrane: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """(adapted Rand error, VOI split, VOI merge), the means over sections."""
    found = [
        instance_scores(cells(membrane[..., z : z + 1]), cells(truth[..., z : z + 1])) for z in range(truth.shape[2])
    ]
    values = [(one.adapted_rand_error, one.voi_split, one.voi_merge) for one in found]
    rand, split, merge = np.mean(values, axis=0)
    return float(rand), float(split), float(merge)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--sections", type=int, default=6)
    parser.add_argument("--border", type=float, default=10)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    file = options.data / "isbi2012_em.h5"
    image, dense = few_slices.volume(file, "raw"), few_slices.volume(file, "label")
    mask = few_slices.annotated(dense.array[0], (0, 0, options.sections))
    drawn = mask.all(axis=(0, 1))
    config = {
        "network": {"plan": "unet", "dimensions": 2},
        "labels": {"unlabeled": few_slices.UNLABELED},
        "loss": {"class_weights": "none", "border": options.border, "border_classes": [0]},
    }
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        labels = few_slices.painted(dense, mask)
        run = vol3d.train(image, labels, config=config, time_budget_s=60 * options.minutes, output=f"{folder}/run")
        trained = time.monotonic() - begin
        probability = vol3d.predict(image, run.bundle, probabilities=True).probabilities[1]
    truth = dense.array[0] > 0
    thresholds = (0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9)
    rand = {t: partition(probability[..., drawn] > t, truth[..., drawn])[0] for t in thresholds}
    print(f"{few_slices.machine()}; {run.iterations} iterations, trained for {trained:.0f} s")
    for threshold in dict.fromkeys((0.5, min(rand, key=rand.__getitem__))):
        membrane = probability > threshold
        error, split, merge = partition(membrane[..., ~drawn], truth[..., ~drawn])
        row = {
            "threshold": threshold,
            "membrane_iou": round(few_slices.foreground_iou(membrane, dense.array[0], mask), 4),
            "adapted_rand_error": round(error, 4),
            "voi_split_bits": round(split, 4),
            "voi_merge_bits": round(merge, 4),
            "sections": int((~drawn).sum()),
            "border": options.border,
        }
        print(json.dumps(row), flush=True)
    if options.picture is not None:
        layers = [
            ("scan", None),
            ("prediction", (probability > 0.5).astype(np.uint8)),
            ("truth", truth.astype(np.uint8)),
        ]
        middle = int(np.flatnonzero(~drawn)[int((~drawn).sum()) // 2])
        preview_png(options.picture, image.array, image.affine, layers, run.bundle.labels, through=(256, 256, middle))


if __name__ == "__main__":
    main()
