"""The MONAI face."""

import json

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandGaussianNoised

import vol3d.transforms
from vol3d.errors import ConfigError, GeometryError, LabelError
from vol3d.transforms import DrawnPatch, RandSparsePatch, RandSparsePatchd, SpatialParams, crop
from vol3d.transforms.drawing import draw_voxel
from vol3d.volume import Box

UNLABELED = 3
SPACING = (0.8, 0.8, 2.0)


def sample(seed=0, shape=(24, 22, 16)):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    label = np.full((1, *shape), UNLABELED, dtype=np.uint8)
    label[0, 5] = rng.choice([0, 1, 2], shape[1:], p=[0.02, 0.08, 0.9])
    return image, label


def metatensors(seed=0):
    image, label = sample(seed)
    affine = torch.diag(torch.tensor([-SPACING[0], -SPACING[1], SPACING[2], 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([5.0, 6.0, 7.0])
    return {
        "image": MetaTensor(image, affine=affine),
        "label": MetaTensor(label, affine=affine),
        "name": "kidney",
    }


def transform(**kwargs):
    wanted = {"size": (16, 14, 12), "margin": (6, 4, 4), "unlabeled": UNLABELED, **kwargs}
    return RandSparsePatchd(["image"], ["label"], **wanted)


def test_composes_with_monai_from_file_to_patch(tmp_path):
    import nibabel as nib

    image, label = sample()
    affine = np.diag([-0.8, -0.8, 2.0, 1.0])
    nib.save(nib.Nifti1Image(image[0], affine), tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(label[0], affine), tmp_path / "labels.nii.gz")
    keys = ["image", "label"]
    composed = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            transform(),
            RandGaussianNoised("image", prob=1.0),
        ]
    )
    files = {"image": str(tmp_path / "scan.nii.gz"), "label": str(tmp_path / "labels.nii.gz")}
    first, again = (composed.set_random_state(seed)(dict(files)) for seed in (4, 4))
    other = composed.set_random_state(5)(dict(files))
    assert isinstance(first["image"], MetaTensor)
    assert isinstance(first["label"], MetaTensor)
    assert first["image"].shape == (1, 16, 14, 12)
    assert first["label"].shape == (1, 10, 10, 8)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])
    assert not torch.equal(first["image"], other["image"])
    assert (first["label"] != UNLABELED).any()
    assert first["image"].meta["filename_or_obj"] == files["image"]


def test_every_patch_holds_its_drawn_voxel_and_classes_are_balanced():
    data = metatensors()
    patch = transform()
    patch.set_random_state(0)
    drawn_classes = []
    for _ in range(60):
        out = patch(data)
        drawn = patch.drawn
        at = tuple(np.subtract(drawn.anchor_patch, (3, 2, 2)))
        code = data["label"][(0, *drawn.anchor_volume)]
        assert code != UNLABELED
        assert out["label"][(0, *at)] == code
        drawn_classes.append(int(code))
        assert out["name"] == "kidney"
    assert min(np.bincount(drawn_classes, minlength=3)) >= 10  # 2 % of the voxels are class 0
    patch = transform(balanced=False).set_random_state(0)
    rare = 0
    for _ in range(40):
        patch(data)
        rare += int(data["label"][(0, *patch.drawn.anchor_volume)] == 0)
    assert rare < 6


def test_a_mask_says_where_to_draw_and_is_cut_along():
    image, label = sample()
    mask = np.zeros_like(label, dtype=bool)
    mask[0, 12, 11, 10] = True
    data = {"image": image, "label": label, "mask": mask}
    patch = RandSparsePatchd("image", "label", "mask", (9, 9, 9), (2, 2, 2)).set_random_state(1)
    out = patch(data)
    assert patch.drawn.anchor_volume == (12, 11, 10)
    assert out["mask"].dtype == torch.bool
    assert out["mask"].shape == (1, 7, 7, 7)
    assert out["mask"].any()
    assert type(out["image"]) is torch.Tensor


def test_replay_repeats_what_was_printed():
    data = metatensors()
    patch = transform().set_random_state(9)
    out = patch(data)
    drawn = DrawnPatch.from_json(json.loads(json.dumps(patch.drawn.to_json())))
    assert drawn == patch.drawn
    assert patch.params == drawn.params
    assert "rotation_rad" in repr(drawn)
    for again in (patch.replay(data, drawn), transform(deformation_voxels=0).replay(data, drawn)):
        assert torch.equal(out["image"], again["image"])
        assert torch.equal(out["label"], again["label"])
        assert torch.equal(out["image"].affine, again["image"].affine)


