"""A tiny task that trains in seconds: bright balls in noise."""

from pathlib import Path

import numpy as np
import yaml

from vol3d import io
from vol3d.bundle import ModelBundle
from vol3d.cli.main import main
from vol3d.config import TaskSpec
from vol3d.transforms import Preprocessing
from vol3d.volume import Affine, LabelTable, Volume

TINY = {
    "network": {"encoder": [[4, 4], [8, 8]]},
    "sampling": {"patch_size": [16, 16, 16], "batch_size": 1},
    "augment": {"deformation_voxels": 1.0, "control_spacing_voxels": 8, "noise_probability": 0.0},
    "training": {"iterations": 8, "validations": 2, "learning_rate": 0.01},
}
UNLABELED = 255


def balls(shape=(30, 28, 26), seed=0):
    """(image float32, classes uint8): a few bright balls."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    classes = np.zeros(shape, np.uint8)
    for _ in range(6):
        centre = rng.uniform(4, np.array(shape) - 4)
        classes[((grid - centre[:, None, None, None]) ** 2).sum(0) < 25] = 1
    return (classes * 3 + rng.normal(0, 0.5, shape)).astype(np.float32), classes


def painted(classes, count=3):
    """Keep `count` planes across every axis."""
    sparse = np.full_like(classes, UNLABELED)
    for axis in range(3):
        for index in np.linspace(3, classes.shape[axis] - 4, count).round().astype(int):
            where = (slice(None),) * axis + (index,)
            sparse[where] = classes[where]
    return sparse


def drawn_bundle(network, weights, codes=(0, 1), patch=None, planes=()) -> ModelBundle:
    """A model that nobody trained, for one channel of 1 mm with intensities from -9 to 9. weights: of its network."""
    return ModelBundle(
        network=network,
        in_channels=1,
        weights=weights,
        preprocessing=Preprocessing().to_json(),
        labels=LabelTable.from_codes(list(codes)),
        statistics="running",
        training_range={
            "spacing_mm": {"minimum": [1.0] * 3, "maximum": [1.0] * 3},
            "orientations": ["RAS"],
            "intensities": [{"p1": -9.0, "p99": 9.0}],
            "channel": None,
            "patch": patch,
        },
        provenance={},
        task=TaskSpec(planes=planes),
    )


def write_case(folder: Path, name="scan", seed=0, affine=None, suffix=".nii.gz"):
    """Write NAME, NAME_sparse and NAME_dense; returns their names."""
    image, classes = balls(seed=seed)
    scan = Volume(image[None], affine or Affine.from_spacing((1.0, 1.0, 1.0)), name)
    paths = [str(folder / f"{name}{tag}{suffix}") for tag in ("", "_sparse", "_dense")]
    io.write_image(paths[0], image[None], scan)
    io.write_labels(paths[1], painted(classes), scan, names={0: "background", 1: "ball"})
    io.write_labels(paths[2], classes, scan, names={0: "background", 1: "ball"})
    return paths


def write_config(folder: Path, **changes) -> str:
    """A YAML file with the tiny configuration."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return str(path)


def refused(capsys, *arguments) -> str:
    """The one line that a refused command prints."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err.strip()
    assert code == 2, said
    assert "Traceback" not in said
    return said.splitlines()[-1]
