"""Voxels only known to be of one of several classes, and classes that nobody painted in a file."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_parts import K, gradient_of, random_case
from torch.nn import functional
from workflow_parts import TINY, balls, painted

import vol3d
from vol3d import io
from vol3d.config import AugmentConfig, Config, LabelsConfig, LossConfig, parse_config
from vol3d.errors import ConfigError, LabelError
from vol3d.losses import SparseLoss, class_weights, focal_loss, weighted_cross_entropy
from vol3d.losses.class_weights import set_weights
from vol3d.sampling import LabeledVoxels, hold_out
from vol3d.transforms import Preprocessing
from vol3d.volume import Affine, SparseLabels, Volume
from vol3d.workflows.case import Case
from vol3d.workflows.cases import TrainingFiles, load
from vol3d.workflows.check import check
from vol3d.workflows.evaluate import Scoring, evaluate
from vol3d.workflows.gaps import with_border_weights
from vol3d.workflows.label_options import parse_not_painted, parse_one_of
from vol3d.workflows.labels import decide
from vol3d.workflows.listener import Quiet
from vol3d.workflows.partial import is_file, short_name
from vol3d.workflows.patches import PatchCutter, TrainingCase

pytestmark = pytest.mark.usefixtures("blank_pictures")

AFFINE = Affine.from_spacing((1, 1, 1))
SEEDS = st.integers(0, 2**31 - 1)
SETS = ((0, 1, 2), (1, 3))
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25])
OF_SETS = torch.tensor([0.7, 1.5])
TERMS = [{}, {"dice": 1.0}, {"focal": 1.0, "cross_entropy": 0.0}, {"iou": 1.0, "lovasz": 1.0, "ms_ssim": 1.0}]


def partial_loss(**terms: float) -> SparseLoss:
    return SparseLoss(WEIGHTS, sets=SETS, set_weights=OF_SETS, **terms)


def mixed_case(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `random_case`, with about half of the voxels of a set."""
    logits, classes, weight = random_case(seed, (3, 4, 2))
    generator = torch.Generator().manual_seed(seed + 1)
    sets = torch.randint(K, K + len(SETS), classes.shape, generator=generator)
    return logits, torch.where(torch.rand(classes.shape, generator=generator) < 0.5, sets, classes), weight


# the loss


def test_by_hand() -> None:
    logits = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4])).reshape(1, K, 1).requires_grad_()
    loss = SparseLoss(torch.ones(K), sets=SETS)
    value = loss(logits, torch.full((1, 1), K + 1), torch.ones(1, 1))  # 1 or 3: probabilities 0.2 + 0.4
    value.backward()
    assert value.item() == pytest.approx(-math.log(0.6))
    # d/dz_k of −log Σ p = p_k − p_k [k in the set] / Σ p
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([0.1, 0.2 - 0.2 / 0.6, 0.3, 0.4 - 0.4 / 0.6])
    focal = focal_loss(logits, torch.full((1, 1), K + 1), torch.ones(1, 1), 2.0, SETS)
    assert focal.item() == pytest.approx(-(0.4**2) * math.log(0.6))


@given(SEEDS)
@settings(max_examples=50)
def test_equals_the_logarithm_of_summed_probabilities(seed: int) -> None:
    logits, classes, weight = (part.double() if part.is_floating_point() else part for part in mixed_case(seed))
    p = torch.softmax(logits, 1)
    one_hot = torch.cat([torch.eye(K), torch.tensor([[k in members for k in range(K)] for members in SETS]).float()])
    marginal = (p * one_hot[classes].movedim(-1, 1)).sum(1)
    w = torch.cat([WEIGHTS, OF_SETS])[classes] * weight.float()
    found = partial_loss()(logits, classes, weight)
    assert torch.allclose(found, (-marginal.log() * w).sum() / w.sum(), rtol=1e-6)
    assert torch.equal(partial_loss().weights(classes, weight), w.float())
    focal = focal_loss(logits, classes, w, 1.5, SETS)
    assert torch.allclose(focal, ((1 - marginal) ** 1.5 * -marginal.log() * w).sum(), rtol=1e-6)


