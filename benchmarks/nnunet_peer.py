"""nnU-Net v2 on the slices of benchmarks/accuracy.py, in a given time, on one GPU.

    python benchmarks/nnunet_peer.py prepare DATA OUT --volumes nuclei_a ovule_walls --slices 3,3,2
    python benchmarks/nnunet_peer.py train OUT VOLUME SECONDS DATA [--workers N] [--seed N] [--device cpu]

`prepare` needs no GPU: it writes what somebody would give nnU-Net (the image, and the painted slices with all the rest
as its ignore label), and has nnU-Net plan and preprocess its `3d_fullres` with the default planner. Nothing of the
unpainted labels is in OUT. `train` does what nnU-Net does by default, but for SECONDS of wall time instead of 1000
epochs, without validation and with `torch.compile` off (--compile turns it on); it then predicts the volume with
nnU-Net's own predictor and prints one JSON line, scored as in accuracy.py. SECONDS begin before the network and the
data loaders are made, imports excluded. nnU-Net orders axes z, y, x. Everything here was written for nnU-Net 2.8.1.
"""

import argparse
import datetime
import json
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import accuracy
import few_slices
import numpy as np

CONFIGURATION, PLANS, NORMALIZED = "3d_fullres", "nnUNetPlans", "microscopy"
FIRST_ID = 501


def set_paths(out: Path) -> None:
    """Where nnU-Net looks for its files: it reads these variables."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str((out / name).resolve())


def masked(folder: Path, volume: str, slices: tuple[int, ...]):
    """Image, truth and mask of painted voxels, (X, Y, Z), and the spacing: as in accuracy.row."""
    image, truth, spacing, turned = accuracy.load(folder, volume)
    return image, truth, few_slices.annotated(truth, tuple(slices[::-1] if turned else slices)), spacing


def write_raw(folder: Path, image, truth, mask, spacing, slices: tuple[int, ...]) -> None:
    """A dataset of one case: the image and the painted slices, everything else with the ignore label."""
    import nibabel

    ignored = int(truth[mask].max()) + 1
    labels = np.where(mask, truth, ignored).astype(np.uint8)
    for kind, name, array in (("imagesTr", "case_0000", image), ("labelsTr", "case", labels)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), folder / kind / f"{name}.nii.gz")
    names = {"background": 0} | {f"class {code}": code for code in range(1, ignored)} | {"ignore": ignored}
    about = {
        "channel_names": {"0": NORMALIZED},
        "labels": names,
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIO",
        "slices": list(slices),
    }
    (folder / "dataset.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def prepare(options: argparse.Namespace) -> None:
    """Raw datasets, fingerprints, plans and preprocessed data."""
    set_paths(options.out)
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
    )
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    slices = tuple(map(int, options.slices.split(",")))
    for number, volume in enumerate(options.volumes, FIRST_ID):
        name = f"Dataset{number}_{volume}"
        image, truth, mask, spacing = masked(options.data, volume, slices)
        write_raw(options.out / "raw" / name, image, truth, mask, spacing, slices)
        extract_fingerprint_dataset(number, num_processes=1, clean=True, verbose=False)
        plan_experiment_dataset(number)
        DefaultPreprocessor(verbose=False).run(number, CONFIGURATION, PLANS, num_processes=1)
        plan = json.loads((options.out / "preprocessed" / name / f"{PLANS}.json").read_text(encoding="utf-8"))
        chosen = plan["configurations"][CONFIGURATION]
        keys = ("patch_size", "batch_size", "spacing", "normalization_schemes", "use_mask_for_norm")
        print(name, image.shape, {key: chosen[key] for key in keys}, flush=True)


def trainer_class():
    """nnU-Net's trainer, its end told by a clock; made in a function because it is imported late."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class TimedTrainer(nnUNetTrainer):
        """Trains until `seconds` after `begin`, with the learning rate falling over that time."""

        begin: float = 0.0
        seconds: float = 0.0
        iterations: int = 0

        def plot_network_architecture(self) -> None:
            """Not for a benchmark: nnU-Net would only say that it cannot."""

        def run_training(self) -> None:
            """One long epoch without validation; stops before the step that would run over."""
            self.on_train_start()
            _finish(self.dataloader_val)
            self.network.train()
            steps = []
            while (passed := time.monotonic() - self.begin) + _expected(steps) < self.seconds:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.initial_lr * (1 - passed / self.seconds) ** 0.9
                self.train_step(next(self.dataloader_train))
                self.iterations += 1
                steps.append(time.monotonic() - self.begin - passed)
            # What nnUNetTrainer.on_train_end writes and closes, without touching its log of epochs.
            self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_final.pth"))

        def close(self) -> None:
            """End the augmenting processes."""
            _finish(self.dataloader_train)

    return TimedTrainer


def _finish(loader) -> None:
    """End a loader's processes; with --workers 0 it has none."""
    if hasattr(loader, "_finish"):
        loader._finish()