def test_arrays_and_dictionaries_give_the_same_patch():
    image, label = sample()
    kwargs = {"size": (16, 14, 12), "margin": (6, 4, 4), "unlabeled": (UNLABELED, 9), "flip_probability": 0.5}
    plain = RandSparsePatch(**kwargs).set_random_state(2)
    patch, codes, none = plain(image, label)
    assert none is None
    out = RandSparsePatchd("image", "label", **kwargs).set_random_state(2)({"image": image, "label": label})
    assert torch.equal(patch, out["image"])
    assert torch.equal(codes, out["label"])
    assert plain.params.rotation_rad != (0, 0, 0)


def test_without_augmentation_the_patch_is_a_crop_and_the_affine_its_own():
    data = metatensors()
    patch = transform(probability=0.0).set_random_state(3)
    out = patch(data)
    start = tuple(int(v) - t for v, t in zip(patch.drawn.anchor_volume, patch.drawn.anchor_patch, strict=True))
    inner = Box(tuple(np.add(start, (3, 2, 2)).tolist()), (10, 10, 8))
    assert torch.equal(out["image"].as_tensor(), crop(data["image"].as_tensor(), Box(start, (16, 14, 12))))
    assert torch.equal(out["label"].as_tensor(), crop(data["label"].as_tensor(), inner))
    for key, first in (("image", start), ("label", inner.start)):
        world = data[key].affine @ torch.tensor([*first, 1.0], dtype=torch.float64)
        torch.testing.assert_close(out[key].affine[:, 3], world)
        torch.testing.assert_close(out[key].affine[:3, :3], data[key].affine[:3, :3])


