"""Prediction in parts with a model that has a pixel classifier."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_large import Deaf, StopsAfter
from workflow_parts import TINY, UNLABELED, balls, painted

import vol3d
from vol3d import io
from vol3d.baselines.by_box import ByBox
from vol3d.baselines.features import Recipe
from vol3d.baselines.pixel_classifier import PixelClassifier, classify
from vol3d.errors import ResourceError
from vol3d.volume import Affine, Box, Volume
from vol3d.workflows.large import is_too_large, predict_large
from vol3d.workflows.large_pixels import edge_of, parts_of, with_channels
from vol3d.workflows.outputs import PredictOptions

SHAPE = (90, 70, 66)
TILED = PredictOptions(tile=(32, 32, 32), preview=False)
FLIPPED = Affine(Affine.from_spacing((1.0, 1.2, 1.5)).matrix @ np.diag([-1.0, 1.0, -1.0, 1.0]))


def drawn_classifier(classes=3):
    """Weights at random."""
    made = PixelClassifier(1, classes, Recipe(textures=(2.0,)), members=2, hidden=6)
    generator = torch.Generator().manual_seed(1)
    for part in (made.first, made.second):
        for weight in part.weights:
            torch.nn.init.normal_(weight, std=0.3, generator=generator)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 0.5, 2.0)])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifier_says_in_parts_what_it_says_at_once(spacing_mm, classes):
    classifier = drawn_classifier(classes)
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32))
    whole = classify(classifier, image, spacing_mm)
    asked = ByBox(classifier, SHAPE, spacing_mm, lambda box: image[(slice(None), *box.slices())].numpy())
    first = torch.full((asked.told, *SHAPE), torch.nan)
    boxes = list(parts_of(SHAPE, 64))
    assert len(boxes) == 8
    for box in boxes:
        first[(slice(None), *box.slices())] = asked.first(box)
    for box in boxes:
        found = asked.second(box, lambda outer: first[(slice(None), *outer.slices())].numpy())
        assert torch.allclose(found, whole[(slice(None), *box.slices())], atol=1e-5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with a pixel classifier, trained for moments."""
    image, classes = balls()
    run = tmp_path_factory.mktemp("large_pixels") / "run"
    config = TINY | {"pixel_classifier": {"use": "yes", "steps": 30}}
    config["training"] = TINY["training"] | {"hold_out_every": 0}
    result = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=config, output=run, listener=Deaf())
    assert result.bundle.classifier is not None
    assert 0 < result.bundle.pool_weight < 1
    return run / "model.safetensors", result.bundle


def write_scan(path, affine):
    image, _ = balls(SHAPE)
    scan = Volume(image.astype(np.float32)[None], affine, "scan")
    io.write_image(str(path), scan.array, scan)
    return str(path)


@pytest.fixture
def in_small_parts(monkeypatch):
    monkeypatch.setattr("vol3d.workflows.large_pixels._EDGES", (64,))


@pytest.mark.usefixtures("in_small_parts")
@pytest.mark.parametrize("affine", [Affine.from_spacing((1.0, 1.0, 1.0)), FLIPPED])
def test_labels_are_those_of_the_scan_predicted_at_once(model, tmp_path, affine):
    path, bundle = model
    scan = write_scan(tmp_path / "scan.h5", affine)
    whole = vol3d.predict(scan, path, tmp_path / "whole.h5", tile=(32, 32, 32), listener=Deaf()).codes
    predict_large(scan, bundle, str(tmp_path / "parts.h5"), TILED, Deaf())
    found = io.read_labels(str(tmp_path / "parts.h5")).array[0]
    assert 0 < found.mean() < 1
    assert (found != whole).sum() <= 2  # rounding, where two classes are equally probable
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["parts.h5", "scan.h5", "whole.h5", "whole.png"]


@pytest.mark.usefixtures("in_small_parts")
def test_a_stopped_run_keeps_what_the_classifier_said(model, tmp_path):
    _, bundle = model
    scan, out = write_scan(tmp_path / "scan.h5", FLIPPED), str(tmp_path / "out.h5")
    whole = predict_large(scan, bundle, str(tmp_path / "whole.h5"), TILED, Deaf())

    class Told(StopsAfter):
        def progress(self, what, done, total, _fields):
            seen.append((what, done))
            super().progress(what, done, total, _fields)

    begun = []
    for share in (0.3, 0.6, 0.9, 2.0):
        seen = []
        with contextlib.suppress(KeyboardInterrupt):
            predict_large(scan, bundle, out, TILED, Told(share))
        begun.append(next((done for what, done in seen if what == "pixel classifier"), None))
    assert begun[0] == 0
    assert 0 < begun[1] < begun[2]
    assert begun[3] is not None
    assert np.array_equal(io.read_labels(out).array, io.read_labels(whole.path).array)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.h5", "scan.h5", "whole.h5"]


def test_a_model_with_a_classifier_is_no_obstacle(model, tmp_path):
    _, bundle = model
    scan = write_scan(tmp_path / "scan.h5", FLIPPED)
    assert not is_too_large(scan, str(tmp_path / "out.h5"), bundle, TILED)


def fake(shape=SHAPE):
    return SimpleNamespace(shape=(1, *shape), affine=Affine.from_spacing((1.0, 1.0, 1.0)), read=lambda _box: None)


def test_a_full_disk_is_told_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1000))
    with (
        pytest.raises(ResourceError, match=r"90×70×66 voxels takes 0\.\d+ GB on disk"),
        with_channels(fake(), drawn_classifier(), str(tmp_path / "out.h5"), "key", 1e9, Deaf()),
    ):
        pass


def test_parts_are_as_large_as_memory_allows():
    asked = ByBox(drawn_classifier(), (2048, 2048, 512), (1.0, 1.0, 1.0), lambda _box: None)
    edges = [edge_of(asked, memory) for memory in (1e8, 7e8, 1.2e9, 1e11)]
    assert edges == sorted(edges)
    assert edges[0] == 64
    assert edges[-1] == 320
    assert edges[1] < edges[2]
    parts = list(parts_of((100, 64, 130), 64))
    assert sum(part.voxels for part in parts) == 100 * 64 * 130
    assert parts[-1] == Box((64, 0, 128), (36, 64, 2))


def test_blocks_come_back_as_boxes(tmp_path):
    shape = (2, 100, 64, 70)
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    out = str(tmp_path / "out.h5")
    parts = list(parts_of(shape[1:], 64))
    with io.block_file(out, "x", "key", shape) as file:
        for box in parts[:3]:
            file.write(box.start, values[(slice(None), *box.slices())])
    with io.block_file(out, "x", "key", shape) as file:
        assert file.parts == 3
        for box in parts[3:]:
            file.write(box.start, values[(slice(None), *box.slices())])
        for box in (Box((0, 0, 0), (100, 64, 70)), Box((63, 5, 60), (2, 7, 10)), Box((99, 63, 69), (1, 1, 1))):
            assert np.array_equal(file.read(box), values[(slice(None), *box.slices())])
        with pytest.raises(AssertionError, match="a part at"):
            file.write((1, 0, 0), values[:, 1:65])
        assert file.room == 2 * 4 * 64**3 * 4
    with io.block_file(out, "x", "another key", shape) as file:
        assert file.parts == 0
        with pytest.raises(AssertionError, match="before it was written"):
            file.read(Box((0, 0, 0), (1, 1, 1)))
    io.forget_block_file(out, "x")
    assert not list(tmp_path.iterdir())
