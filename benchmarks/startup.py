"""How soon vol3d answers, and how fast it reads and writes .nii.gz; peers side by side.

    python benchmarks/startup.py

Commands are whole processes, median of seven. The file is a smooth 256³ volume with noise, int16, gzipped. The ratio
is the time of importing MONAI, what the quickest script with it cannot avoid, over that of `vol3d info`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from side_by_side import keep, seconds, show

from vol3d import io

COMMAND = [str(Path(sys.executable).with_name("vol3d"))]


def process(*command: str):
    return lambda: subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.sin(np.linspace(0, 20, 256))] * 3, indexing="ij")
    data = (300 * sum(axes) + 20 * rng.normal(size=(256,) * 3)).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        scan = f"{folder}/scan.nii.gz"
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), scan)
        python = sys.executable
        rows = [
            {"what": "import monai", "seconds": seconds(process(python, "-c", "import monai"), 7)},
            {"what": "import torchio", "seconds": seconds(process(python, "-c", "import torchio"), 7)},
            {"what": "vol3d --help", "seconds": seconds(process(*COMMAND, "--help"), 7)},
            {"what": "vol3d info scan.nii.gz", "seconds": seconds(process(*COMMAND, "info", scan), 7)},
        ]
        ratio = min(row["seconds"] for row in rows[:2]) / rows[-1]["seconds"]
        volume = io.read(scan)
        out = f"{folder}/out.nii.gz"
        image = nibabel.Nifti1Image(data, np.eye(4))
        rows += [
            {"what": "read: nibabel", "seconds": seconds(lambda: np.asanyarray(nibabel.load(scan).dataobj))},
            {"what": "read: vol3d", "seconds": seconds(lambda: io.read(scan))},
            {"what": "write: nibabel", "seconds": seconds(lambda: nibabel.save(image, out))},
            {
                "what": "write: vol3d",
                "seconds": seconds(lambda: io.write_image(out, data[None], volume, overwrite=True)),
            },
        ]
    show(rows)
    keep("startup", rows, ratio)


if __name__ == "__main__":
    main()