@pytest.mark.parametrize("terms", TERMS)
@given(seed=SEEDS)
@settings(max_examples=20)
def test_hard_labels_are_bit_identical_with_and_without_sets(terms: dict[str, float], seed: int) -> None:
    logits, classes, weight = random_case(seed, (3, 4, 2))
    one = gradient_of(SparseLoss(WEIGHTS, **terms), logits, classes, weight)
    two = gradient_of(partial_loss(**terms), logits, classes, weight)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


@pytest.mark.parametrize("terms", TERMS)
@given(seed=SEEDS)
@settings(max_examples=20)
def test_codes_and_logits_under_unlabeled_voxels_change_nothing(terms: dict[str, float], seed: int) -> None:
    logits, classes, weight = mixed_case(seed)
    generator = torch.Generator().manual_seed(seed + 2)
    garbage = torch.randint(-9, 300, classes.shape, generator=generator)
    loss = partial_loss(**terms)
    one = gradient_of(loss, logits, classes, weight)
    two = gradient_of(loss, logits, torch.where(weight > 0, classes, garbage), weight)
    three = gradient_of(loss, torch.where(weight.unsqueeze(1) > 0, logits, -logits.flip(1)), classes, weight)
    for other in (two, three):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert (one[1].movedim(1, -1)[weight == 0] == 0).all()


@pytest.mark.parametrize("terms", [{"dice": 1.0}, {"iou": 1.0}, {"lovasz": 1.0}, {"ms_ssim": 1.0}])
def test_terms_over_regions_leave_set_voxels_out(terms: dict[str, float]) -> None:
    logits, classes, weight = mixed_case(3)
    hard = weight * (classes < K)
    only = partial_loss(cross_entropy=0.0, **terms)
    total = only.weights(classes, weight).sum()
    value, gradient = gradient_of(only, logits, classes, weight)
    same, of_same = gradient_of(SparseLoss(WEIGHTS, cross_entropy=0.0, **terms), logits, classes % K, hard, total)
    assert torch.equal(value, same)
    assert torch.equal(gradient, of_same)
    assert (gradient.movedim(1, -1)[classes >= K] == 0).all()


def test_a_voxels_confidence_multiplies_set_voxels_too() -> None:
    logits, classes, weight = mixed_case(4)
    of_sets = classes >= K
    plain = weighted_cross_entropy(logits, classes, weight, SETS)
    twice = weighted_cross_entropy(logits, classes, torch.where(of_sets, 2 * weight, weight), SETS)
    sets_alone = weighted_cross_entropy(logits, classes, torch.where(of_sets, weight, 0), SETS)
    assert torch.allclose(twice, plain + sets_alone)
    assert torch.equal(partial_loss().weights(classes, 2 * weight), 2 * partial_loss().weights(classes, weight))


def test_batches_of_set_voxels_alone_and_of_nothing_are_finite() -> None:
    logits, classes, weight = mixed_case(5)
    loss = partial_loss(dice=1.0, focal=1.0, iou=1.0, lovasz=1.0, ms_ssim=1.0)
    alone, gradient = gradient_of(loss, 1e4 * logits, torch.full_like(classes, K), weight)
    assert torch.isfinite(alone)
    assert torch.isfinite(gradient).all()
    nothing, gradient = gradient_of(loss, logits, classes, torch.zeros_like(weight))
    assert nothing == 0
    assert (gradient == 0).all()


def test_gradients_are_the_derivatives() -> None:
    logits, classes, weight = mixed_case(6)
    loss = partial_loss(dice=0.7, focal=0.5)
    logits, classes, weight = logits[:2, :, :1, :3], classes[:2, :1, :3], weight[:2, :1, :3]
    assert torch.autograd.gradcheck(lambda x: loss(x, classes, weight), (logits.double().requires_grad_(),))


