"""Objects told apart from a few slices: nuclei, and cells that touch everywhere.

    python benchmarks/instances.py DATA [--minutes 6] [--pictures FOLDER]

DATA: a folder with nuclei_a.h5 and ovule_walls.h5. Slices x, y, z = 2, 3, 3 of the instance labels are painted; scores
are on the whole volume (AP = TP / (TP + FP + FN) at IoU > 0.5; SBD; adapted Rand error), since objects cross slices.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import few_slices
import numpy as np

import vol3d
from vol3d.metrics.instances import instance_scores
from vol3d.report import preview_png
from vol3d.volume import LabelClass, LabelTable, default_color

COLORS = 12


def shown(numbers: np.ndarray) -> np.ndarray:
    """Object numbers as a few colours."""
    return np.where(numbers > 0, (numbers.astype(np.int64) - 1) % COLORS + 1, 0).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--only", choices=["nuclei_a", "ovule_walls"])
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    print(few_slices.machine())
    for name in [options.only] if options.only else ["nuclei_a", "ovule_walls"]:
        image = few_slices.volume(options.data / f"{name}.h5", "raw")
        dense = few_slices.volume(options.data / f"{name}.h5", "instances")
        truth = dense.array[0]
        mask = few_slices.annotated(truth, (2, 3, 3))
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            run = vol3d.train(
                image,
                few_slices.painted(dense, mask),
                task="instances",
                unlabeled=few_slices.UNLABELED,
                time_budget_s=60 * options.minutes,
                output=f"{folder}/run",
            )
            trained = time.monotonic() - begin
            numbers = vol3d.predict(image, run.bundle).codes
        found = instance_scores(numbers, truth)
        row = {
            "data": name,
            "ap50": round(found.ap[0.5], 4),
            "f1": round(found.f1[0.5], 4),
            "sbd": round(found.sbd, 4),
            "adapted_rand_error": round(found.adapted_rand_error, 4),
            "objects": found.objects,
            "predicted_objects": found.predicted_objects,
            "iterations": run.iterations,
            "training_seconds": round(trained),
            "predicting_seconds": round(time.monotonic() - begin - trained, 1),
        }
        print(json.dumps(row), flush=True)
        if options.pictures is not None:
            colors = [LabelClass(k, "" if k > 1 else "objects", default_color(k)) for k in range(1, COLORS + 1)]
            table = LabelTable((LabelClass(0, "background", (64, 64, 64)), *colors))
            layers = [("scan", None), ("prediction", shown(numbers)), ("truth", shown(truth))]
            through = tuple(n // 2 + 3 for n in truth.shape)
            preview_png(options.pictures / f"{name}.png", image.array, image.affine, layers, table, through=through)


if __name__ == "__main__":
    main()
