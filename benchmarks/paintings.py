"""Other ways to paint than slices across all axes: organs in a few axial slices, scribbles.

    python benchmarks/paintings.py DATA [--seconds 150] [--only TEXT]

DATA: a folder with ct_torso, mr_torso (.nii.gz, and _organs.nii.gz beside them), nuclei_a.h5 and ovule_walls.h5. Each
volume is painted as its row says, from its dense labels, and given to `vol3d train` with its defaults for so many
seconds, to a random forest with every labeled voxel (as in accuracy.py) and to interpolation between the painted
slices. Scores are on voxels that nobody painted: mean IoU over classes but the background that have a hundred of them
and are painted somewhere, and how many of these classes were not found at all.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import accuracy
import few_slices
import numpy as np
from accuracy_peers import random_forest
from side_by_side import keep, show

from vol3d import io
from vol3d.baselines.interpolation import interpolate
from vol3d.volume import Affine, SparseLabels

LEAST = 100  # voxels of a class that is scored
Mask = np.ndarray


def slices(*counts: int) -> Callable[[np.ndarray, bool], Mask]:
    """Whole slices across the stored axes."""
    return lambda truth, turned: few_slices.annotated(truth, tuple(counts[::-1] if turned else counts))


def scribbles(truth: np.ndarray, _turned: bool) -> Mask:
    """In four slices across Z of every class five curved strokes of up to 25 voxels, which do not leave the class."""
    rng, mask = np.random.default_rng(0), np.zeros(truth.shape, bool)
    for number in range(4):
        z = round((number + 0.5) * truth.shape[2] / 4 - 0.5)
        plane = truth[:, :, z]
        for code in np.unique(plane):
            inside = np.argwhere(plane == code)
            for _ in range(5):
                place, way = inside[rng.integers(len(inside))].astype(float), rng.normal(size=2)
                for _ in range(25):
                    mask[(*np.rint(place).astype(int), z)] = True
                    way += 0.4 * rng.normal(size=2)
                    way /= np.linalg.norm(way)
                    following = np.rint(place + way).astype(int)
                    there = (following >= 0).all() and (following < plane.shape).all()
                    if there and plane[tuple(following)] == code:
                        place += way
                    else:
                        way = rng.normal(size=2)
    return mask


ROWS = {
    "ct_torso, five axial slices": slices(0, 0, 5),
    "ct_torso, slices 3,3,2": slices(3, 3, 2),
    "mr_torso, five axial slices": slices(0, 0, 5),
    "ct_torso, scribbles": scribbles,
    "mr_torso, scribbles": scribbles,
    "nuclei_a, scribbles": scribbles,
    "ovule_walls, scribbles": scribbles,
}


def load(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, tuple[float, ...], bool]:
    """As `accuracy.load`; codes of organs are those of the file."""
    if not name.endswith("_torso"):
        return accuracy.load(folder, name)
    image, dense = (io.read(str(folder / f"{name}{kind}.nii.gz")) for kind in ("", "_organs"))
    return image.array[0].astype(np.float32), dense.array[0].astype(np.uint8), image.spacing_mm, False


def interpolated(truth: np.ndarray, mask: Mask, spacing: tuple[float, ...]) -> np.ndarray:
    codes = np.unique(truth[mask])
    indices = np.where(mask, np.searchsorted(codes, truth), 0).astype(np.uint8)
    affine = Affine.from_spacing(tuple(spacing))
    return codes[interpolate(SparseLabels(indices, mask, affine, "labels"), spacing, len(codes))]


def score(codes: np.ndarray, truth: np.ndarray, mask: Mask) -> dict[str, float]:
    found, wanted = codes[~mask], truth[~mask]
    ious = [
        float(((found == code) & (wanted == code)).sum() / ((found == code) | (wanted == code)).sum())
        for code in np.unique(truth[mask])
        if code and (wanted == code).sum() >= LEAST
    ]
    return {"mean IoU": float(np.mean(ious)), "classes": len(ious), "at 0": sum(iou < 0.005 for iou in ious)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--only", metavar="TEXT", default="")
    options = parser.parse_args()
    rows = []
    for name, paint in ROWS.items():
        if options.only not in name:
            continue
        image, truth, spacing, turned = load(options.data, name.partition(",")[0])
        mask = paint(truth, turned)
        methods = {
            "vol3d": lambda s=spacing, i=image, t=truth, m=mask: accuracy.vol3d_default(i, t, m, s, options.seconds),
            "random forest": lambda s=spacing, i=image, t=truth, m=mask: (random_forest(i - i.min(), t, m, s, 0), {}),
            "interpolation": lambda s=spacing, t=truth, m=mask: (interpolated(t, m, s), {}),
        }
        for method, call in methods.items():
            begin = time.monotonic()
            codes, facts = call()
            taken = time.monotonic() - begin
            told = {key: facts[key] for key in ("iterations", "pool_weight") if key in facts}
            rows.append({"painted": name, "method": method, **score(codes, truth, mask), "seconds": taken, **told})
            print(json.dumps(rows[-1]), flush=True)
    show(rows)
    keep("paintings", rows)


if __name__ == "__main__":
    main()