def test_micro_batches_with_the_joint_total_are_the_batch() -> None:
    logits, classes, weight = mixed_case(7)
    loss = partial_loss(dice=1.0)
    total = loss.weights(classes, weight).sum()
    parts = [loss(logits[i : i + 1], classes[i : i + 1], weight[i : i + 1], total) for i in range(len(logits))]
    assert torch.allclose(sum(parts), loss(logits, classes, weight))


def test_the_weight_of_a_set_is_the_mean_weight_of_its_labeled_voxels() -> None:
    counts = [900, 100, 0, 0]
    weights = class_weights(counts, "inverse")
    found = set_weights(weights, counts, [(0, 1), (1, 2), (2, 3)])
    assert found[0] == pytest.approx((900 * weights[0] + 100 * weights[1]) / 1000)
    assert found[1] == weights[1]
    assert found[2] == 1
    assert set_weights(class_weights(counts, "none"), counts, SETS).tolist() == [1, 1]


@pytest.mark.parametrize("sets", [((0,),), ((0, 0),), ((0, 4),), ((0, -1),)])
def test_impossible_sets_are_refused(sets: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ConfigError, match="expected sets of two or more of 4 classes"):
        SparseLoss(WEIGHTS, sets=sets)
    with pytest.raises(ConfigError, match="one weight for each of 2 sets"):
        SparseLoss(WEIGHTS, sets=SETS, set_weights=[1.0])
    with pytest.raises(ConfigError, match="one finite weight ≥ 0 per set"):
        SparseLoss(WEIGHTS, sets=SETS, set_weights=[1.0, -1.0])


def test_a_network_learns_from_sets_what_they_say() -> None:
    """Not class 3: the loss alone drives its probability to zero and says nothing about the others."""
    logits = torch.tensor([[0.0, 1.0, 0.0, 2.0]]).reshape(1, K, 1).requires_grad_()
    loss = SparseLoss(torch.ones(K), sets=((0, 1, 2),))
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        loss(logits, torch.full((1, 1), K), torch.ones(1, 1)).backward()
        optimizer.step()
    p = functional.softmax(logits, 1).flatten()
    assert p[3] < 0.02
    assert p[1] / p[0] >= math.e - 1e-3  # the order among the others is kept


# what label files say


def codes_of(seed: int = 0, shape: tuple[int, int, int] = (12, 10, 8)) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 1, 2, 3, 250, 255], size=shape).astype(np.uint8)


def drawn(codes: np.ndarray, name: str = "scan_a.nii.gz") -> Volume:
    return Volume(codes[None], AFFINE, name)


NOT_3 = LabelsConfig(unlabeled=(255,), one_of={250: (0, 1, 2)})


def test_one_of_becomes_a_set_and_neither_a_class_nor_a_label() -> None:
    codes = codes_of()
    meaning = decide([drawn(codes)], NOT_3)
    labels = meaning.sparse(drawn(codes))
    assert meaning.sets == ((0, 1, 2),)
    assert meaning.table.codes.tolist() == [0, 1, 2, 3]
    assert "code 250: 0, 1 or 2" in meaning.said
    assert labels.partial is not None
    assert labels.partial.dtype == np.uint8
    assert np.array_equal(labels.partial, np.where(codes == 250, 4, 0))
    assert np.array_equal(labels.labeled, codes < 4)
    assert np.array_equal(labels.classes[labels.labeled], codes[labels.labeled])
    assert np.array_equal(labels.known, codes != 255)
    assert np.array_equal(labels.indices[labels.known], np.where(codes == 250, 4, codes)[labels.known])
    assert labels.counts(4).tolist() == [int((codes == k).sum()) for k in range(4)]


def test_outside_the_annotated_slices_sets_mean_nothing_either() -> None:
    codes = codes_of()
    config = NOT_3.model_copy(update={"annotated_slices": {"z": (2, 5)}})
    labels = decide([drawn(codes)], config).sparse(drawn(codes))
    inside = np.zeros(codes.shape, bool)
    inside[..., [2, 5]] = True
    assert labels.partial is not None
    assert np.array_equal(labels.partial > 0, inside & (codes == 250))
    assert not (labels.labeled & ~inside).any()


