import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vol3d.baselines.features import SCALES, FeatureMaps, Recipe, image_recipe, pixel_features
from vol3d.baselines.perceptrons import MEMBERS, Painted, labeled_features
from vol3d.baselines.pixel_classifier import PixelClassifier, classify, learn, log_probabilities
from vol3d.baselines.pyramid import Places, halved, smoothed, spread, spread_within
from vol3d.errors import LabelError, ModelError
from vol3d.volume import Affine, Box, SparseLabels

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
    [classifier], _ = learn(
        [Painted(image, labels, ISOTROPIC)], [[labels.labeled]], [[None]], 2, steps=steps, seed=seed
    )
    return classifier


def known_of(image, labels):
    maps = FeatureMaps(image, ISOTROPIC, Recipe())
    return labeled_features([Painted(image, labels, ISOTROPIC)], [maps], 2)


@pytest.mark.parametrize("spacing", [ISOTROPIC, FLAT, (0.127, 0.127, 0.284)])
@pytest.mark.parametrize("channels", [1, 2])
def test_there_are_as_many_features_whatever_the_spacing_and_all_are_finite(spacing, channels):
    recipe = Recipe(SCALES, SCALES, (1.0, 4.0))
    features = pixel_features(noise((channels, 11, 9, 7)), spacing, recipe)
    assert features.shape == (recipe.count(channels), 11, 9, 7) == (57 * channels, 11, 9, 7)
    assert bool(features.isfinite().all())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_features_of_a_mirrored_volume_are_the_mirrored_features(axis):
    image = noise((1, 24, 21, 19))
    turned = pixel_features(image.flip(1 + axis), FLAT).flip(1 + axis)
    assert torch.allclose(turned, pixel_features(image, FLAT), atol=5e-4)


def test_features_of_permuted_axes_are_the_permuted_features():
    image = noise((1, 24, 21, 19))
    found = pixel_features(image.permute(0, 3, 1, 2), (FLAT[2], FLAT[0], FLAT[1])).permute(0, 2, 3, 1)
    assert torch.allclose(found, pixel_features(image, FLAT), atol=5e-4)


def test_the_eigenvalues_are_those_of_the_hessian():
    size, scale = 41, 2.0
    x, y, z = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) - size // 2] * 3, indexing="ij")
    matrix = torch.tensor([[0.03, 0.01, -0.02], [0.01, -0.02, 0.005], [-0.02, 0.005, 0.01]], dtype=torch.float64)
    places = torch.stack([x, y, z])
    image = 0.5 * torch.einsum("iabc,ij,jabc->abc", places, matrix, places)
    features = pixel_features(image[None].float(), ISOTROPIC, Recipe((scale,)))
    middle = features[3:6, size // 2, size // 2, size // 2].double()
    wanted = torch.linalg.eigvalsh(matrix).flip(0) * scale**2
    assert torch.allclose(middle, wanted, atol=1e-3)


def test_slabs_are_the_whole(monkeypatch):
    image = noise((1, 190, 6, 5))
    recipe = image_recipe([FLAT])
    kept = FeatureMaps(image, FLAT, recipe, keep_bytes=1e9)
    monkeypatch.setattr("vol3d.baselines.features.SLAB_BYTES", 4 * recipe.count(1) * 30 * 30.0)
    maps = FeatureMaps(image, FLAT, recipe)
    slabs = list(maps.slabs())
    assert len(slabs) > 5
    assert [start for start, _, _ in slabs] == [0, *(stop for _, stop, _ in slabs[:-1])]
    whole = torch.cat([part for _, _, part in slabs], dim=1)
    assert torch.allclose(whole, kept.slab(0, 190), atol=1e-5)
    places = np.array([3, 31, 2000, 2001, 5699])
    assert torch.allclose(maps.at(places), whole.flatten(1)[:, places].T, atol=1e-5)
    assert torch.equal(kept.at(places), kept.slab(0, 190).flatten(1)[:, places].T)


@pytest.mark.parametrize("extent", [72, 73])
def test_coarse_grids_are_nearly_as_good(extent, monkeypatch):
    image = noise((1, extent, 37, 44))
    recipe = Recipe((4.0, 6.0), (), (4.0,))
    coarse = pixel_features(image, ISOTROPIC, recipe).flatten(1)[1:]
    monkeypatch.setattr("vol3d.baselines.scale._COARSE", 1e9)
    fine = pixel_features(image, ISOTROPIC, recipe).flatten(1)[1:]
    assert not torch.equal(coarse, fine)
    alike = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(coarse, fine, strict=True)]
    assert min(alike) > 0.95


@given(extent=st.integers(1, 40), sigma=st.floats(0.4, 5))
def test_smoothing_and_halving_are_the_same_from_either_end(extent, sigma):
    line = noise((extent, 2), seed=extent)
    assert torch.equal(smoothed(line, 0, sigma).flip(0), smoothed(line.flip(0), 0, sigma))
    assert torch.equal(halved(line, 0).flip(0), halved(line.flip(0), 0))


