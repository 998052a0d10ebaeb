"""Training on scans that are read box by box."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_large import Deaf
from workflow_parts import TINY, UNLABELED, balls, painted

import vol3d
from vol3d import io
from vol3d.bundle import ModelBundle
from vol3d.config import AugmentConfig, parse_config
from vol3d.errors import ConfigError, FileFormatError
from vol3d.transforms import Preprocessing, SpatialAugmentation
from vol3d.transforms.fields import place
from vol3d.transforms.patch import source_box
from vol3d.volume import Affine, Volume
from vol3d.workflows.baselines import interpolation_seconds
from vol3d.workflows.budget import Budget
from vol3d.workflows.cases import TrainingFiles, load
from vol3d.workflows.listener import Quiet
from vol3d.workflows.patches import PatchCutter, TrainingCase
from vol3d.workflows.preview import predicted_voxels

pytestmark = pytest.mark.usefixtures("blank_pictures")

SHAPE = (40, 30, 26)
TURNED = Affine(Affine.from_spacing((1.0, 1.2, 1.5)).matrix[:, [2, 0, 1, 3]] @ np.diag([-1.0, 1.0, -1.0, 1.0]))
WILD = AugmentConfig(
    spatial_probability=1.0, deformation_voxels=3.0, control_spacing_voxels=6.0, scale=(0.7, 1.4), flip_probability=0.5
)


def write(folder, suffix=".h5", *, weights=False):
    image, classes = balls(SHAPE)
    frame = Volume(image[None], TURNED, "scan")
    paths = [str(folder / f"{name}{suffix}") for name in ("scan", "labels", "weights")]
    io.write_image(paths[0], image[None], frame)
    io.write_labels(paths[1], painted(classes), frame, names=None)
    if weights:
        paths[2] += ":weight" if suffix == ".h5" else ""
        io.write_image(paths[2], np.random.default_rng(5).random((1, *SHAPE), dtype=np.float32), frame)
    return paths if weights else paths[:2]


def loaded(paths, by_box, **changes):
    config = parse_config({"labels": {"unlabeled": [UNLABELED]}, "data": {"by_box": by_box}, **changes})
    scans, labels, *weights = ((path,) for path in paths)
    [case], _ = load(
        TrainingFiles(scans, labels, weights[0] if weights else ()),
        config,
        Preprocessing(**config.preprocess.model_dump()),
        Quiet(),
    )
    return case


def test_the_box_that_is_read_holds_every_voxel_that_a_patch_looks_at():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        draw = SpatialAugmentation(
            deformation_voxels=4.0, control_spacing_voxels=8.0, rotation_degrees=40.0, scale=(0.6, 1.6), probability=0.9
        )
        size, spacing = (24, 17, int(rng.integers(1, 12))), (0.5, 0.7, 2.0)
        params = draw.draw(rng, size, spacing)
        anchor = tuple(int(rng.integers(n)) for n in size)
        voxel = (int(rng.integers(-5, 60)), 3, 7)
        box = source_box(params, spacing, size, anchor, voxel)
        if params.is_identity:
            assert box.size == size
            continue
        grid = place(params, size, spacing, anchor, voxel).grid().reshape(3, -1)
        start, stop = np.array(box.start), np.array(box.stop)
        assert (np.floor(grid.min(1).values.numpy()) >= start).all()
        assert (np.ceil(grid.max(1).values.numpy()) <= stop - 1).all()


@pytest.mark.parametrize(("size", "planes"), [((12, 12, 10), ()), ((16, 16), (0, 1, 2))])
@pytest.mark.parametrize("suffix", [".h5", ".nii.gz"])
@pytest.mark.parametrize("weights", [False, True])
def test_patches_are_those_of_a_scan_that_is_held(tmp_path, size, planes, suffix, weights):
    paths = write(tmp_path, suffix, weights=weights)
    held, by_box = (loaded(paths, wanted) for wanted in (False, True))
    assert isinstance(held.image, torch.Tensor)
    assert not isinstance(by_box.image, torch.Tensor)
    assert held.shape == by_box.shape
    assert (held.scan, held.spacing_mm, held.channels) == (by_box.scan, by_box.spacing_mm, by_box.channels)
    cut = PatchCutter(size, (0,) * len(size), WILD, planes)
    cases = [TrainingCase(case, case.labels) for case in (held, by_box)]
    places = np.argwhere(held.labels.labeled)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        voxel = tuple(int(n) for n in places[rng.integers(len(places))])
        wanted, found = (cut(case, voxel, np.random.default_rng(seed)) for case in cases)
        assert torch.allclose(wanted["image"], found["image"], atol=1e-4)
        for name in ("classes", "weight"):  # where a place lies in the middle between two voxels, rounding decides
            assert (wanted[name] != found[name]).float().mean() < 0.01
        assert found["weight"].dtype == torch.float32


def test_a_training_reads_box_by_box_whoever_cuts_the_patches(tmp_path):
    paths, found = write(tmp_path), {}
    for workers in (0, 2):
        config = TINY | {
            "pixel_classifier": {"use": "yes", "steps": 20, "reduction": [2, 2, 2]},
            "data": {"by_box": True},
        }
        config["sampling"] = TINY["sampling"] | {"workers": workers}
        config["training"] = TINY["training"] | {"device": "cpu"}
        run = tmp_path / f"run{workers}"
        result = vol3d.train(*paths, unlabeled=UNLABELED, config=config, output=run, listener=Deaf())
        assert result.bundle.classifier is not None
        found[workers] = result.bundle.weights_sha256
        for name in ("preview.nii.gz", "preview.png", "report.md", "held_out_best.png"):
            assert (run / name).is_file()
        assert io.read(str(run / "preview.nii.gz")).shape == SHAPE
    assert found[0] == found[2]
    assert ModelBundle.load(run / "model.safetensors").weights_sha256 == found[0]


def test_scans_are_held_where_they_are_small_or_must_be_resampled(tmp_path, monkeypatch):
    paths = write(tmp_path)
    assert isinstance(loaded(paths, None).image, torch.Tensor)
    with pytest.raises(ConfigError, match="leave one of them out"):
        loaded(paths, True, preprocess={"spacing_mm": [2.0, 2.0, 2.0]})
    monkeypatch.setattr("vol3d.workflows.cases._HELD_BYTES", 1e4)
    assert isinstance(loaded(paths, None).image, torch.Tensor)
    monkeypatch.setattr("vol3d.workflows.cases._HELD_SHARE", 0.0)
    assert isinstance(loaded(paths, None, preprocess={"spacing_mm": [2.0, 2.0, 2.0]}).image, torch.Tensor)
    assert not isinstance(loaded(paths, None).image, torch.Tensor)
    assert isinstance(loaded(paths, False).image, torch.Tensor)
    monkeypatch.setattr("vol3d.io.boxes._CHUNK_CACHE_BYTES", 1)  # chunks that would be unpacked for every patch
    assert isinstance(loaded(paths, None).image.source, io.HeldScan)
    assert isinstance(loaded(paths, True).image.source, io.FileScan)


def test_arrays_are_handed_out_box_by_box_too():
    image, classes = balls(SHAPE)
    config = parse_config({"labels": {"unlabeled": [UNLABELED]}, "data": {"by_box": True}})
    files = TrainingFiles((image,), (painted(classes),))
    [case], _ = load(files, config, Preprocessing(), Quiet())
    whole = torch.from_numpy(Preprocessing().apply(Volume(image[None], Affine(np.eye(4)), "scan")).array)
    part = case.part(vol3d.volume.Box((3, 4, 5), (6, 7, 8)))
    assert torch.allclose(part.image, whole[:, 3:9, 4:11, 5:13])
    assert np.array_equal(part.labels.classes, case.labels.classes[3:9, 4:11, 5:13])
    assert np.allclose(part.labels.affine.to_world((0, 0, 0)), case.labels.affine.to_world((3, 4, 5)))


def test_what_is_no_number_is_refused_before_anything_is_learned(tmp_path):
    image, classes = balls(SHAPE)
    image[3, 4, 5] = np.nan
    frame = Volume(image[None], TURNED, "scan")
    scan, labels = (str(tmp_path / name) for name in ("scan.h5", "labels.h5"))
    io.write_image(scan, image[None], frame)
    io.write_labels(labels, painted(classes), frame, names=None)
    with pytest.raises(FileFormatError, match="NaN"):
        loaded((scan, labels), True)


@pytest.mark.parametrize("task", ["semantic", "regression"])
def test_of_a_large_scan_a_part_is_drawn(tmp_path, monkeypatch, task):
    monkeypatch.setattr("vol3d.workflows.preview._MOST_VOXELS", 1000)
    monkeypatch.setattr("vol3d.workflows.preview._EDGE", 12)
    drawn = []
    monkeypatch.setattr("vol3d.workflows.preview.preview_png", lambda *args, **options: drawn.append((args, options)))
    image, classes = balls(SHAPE)
    labels = painted(classes) if task == "semantic" else np.full(SHAPE, np.nan, np.float32)
    if task == "regression":  # far from the middle, of which a part is drawn
        labels[2], labels[-3] = image[2], image[-3]
    config = TINY | {"task": task, "data": {"by_box": True}}
    meaning = {"unlabeled": UNLABELED} if task == "semantic" else {}
    vol3d.train(image, labels, config=config, output=tmp_path / "run", listener=Deaf(), **meaning)
    [((_, shown, affine, layers, _), options)] = drawn
    assert shown.shape == (1, 12, 12, 12)
    assert [classes.shape for _, classes in layers[1:]] == [(12, 12, 12)] * 2
    start = affine.matrix[:3, 3].round().astype(int)
    assert (start > 0).all()
    assert options["title"] == f"a part of the scan, counted from R={start[0]}, A={start[1]}, S={start[2]}"
    whole = Preprocessing().apply(Volume(image[None], Affine(np.eye(4)), "scan")).array
    at = tuple(slice(n, n + 12) for n in start)
    assert np.allclose(shown, whole[(slice(None), *at)])


def test_of_a_scan_with_many_classes_a_part_is_predicted_for_the_picture():
    torso = (366, 303, 90)
    assert predicted_voxels(torso, 4) == math.prod(torso)
    assert predicted_voxels(torso, 41) == 160 * 160 * 90
    assert predicted_voxels((2048, 2048, 512), 2) == 160**3


def test_time_is_kept_for_what_grows_with_the_scans_at_the_end_of_a_run():
    plan = SimpleNamespace(batch_size=2, patch=(40, 40), outputs=3)

    def showing(shapes, *, compared=False):
        return Budget(plan, 0.0, shapes)._showing(0.1, compared=compared)

    small, large = (40, 40, 10), (80, 80, 20)
    assert showing([large]) == pytest.approx(8 * showing([small]))
    assert showing([small, large]) == showing([small])  # one is shown
    assert showing([small]) < 0.1 * 10 / 2  # less than as many steps as have learned from all of its planes
    further = showing([small, large], compared=True) - showing([small, large])
    assert further == pytest.approx(interpolation_seconds(small, 3) + interpolation_seconds(large, 3))
    assert interpolation_seconds((2048, 2048, 512), 3) == 0  # it is not interpolated