def test_files_without_sets_are_as_ever() -> None:
    codes = np.where(codes_of() == 250, 255, codes_of()).astype(np.uint8)
    with_sets = decide([drawn(codes), drawn(codes_of(), "b.nii.gz")], NOT_3).sparse(drawn(codes))
    plain = decide([drawn(codes)], LabelsConfig(unlabeled=(255,))).sparse(drawn(codes))
    assert with_sets.partial is None
    assert np.array_equal(with_sets.classes, plain.classes)
    assert with_sets.known is with_sets.labeled


def test_not_painted_turns_the_background_of_that_file_alone_into_a_set() -> None:
    a, b = codes_of(0) % 4, codes_of(1) % 3
    config = LabelsConfig(dense=True, not_painted={"scan_b": (3,)})
    volumes = [drawn(a), drawn(b, "/data/scan_b.nii.gz")]
    meaning = decide(volumes, config)
    one, two = (meaning.sparse(volume) for volume in volumes)
    assert meaning.sets == ((0, 3),)
    assert "scan_b.nii.gz: code 0 is 0 or 3" in meaning.said
    assert one.partial is None
    assert one.labeled.all()
    assert two.partial is not None
    assert np.array_equal(two.partial > 0, b == 0)
    assert np.array_equal(two.labeled, b > 0)