@given(extent=st.integers(2, 40))
def test_halved_samples_lie_where_they_say(extent):
    ramp = torch.arange(extent, dtype=torch.float64)[:, None]
    places = Places().halved(extent)
    samples = halved(ramp, 0)
    assert samples[:, 0].tolist() == [places.first + places.step * i for i in range(len(samples))]
    back = spread(samples, 0, places, 0, extent)[:, 0]
    inner = slice(math.ceil(places.first), extent - math.ceil(places.first))
    assert torch.allclose(back[inner], ramp[inner, 0])


@given(st.data())
def test_a_box_is_spread_as_all_of_it_is(data):
    extents = data.draw(st.tuples(*(st.integers(1, 17),) * 3))
    depths = data.draw(st.tuples(*(st.integers(0, 2),) * 3))
    places, samples = [], []
    for extent, depth in zip(extents, depths, strict=True):
        found, count = Places(), extent
        for _ in range(depth):
            found, count = found.halved(count), (count + 1) // 2
        places.append(found)
        samples.append(count)
    values = noise((2, *samples), seed=sum(extents))
    whole = values
    for axis in (2, 1, 0):
        whole = spread(whole, 1 + axis, places[axis], 0, extents[axis])
    start = [data.draw(st.integers(0, n - 1)) for n in extents]
    box = Box(tuple(start), tuple(data.draw(st.integers(1, n - a)) for n, a in zip(extents, start, strict=True)))
    assert torch.equal(spread_within(values, places, box), whole[(slice(None), *box.slices())])


def test_textures_tell_stripes_of_one_brightness_apart():
    x = torch.arange(48.0)
    image = torch.sin(x)[:, None, None].expand(48, 48, 12).clone()
    image[:, 24:] = torch.sin(x)[None, :24, None]
    textures = pixel_features(image[None], ISOTROPIC, Recipe((), (), (2.0,)))[1:]
    assert textures[0, 8:40, 4:40, 3:9].min() > 0.2  # it changes across the stripes
    assert textures[1, 8:40, 4:18, 3:9].max() < 0.05  # and along nothing else
    assert textures[2, 8:40, 4:40, 3:9].max() < 0.05


def test_cubic_voxels_have_no_second_set_of_scales():
    assert image_recipe([ISOTROPIC, (2.0, 2.0, 2.0)]).grid_scales == ()
    assert image_recipe([ISOTROPIC, FLAT]).grid_scales == SCALES


def test_a_volume_of_one_plane_has_features():
    features = pixel_features(noise((1, 12, 1, 9)), ISOTROPIC)
    assert features.shape[1:] == (12, 1, 9)
    assert bool(features.isfinite().all())


def test_it_learns_what_thresholds_cannot():
    image, classes = blobs()
    labels = slices(classes, [(2, 6), (2, 16), (0, 12), (1, 20)])
    found = classify(learned(image, labels), image, ISOTROPIC)
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
    assert torch.equal(first.second.weights[0], again.second.weights[0])
    assert not torch.equal(first.second.weights[0], other.second.weights[0])


def test_only_masked_voxels_are_learned_from():
    image, classes = blobs()
    labels = slices(classes, [(2, 6), (0, 12)])
    part = slices(classes, [(2, 6)])
    known = known_of(image, labels)
    within = known.within([part.labeled])
    alone = known_of(image, part)
    assert torch.equal(within.rows, alone.rows)
    assert np.array_equal(within.classes, alone.classes)
    assert np.array_equal(within.place, alone.place)


def test_of_many_voxels_the_rare_class_is_kept_and_stands_for_itself(monkeypatch):
    monkeypatch.setattr("vol3d.baselines.perceptrons.MOST_VOXELS", 400)
    classes = np.zeros((20, 20, 20), dtype=np.uint8)
    classes[:3, :3, :3] = 1
    labels = SparseLabels(classes, np.ones(classes.shape, bool), Affine.from_spacing(ISOTROPIC))
    known = known_of(noise((1, 20, 20, 20)), labels)
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
    rows = [known_of(image, SparseLabels(c, labels.labeled, labels.affine, "l", weight)) for c in (classes, flipped)]
    assert all((one.weight > 0).sum() < len(one.weight) for one in rows)
    assert np.array_equal(rows[0].classes[rows[0].weight > 0], rows[1].classes[rows[1].weight > 0])


def test_nothing_labeled_is_refused():
    image, classes = blobs()
    with pytest.raises(LabelError, match="labeled voxels"):
        known_of(image, slices(classes, []))


