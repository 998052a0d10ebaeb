from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_parts import Case, K, gradient_of, random_case
from torch.nn import functional

from vol3d.errors import ConfigError, GeometryError, LabelError
from vol3d.losses import SparseLoss, class_weights, soft_dice

law = settings(deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
DICE = st.sampled_from([0.0, 1.0])
SPATIAL = st.sampled_from([(5, 4), (3, 4, 2)])
COUNTS = st.lists(st.integers(0, 10**9), min_size=1, max_size=9).filter(any)
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25])


def _case(seed: int, spatial: tuple[int, ...] = (3, 4, 2), samples: int = 3, labeled: float = 0.4) -> Case:
    return random_case(seed, spatial, samples, labeled)


@law
@given(SEEDS, SPATIAL)
def test_equals_a_weighted_mean_of_torchs_cross_entropy(seed: int, spatial: tuple[int, ...]) -> None:
    logits, classes, weight = _case(seed, spatial)
    plain = functional.cross_entropy(logits, classes, reduction="none")
    w = WEIGHTS[classes] * weight
    assert torch.allclose(SparseLoss(WEIGHTS)(logits, classes, weight), (plain * w).sum() / w.sum().clamp(min=1e-30))
    assert torch.equal(SparseLoss(WEIGHTS).weights(classes, weight), w)


@law
@given(SEEDS, DICE, SPATIAL)
def test_gradient_at_unlabeled_voxels_is_exactly_zero(seed: int, dice: float, spatial: tuple[int, ...]) -> None:
    logits, classes, weight = _case(seed, spatial)
    _, gradient = gradient_of(SparseLoss(WEIGHTS, dice), logits, classes, weight)
    at_unlabeled = gradient.movedim(1, -1)[weight == 0]
    assert (at_unlabeled == 0).all()
    at_labeled = gradient.movedim(1, -1)[weight > 0]
    assert (at_labeled.abs().sum(-1) > 0).all()


@law
@given(SEEDS, DICE, SPATIAL)
def test_codes_under_unlabeled_voxels_change_nothing(seed: int, dice: float, spatial: tuple[int, ...]) -> None:
    logits, classes, weight = _case(seed, spatial)
    garbage = torch.randint(-9, 300, classes.shape, generator=torch.Generator().manual_seed(seed + 1))
    loss = SparseLoss(WEIGHTS, dice)
    other = torch.where(weight > 0, classes, garbage)
    value, gradient = gradient_of(loss, logits, classes, weight)
    other_value, other_gradient = gradient_of(loss, logits, other, weight)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)
    assert torch.equal(loss.weights(classes, weight), loss.weights(other, weight))


@law
@given(SEEDS, DICE)
def test_logits_at_unlabeled_voxels_change_nothing(seed: int, dice: float) -> None:
    logits, classes, weight = _case(seed)
    loss = SparseLoss(WEIGHTS, dice)
    value, gradient = gradient_of(loss, logits, classes, weight)
    other_value, other_gradient = gradient_of(
        loss, torch.where(weight.unsqueeze(1) > 0, logits, -logits.flip(1)), classes, weight
    )
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)


