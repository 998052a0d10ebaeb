"""Laws of every term of SparseLoss beside cross-entropy and Dice, and their definitions a second time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_parts import Case, K, gradient_of, random_case
from monai.losses import FocalLoss
from skimage.metrics import structural_similarity
from torch.nn import functional

from vol3d.errors import ConfigError
from vol3d.losses import SparseLoss, focal_loss, lovasz_softmax, ms_ssim, soft_dice, soft_iou, weighted_cross_entropy
from vol3d.losses.ms_ssim import CONTRAST, EXPONENTS, LUMINANCE, masked_similarity, scale_count

law = settings(deadline=None, max_examples=30)
SEEDS = st.integers(0, 2**31 - 1)
SPATIAL = st.sampled_from([(5, 4), (3, 4, 2), (14, 13), (13, 1, 14), (6,)])
REGION_TERMS = {"dice": soft_dice, "iou": soft_iou, "lovasz": lovasz_softmax, "ms_ssim": ms_ssim}
ALONE = (
    {"focal": 1.0},
    {"dice": 1.0},
    {"iou": 1.0},
    {"lovasz": 1.0},
    {"ms_ssim": 1.0},
    {"focal": 1.0, "focal_gamma": 0.5},
)
ALL = {"cross_entropy": 0.5, "focal": 1.0, "dice": 0.3, "iou": 1.0, "lovasz": 0.7, "ms_ssim": 1.0}
PARTS = [*({"cross_entropy": 0.0, **parts} for parts in ALONE), ALL]
TERMS = st.sampled_from(PARTS)
each_part = pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join(k for k, v in parts.items() if v))
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25])


def _case(seed: int, spatial: tuple[int, ...] = (14, 13), samples: int = 3, labeled: float = 0.4) -> Case:
    return random_case(seed, spatial, samples, labeled)


@law
@given(SEEDS, TERMS, SPATIAL)
def test_what_stands_at_unlabeled_voxels_changes_nothing(
    seed: int, parts: dict[str, float], spatial: tuple[int, ...]
) -> None:
    logits, classes, weight = _case(seed, spatial)
    loss = SparseLoss(WEIGHTS, **parts)
    value, gradient = gradient_of(loss, logits, classes, weight)
    garbage = torch.randint(-9, 300, classes.shape, generator=torch.Generator().manual_seed(seed + 1))
    other_classes = torch.where(weight > 0, classes, garbage)
    other_logits = torch.where(weight.unsqueeze(1) > 0, logits, -5 * logits.flip(1))
    other_value, other_gradient = gradient_of(loss, other_logits, other_classes, weight)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)
    assert torch.isfinite(gradient).all()
    assert (gradient.movedim(1, -1)[weight == 0] == 0).all()


@law
@given(SEEDS, TERMS, st.integers(1, 4))
def test_micro_batches_with_the_joint_total_are_the_batch(seed: int, parts: dict[str, float], cut: int) -> None:
    logits, classes, weight = _case(seed, samples=5)
    logits = logits.double()
    weight[seed % 5] *= seed % 2  # sometimes a sample without labels
    loss = SparseLoss(WEIGHTS, **parts)
    whole, gradient = gradient_of(loss, logits, classes, weight)
    total = loss.weights(classes, weight).sum()
    blocks = slice(None, cut), slice(cut, None)
    found = [gradient_of(loss, logits[block], classes[block], weight[block], total) for block in blocks]
    assert torch.allclose(found[0][0] + found[1][0], whole, rtol=1e-5)
    assert torch.allclose(torch.cat([found[0][1], found[1][1]]), gradient, rtol=1e-5, atol=1e-9)


@each_part
@pytest.mark.parametrize("spatial", [(5, 4), (14, 13, 15)])
@pytest.mark.parametrize("total", [None, torch.tensor(0.0), torch.tensor(5.0)])
def test_a_batch_without_labeled_voxels_gives_a_finite_zero(
    parts: dict[str, float], spatial: tuple[int, ...], total: torch.Tensor | None
) -> None:
    logits, classes, weight = _case(1, spatial)
    value, gradient = gradient_of(SparseLoss(WEIGHTS, **parts), logits, classes, torch.zeros_like(weight), total)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("term", REGION_TERMS.values(), ids=REGION_TERMS)
def test_a_sample_without_labeled_voxels_has_a_zero_and_leaves_the_others_alone(term) -> None:
    logits, classes, weight = _case(2)
    weight[1] = 0
    lost = term(logits, classes, weight)
    assert lost.shape == (3,)
    assert lost[1] == 0
    assert torch.equal(lost[[0, 2]], term(logits[[0, 2]], classes[[0, 2]], weight[[0, 2]]))


@each_part
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype, parts: dict[str, float]) -> None:
    logits, classes, weight = _case(4)
    loss = SparseLoss(WEIGHTS, **parts)
    value, gradient = gradient_of(loss, logits.to(dtype), classes, weight)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, loss(logits.to(dtype).float(), classes, weight))


@each_part
def test_extreme_logits_stay_finite(parts: dict[str, float]) -> None:
    logits, classes, weight = _case(6)
    right = 1e4 * functional.one_hot(classes, K).movedim(-1, 1)
    for extreme in (1e4 * logits, right, right.roll(1, dims=1), torch.zeros_like(logits)):
        value, gradient = gradient_of(SparseLoss(WEIGHTS, **parts), extreme, classes, weight)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@each_part
def test_gradients_are_the_derivatives(parts: dict[str, float]) -> None:
    logits, classes, weight = _case(8, (13, 2), samples=2, labeled=0.3)
    loss = SparseLoss(WEIGHTS, **parts)
    leaf = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, classes, weight), (leaf,), eps=1e-6, atol=1e-6)


@law
@given(SEEDS)
def test_each_samples_region_terms_count_with_its_share_of_the_weight(seed: int) -> None:
    logits, classes, weight = _case(seed)
    share = (WEIGHTS[classes] * weight).flatten(1).sum(1)
    regions = sum(ALL[name] * term(logits, classes, weight) for name, term in REGION_TERMS.items())
    w = WEIGHTS[classes] * weight
    voxels = 0.5 * weighted_cross_entropy(logits, classes, w) + focal_loss(logits, classes, w)
    expected = (voxels + (regions * share).sum()) / share.sum()
    assert torch.allclose(SparseLoss(WEIGHTS, **ALL)(logits, classes, weight), expected)


@pytest.mark.parametrize("term", REGION_TERMS.values(), ids=REGION_TERMS)
def test_the_right_answer_loses_nothing_and_a_wrong_one_much(term) -> None:
    _, classes, weight = _case(7, (20, 20), labeled=0.7)
    right = 100.0 * functional.one_hot(classes, K).movedim(-1, 1)
    assert (term(right, classes, weight) < 1e-5).all()
    assert (term(right.roll(1, dims=1), classes, weight) > 0.9).all()


@pytest.mark.parametrize("term", REGION_TERMS.values(), ids=REGION_TERMS)
def test_a_scale_of_all_weights_changes_nothing(term) -> None:
    logits, classes, weight = _case(9)
    for factor in (1e-6, 100.0):
        assert torch.allclose(term(logits, classes, factor * weight), term(logits, classes, weight), atol=1e-6)


def test_impossible_terms_are_refused() -> None:
    for wrong in ({"cross_entropy": 0.0}, {"iou": -1.0}, {"focal": float("nan")}, {"focal_gamma": -0.1}):
        with pytest.raises(ConfigError, match="at least one of them > 0"):
            SparseLoss(WEIGHTS, **wrong)


@law
@given(SEEDS, st.sampled_from([0.0, 1.0, 2.0, 3.5]))
def test_focal_loss_equals_monais(seed: int, gamma: float) -> None:
    logits, classes, weight = _case(seed, (5, 4))
    theirs = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=gamma, reduction="none")
    voxels = theirs(logits, classes.unsqueeze(1)).sum(1)
    assert torch.allclose(focal_loss(logits, classes, weight, gamma), (voxels * weight).sum(), rtol=1e-4)


@law
@given(SEEDS)
def test_focal_loss_with_exponent_zero_is_cross_entropy(seed: int) -> None:
    case = _case(seed, (5, 4))
    assert torch.allclose(focal_loss(*case, gamma=0.0), weighted_cross_entropy(*case))


def _labeled(logits: np.ndarray, classes: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """One sample's (K, n) probabilities, classes and weights at its labeled voxels."""
    raised = np.exp(logits - logits.max(0))
    return (raised / raised.sum(0))[:, weight > 0], classes[weight > 0], weight[weight > 0]