def test_several_scans_are_learned_from_together():
    parts = [blobs(seed=seed) for seed in (1, 2)]
    scans = [Painted(image, slices(classes, [(2, 6), (1, 9)]), ISOTROPIC) for image, classes in parts]
    masks = [scan.labels.labeled for scan in scans]
    [classifier], [answers] = learn(scans, [masks], [[None, None]], 2, steps=150)
    for (image, _), answer in zip(parts, answers, strict=True):
        assert torch.allclose(classify(classifier, image, ISOTROPIC, keep_bytes=1e9), answer, atol=1e-5)
    image, classes = blobs(seed=3)
    assert (classify(classifier, image, ISOTROPIC).argmax(0).numpy() == classes).mean() > 0.9


def test_what_the_first_stage_says_around_a_voxel_helps():
    image, classes = blobs(shape=(48, 48, 32))
    image = image + 3 * noise(image.shape, seed=9)
    labels = slices(classes, [(2, 6), (2, 20), (0, 12), (0, 30), (1, 20)])
    classifier = learned(image, labels, steps=300)
    maps = FeatureMaps(image, ISOTROPIC, classifier.recipe)
    first = classifier.first.answer(maps.slab(0, 48).flatten(1)).argmax(0).view(48, 48, 32).numpy()
    second = classify(classifier, image, ISOTROPIC).argmax(0).numpy()
    unseen = ~labels.labeled

    def iou(found):
        return (found & classes)[unseen].sum() / (found | classes)[unseen].sum()

    assert iou(second) > iou(first) + 0.005


def test_a_classifier_is_asked_for_some_voxels_only():
    image, classes = blobs()
    labels = slices(classes, [(2, 6), (2, 16), (0, 12), (1, 20)])
    seen = slices(classes, [(2, 6), (0, 12), (1, 20)]).labeled
    asked = labels.labeled & ~seen
    scans = [Painted(image, labels, ISOTROPIC)]
    (partly, fully), ([some], [everywhere]) = learn(scans, [[seen], [labels.labeled]], [[asked], [None]], 2, steps=30)
    assert torch.equal(partly.first.weights[0], fully.first.weights[0])
    assert not torch.equal(partly.second.weights[0], fully.second.weights[0])
    whole = classify(partly, image, ISOTROPIC)
    assert torch.allclose(some[:, torch.from_numpy(asked)], whole[:, torch.from_numpy(asked)], atol=1e-5)
    assert bool((some[:, torch.from_numpy(~asked)] == 0.5).all())
    assert torch.allclose(everywhere, classify(fully, image, ISOTROPIC), atol=1e-5)


def test_the_quick_answer_is_the_mean_of_the_members():
    image, classes = blobs()
    classifier = learned(image, slices(classes, [(2, 6), (0, 12)]), steps=20)
    columns = pixel_features(image, ISOTROPIC, classifier.recipe).flatten(1)[:, :10_000]
    slow = torch.softmax(classifier.first(columns.T), dim=-1).mean(0).T
    assert torch.allclose(classifier.first.answer(columns), slow, atol=1e-5)


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_logarithms_are_of_the_same_order_and_never_infinite(values):
    found = log_probabilities(torch.tensor(values))
    assert bool(found.isfinite().all())
    assert float(found.max()) <= 0
    assert torch.allclose(found.exp(), torch.tensor(values), atol=1.1e-4)


def test_its_description_reads_back():
    recipe, context = Recipe((1.0, 3.5), (2.0,), ()), Recipe((4.0,))
    made = PixelClassifier(2, 3, recipe, context=context, members=4, hidden=8)
    described = json.loads(json.dumps(made.to_json()))
    again = PixelClassifier.from_json(described, 2, 3, "model")
    assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in again.state_dict().items()}
    assert (again.recipe, again.context) == (recipe, context)
    assert PixelClassifier(1, 2, recipe).first.members == MEMBERS


SOUND = {
    "members": 5,
    "hidden": 8,
    "features": {"scales": [1.0], "grid_scales": [], "textures": []},
    "context": {"scales": [2.0], "grid_scales": [], "textures": []},
}


@pytest.mark.parametrize(
    "described",
    [
        None,
        [],
        {"members": 5, "hidden": 64, "scales": [1.0]},
        SOUND | {"hidden": 10**9},
        SOUND | {"members": True},
        SOUND | {"features": None},
        SOUND | {"features": {"scales": [1.0]}},
        SOUND | {"context": SOUND["context"] | {"scales": [1e9]}},
        SOUND | {"context": SOUND["context"] | {"textures": [True]}},
        SOUND | {"features": SOUND["features"] | {"grid_scales": [1.0] * 99}},
        SOUND | {"features": SOUND["features"] | {"scales": 1.0}},
    ],
)
def test_other_descriptions_are_refused(described):
    with pytest.raises(ModelError, match="pixel classifier"):
        PixelClassifier.from_json(described, 1, 2, "model.safetensors")
