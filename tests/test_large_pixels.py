"""Prediction in parts with a model that has a pixel classifier."""

import contextlib
from pathlib import Path
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
from vol3d.workflows.large_pixels import largest_part, parts_of, piece_bytes, with_channels
from vol3d.workflows.outputs import PredictOptions

pytestmark = pytest.mark.usefixtures("blank_pictures")

SHAPE = (90, 70, 66)
TILED = PredictOptions(tile=(32, 32, 32), preview=False)
FLIPPED = Affine(Affine.from_spacing((1.0, 1.2, 1.5)).matrix @ np.diag([-1.0, 1.0, -1.0, 1.0]))

TURNED = Affine(FLIPPED.matrix[:, [2, 0, 1, 3]])


def drawn_classifier(classes=3):
    """Weights at random."""
    made = PixelClassifier(1, classes, Recipe(textures=(2.0,)), members=2, hidden=6)
    generator = torch.Generator().manual_seed(1)
    for part in (made.first, made.second):
        for weight in part.weights:
            torch.nn.init.normal_(weight, std=0.3, generator=generator)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("classes", "spacing_mm"), [(2, (0.5, 0.5, 2.0)), pytest.param(3, (1.0, 1.0, 1.0), marks=pytest.mark.slow)]
)
def test_a_classifier_says_in_parts_what_it_says_at_once(spacing_mm, classes):
    classifier = drawn_classifier(classes)
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32))
    whole = classify(classifier, image, spacing_mm)
    asked = ByBox(classifier, SHAPE, spacing_mm, lambda box: image[(slice(None), *box.slices())].numpy(), 5e6)
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
@pytest.mark.parametrize("affine", [FLIPPED, pytest.param(TURNED, marks=pytest.mark.slow)])
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
        begun.append(seen[-1])
    assert [what for what, _ in begun] == ["pixel classifier"] * 3 + ["predicting"]
    assert begun[0][1] < begun[1][1] < begun[2][1]
    assert np.array_equal(io.read_labels(out).array, io.read_labels(whole.path).array)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.h5", "scan.h5", "whole.h5"]


class StopsInTheNetwork(Deaf):
    """Interrupts when the network is half way. classified: parts that the pixel classifier was asked about."""

    def __init__(self, stop=True):
        super().__init__()
        self.stop, self.classified = stop, 0

    def progress(self, what, done, total, _fields):
        self.classified += what == "pixel classifier"
        if self.stop and what == "predicting" and done >= 0.5 * total:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("in_small_parts")
def test_a_run_stopped_in_the_network_asks_the_classifier_no_more(model, tmp_path):
    _, bundle = model
    scan, out = write_scan(tmp_path / "scan.h5", FLIPPED), str(tmp_path / "out.h5")
    first, again = StopsInTheNetwork(), StopsInTheNetwork(stop=False)
    with pytest.raises(KeyboardInterrupt):
        predict_large(scan, bundle, out, TILED, first)
    assert first.classified == 16
    assert sorted(entry.name for entry in tmp_path.iterdir() if "pixels" in entry.name) == [
        ".out.h5.pixels-2.vol3d-part", ".out.h5.pixels-2.vol3d-part.json"
    ]  # fmt: skip
    found = predict_large(scan, bundle, out, TILED, again)
    assert again.classified == 0
    assert found.planes_before > 0
    whole = predict_large(scan, bundle, str(tmp_path / "whole.h5"), TILED, Deaf())
    assert np.array_equal(io.read_labels(out).array, io.read_labels(whole.path).array)


def test_another_model_leaves_nothing_of_the_one_before(model, tmp_path, monkeypatch):
    _, bundle = model
    monkeypatch.setattr("vol3d.workflows.large_pixels._EDGES", (64,))
    scan, out = write_scan(tmp_path / "scan.h5", FLIPPED), str(tmp_path / "out.h5")
    with pytest.raises(KeyboardInterrupt):
        predict_large(scan, bundle, out, TILED, StopsAfter(0.5))
    assert [entry for entry in tmp_path.iterdir() if "pixels" in entry.name]
    image, classes = balls()
    bare = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=TINY, output=tmp_path / "run").bundle
    predict_large(scan, bare, out, TILED, Deaf())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.h5", "run", "scan.h5"]


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
    assert not list(tmp_path.iterdir())