def _samples(case: Case) -> list[tuple[np.ndarray, ...]]:
    logits, classes, weight = case
    return list(zip(logits.double().numpy(), classes.numpy(), weight.double().numpy(), strict=True))


def _brute_force_iou(*sample: np.ndarray) -> float:
    p, c, w = _labeled(*sample)
    if not len(c):
        return 0.0
    scores = []
    for k in range(len(p)):
        if (c == k).any() or (p.argmax(0) == k).any():
            both = (w * p[k])[c == k].sum()
            union = (w * np.where(c == k, 1, p[k])).sum()
            scores.append((both + w.mean()) / (union + w.mean()))
    return 1 - float(np.mean(scores))


@law
@given(SEEDS)
def test_soft_iou_equals_brute_force(seed: int) -> None:
    case = _case(seed, (6,), labeled=0.5)
    expected = [_brute_force_iou(*sample) for sample in _samples(case)]
    assert np.allclose(soft_iou(*case).numpy(), expected, atol=1e-6)


def _jaccard_loss(truth: np.ndarray, wrong: np.ndarray) -> float:
    """1 − IoU of the class `truth` where exactly the voxels of `wrong` are predicted wrongly."""
    predicted = truth ^ wrong
    return 1 - (truth & predicted).sum() / (truth | predicted).sum()


