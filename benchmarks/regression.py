"""A value per voxel from a few slices: how deep inside a nucleus, in µm.

    python benchmarks/regression.py DATA [--minutes 5]

DATA: a folder with nuclei_a.h5. The distance to the nucleus' border (0 outside) is known on slices x, y, z = 2, 3, 3;
errors are on all other voxels, against the mean of the known values as the prediction.
"""

import argparse
import json
import tempfile
from pathlib import Path

import few_slices
import numpy as np
from scipy import ndimage

import vol3d
from vol3d.metrics.regression import regression_scores
from vol3d.volume import Volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    options = parser.parse_args()
    file = options.data / "nuclei_a.h5"
    image, dense = few_slices.volume(file, "raw"), few_slices.volume(file, "label")
    inside = dense.array[0] > 0
    depth = ndimage.distance_transform_edt(inside, sampling=np.asarray(image.affine.spacing) / few_slices.UM)
    mask = few_slices.annotated(dense.array[0], (2, 3, 3))
    known = np.where(mask, depth, np.nan).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        run = vol3d.train(
            image,
            Volume(known[None], dense.affine, "depth"),
            task="regression",
            time_budget_s=60 * options.minutes,
            output=f"{folder}/run",
        )
        predicted = vol3d.predict(image, run.bundle).codes
    found = regression_scores(predicted, depth, ~mask)
    mean = regression_scores(np.full_like(depth, depth[mask].mean()), depth, ~mask)
    print(few_slices.machine())
    row = {
        "rmse_um": round(found.rmse, 4),
        "mae_um": round(found.mae, 4),
        "r2": round(found.r2, 4),
        "mean_predictor_rmse_um": round(mean.rmse, 4),
        "iterations": run.iterations,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