def test_the_background_is_the_smallest_code() -> None:
    """0 is unlabeled and 1 the background, as in files that keep 0 for unlabeled."""
    a, b = codes_of(0) % 4, codes_of(1) % 3
    config = LabelsConfig(unlabeled=(0,), not_painted={"b": (3,)})
    meaning = decide([drawn(a), drawn(b, "b.nii")], config)
    labels = meaning.sparse(drawn(b, "b.nii"))
    assert meaning.sets == ((0, 2),)
    assert labels.partial is not None
    assert np.array_equal(labels.partial > 0, b == 1)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LabelsConfig(one_of={250: (0, 7)}), "--one-of 250: code 7 is no class"),
        (LabelsConfig(one_of={250: (0, 1, 2, 3)}), "are all classes there are"),
        (LabelsConfig(one_of={250: (0, 1)}, not_painted={"scan_a": (0,)}), "code 0 is the background"),
        (LabelsConfig(one_of={250: (0, 1)}, not_painted={"scan_a": (3,)}), "voxels of code 3, which --not-painted"),
        (LabelsConfig(one_of={250: (0, 1)}, not_painted={"scan_a": (9,)}), "code 9 is no class"),
    ],
)
def test_what_makes_no_sense_is_refused(config: LabelsConfig, said: str) -> None:
    volume = drawn(codes_of())
    config = config.model_copy(update={"unlabeled": (255,)})
    with pytest.raises(LabelError, match=said):
        decide([volume], config).sparse(volume)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"one_of": {250: [1]}}, "two or more"),
        ({"one_of": {250: [1, 1]}}, "two or more"),
        ({"one_of": {250: [0, 1]}, "unlabeled": [250]}, "choose one"),
        ({"one_of": {250: [0, 251], 251: [0, 1]}}, "251 is no class"),
        ({"one_of": {250: [0, 255]}, "unlabeled": [255]}, "255 is no class"),
        ({"one_of": {-1: [0, 1]}}, "greater than or equal to 0"),
        ({"not_painted": {"": [1]}}, "at least 1 character"),
    ],
)
def test_the_configuration_refuses_contradictions(labels: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({"labels": labels})


def test_the_configuration_comes_back_from_json() -> None:
    config = Config(labels=LabelsConfig(one_of={250: (0, 1)}, not_painted={"b*": (3,), "c": ()}))
    assert parse_config(json.loads(json.dumps(config.to_json()))) == config


def test_options_are_parsed() -> None:
    assert parse_one_of(["250=0,1,2", "251=1, 3"]) == {250: (0, 1, 2), 251: (1, 3)}
    assert parse_not_painted(["scan_b=3", "a=b.nii=1,2", "c=", "scan_b=4"]) == {
        "scan_b": (3, 4),
        "a=b.nii": (1, 2),
        "c": (),
    }
    for bad in ("250", "250=", "x=1,2", "250=1,,2", "=1,2"):
        with pytest.raises(LabelError, match=r"--one-of expects CODE=CODES"):
            parse_one_of([bad])
    with pytest.raises(LabelError, match="each code once"):
        parse_one_of(["250=0,1", "250=0,2"])
    for bad in ("scan_b", "=3", "scan_b=x", "scan_b=3,"):
        with pytest.raises(LabelError, match=r"--not-painted expects FILE=CODES"):
            parse_not_painted([bad])


def test_which_file_is_meant() -> None:
    name = "/data/one/scan_b.nii.gz"
    assert all(is_file(name, p) for p in ("scan_b", "scan_b.nii.gz", "scan_*", "one/scan_b", name, "one/*"))
    assert not any(is_file(name, p) for p in ("scan", "b", "two/scan_b", "scan_a"))
    assert is_file("x/f.h5:two", "f.h5:two")
    assert is_file("x/f.h5:two", "f")
    assert not is_file("x/f.h5:two", "f.h5:one")
    twins = ["one/label.nii", "two/label.nii", "odd.nii"]
    assert [short_name(n, twins) for n in twins] == ["one/label", "two/label", "odd"]


# training data


def case_of(labels: SparseLabels) -> Case:
    scan = {"order": (0, 1, 2), "flips": (False,) * 3, "shape": list(labels.shape)}
    return Case("scan", torch.zeros(1, *labels.shape), labels, (1.0, 1.0, 1.0), scan)


def partly(seed: int = 0, shape: tuple[int, int, int] = (12, 10, 8)) -> SparseLabels:
    return decide([drawn(codes_of(seed, shape))], NOT_3).sparse(drawn(codes_of(seed, shape)))


def test_a_training_case_carries_sets_and_their_confidence() -> None:
    codes = codes_of()
    weight = np.random.default_rng(0).random(codes.shape).astype(np.float32)
    labels = decide([drawn(codes)], NOT_3).sparse(drawn(codes), weight)
    training = TrainingCase(case_of(labels), labels)
    assert training.classes.dtype == torch.uint8
    assert np.array_equal(training.weight.numpy(), np.where(codes == 255, 0, weight).astype(np.float32))
    assert np.array_equal(training.classes.numpy()[codes == 250], np.full((codes == 250).sum(), 4))
    assert training.labeled_in_plane[0].tolist() == (codes != 255).sum((1, 2)).tolist()


def test_a_2d_patch_can_be_cut_around_a_set_voxel_without_any_label_near() -> None:
    codes = np.full((9, 9, 9), 255, np.uint8)
    codes[0, 0, :4] = [0, 1, 2, 3]
    codes[8, 8, 8] = 250
    labels = decide([drawn(codes)], NOT_3).sparse(drawn(codes))
    still = AugmentConfig(spatial_probability=0.0, flip_probability=0.0, gamma_probability=0.0)
    patch = PatchCutter((3, 3), (0, 0), still, (0, 1, 2))(
        TrainingCase(case_of(labels), labels), (8, 8, 8), np.random.default_rng(0)
    )
    assert patch["classes"][patch["weight"] > 0].unique().tolist() == [4]


def test_a_tenth_of_the_patches_is_drawn_around_set_voxels() -> None:
    labels = partly()
    assert labels.partial is not None
    centres, rng = LabeledVoxels([labels]), np.random.default_rng(0)
    voxels = [centres.draw(rng)[1] for _ in range(3000)]
    of_sets = [labels.partial[voxel] > 0 for voxel in voxels]
    assert 0.07 < np.mean(of_sets) < 0.13
    assert all(labels.known[voxel] for voxel in voxels)
    assert centres.classes == (0, 1, 2, 3)


def test_rare_sets_are_drawn_as_often_as_frequent_ones_and_never_without_weight() -> None:
    labels = partly()
    assert labels.partial is not None
    partial = labels.partial.copy()
    rare = tuple(np.argwhere(partial == 4)[0])
    partial[rare] = 5
    weight = np.ones(labels.shape, np.float32)
    weight[tuple(np.argwhere(partial == 4)[0])] = 0
    case = SparseLabels(labels.classes, labels.labeled, AFFINE, weight=weight, partial=partial)
    centres, rng = LabeledVoxels([case]), np.random.default_rng(1)
    found = [partial[voxel] for voxel in (centres.draw(rng)[1] for _ in range(4000)) if partial[voxel]]
    assert 0.4 < found.count(5) / len(found) < 0.6
    assert all(weight[centres.draw(rng)[1]] > 0 for _ in range(500))


def test_draws_among_hard_labels_spend_no_random_number_on_sets() -> None:
    labels = partly()
    hard = SparseLabels(labels.classes, labels.labeled, AFFINE)
    none = SparseLabels(labels.classes, labels.labeled, AFFINE, partial=np.zeros(labels.shape, np.uint8))
    draws = [[LabeledVoxels([c]).draw(np.random.default_rng(i)) for i in range(20)] for c in (hard, none)]
    assert draws[0] == draws[1]
    with pytest.raises(LabelError, match="expected labeled voxels"):
        LabeledVoxels([SparseLabels(labels.classes, np.zeros_like(labels.labeled), AFFINE, partial=labels.partial)])


def test_nothing_is_learned_from_sets_on_held_out_slices() -> None:
    codes = codes_of(3, (20, 22, 24))
    config = NOT_3.model_copy(update={"unlabeled": (), "annotated_slices": {"z": tuple(range(0, 24, 3))}})
    codes[codes == 255] = 0
    labels = decide([drawn(codes)], config).sparse(drawn(codes))
    split = hold_out(labels, 4)
    assert split.validation is not None
    assert split.training.partial is not None
    assert "of 8 slices" in split.said
    away = [z for z in range(24) if split.validation.labeled[..., z].any()]
    assert len(away) == 2
    assert (split.training.partial[..., away] == 0).all()
    assert (split.training.partial > 0).any()
    assert not (split.validation.labeled & (codes == 250)).any()


def test_border_weights_leave_set_voxels_as_they_are() -> None:
    codes = np.zeros((14, 9, 9), np.uint8)
    codes[2:5, 3:6, 3:6], codes[7:10, 3:6, 3:6], codes[12, 8] = 1, 3, 2
    codes[6, 4], codes[0], codes[1, :, 0] = 250, 255, 250
    weight = np.full(codes.shape, 0.5, np.float32)
    meaning = decide([drawn(codes)], NOT_3)
    labels = meaning.sparse(drawn(codes), weight)
    raised = with_border_weights(case_of(labels), meaning, LossConfig(border=10.0)).border
    assert raised is not None
    assert (raised[codes == 250] == 1).all()
    assert (raised[codes == 255] == 0).all()
    assert (raised[5, 3:6, 3:6] > 1).all()  # the gap between two objects


def files_of(*volumes: np.ndarray) -> tuple[TrainingFiles, list[Volume]]:
    labels = [drawn(codes, f"{letter}.nii.gz") for codes, letter in zip(volumes, "abc", strict=False)]
    images = [Volume(np.zeros((1, *c.shape), np.float32) + np.arange(8), AFFINE, "scan") for c in volumes]
    return TrainingFiles(tuple(images), tuple(labels)), labels


def test_sets_move_to_the_prepared_grid_and_give_way_to_certain_classes() -> None:
    codes = np.full((12, 10, 8), 255, np.uint8)
    codes[:, 4], codes[:, 5] = 250, np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3])[:, None]
    codes[:, 8] = 250
    files, _ = files_of(codes)
    weights = (Volume(np.where(codes == 250, 0.25, 1.0).astype(np.float32)[None], AFFINE, "w"),)
    files = TrainingFiles(files.images, files.labels, weights)
    for spacing in (None, (2.0, 2.0, 2.0)):
        (case,), _ = load(files, Config(labels=NOT_3), Preprocessing(spacing_mm=spacing), Quiet())
        labels = case.labels
        assert labels.partial is not None
        assert labels.weight is not None
        assert labels.partial.dtype == np.uint8
        assert not (labels.labeled & (labels.partial > 0)).any()
        assert set(np.unique(labels.partial).tolist()) == {0, 4}
        assert (labels.weight[labels.partial > 0] == 0.25).all()
        assert (labels.weight[labels.labeled] == 1).all()
    assert labels.labeled.any(axis=(0, 2)).tolist() == [False, False, True, False, False]  # y = 4 and 5 meet in one
    assert (labels.partial > 0).any(axis=(0, 2)).tolist() == [False, False, False, False, True]