def _brute_force_lovasz(*sample: np.ndarray) -> float:
    """The extension by its definition: 1 − IoU of the sets of the worst voxels, one voxel more at a time."""
    p, c, _ = _labeled(*sample)
    losses = []
    for k in np.unique(c):
        truth = c == k
        errors = np.abs(truth - p[k])
        wrong = np.zeros_like(truth)
        total = before = 0.0
        for i in np.argsort(-errors):
            wrong[i] = True
            after = _jaccard_loss(truth, wrong)
            total, before = total + errors[i] * (after - before), after
        losses.append(total)
    return float(np.mean(losses)) if losses else 0.0


@law
@given(SEEDS)
def test_lovasz_equals_its_definition_on_sets(seed: int) -> None:
    case = _case(seed, (9,), labeled=0.5)
    expected = [_brute_force_lovasz(*sample) for sample in _samples(case)]
    assert np.allclose(lovasz_softmax(*case).numpy(), expected, atol=1e-6)


@law
@given(SEEDS)
def test_lovasz_of_a_sure_answer_is_one_minus_iou_whatever_the_weights(seed: int) -> None:
    logits, classes, weight = _case(seed, (30,), samples=1, labeled=0.9)
    answer = logits.argmax(1)
    sure = 1000.0 * functional.one_hot(answer, K).movedim(-1, 1)
    a, c = answer[weight > 0], classes[weight > 0]
    ious = [((a == k) & (c == k)).sum() / ((a == k) | (c == k)).sum() for k in c.unique()]
    assert torch.allclose(lovasz_softmax(sure, classes, weight), 1 - torch.stack(ious).mean(), atol=1e-6)


