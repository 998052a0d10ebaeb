"""How frequent classes are in a scan of which strokes were drawn."""

import json

import numpy as np
import pytest
import torch
from workflow_parts import UNLABELED, balls

import vol3d
from vol3d.baselines.perceptrons import LabeledFeatures, fit_perceptrons
from vol3d.baselines.pixel_classifier import PixelClassifier, classify
from vol3d.baselines.priors import class_shares
from vol3d.bundle import ModelBundle
from vol3d.config import parse_config
from vol3d.errors import ModelError
from vol3d.volume import Affine, SparseLabels
from vol3d.workflows.case import Case
from vol3d.workflows.combination import GROUPS, combination
from vol3d.workflows.pixel_channels import guide

pytestmark = pytest.mark.usefixtures("blank_pictures")

UNIT = Affine.from_spacing((1.0, 1.0, 1.0))


def answers(shares, believed, seed=0):
    """Probabilities of voxels in which classes are as frequent as `shares`, from somebody who believes otherwise."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(len(shares), size=(30, 30, 30), p=shares)
    evidence = rng.normal(size=(len(shares), *classes.shape))
    np.put_along_axis(evidence, classes[None], np.take_along_axis(evidence, classes[None], 0) + 2, 0)
    likelihood = np.exp(2 * evidence)  # of a normal distribution around 2 against one around 0
    found = likelihood * np.reshape(believed, (-1, 1, 1, 1))
    return torch.from_numpy((found / found.sum(0)).astype(np.float32))


@pytest.mark.parametrize("shares", [(0.9, 0.1), (0.2, 0.8), (0.7, 0.25, 0.05)])
def test_shares_are_found_whatever_was_believed_before(shares):
    believed = np.full(len(shares), 1 / len(shares))
    found = class_shares([answers(shares, believed), answers(shares, believed, 1)], believed)
    assert np.abs(found - shares).max() < 0.02
    assert np.isclose(found.sum(), 1)


def test_a_class_that_nobody_painted_has_no_share_and_takes_none():
    believed = (0.5, 0.5)
    said = answers((0.9, 0.1), believed)
    third = torch.where(said[:1] > 0.5, 1e-4, 1e-7)  # a little more where it is the first class
    found = class_shares([torch.cat([said, third]) / (1 + third)], np.array([*believed, 0.0]))
    assert np.abs(found - (0.9, 0.1, 0.0)).max() < 0.02
    assert found[2] == 0


def test_rare_classes_are_found_to_be_rare():
    found = class_shares([answers((0.998, 0.002), (0.5, 0.5))], np.array([0.5, 0.5]))
    assert found[1] < 0.003


def test_large_scans_are_looked_at_here_and_there(monkeypatch):
    monkeypatch.setattr("vol3d.baselines.priors._MOST_VALUES", 9000)
    found = class_shares([answers((0.8, 0.2), (0.5, 0.5))], np.array([0.5, 0.5]))
    assert np.abs(found - (0.8, 0.2)).max() < 0.05


def test_what_perceptrons_believe_in_lies_between_the_paint_and_all_alike():
    rng = np.random.default_rng(0)
    classes = (rng.random(2000) < 0.1).astype(np.int64)
    rows = torch.from_numpy(rng.normal(size=(2000, 3)).astype(np.float32))
    zeros = np.zeros(2000, np.int64)
    found = [
        fit_perceptrons(LabeledFeatures(rows, classes, weight, zeros, zeros), 2, steps=1).believed
        for weight in (np.ones(2000), np.where(classes == 1, 1.0, 0.1))
    ]
    assert classes.mean() < found[0][1] < 0.5
    assert found[1][1] > 0.5  # voxels by their confidence


def stroked():
    """Bright balls, of which as many voxels are drawn as of what is around them, in strokes."""
    image, classes = balls((40, 36, 32))
    rng, labeled = np.random.default_rng(0), np.zeros(classes.shape, bool)
    for code in (0, 1):
        for at in rng.permutation(np.argwhere(classes == code))[:40]:
            x, y, z = at
            labeled[x, y, z : z + 4] = True
    return image, classes, labeled


def test_strokes_make_a_classifier_ask_how_frequent_classes_are():
    image, classes, labeled = stroked()
    labels = SparseLabels(classes, labeled, UNIT)
    case = Case("scan", torch.from_numpy(image[None]), labels, (1.0, 1.0, 1.0), {})
    config = parse_config({"pixel_classifier": {"steps": 60}})
    first, last = guide([case], [[labels], [labels]], config, 2)
    truth = (classes == 1).mean()
    assert abs(last.shares[1] - truth) < 0.05 < abs(0.5 - truth)
    assert first.shares is not None
    again = classify(last.classifier, case.image, (1.0, 1.0, 1.0))
    told = last.cases[0].logs.values.exp()
    assert torch.allclose(again.clamp_min(1e-4), told, atol=1e-4)
    copy = PixelClassifier.from_json(last.classifier.to_json(), 1, 2, "model")
    assert copy.factors == last.classifier.factors
    for wrong in ([1.0], [1.0, 0.0], [1.0, float("nan")], "ab", 3):
        with pytest.raises(ModelError, match="no pixel classifier"):
            PixelClassifier.from_json({**last.classifier.to_json(), "factors": wrong}, 1, 2, "model")
    assert torch.allclose(told.sum(0), torch.ones(classes.shape), atol=1e-3)
    labeled[20] = True
    slices = SparseLabels(classes, labeled, UNIT)
    [alone] = guide([Case("scan", case.image, slices, (1.0, 1.0, 1.0), {})], [[slices]], config, 2)
    assert alone.shares is None


def test_a_run_says_how_frequent_it_takes_classes_to_be(tmp_path):
    image, classes, labeled = stroked()
    told = []

    class Heard:
        def note(self, text):
            told.append(text)

        def warn(self, text):
            told.append(text)

        def progress(self, *_args):
            pass

    result = vol3d.train(
        image,
        np.where(labeled, classes, UNLABELED).astype(np.uint8),
        unlabeled=UNLABELED,
        config={"network": {"plan": "unet", "width": 4}, "training": {"iterations": 6, "validations": 1}},
        output=tmp_path / "run",
        listener=Heard(),
    )
    assert result.bundle is not None
    [said] = [text for text in told if "strokes" in text]
    shares = json.loads((tmp_path / "run" / "run.json").read_text())["class_shares"]
    assert abs(shares[1] - (classes == 1).mean()) < 0.08
    assert f"background {100 * shares[0]:.2g} %" in said
    factors = result.bundle.classifier.factors
    assert factors[0] > 1 > factors[1]
    saved = ModelBundle.load(tmp_path / "run" / "model.safetensors")
    assert saved.classifier.factors == factors


def test_held_out_voxels_count_as_often_as_their_class_is_met():
    rng = np.random.default_rng(0)
    classes = (rng.random(20_000) < 0.5).astype(np.uint8)  # as painted; in the scan one in ten
    evidence = classes * 2.0 - 1 + rng.normal(0, 1.2, classes.shape)
    logits = np.stack([np.zeros_like(evidence), 2 * evidence / 1.44])
    importance = np.array([1.8, 0.2])
    groups = np.arange(20_000) % GROUPS
    _, share = combination(logits[None], None, classes, 1 / importance, groups, importance)
    assert share >= 0.5
    assert combination(logits[None], None, classes, 1 / importance, groups)[1] == 0