def test_training_warns_of_classes_that_some_files_lack_and_names_the_option() -> None:
    a, b, c = codes_of(0) % 4, codes_of(1) % 3, codes_of(2) % 2
    files, _ = files_of(a, b, c)
    said = r"2 class 2 not in c, 3 class 3 not in b, c.* --not-painted b=3 c=2,3; .*: --not-painted b= c="
    with pytest.warns(UserWarning, match=said):
        load(files, Config(labels=LabelsConfig(dense=True)), Preprocessing(), Quiet())
    for nobody in ({"b": (3,), "c": (2, 3)}, {"b": (), "c": ()}, {"[bc]": (3,), "c.nii.gz": (2,)}):
        load(files, Config(labels=LabelsConfig(dense=True, not_painted=nobody)), Preprocessing(), Quiet())
    with pytest.raises(LabelError, match=r"--not-painted d: no label file of that name; expected one of a, b, c"):
        load(files, Config(labels=LabelsConfig(dense=True, not_painted={"d": (3,)})), Preprocessing(), Quiet())


def test_where_no_background_was_annotated_nothing_can_hide_in_it() -> None:
    a = codes_of(0) % 4
    b = np.where(codes_of(1) % 3 == 0, 255, codes_of(1) % 3).astype(np.uint8)
    files, _ = files_of(a, b)
    cases, _ = load(files, Config(labels=LabelsConfig(unlabeled=(255,))), Preprocessing(), Quiet())  # warns of nothing
    assert [case.labels.partial for case in cases] == [None, None]


