"""What dry runs expect, beside what then happens: memory of the processes and time of the whole command.

    python benchmarks/forecasts.py [--only WORDS]

predict: a model that has just been trained on the embedded sample (network and pixel classifier) on a scan of 192³
voxels, at once and under 1 GB; the planned 3-D network with drawn weights on 160³ voxels, at once and in tiles of 96;
a tiny one on 512×512×256 voxels of uint8 HDF5 under 700 MB. train: the embedded sample for some iterations with the
default 2-D network and its pixel classifier, with the network alone, and with the 3-D network alone. Every command is
asked with `--dry-run` first and then run; the same command, on a machine as busy. A factor is what was expected over
what happened; within 25 % is 0.8 to 1.25.
"""

import argparse
import re
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from memory import VOL3D, run, save_tiny_model, write_scan
from scaling import noise, planned_model
from side_by_side import keep, show

SAMPLES = Path(__file__).parent.parent / "data_samples"
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def told(said: str) -> tuple[float, float]:
    """The memory in GB and the seconds that a dry run names."""
    memory = re.search(r"memory: about ([\d.]+) (GB|MB)", said)
    time = re.search(r"time: .*?about ([\d.]+) (s|min|h)\b", said)
    if memory is None or time is None:
        raise SystemExit(f"a dry run said neither memory nor time: {said}")
    return float(memory[1]) / (1 if memory[2] == "GB" else 1000), float(time[1]) * UNITS[time[2]]


def compared(what: str, command: list[str]) -> dict:
    """A row: the dry run of a command, and the command."""
    asked = run([*command, "--dry-run"])
    done = run(command)
    for found in (asked, done):
        if found["code"]:
            raise SystemExit(found["said"])
    memory, seconds = told(asked["said"])
    return {
        "command": what,
        "GB expected": memory,
        "GB": done["peak GB"],
        "memory, factor": memory / done["peak GB"],
        "s expected": seconds,
        "s": done["seconds"],
        "time, factor": seconds / done["seconds"],
    }


def commands(folder: Path) -> dict[str, list[str]]:
    """What is compared, by name."""
    trained, planned, tiny = folder / "trained", folder / "planned.safetensors", folder / "tiny.safetensors"
    sample = ["-i", str(SAMPLES / "scan.nii.gz"), "-l", str(SAMPLES / "scan_sparse.nii.gz"), "--unlabeled", "3"]
    done = run([VOL3D, "train", *sample, "--iterations", "20", "-o", str(trained)])
    if done["code"]:
        raise SystemExit(done["said"])
    planned_model(planned)
    save_tiny_model(tiny, "valid")
    for side in (160, 192):
        nibabel.save(nibabel.Nifti1Image(noise(side), np.eye(4)), folder / f"{side}.nii.gz")
    write_scan(folder / "large.h5", (512, 512, 256))

    def predict(scan: str, model: Path, *more: str) -> list[str]:
        out = folder / f"labels{len(more)}_{model.stem}_{scan}"
        return [VOL3D, "predict", str(folder / scan), "-m", str(model), "-o", str(out), "--no-preview", *more]

    def train(name: str, *more: str) -> list[str]:
        return [VOL3D, "train", *sample, "-o", str(folder / name), *more]

    alone = ("--set", "pixel_classifier.use=no")
    return {
        "predict, trained, 192³": predict("192.nii.gz", trained),
        "predict, trained, 192³, --max-memory 1GB": predict("192.nii.gz", trained, "--max-memory", "1GB"),
        "predict, 3-D, 160³": predict("160.nii.gz", planned),
        "predict, 3-D, 160³, --tile 96 96 96": predict("160.nii.gz", planned, "--tile", "96", "96", "96"),
        "predict, tiny, 512×512×256, --max-memory 700MB": predict("large.h5", tiny, "--max-memory", "700MB"),
        "train, 600 iterations": train("a", "--iterations", "600"),
        "train, network alone, 600 iterations": train("b", "--iterations", "600", *alone),
        "train, 3-D alone, 150 iterations": train("c", "--iterations", "150", "--dimensions", "3", *alone),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose names hold these words")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        chosen = {what: c for what, c in commands(Path(name)).items() if options.only in what}
        rows = []
        for what, command in chosen.items():
            rows.append(compared(what, command))
            show(rows[-1:])
    keep("forecasts", rows)


if __name__ == "__main__":
    main()