def test_parts_are_as_large_as_memory_allows():
    asked = ByBox(drawn_classifier(), (2048, 2048, 512), (1.0, 1.0, 1.0), lambda _box: None)
    edges = [largest_part(asked, memory).size[0] for memory in (1e8, 9e8, 1.5e9, 1e11)]
    assert edges == sorted(edges)
    assert edges[0] == 64
    assert edges[-1] == 320
    assert edges[1] < edges[2]
    assert [piece_bytes(memory) for memory in (1e6, 4e8, 1e11)] == [4e6, 2e7, 64e6]
    assert ByBox(asked.classifier, asked.shape, (1.0, 1.0, 1.0), asked.image, 4e6).bytes_of(
        Box((0, 0, 0), (64, 64, 64))
    ) < asked.bytes_of(Box((0, 0, 0), (64, 64, 64)))
    parts = list(parts_of((100, 64, 130), 64))
    assert sum(part.voxels for part in parts) == 100 * 64 * 130
    assert parts[-1] == Box((64, 0, 128), (36, 64, 2))


def values_of(shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def filled(file, values, boxes):
    for box in boxes:
        file.write(box.start, values[(slice(None), *box.slices())])


def test_blocks_come_back_as_boxes(tmp_path):
    shape, out = (2, 100, 64, 70), str(tmp_path / "out.h5")
    values, parts = values_of(shape), list(parts_of(shape[1:], 64))
    with io.block_file(out, "x", "key", shape) as file:
        assert file.missing_bytes == 2 * 4 * 64**3 * 4
        filled(file, values, parts[:3])
        with pytest.raises(AssertionError, match="before it was written"):
            file.read(Box((0, 0, 0), (100, 64, 70)))
    with io.block_file(out, "x", "key", shape) as file:
        assert [file.has(box) for box in parts] == [True, True, True, False]
        filled(file, values, parts[3:])
        for box in (Box((0, 0, 0), (100, 64, 70)), Box((63, 5, 60), (2, 7, 10)), Box((99, 63, 69), (1, 1, 1))):
            assert np.array_equal(file.read(box), values[(slice(None), *box.slices())])
        with pytest.raises(AssertionError, match="a part at"):
            file.write((1, 0, 0), values[:, 1:65])
    io.forget_block_file(out, "x")
    assert not list(tmp_path.iterdir())


def test_larger_parts_go_on_where_smaller_ones_ended(tmp_path):
    shape, out = (1, 200, 64, 64), str(tmp_path / "out.h5")
    values = values_of(shape)
    with io.block_file(out, "x", "key", shape) as file:
        filled(file, values, list(parts_of(shape[1:], 64))[:3])
    with io.block_file(out, "x", "key", shape) as file:
        parts = list(parts_of(shape[1:], 128))
        assert [file.has(box) for box in parts] == [True, False]
        filled(file, values, parts[1:])
        assert np.array_equal(file.read(Box((0, 0, 0), shape[1:])), values)


def test_values_of_another_key_are_never_taken_for_ones_own(tmp_path):
    shape, out = (1, 128, 64, 64), str(tmp_path / "out.h5")
    parts = list(parts_of(shape[1:], 64))
    with io.block_file(out, "x", "a", shape) as file:
        filled(file, values_of(shape), parts)
    with io.block_file(out, "x", "b", shape) as file:  # dies when it has written, and before it has said so
        assert file.is_empty
        file._file.write(bytes(2 * 4 * 64**3))
        assert not list(tmp_path.glob(".*.json"))
    with io.block_file(out, "x", "a", shape) as file:
        assert file.is_empty
        filled(file, values_of(shape), parts)
    path = next(entry for entry in tmp_path.iterdir() if entry.suffix == ".vol3d-part")
    path.write_bytes(path.read_bytes()[:-1])
    with io.block_file(out, "x", "a", shape) as file:
        assert file.is_empty


def test_thin_volumes_take_no_more_disk_than_they_must(tmp_path):
    shape = (1, 500, 400, 1)
    with io.block_file(str(tmp_path / "out.h5"), "x", "a", shape) as file:
        assert file.missing_bytes == 4 * 512 * 448
        values = values_of(shape)
        filled(file, values, parts_of(shape[1:], 320))
        assert np.array_equal(file.read(Box((0, 0, 0), shape[1:])), values)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_part_that_found_no_room_is_not_there(tmp_path):
    shape, out = (1, 128, 64, 64), str(tmp_path / "out.h5")
    parts = list(parts_of(shape[1:], 64))

    def until_full():
        with io.block_file(out, "x", "a", shape) as file, Path("/dev/full").open("r+b", buffering=0) as full:
            filled(file, values_of(shape), parts[:1])
            file._file = full
            filled(file, values_of(shape), parts[1:])

    with pytest.raises(ResourceError, match="No space left"):
        until_full()
    with io.block_file(out, "x", "a", shape) as file:
        assert [file.has(box) for box in parts] == [True, False]
