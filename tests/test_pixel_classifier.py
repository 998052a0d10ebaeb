import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vol3d.baselines.features import feature_count, feature_slabs, pixel_features
from vol3d.baselines.pixel_classifier import (
    MEMBERS,
    Painted,
    PixelClassifier,
    classify,
    fit_pixel_classifier,
    labeled_features,
    log_probabilities,
)
from vol3d.errors import LabelError, ModelError
from vol3d.volume import Affine, SparseLabels

ISOTROPIC = (1.0, 1.0, 1.0)
FLAT = (0.004, 0.004, 0.05)


def noise(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def blobs(shape=(40, 36, 24), seed=0):
    """A noisy image whose bright parts are class 1, and the classes (X, Y, Z)."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    classes = np.zeros(shape, dtype=np.uint8)
    for _ in range(9):
        centre = rng.uniform(0, shape).reshape(3, 1, 1, 1)
        classes[((grid - centre) ** 2).sum(0) < 36] = 1
    image = classes + rng.normal(0, 0.7, shape)
    return torch.from_numpy(image[None].astype(np.float32)), classes


def slices(classes, planes):
    labeled = np.zeros(classes.shape, dtype=bool)
    for axis, index in planes:
        labeled[(slice(None),) * axis + (index,)] = True
    return SparseLabels(classes, labeled, Affine.from_spacing(ISOTROPIC))


def learned(image, labels, steps=150, seed=0):
    known = labeled_features([Painted(image, labels, ISOTROPIC)], 2, seed=seed)
    return fit_pixel_classifier(known, 1, 2, steps=steps, seed=seed)


@pytest.mark.parametrize("spacing", [ISOTROPIC, FLAT, (0.127, 0.127, 0.284)])
@pytest.mark.parametrize("channels", [1, 2])
def test_there_are_as_many_features_whatever_the_spacing_and_all_are_finite(spacing, channels):
    features = pixel_features(noise((channels, 11, 9, 7)), spacing)
    assert features.shape == (feature_count(channels), 11, 9, 7)
    assert bool(features.isfinite().all())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_features_of_a_mirrored_volume_are_the_mirrored_features(axis):
    image = noise((1, 14, 12, 10))
    turned = pixel_features(image.flip(1 + axis), FLAT).flip(1 + axis)
    assert torch.allclose(turned, pixel_features(image, FLAT), atol=2e-4)


def test_features_of_permuted_axes_are_the_permuted_features():
    image = noise((1, 14, 12, 10))
    found = pixel_features(image.permute(0, 3, 1, 2), (FLAT[2], FLAT[0], FLAT[1])).permute(0, 2, 3, 1)
    assert torch.allclose(found, pixel_features(image, FLAT), atol=2e-4)


def test_the_eigenvalues_are_those_of_the_hessian():
    size, scale = 41, 2.0
    x, y, z = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) - size // 2] * 3, indexing="ij")
    matrix = torch.tensor([[0.03, 0.01, -0.02], [0.01, -0.02, 0.005], [-0.02, 0.005, 0.01]], dtype=torch.float64)
    places = torch.stack([x, y, z])
    image = 0.5 * torch.einsum("iabc,ij,jabc->abc", places, matrix, places)
    features = pixel_features(image[None].float(), ISOTROPIC, (scale,))
    middle = features[3:6, size // 2, size // 2, size // 2].double()
    wanted = torch.linalg.eigvalsh(matrix).flip(0) * scale**2
    assert torch.allclose(middle, wanted, atol=1e-3)


def test_slabs_are_the_whole(monkeypatch):
    image = noise((1, 190, 6, 5))
    monkeypatch.setattr("vol3d.baselines.features._SLAB_BYTES", 4 * feature_count(1) * 30 * 8.0)
    slabs = list(feature_slabs(image, ISOTROPIC))
    assert len(slabs) > 5
    assert [start for start, _, _ in slabs] == [0, *(stop for _, stop, _ in slabs[:-1])]
    whole = pixel_features(image, ISOTROPIC)
    assert torch.allclose(torch.cat([part for _, _, part in slabs], dim=1), whole, atol=1e-5)


def test_a_volume_of_one_plane_has_features():
    features = pixel_features(noise((1, 12, 1, 9)), ISOTROPIC)
    assert features.shape[1:] == (12, 1, 9)
    assert bool(features.isfinite().all())


def test_it_learns_what_thresholds_cannot():
    image, classes = blobs()
    labels = slices(classes, [(2, 6), (2, 16), (0, 12), (1, 20)])
    [found] = classify([learned(image, labels)], image, ISOTROPIC)
    unseen = ~labels.labeled
    right = (found.argmax(0).numpy() == classes)[unseen].mean()
    by_gray_value = ((image[0].numpy() > 0.5) == classes)[unseen].mean()
    assert right > max(0.9, by_gray_value + 0.05)
    assert torch.allclose(found.sum(0), torch.ones(classes.shape), atol=1e-5)


def test_what_is_under_unlabeled_voxels_changes_nothing():
    image, classes = blobs()
    labels = slices(classes, [(2, 6), (0, 12)])
    other = np.where(labels.labeled, classes, 1 - classes)
    first = learned(image, labels, steps=5)
    second = learned(image, SparseLabels(other, labels.labeled, labels.affine), steps=5)
    states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


def test_the_same_seed_gives_the_same_classifier():
    image, classes = blobs()
    labels = slices(classes, [(2, 6), (0, 12)])
    first, again, other = (learned(image, labels, steps=5, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.weights[0], again.weights[0])
    assert not torch.equal(first.weights[0], other.weights[0])


def test_only_masked_voxels_are_learned_from():
    image, classes = blobs()
    labels = slices(classes, [(2, 6), (0, 12)])
    part = slices(classes, [(2, 6)])
    known = labeled_features([Painted(image, labels, ISOTROPIC)], 2)
    within = known.within([part.labeled])
    alone = labeled_features([Painted(image, part, ISOTROPIC)], 2)
    assert torch.equal(within.rows, alone.rows)
    assert np.array_equal(within.classes, alone.classes)
    assert np.array_equal(within.place, alone.place)


def test_of_many_voxels_the_rare_class_is_kept_and_stands_for_itself(monkeypatch):
    monkeypatch.setattr("vol3d.baselines.pixel_classifier._MOST_VOXELS", 400)
    classes = np.zeros((20, 20, 20), dtype=np.uint8)
    classes[:3, :3, :3] = 1
    labels = SparseLabels(classes, np.ones(classes.shape, bool), Affine.from_spacing(ISOTROPIC))
    known = labeled_features([Painted(noise((1, 20, 20, 20)), labels, ISOTROPIC)], 2)
    assert (known.classes == 1).sum() == 27
    assert 250 < len(known.classes) < 600
    assert known.weight[known.classes == 0].sum() == pytest.approx(8000 - 27, rel=0.2)
    assert known.weight[known.classes == 1].sum() == pytest.approx(27)


def test_confidence_zero_leaves_a_voxel_out():
    image, classes = blobs()
    labels = slices(classes, [(2, 6), (0, 12)])
    weight = np.ones(classes.shape, np.float32)
    weight[:, :, 6] = 0
    flipped = np.where(weight == 0, 1 - classes, classes).astype(np.uint8)
    rows = [
        labeled_features([Painted(image, SparseLabels(c, labels.labeled, labels.affine, "l", weight), ISOTROPIC)], 2)
        for c in (classes, flipped)
    ]
    assert all((one.weight > 0).sum() < len(one.weight) for one in rows)
    assert np.array_equal(rows[0].classes[rows[0].weight > 0], rows[1].classes[rows[1].weight > 0])


def test_nothing_labeled_is_refused():
    image, classes = blobs()
    with pytest.raises(LabelError, match="labeled voxels"):
        labeled_features([Painted(image, slices(classes, []), ISOTROPIC)], 2)


def test_several_scans_are_learned_from_together():
    parts = [blobs(seed=seed) for seed in (1, 2)]
    scans = [Painted(image, slices(classes, [(2, 6), (1, 9)]), ISOTROPIC) for image, classes in parts]
    known = labeled_features(scans, 2)
    assert set(known.scan.tolist()) == {0, 1}
    classifier = fit_pixel_classifier(known, 1, 2, steps=150)
    image, classes = blobs(seed=3)
    assert (classify([classifier], image, ISOTROPIC)[0].argmax(0).numpy() == classes).mean() > 0.9


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_logarithms_are_of_the_same_order_and_never_infinite(values):
    found = log_probabilities(torch.tensor(values))
    assert bool(found.isfinite().all())
    assert float(found.max()) <= 0
    assert torch.allclose(found.exp(), torch.tensor(values), atol=1.1e-4)


def test_its_description_reads_back():
    made = PixelClassifier(2, 3, members=4, hidden=8, scales=(1.0, 3.5))
    again = PixelClassifier.from_json(made.to_json(), 2, 3, "model")
    assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in again.state_dict().items()}
    assert again.scales == (1.0, 3.5)
    assert PixelClassifier(1, 2).members == MEMBERS


@pytest.mark.parametrize(
    "described",
    [
        None,
        [],
        {"members": 5, "hidden": 64},
        {"members": 5, "hidden": 10**9, "scales": [1.0]},
        {"members": True, "hidden": 8, "scales": [1.0]},
        {"members": 5, "hidden": 8, "scales": [1e9]},
        {"members": 5, "hidden": 8, "scales": []},
        {"members": 5, "hidden": 8, "scales": [1.0] * 99},
    ],
)
def test_other_descriptions_are_refused(described):
    with pytest.raises(ModelError, match="pixel classifier"):
        PixelClassifier.from_json(described, 1, 2, "model.safetensors")