def _brute_force_similarity(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """Mean over voxels with weight of the similarity in the window around each."""
    values = []
    centres = np.argwhere(w > 0)
    for centre in centres:
        window = tuple(slice(max(0, i - 3), i + 4) for i in centre)
        v = w[window] / w[window].sum()
        a, b = x[window], y[window]
        ma, mb = (v * a).sum(), (v * b).sum()
        variance = (v * (a - ma) ** 2).sum() + (v * (b - mb) ** 2).sum()
        covariance = (v * (a - ma) * (b - mb)).sum()
        luminance = (2 * ma * mb + LUMINANCE) / (ma**2 + mb**2 + LUMINANCE)
        values.append(luminance * (2 * covariance + CONTRAST) / (variance + CONTRAST))
    return float(np.average(values, weights=w[tuple(centres.T)]))


def _brute_force_halve(values: np.ndarray) -> np.ndarray:
    """Sums over blocks of two along each axis longer than one voxel, which double where nothing is lost."""
    for axis in range(values.ndim):
        if values.shape[axis] > 1:
            values = np.add.reduceat(values, np.arange(0, values.shape[axis], 2), axis=axis)
    return values


def _brute_force_ms_ssim(logits: np.ndarray, classes: np.ndarray, weight: np.ndarray, scales: int) -> float:
    raised = np.exp(logits - logits.max(0))
    probabilities = raised / raised.sum(0)
    labeled = weight > 0
    exponents = np.array(EXPONENTS[:scales]) / sum(EXPONENTS[:scales])
    if not labeled.any():
        return 0.0
    scores = []
    for k in range(K):
        if not ((classes == k) | (probabilities.argmax(0) == k))[labeled].any():
            continue
        x, y, w, score = probabilities[k], (classes == k).astype(float), weight, 1.0
        for exponent in exponents:
            mean = _brute_force_similarity(x, y, w)
            score *= mean**exponent if mean >= 0.01 else (0.01 * np.exp(mean / 0.01 - 1)) ** exponent
            mass = _brute_force_halve(w)
            divisor = np.where(mass > 0, mass, 1)
            x, y, w = _brute_force_halve(x * w) / divisor, _brute_force_halve(y * w) / divisor, mass
        scores.append(score)
    return 1 - float(np.mean(scores))


@settings(deadline=None, max_examples=4)
@given(SEEDS)
@pytest.mark.parametrize(
    ("spatial", "scales"),
    [((9,), 1), ((14, 13), 2), ((13, 1, 14), 2), ((13, 13, 13), 2), ((27, 25), 3), ((3, 4, 2), 1)],
)
def test_ms_ssim_equals_brute_force(spatial: tuple[int, ...], scales: int, seed: int) -> None:
    logits, classes, weight = _case(seed, spatial, samples=2, labeled=0.2)
    classes = torch.where(torch.rand(classes.shape, generator=torch.Generator().manual_seed(seed)) < 0.5, classes, 1)
    logits = 0.5 * logits + 3 * functional.one_hot(classes, K).movedim(-1, 1)
    expected = [_brute_force_ms_ssim(*sample, scales) for sample in _samples((logits, classes, weight))]
    assert scale_count(spatial) == scales
    assert np.allclose(ms_ssim(logits.double(), classes, weight).numpy(), expected, atol=1e-6)
    assert np.allclose(ms_ssim(logits, classes, weight).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("spatial", [(20, 17), (12, 11, 13)])
def test_similarity_with_all_voxels_labeled_is_scikit_images(spatial: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(11)
    first, second = torch.rand(2, 1, 1, *spatial, generator=generator).double()
    ours = masked_similarity(first, second, torch.ones_like(first))[0, 0].numpy()
    _, theirs = structural_similarity(
        first[0, 0].numpy(), second[0, 0].numpy(), win_size=7, data_range=1.0, use_sample_covariance=False, full=True
    )
    inside = (slice(3, -3),) * len(spatial)
    assert np.allclose(ours[inside], theirs[inside])


def test_a_patch_has_as_many_scales_as_keep_a_window() -> None:
    assert [scale_count(s) for s in [(1, 1), (7, 7), (12, 100), (13, 100), (44, 44, 28), (388, 388)]] == [
        1,
        1,
        1,
        2,
        3,
        5,
    ]


@pytest.mark.parametrize("term", REGION_TERMS.values(), ids=REGION_TERMS)
def test_descent_from_a_wrong_answer_finds_the_right_one(term) -> None:
    _, classes, weight = _case(12, labeled=0.6)
    classes = (torch.arange(14) // 5).reshape(1, 14, 1).expand_as(classes).contiguous()
    wrong = 2.0 * functional.one_hot((classes + 1) % K, K).movedim(-1, 1).float()
    logits = wrong.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.2)
    assert (term(logits, classes, weight) > 0.6).all()
    for _ in range(150):
        optimizer.zero_grad()
        term(logits, classes, weight).sum().backward()
        optimizer.step()
    assert (term(logits, classes, weight) < 0.05).all()
    assert torch.equal(logits.argmax(1)[weight > 0], classes[weight > 0])
    assert torch.equal(logits.movedim(1, -1)[weight == 0], wrong.movedim(1, -1)[weight == 0])


def test_ms_ssim_has_a_finite_gradient_where_all_similarities_are_negative() -> None:
    classes = (torch.arange(28) % 2).reshape(1, 28)
    logits = (1.0 - 2.0 * functional.one_hot(classes, 2)).movedim(-1, 1).requires_grad_()
    lost = ms_ssim(logits, classes, torch.ones(1, 28))
    lost.sum().backward()
    assert 0.9 < lost.item() < 1
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.any()
