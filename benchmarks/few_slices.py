"""What the benchmarks share: volumes with dense labels, of which only a few slices are shown to a method."""

import os
import platform
from pathlib import Path

import h5py
import numpy as np

from vol3d.volume import Affine, Volume

UNLABELED = 65535
UM = 1e-3  # mm


def volume(path: Path, dataset: str) -> Volume:
    """A dataset (Z, Y, X) with `element_size_um` as a volume (1, X, Y, Z) in mm."""
    with h5py.File(path) as file:
        stored = file[dataset][()]
        sizes = file[dataset].attrs.get("element_size_um", file["raw"].attrs["element_size_um"])
    array = np.ascontiguousarray(stored.transpose(2, 1, 0))[None]
    return Volume(array, Affine.from_spacing(tuple(UM * float(s) for s in sizes[::-1])), f"{path.stem}:{dataset}")


def annotated(dense: np.ndarray, slices: tuple[int, int, int]) -> np.ndarray:
    """Mask (X, Y, Z) of whole planes: `slices` of them across x, y, z, evenly spread over the extent of the labels."""
    mask = np.zeros(dense.shape, bool)
    for axis, count in enumerate(slices):
        filled = np.flatnonzero((dense > 0).any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = int(filled[0]), int(filled[-1])
        for number in range(count):
            at = round(first + (last - first) * (number + 0.5) / count)
            mask[(slice(None),) * axis + (at,)] = True
    return mask


def painted(dense: Volume, mask: np.ndarray) -> Volume:
    """The labels as somebody would have painted them: known in `mask`, `UNLABELED` elsewhere."""
    codes = np.where(mask, dense.array[0].astype(np.uint16), UNLABELED).astype(np.uint16)
    return Volume(codes[None], dense.affine, dense.name)


def foreground_iou(predicted: np.ndarray, dense: np.ndarray, mask: np.ndarray) -> float:
    """Mean IoU over all codes but 0, on voxels that nobody painted."""
    found, truth = predicted[~mask], dense[~mask]
    scores = [
        ((found == code) & (truth == code)).sum() / ((found == code) | (truth == code)).sum()
        for code in range(1, int(dense.max()) + 1)
        if (truth == code).any()
    ]
    return float(np.mean(scores))


def best_threshold_iou(image: np.ndarray, dense: np.ndarray, mask: np.ndarray) -> float:
    """IoU of the best of all global thresholds, bright or dark, chosen with the dense labels in hand."""
    values, truth = image[~mask], dense[~mask] > 0
    best = 0.0
    for threshold in np.unique(np.quantile(values, np.linspace(0, 1, 257))):
        for guess in (values >= threshold, values < threshold):
            best = max(best, float((guess & truth).sum() / (guess | truth).sum()))
    return best


def machine() -> str:
    """Processor, cores and threads, in words."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = lines[0] if lines else model
    return f"{os.cpu_count()} cores {model}"
