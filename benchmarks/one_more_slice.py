"""One more slice: what it adds when a finished run goes on with it, and how long that takes.

    python benchmarks/one_more_slice.py DATA [--volume nuclei_a] [--slices 3,3,2] [--seconds 120] [--more 50]

A run learns from a few slices; then the plane in the middle of the widest gap between painted ones, across the axis
stored first, is painted too, and `vol3d train --resume RUN -l MORE --time-budget 50s` goes on. IoU (mean over classes)
is on voxels that neither has seen, before and after; the time is that of the whole second command.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import few_slices
import nibabel
import numpy as np
from accuracy import load
from side_by_side import keep, show

VOL3D = str(Path(sys.executable).with_name("vol3d"))


def widest_gap(mask: np.ndarray, axis: int) -> int:
    """The plane in the middle of the widest run of planes across `axis` that are not wholly painted."""
    whole = mask.all(axis=tuple(a for a in range(3) if a != axis))
    painted = [-1, *np.flatnonzero(whole), len(whole)]
    start, stop = max(itertools.pairwise(painted), key=lambda pair: pair[1] - pair[0])
    return (start + stop) // 2


def run(*command: str) -> float:
    """Run vol3d; seconds it took."""
    begin = time.perf_counter()
    done = subprocess.run([VOL3D, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--volume", default="nuclei_a")
    parser.add_argument("--slices", default="3,3,2")
    parser.add_argument("--seconds", default="120")
    parser.add_argument("--more", default="50")
    options = parser.parse_args()
    image, truth, spacing, turned = load(options.data, options.volume)
    slices = tuple(int(n) for n in options.slices.split(","))
    mask = few_slices.annotated(truth, slices[::-1] if turned else slices)
    axis = 2 if turned else 0
    more = mask.copy()
    more[(slice(None),) * axis + (widest_gap(mask, axis),)] = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def save(file: str, values: np.ndarray) -> str:
            nibabel.save(nibabel.Nifti1Image(values, np.diag([*spacing, 1.0])), folder / file)
            return str(folder / file)

        def score(run_folder: str) -> float:
            out = str(folder / f"{time.time():.0f}.nii.gz")
            run("predict", scan, "-m", run_folder, "-o", out, "--no-preview", "--device", "cpu")
            return few_slices.foreground_iou(np.asarray(nibabel.load(out).dataobj), truth, more)

        scan = save("scan.nii.gz", image)
        few, many = (
            save(f, np.where(m, truth, 255).astype(np.uint8)) for f, m in (("few.nii.gz", mask), ("more.nii.gz", more))
        )
        first, second = str(folder / "first"), str(folder / "second")
        limits = ["--unlabeled", "255", "--device", "cpu"]
        run("train", "-i", scan, "-l", few, "-o", first, *limits, "--time-budget", f"{options.seconds}s")
        taken = run("train", "--resume", first, "-l", many, "-o", second, "--time-budget", f"{options.more}s")
        row = {"volume": options.volume, "slices": options.slices, "before": score(first), "after": score(second)}
    row["seconds of going on"] = taken
    show([row])
    keep("one_more_slice", [row])


if __name__ == "__main__":
    main()