def _expected(steps: list[float]) -> float:
    """How long the next step will take: the median of the last ones."""
    return float(np.median(steps[-9:])) if steps else 0.0


def fit(options: argparse.Namespace, dataset: Path, device):
    """Train for the time given; returns the trainer, its plans and the seconds it took."""
    import torch

    plans = json.loads((dataset / f"{PLANS}.json").read_text(encoding="utf-8"))
    if options.patch:
        plans["configurations"][CONFIGURATION]["patch_size"] = [int(n) for n in options.patch.split(",")]
    if options.batch:
        plans["configurations"][CONFIGURATION]["batch_size"] = options.batch
    about = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    timed = trainer_class()
    begin = time.monotonic()
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)
    trainer = timed({**plans, "continue_training": False}, CONFIGURATION, "all", about, device)
    trainer.begin, trainer.seconds = begin, options.seconds
    trainer.run_training()
    return trainer, time.monotonic() - begin


def predicted(trainer, image, spacing, device):
    """Codes (X, Y, Z) from the weights that were saved, by nnU-Net's predictor with its defaults."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=device, allow_tqdm=False)
    saved = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    trainer.set_deep_supervision_enabled(False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [saved["network_weights"]],
        trainer.dataset_json,
        type(trainer).__name__,
        saved["inference_allowed_mirroring_axes"],
    )
    as_read = np.ascontiguousarray(image.transpose(2, 1, 0))[None]
    found = predictor.predict_single_npy_array(as_read, {"spacing": [float(s) for s in spacing[::-1]]})
    return found.transpose(2, 1, 0)


def scores(codes, truth, mask) -> dict:
    """IoU by class and their mean on voxels that nobody painted, as in accuracy.row."""
    found, wanted = codes[~mask], truth[~mask]
    ious = {}
    for code in range(1, int(truth.max()) + 1):
        either = int(((found == code) | (wanted == code)).sum())
        ious[str(code)] = round(float(((found == code) & (wanted == code)).sum() / either), 4) if either else None
    return {"iou": ious, "mean_iou": round(float(np.mean([v for v in ious.values() if v is not None])), 4)}


def train(options: argparse.Namespace) -> dict:
    """Train, predict and score one volume."""
    set_paths(options.out)
    os.environ |= {"nnUNet_n_proc_DA": str(options.workers), "nnUNet_compile": "1" if options.compile else "0"}
    import torch

    cuda = options.device == "cuda"
    if cuda:  # as nnU-Net's own commands do
        torch.set_num_threads(1)
        torch.set_num_interop_threads(1)
        torch.backends.cudnn.benchmark = True
    dataset = next((options.out / "preprocessed").glob(f"Dataset*_{options.volume}"))
    slices = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["slices"]
    image, truth, mask, spacing = masked(options.data, options.volume, tuple(slices))
    device = torch.device(options.device)
    trainer, training = fit(options, dataset, device)
    begin = time.monotonic()
    codes = predicted(trainer, image, spacing, device)
    predicting = time.monotonic() - begin
    trainer.close()
    return {
        "method": "nnU-Net v2 on a GPU",
        "part": "tried out" if options.patch or options.batch else "default",
        "volume": options.volume,
        "slices": slices,
        "seconds": options.seconds,
        "seed": options.seed,
        **scores(codes, truth, mask),
        "all_seconds": round(training + predicting, 1),
        "training_seconds": round(training, 1),
        "predicting_seconds": round(predicting, 1),
        "iterations": trainer.iterations,
        "patch": list(map(int, trainer.configuration_manager.patch_size)),
        "batch": int(trainer.batch_size),
        "workers": options.workers,
        "compiled": bool(options.compile),
        "threads": torch.get_num_threads(),
        "machine": few_slices.machine(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    before = commands.add_parser("prepare")
    before.add_argument("data", type=Path)
    before.add_argument("out", type=Path)
    before.add_argument("--volumes", nargs="+", default=["nuclei_a", "ovule_walls"])
    before.add_argument("--slices", default="3,3,2")
    timed = commands.add_parser("train")
    timed.add_argument("out", type=Path)
    timed.add_argument("volume")
    timed.add_argument("seconds", type=float)
    timed.add_argument("data", type=Path)
    timed.add_argument("--workers", type=int, default=6, help="processes that augment")
    timed.add_argument("--seed", type=int, default=0)
    timed.add_argument("--device", default="cuda")
    timed.add_argument("--compile", action="store_true", help="torch.compile, nnU-Net's default")
    timed.add_argument("--patch", metavar="Z,Y,X", help="another patch than planned, to try this out on a CPU")
    timed.add_argument("--batch", type=int, help="another batch than planned, likewise")
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options)
        return
    with redirect_stdout(sys.stderr):  # nnU-Net tells much
        row = train(options)
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
