"""Writes the synthetic sample volumes: what data_samples/ holds, and what the embedded demo trains on.

`python -m vol3d.workflows.samples FOLDER` makes them again, bit for bit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from vol3d import io
from vol3d.samples import TABLE, UNLABELED, Phantom, kidney, paint
from vol3d.volume import Volume

NAMES = {c.code: c.name for c in TABLE.classes} | {UNLABELED: "unlabeled"}
_SCAN_SEED, _KIDNEY_SEED = 7, 11
_SCAN_SHAPE, _KIDNEY_SHAPE = (96, 88, 64), (140, 136, 120)


def write_samples(folder: Path, *, kidney_b: bool = True) -> list[Path]:
    """Write scan.nii.gz, scan_sparse.nii.gz, scan_dense.nii.gz and, if asked, kidney_b.h5 into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    phantom = kidney(_SCAN_SHAPE, channels=1, rng=np.random.default_rng(_SCAN_SEED))
    sparse = paint(phantom.classes, (3, 3, 3), UNLABELED)
    written = [folder / "scan.nii.gz", folder / "scan_sparse.nii.gz", folder / "scan_dense.nii.gz"]
    image = _volume(phantom, phantom.image, "scan.nii.gz")
    io.write_image(str(written[0]), phantom.image, image, overwrite=True)
    io.write_labels(str(written[1]), sparse, image, names=NAMES, overwrite=True)
    io.write_labels(str(written[2]), phantom.classes, image, names=NAMES, overwrite=True)
    if kidney_b:
        written.append(folder / "kidney_b.h5")
        _write_kidney(written[-1])
    return written


def _write_kidney(path: Path) -> None:
    phantom = kidney(_KIDNEY_SHAPE, channels=3, rng=np.random.default_rng(_KIDNEY_SEED))
    sparse = paint(phantom.classes, (3, 3, 3), UNLABELED)
    image = _volume(phantom, phantom.image, str(path))
    path.unlink(missing_ok=True)
    io.write_image(f"{path}:raw", phantom.image, image)
    io.write_labels(f"{path}:label", sparse, image, names=NAMES)
    io.write_labels(f"{path}:dense", phantom.classes, image, names=NAMES)


def _volume(phantom: Phantom, array: np.ndarray, name: str) -> Volume:
    return Volume(array, phantom.affine, name)


if __name__ == "__main__":
    write_samples(Path(sys.argv[1]))