def test_the_affine_holds_anchor_rotation_and_scaling():
    data = metatensors()
    patch = transform(deformation_probability=0.0).set_random_state(3)
    out = patch(data)
    anchor = torch.tensor([*patch.drawn.anchor_patch, 1.0], dtype=torch.float64)
    voxel = torch.tensor([*patch.drawn.anchor_volume, 1.0], dtype=torch.float64)
    torch.testing.assert_close(out["image"].affine @ anchor, data["image"].affine @ voxel)
    corner = torch.tensor([3.0, 2.0, 2.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(out["label"].affine[:, 3], out["image"].affine @ corner)
    scale = np.linalg.norm(out["image"].affine.numpy()[:3, :3], axis=0) / SPACING
    np.testing.assert_allclose(scale, patch.params.scale, atol=1e-6)


def test_an_image_alone_is_cropped_anywhere():
    patch = RandSparsePatch((5, 5, 5), probability=0).set_random_state(0)
    voxels = set()
    for _ in range(99):
        cut, *_ = patch(np.zeros((1, 3, 3, 3), dtype=np.float32))
        assert cut.shape == (1, 5, 5, 5)
        voxels.add(patch.drawn.anchor_volume)
    assert len(voxels) > 20
    assert patch.params.is_identity
    assert RandSparsePatch().params is None


def test_label_dtypes_survive_and_negative_codes_are_codes():
    image, label = sample()
    for dtype in ("uint16", "int16", "float32", ">u2"):
        codes = label.astype(dtype)
        patch = RandSparsePatch((8, 8, 8), (2, 2, 2), unlabeled=UNLABELED).set_random_state(0)
        _, out, _ = patch(image, codes)
        assert out.numpy().dtype == np.dtype(dtype).newbyteorder("=")
        tensor = torch.from_numpy(codes.astype(codes.dtype.newbyteorder("=")))
        assert torch.equal(patch.replay(patch.drawn, torch.from_numpy(image), tensor)[1], out)
        assert torch.equal(patch.set_random_state(0)(torch.from_numpy(image), tensor)[1], out)
    signed = np.where(label == UNLABELED, -1, label.astype(np.int16)).astype(np.int16)
    patch = RandSparsePatch((8, 8, 8), unlabeled=-1).set_random_state(0)
    patch(image, signed)
    assert signed[(0, *patch.drawn.anchor_volume)] >= 0


def test_monais_loader_seeds_it():
    image, label = sample()
    loader = DataLoader(
        Dataset([{"image": image, "label": label}] * 2, transform().set_random_state(7)), batch_size=2, num_workers=0
    )
    batch = next(iter(loader))
    assert batch["image"].shape == (2, 2, 16, 14, 12)
    assert not torch.equal(batch["image"][0], batch["image"][1])


def test_errors_say_what_to_do():
    image, label = sample()
    empty = np.full_like(label, UNLABELED)
    with pytest.raises(LabelError, match="labeled voxel"):
        transform()({"image": image, "label": empty})
    with pytest.raises(LabelError, match="mask"):
        RandSparsePatch((4, 4, 4))(image, label, np.zeros_like(label))
    with pytest.raises(GeometryError, match="one grid"):
        transform()({"image": image[..., :5], "label": label})
    with pytest.raises(GeometryError, match="EnsureChannelFirst"):
        RandSparsePatch((4, 4, 4)).replay(DrawnPatch(SpatialParams(), (0, 0, 0), (0, 0, 0)), image[0])
    with pytest.raises(ConfigError, match="'label'"):
        transform()({"image": image})
    lenient = transform(allow_missing_keys=True)
    assert set(lenient({"image": image})) == {"image"}
    with pytest.raises(ConfigError, match="none of them"):
        lenient({"other": image})
    with pytest.raises(ConfigError, match="drawn patch"):
        DrawnPatch.from_json({})
    with pytest.raises(AttributeError, match="nothing"):
        vol3d.transforms.nothing  # noqa: B018


@pytest.mark.parametrize(
    "codes", [np.uint8([7, 7, 7, 2, 255, 2, 9]), np.int64([-5, 4, 2**40, 4, 0, 0, 0]), np.float32([1, 1, 3])]
)
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_voxels_are_drawn_as_often_as_they_should(codes, balanced, masked):
    rng = np.random.default_rng(0)
    unlabeled = int(codes[-1])
    known = rng.permutation(np.arange(len(codes)) % 2 == 0) if masked else np.empty(0, bool)
    labeled = known if masked else codes != unlabeled
    shares = np.where(labeled, 1.0, 0.0)
    if balanced:
        shares = np.array([on / max(1, (labeled & (codes == c)).sum()) for on, c in zip(shares, codes, strict=True)])
    drawn = [draw_voxel(rng, codes, known, () if masked else (unlabeled,), balanced=balanced) for _ in range(4000)]
    found = np.bincount(drawn, minlength=len(codes)) / len(drawn)
    np.testing.assert_allclose(found, shares / shares.sum(), atol=0.03)


@pytest.mark.parametrize(
    "codes",
    [
        np.array([2**62 + 129, 2**62 + 131, 2**62 + 131], np.int64),
        np.array([2**63 + 5, 2**63 + 7, 2**63 + 7], np.uint64),
        np.array([-(2**63), 2**63 - 1, 2**63 - 1], np.int64),
    ],
)
def test_codes_of_any_size_are_told_apart(codes):
    rng = np.random.default_rng(0)
    none = np.empty(0, bool)
    assert {draw_voxel(rng, codes, none, (), balanced=True) for _ in range(60)} == {0, 1, 2}
    assert {draw_voxel(rng, codes, none, (int(codes[2]),), balanced=True) for _ in range(20)} == {0}
    assert draw_voxel(rng, codes, none, codes.tolist(), balanced=False) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
@pytest.mark.parametrize("masked", [True, False])
def test_voxels_are_drawn_from_all_of_a_large_label_map(dtype, masked):
    rng, codes = np.random.default_rng(0), np.zeros(300_001, dtype)
    places = [3, 65_535, 65_536, 200_000, 300_000]
    codes[places] = 7
    codes[places[3]] = rare = 9 if dtype == np.uint8 else -1
    known = np.ones(len(codes), bool) if masked else np.empty(0, bool)
    drawn = np.array([draw_voxel(rng, codes, known, () if masked else (0,), balanced=True) for _ in range(400)])
    assert set(drawn[codes[drawn] != 0]) == set(places)
    assert set(codes[drawn]) == ({0, 7, rare} if masked else {7, rare})
    assert 0.25 < (drawn == places[3]).mean() < 0.6  # a class of its own
    if masked:
        assert (drawn[codes[drawn] == 0] > 65_536).mean() > 0.7


def test_no_voxel_is_drawn_where_none_is_labeled():
    rng, codes = np.random.default_rng(0), np.full(9, 3, np.uint8)
    assert draw_voxel(rng, codes, np.empty(0, bool), (3, 4), balanced=True) is None
    assert draw_voxel(rng, codes, np.zeros(9, bool), (), balanced=False) is None
    assert draw_voxel(rng, codes[:0], np.empty(0, bool), (), balanced=False) is None