def test_a_file_of_sets_alone_is_left_out_aloud() -> None:
    only = np.where(codes_of(1) % 2, 250, 255).astype(np.uint8)
    files, _ = files_of(codes_of(0), only)
    with pytest.warns(UserWarning, match=r"b.nii.gz has no labeled voxel whose class is certain"):
        cases, _ = load(files, Config(labels=NOT_3), Preprocessing(), Quiet())
    assert len(cases) == 1


@pytest.mark.parametrize("task", ["instances", "panoptic", "regression"])
def test_other_tasks_refuse_sets(task: str) -> None:
    files, volumes = files_of(codes_of())
    for labels, option in ((NOT_3, "--one-of"), (LabelsConfig(not_painted={"a": (3,)}), "--not-painted")):
        with pytest.raises(LabelError, match=f"{option} is for a class per voxel"):
            load(files, Config(task=task, labels=labels), Preprocessing(), Quiet())
        with pytest.raises(LabelError, match=f"{option} is for a class per voxel"):
            Scoring(task=task, labels=labels)
        found = check(files.images[0], volumes[0], config=labels, task=task)
        assert any(option in problem for problem in found.problems)


# the verbs


def hidden_third(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(image, classes) with balls of two kinds."""
    image, classes = balls(seed=seed)
    classes = np.where((classes > 0) & (np.indices(classes.shape)[0] > 15), 2, classes).astype(np.uint8)
    return image, classes


def test_train_learns_from_files_that_lack_a_class(tmp_path) -> None:
    paths: dict[str, list[str]] = {"image": [], "label": []}
    for seed, name in enumerate("ab"):
        image, classes = hidden_third(seed)
        sparse = painted(classes)
        if name == "b":
            sparse[sparse == 2] = 0  # nobody painted it
            sparse[:3, :3, 5:9] = 250
        scan = Volume(image[None], AFFINE, name)
        for kind, write in (("image", image), ("label", sparse)):
            paths[kind].append(str(tmp_path / f"{name}_{kind}.nii.gz"))
            if kind == "image":
                io.write_image(paths[kind][-1], write[None], scan)
            else:
                io.write_labels(paths[kind][-1], write, scan, names=None)
    labels = {"unlabeled": [255], "one_of": {250: [0, 1]}, "not_painted": {"b_label": [2]}}
    config = TINY | {"labels": labels, "loss": {"dice": 0.5, "focal": 0.5, "border": 5.0}}
    config["training"] = TINY["training"] | {"iterations": 4, "validations": 1}
    run = vol3d.train(paths["image"], paths["label"], config=config, output=tmp_path / "run", seed=1)
    assert run.bundle.labels.codes.tolist() == [0, 1, 2]
    assert run.score is not None
    assert (run.run / "preview.png").is_file()
    again = vol3d.train(paths["image"], paths["label"], config=config, output=tmp_path / "again", seed=1)
    assert again.bundle.weights_sha256 == run.bundle.weights_sha256
    del labels["not_painted"]
    with pytest.warns(UserWarning, match=r"--not-painted b_label=2"):
        other = vol3d.train(paths["image"], paths["label"], config=config, output=tmp_path / "other", seed=1)
    assert other.bundle.weights_sha256 != run.bundle.weights_sha256


def test_check_tells_sets_from_classes_and_from_unlabeled() -> None:
    codes = codes_of()
    codes[codes == 3] = 254
    image = np.zeros(codes.shape, np.float32)
    config = LabelsConfig(unlabeled=(254, 255), one_of={250: (0, 1)})
    found = check(image, drawn(codes), config=config)
    names = {c.code: c.name for c in found.codes}
    assert not found.problems
    assert names == {0: "background", 1: "class 1", 2: "class 2", 250: "one of 0 or 1", 254: "unlabeled"} | {
        255: "unlabeled"
    }
    assert found.labeled_share == pytest.approx((codes < 3).mean())
    hiding = check(image, drawn(codes % 3), config=LabelsConfig(dense=True, not_painted={"scan_a": (5,)}))
    assert hiding.zero == "0 is 0 or 5, as stated"
    assert hiding.labeled_share == pytest.approx((codes % 3 > 0).mean())
    assert "code 5 is no class" in hiding.problems[0]


def test_several_unlabeled_codes_and_sets_are_no_ground_truth() -> None:
    truth, prediction = codes_of(0), codes_of(1) % 4
    truth[:2, :2, :2] = 254
    labels = LabelsConfig(unlabeled=(254, 255), one_of={250: (0, 1, 2)})
    found = evaluate(prediction, truth, labels=labels)
    sure = truth < 4
    plain = evaluate(prediction, np.where(sure, truth, 9).astype(np.uint8), labels=LabelsConfig(unlabeled=(9,)))
    assert found == plain
    assert found.voxels == sure.sum()
    hidden = evaluate(
        prediction,
        drawn(truth),
        labels=LabelsConfig(unlabeled=(250, 254, 255), not_painted={"scan_a": (5,)}),
    )
    assert hidden.voxels == (sure & (truth > 0)).sum()
    everything = LabelsConfig(one_of={250: (0, 1)})
    with pytest.raises(LabelError, match="no voxel is left"):
        evaluate(prediction, np.full_like(truth, 250), labels=everything)


@given(SEEDS)
@settings(max_examples=25)
def test_what_is_not_certain_changes_no_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = codes_of(seed)
    prediction = rng.integers(0, 4, truth.shape).astype(np.uint8)
    labels = LabelsConfig(unlabeled=(255,), one_of={250: (0, 1), 251: (1, 2)})
    other = np.where(truth == 250, rng.choice([250, 251, 255], truth.shape), truth).astype(np.uint8)
    assert evaluate(prediction, truth, labels=labels) == evaluate(prediction, other, labels=labels)
