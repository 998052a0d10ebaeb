"""A pixel classifier on a coarser grid: what is reduced, what is enlarged again, and when."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_large import Deaf
from test_large_pixels import FLIPPED, TILED, TURNED, write_scan
from workflow_parts import TINY, UNLABELED, balls, painted

import vol3d
from vol3d import io
from vol3d.baselines.pixel_classifier import PixelClassifier, classify, log_probabilities
from vol3d.baselines.reduced import (
    Enlarged,
    read_reduced,
    reduced_image,
    reduced_labels,
    reduced_mask,
    reduced_shape,
)
from vol3d.bundle import ModelBundle
from vol3d.config import parse_config
from vol3d.errors import ModelError
from vol3d.volume import Affine, Box, SparseLabels
from vol3d.workflows.case import Case
from vol3d.workflows.forecast import forecast
from vol3d.workflows.large import predict_large
from vol3d.workflows.pixel_channels import guide
from vol3d.workflows.planned import Grid
from vol3d.workflows.reduction import reduction_for
from vol3d.workflows.train import _as_it_was

pytestmark = pytest.mark.usefixtures("blank_pictures")

FACTORS = (2, 3, 1)
SHAPE = (9, 10, 5)
UNIT = Affine.from_spacing((1.0, 1.0, 1.0))


def blocks():
    """Every voxel of the coarse grid, and the part of the fine one that it stands for."""
    for place in itertools.product(*(range(n) for n in reduced_shape(SHAPE, FACTORS))):
        yield place, tuple(slice(n * f, (n + 1) * f) for n, f in zip(place, FACTORS, strict=True))


def test_voxels_of_the_coarse_grid_are_means_also_where_fewer_are_left():
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32))
    found = reduced_image(image, FACTORS)
    assert found.shape == (2, 5, 4, 5)
    for place, part in blocks():
        assert torch.allclose(found[(slice(None), *place)], image[(slice(None), *part)].mean((1, 2, 3)), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 7, 2), (3, 4, 4), (2, 1, 1)])
def test_a_scan_may_be_smaller_than_a_voxel_of_the_coarse_grid(shape):
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32))
    found = reduced_image(image, (4, 3, 4))
    assert found.shape[1:] == reduced_shape(shape, (4, 3, 4))
    assert torch.isclose(found[0, 0, 0, 0], image[0, :4, :3, :4].mean())
    assert Enlarged(found, (4, 3, 4), shape).read(Box.whole(shape)).isfinite().all()


def test_boxes_of_the_coarse_grid_are_parts_of_it(monkeypatch):
    monkeypatch.setattr("vol3d.baselines.reduced._READ_BYTES", 4 * 2 * 3 * 4 * 4)  # a plane at a time
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32))
    whole, shape = reduced_image(image, FACTORS), reduced_shape(SHAPE, FACTORS)
    read = read_reduced(
        SimpleNamespace(shape=image.shape, read=lambda box: image[(slice(None), *box.slices())].numpy()), FACTORS
    )
    for box in (Box.whole(shape), Box((4, 1, 2), (1, 3, 2)), Box((0, 3, 0), (3, 1, 5))):
        assert np.allclose(read(box), whole[(slice(None), *box.slices())], atol=1e-6)


def test_labels_of_the_coarse_grid_are_the_most_frequent_ones():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 3, SHAPE).astype(np.uint8)
    labeled = rng.random(SHAPE) < 0.4
    weight = rng.random(SHAPE).astype(np.float32)
    labels = SparseLabels(codes, labeled, Affine.from_spacing((2.0, 1.0, 5.0)), "drawn", weight)
    found = reduced_labels(labels, FACTORS, 3)
    assert np.array_equal(found.labeled, reduced_mask(labeled, FACTORS))
    assert np.allclose(found.affine.spacing, (4, 3, 5))
    assert np.allclose(found.affine.matrix[:3, 3], (1, 1, 0))  # the middle of the first block
    for place, part in blocks():
        inside = codes[part][labeled[part]]
        assert found.labeled[place] == (inside.size > 0)
        if inside.size:
            counts = np.bincount(inside, weight[part][labeled[part]], minlength=3)
            assert np.isclose(counts[found.classes[place]], counts.max())
            assert np.isclose(found.weight[place], weight[part][labeled[part]].mean())


def test_many_planes_are_reduced_as_few_are(monkeypatch):
    rng = np.random.default_rng(2)
    labels = SparseLabels(rng.integers(0, 5, (40, 6, 6)).astype(np.uint8), rng.random((40, 6, 6)) < 0.5, UNIT)
    found = reduced_labels(labels, (3, 2, 2), 5)
    monkeypatch.setattr("vol3d.baselines.reduced._PLANES", 2)
    again = reduced_labels(labels, (3, 2, 2), 5)
    assert np.array_equal(found.classes, again.classes)
    assert np.array_equal(found.labeled, again.labeled)


@pytest.mark.parametrize("factors", [FACTORS, (1, 1, 1), (4, 2, 2)])
def test_what_is_enlarged_does_not_depend_on_the_box_that_is_read(factors, monkeypatch):
    monkeypatch.setattr("vol3d.baselines.reduced._PLANES", 4)
    rng = np.random.default_rng(3)
    values = torch.from_numpy(rng.normal(size=(2, *reduced_shape(SHAPE, factors))).astype(np.float32))
    found = Enlarged(values, factors, SHAPE)
    whole = found.read(Box.whole(SHAPE))
    assert whole.shape == (2, *SHAPE)
    assert np.array_equal(np.concatenate([slab.values for slab in found.slabs()], axis=1), whole.numpy())
    for _ in range(50):
        start = rng.integers(0, SHAPE)
        size = [int(rng.integers(1, n - a + 1)) for a, n in zip(start, SHAPE, strict=True)]
        box = Box(tuple(int(a) for a in start), tuple(size))
        assert torch.equal(found.read(box), whole[(slice(None), *box.slices())])
    mask = rng.random(SHAPE) < 0.3
    assert torch.equal(found.at(mask), whole[:, torch.from_numpy(mask)])
    assert found.at(np.zeros(SHAPE, bool)).shape == (2, 0)
    assert np.array_equal(found.largest_at(mask), whole.numpy().argmax(axis=0)[mask])
    assert found.largest_at(np.zeros(SHAPE, bool)).shape == (0,)


def test_a_slope_stays_a_slope_between_the_middles_of_blocks():
    fine = torch.arange(24.0).reshape(1, 24, 1, 1).expand(1, 24, 4, 4)
    found = Enlarged(reduced_image(fine, (4, 2, 1)), (4, 2, 1), (24, 4, 4)).read(Box.whole((24, 4, 4)))
    assert torch.allclose(found[0, 2:22], fine[0, 2:22], atol=1e-5)
    assert torch.allclose(found[0, :2], torch.tensor(1.5))


@pytest.mark.parametrize(
    ("shape", "spacing", "channels", "classes", "seconds", "wanted"),
    [
        ((197, 233, 189), (1.0, 1.0, 1.0), 1, 3, 300, (1, 1, 1)),
        ((400, 400, 400), (1.0, 1.0, 1.0), 1, 2, 300, (2, 2, 2)),
        ((1024, 1024, 60), (0.1, 0.1, 0.4), 1, 2, 300, (3, 3, 1)),
        ((4000, 4000, 16), (0.1, 0.1, 0.4), 1, 2, 60, (11, 11, 1)),  # never fewer than 16 samples along an axis
        ((366, 303, 90), (1.0, 1.0, 1.0), 1, 41, 300, (2, 2, 2)),
        ((20, 20, 20), (1.0, 1.0, 1.0), 1, 2, 0.001, (1, 1, 1)),
        ((400, 400, 400), (1.0, 1.0, 1.0), 4, 2, 300, (3, 3, 3)),
        ((400, 400, 400), (1.0, 1.0, 1.0), 1, 40, 1e9, (3, 3, 3)),  # for the memory's sake
        ((4000, 4000, 2), (0.1, 0.1, 9.0), 1, 2, 1e-3, (64, 64, 1)),
    ],
)
def test_large_scans_are_looked_at_on_a_coarser_grid(shape, spacing, channels, classes, seconds, wanted):
    assert reduction_for([Grid(shape, spacing)], channels, classes, seconds) == wanted


def test_the_voxels_of_all_scans_count():
    grids = [Grid((150, 150, 150), (1.0, 1.0, 1.0))] * 8
    assert reduction_for(grids[:1], 1, 2, 300) == (1, 1, 1)
    assert reduction_for(grids, 1, 2, 300) == (2, 2, 2)


def test_held_out_slices_are_judged_by_what_the_classifier_says_there():
    image, classes = balls((40, 36, 32))
    labeled = np.zeros(classes.shape, bool)
    labeled[8], labeled[:, 20], labeled[:, :, 15], labeled[25] = True, True, True, True
    known = labeled.copy()
    known[25] = False
    everything = SparseLabels(classes, labeled, UNIT)
    case = Case("scan", torch.from_numpy(image[None].astype(np.float32)), everything, (1.0, 1.0, 1.0), {})
    config = parse_config({"pixel_classifier": {"steps": 60, "reduction": [2, 2, 2]}})
    told = []
    first, second = guide(
        [case],
        [[everything.within(known)], [everything]],
        config,
        2,
        on_first_stage=lambda number, said: told.append((number, said)),
    )
    [(number, early)] = told
    assert number == 0
    assert (early.count, early.shape) == (2, classes.shape)
    held = np.zeros_like(labeled)
    held[25] = True
    for guided, mask in ((first, held), (second, np.ones_like(held))):
        assert guided.classifier.reduction == (2, 2, 2)
        whole = log_probabilities(classify(guided.classifier, reduced_image(case.image, (2, 2, 2)), (2.0, 2.0, 2.0)))
        wanted = Enlarged(whole, (2, 2, 2), classes.shape).at(mask)
        assert torch.allclose(guided.cases[0].logs.at(mask), wanted, atol=1e-3)
    predicted = second.cases[0].logs.read(Box.whole(classes.shape)).argmax(0).numpy()
    assert (predicted == classes)[~labeled].mean() > 0.9


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose classifier looks at a coarser grid."""
    image, classes = balls()
    run = tmp_path_factory.mktemp("reduced") / "run"
    config = TINY | {"pixel_classifier": {"use": "yes", "steps": 30, "reduction": [2, 1, 2]}}
    result = vol3d.train(image, painted(classes), unlabeled=UNLABELED, config=config, output=run, listener=Deaf())
    preview = io.read(str(run / "preview.nii.gz"))
    assert preview.shape == image.shape
    assert result.bundle.pool_weight > 0
    return run / "model.safetensors"


