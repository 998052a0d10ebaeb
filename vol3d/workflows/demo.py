"""The embedded demo: what `vol3d train` does when it is told nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vol3d.samples import UNLABELED
from vol3d.workflows.samples import write_samples


def demo_config(folder: Path) -> dict[str, Any]:
    """A configuration that trains on the synthetic scan; its files are made in `folder` where they are missing."""
    names = ("scan.nii.gz", "scan_sparse.nii.gz", "scan_dense.nii.gz")
    if not all((folder / name).is_file() for name in names):
        write_samples(folder, kidney_b=False)
    return {
        "data": {"images": [str(folder / names[0])], "labels": [str(folder / names[1])]},
        "labels": {"unlabeled": UNLABELED},
        "training": {"time_budget_s": 120},
    }