@law
@given(SEEDS, DICE, st.integers(1, 4))
def test_micro_batches_with_the_joint_total_are_the_batch(seed: int, dice: float, cut: int) -> None:
    logits, classes, weight = (part.double() if part.is_floating_point() else part for part in _case(seed, samples=5))
    loss = SparseLoss(WEIGHTS, dice)
    whole, gradient = gradient_of(loss, logits, classes, weight)
    total = loss.weights(classes, weight).sum()
    parts = [
        gradient_of(loss, logits[block], classes[block], weight[block], total)
        for block in (slice(None, cut), slice(cut, None))
    ]
    assert torch.allclose(parts[0][0] + parts[1][0], whole, rtol=1e-5)
    assert torch.allclose(torch.cat([parts[0][1], parts[1][1]]), gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dice", [0.0, 1.0])
@pytest.mark.parametrize("total", [None, torch.tensor(0.0), torch.tensor(5.0)])
def test_r14_a_batch_without_labeled_voxels_gives_a_finite_zero(dice: float, total: torch.Tensor | None) -> None:
    logits, classes, weight = _case(1)
    value, gradient = gradient_of(SparseLoss(WEIGHTS, dice), logits, classes, torch.zeros_like(weight), total)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("dice", [0.0, 1.0])
def test_r14_a_sample_without_labeled_voxels_changes_nothing(dice: float) -> None:
    logits, classes, weight = _case(2)
    weight[1] = 0
    loss = SparseLoss(WEIGHTS, dice)
    value, gradient = gradient_of(loss, logits, classes, weight)
    kept = [0, 2]
    expected, expected_gradient = gradient_of(loss, logits[kept], classes[kept], weight[kept])
    assert torch.allclose(value, expected)
    assert torch.allclose(gradient[kept], expected_gradient)
    assert (gradient[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dice", [0.0, 1.0])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype, dice: float) -> None:
    logits, classes, weight = _case(4)
    loss = SparseLoss(WEIGHTS, dice)
    value, gradient = gradient_of(loss, logits.to(dtype), classes, weight)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, loss(logits.to(dtype).float(), classes, weight))


def test_small_class_indices_and_half_precision_weights_are_taken() -> None:
    logits, classes, weight = _case(5)
    loss = SparseLoss(WEIGHTS, 1.0)
    rounded = weight.bfloat16()
    assert torch.equal(loss(logits, classes.byte(), rounded), loss(logits, classes, rounded.float()))


def test_extreme_logits_stay_finite() -> None:
    logits, classes, weight = _case(6)
    for dice in (0.0, 1.0):
        value, gradient = gradient_of(SparseLoss(WEIGHTS, dice), 1e4 * logits, classes, weight)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


def _brute_force_dice(logits: np.ndarray, classes: np.ndarray, weight: np.ndarray) -> float:
    """One sample, logits (K, n)."""
    raised = np.exp(logits - logits.max(0))
    probabilities = raised / raised.sum(0)
    labeled = weight > 0
    if not labeled.any():
        return 0.0
    p, c, w = probabilities[:, labeled], classes[labeled], weight[labeled]
    scores = []
    for k in range(len(p)):
        if (c == k).any() or (p.argmax(0) == k).any():
            both = (w * p[k])[c == k].sum()
            scores.append((2 * both + w.mean()) / ((w * p[k]).sum() + w[c == k].sum() + w.mean()))
    return 1 - float(np.mean(scores))


@law
@given(SEEDS)
def test_dice_equals_brute_force(seed: int) -> None:
    logits, classes, weight = _case(seed, (6,), labeled=0.5)
    samples = zip(logits.double().numpy(), classes.numpy(), weight.double().numpy(), strict=True)
    expected = [_brute_force_dice(*sample) for sample in samples]
    assert np.allclose(soft_dice(logits, classes, weight).numpy(), expected, atol=1e-6)
    assert np.allclose(soft_dice(logits, classes, 100 * weight).numpy(), expected, atol=1e-6)


@law
@given(SEEDS)
def test_each_samples_dice_counts_with_its_share_of_the_weight(seed: int) -> None:
    logits, classes, weight = _case(seed)
    plain, both = (SparseLoss(WEIGHTS, dice)(logits, classes, weight) for dice in (0.0, 0.5))
    share = (WEIGHTS[classes] * weight).flatten(1).sum(1)
    expected = plain + 0.5 * (soft_dice(logits, classes, weight) * share).sum() / share.sum().clamp(min=1e-30)
    assert torch.allclose(both, expected)


def test_dice_is_zero_for_a_perfect_answer_and_near_one_for_a_wrong_one() -> None:
    _, classes, weight = _case(7, (20, 20))
    right = 100.0 * functional.one_hot(classes, K).movedim(-1, 1)
    assert (soft_dice(right, classes, weight) < 1e-6).all()
    assert (soft_dice(right.roll(1, dims=1), classes, weight) > 0.95).all()


def test_dice_pushes_down_a_class_that_is_predicted_but_absent() -> None:
    logits = torch.zeros(1, 2, 8)
    logits[:, 1] = 1.0
    leaf = logits.requires_grad_()
    soft_dice(leaf, torch.zeros(1, 8, dtype=torch.long), torch.ones(1, 8)).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad[:, 1] > 0).all()


def test_gradients_are_the_derivatives() -> None:
    logits, classes, weight = _case(8, (3,), samples=2)
    loss = SparseLoss(WEIGHTS, 0.7)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, classes, weight), (logits.double().requires_grad_(),), eps=1e-6, atol=1e-6
    )


def test_wrong_shapes_and_weights_are_refused() -> None:
    logits, classes, weight = _case(9)
    with pytest.raises(GeometryError, match=r"expected logits \(N, 4"):
        SparseLoss(WEIGHTS)(logits, classes[:, 1:], weight)
    with pytest.raises(GeometryError, match="found"):
        SparseLoss(WEIGHTS[:3])(logits, classes, weight)
    for bad in ([[1.0]], [-1.0, 2.0], [float("nan")]):
        with pytest.raises(ConfigError, match="one finite weight"):
            SparseLoss(torch.tensor(bad))
    with pytest.raises(ConfigError, match="Dice"):
        SparseLoss(WEIGHTS, -1)


def test_the_loss_holds_no_state_to_save() -> None:
    assert SparseLoss(np.array([1.0, 2.0])).state_dict() == {}


@law
@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=9).filter(any), st.sampled_from(["none", "sqrt", "inverse"])
)
def test_class_weights_have_mean_one_over_labeled_voxels(counts: list[int], kind: str) -> None:
    weights = class_weights(counts, kind)
    voxels = np.array(counts)
    assert weights.dtype == np.float64
    assert (weights * voxels).sum() / voxels.sum() == pytest.approx(1)
    present = voxels > 0
    if kind != "none":
        assert (weights[~present] == 0).all()
        power = {"sqrt": 0.5, "inverse": 1.0}[kind]
        assert np.ptp(weights[present] * voxels[present] ** power) <= 1e-9 * (weights * voxels**power).max()
    else:
        assert (weights == 1).all()


@pytest.mark.parametrize("counts", [[0, 0], [], [-1, 2], [[1, 2]], [float("nan"), 1]])
def test_class_weights_of_nothing_are_refused(counts: list[float]) -> None:
    with pytest.raises(LabelError, match="at least one"):
        class_weights(counts, "sqrt")