def test_a_model_keeps_how_coarse_its_classifier_looks(model):
    bundle = ModelBundle.load(model)
    assert bundle.classifier.reduction == (2, 1, 2)
    described = bundle.classifier.to_json()
    again = PixelClassifier.from_json(described, 1, 2, "model")
    assert again.reduction == (2, 1, 2)
    del described["reduction"]  # as in models of before there was one
    assert PixelClassifier.from_json(described, 1, 2, "model").reduction == (1, 1, 1)
    for wrong in ([2, 2], [0, 1, 1], [2.0, 1, 1], "222", [65, 1, 1], None):
        with pytest.raises(ModelError, match="no pixel classifier"):
            PixelClassifier.from_json({**described, "reduction": wrong}, 1, 2, "model")


@pytest.mark.parametrize("affine", [pytest.param(FLIPPED, marks=pytest.mark.slow), TURNED])
def test_in_parts_labels_are_those_of_the_scan_predicted_at_once(model, tmp_path, monkeypatch, affine):
    monkeypatch.setattr("vol3d.workflows.large_pixels._EDGES", (64,))
    monkeypatch.setattr("vol3d.baselines.reduced._READ_BYTES", 3e5)
    scan = write_scan(tmp_path / "scan.h5", affine)
    whole = vol3d.predict(scan, model, tmp_path / "whole.h5", tile=(32, 32, 32), listener=Deaf()).codes
    predict_large(scan, ModelBundle.load(model), str(tmp_path / "parts.h5"), TILED, Deaf())
    found = io.read_labels(str(tmp_path / "parts.h5")).array[0]
    assert 0 < found.mean() < 1
    assert (found != whole).sum() <= 2  # rounding, where two classes are equally probable


def test_a_dry_run_counts_the_coarse_grid(model, tmp_path):
    scan, bundle = write_scan(tmp_path / "scan.h5", FLIPPED), ModelBundle.load(model)
    coarse = forecast(scan, bundle, str(tmp_path / "out.h5"), TILED)
    bundle.classifier.reduction = (1, 1, 1)
    fine = forecast(scan, bundle, str(tmp_path / "out.h5"), TILED)
    assert coarse.bytes < fine.bytes
    assert coarse.seconds > 0


def test_the_classifier_of_an_older_run_looks_at_every_voxel():
    planned = {"use": "yes", "steps": 5}
    assert _as_it_was(parse_config({"pixel_classifier": planned})).pixel_classifier.reduction == (1, 1, 1)
    for given in (planned | {"reduction": [2, 2, 1]}, {"use": "no"}, {"use": "auto"}):
        config = parse_config({"pixel_classifier": given})
        assert _as_it_was(config) == config
