from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vol3d.errors import ConfigError, GeometryError
from vol3d.losses import DeepSupervision, RegressionLoss, SparseLoss

law = settings(deadline=None, max_examples=60)
SEEDS = st.integers(0, 2**31 - 1)
KINDS = ["mae", "mse", "huber"]
KIND = st.sampled_from(KINDS)
SPATIAL = st.sampled_from([(5, 4), (3, 4, 2)])
Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _case(seed: int, spatial: tuple[int, ...] = (5, 4), samples: int = 3) -> Case:
    generator = torch.Generator().manual_seed(seed)
    prediction = 3 * torch.randn(samples, 1, *spatial, generator=generator)
    target = 3 * torch.randn(samples, *spatial, generator=generator)
    mask = torch.rand(samples, *spatial, generator=generator) < 0.4
    return prediction, target, mask * (0.1 + torch.rand(samples, *spatial, generator=generator))


def _gradient(
    loss: RegressionLoss, prediction: torch.Tensor, *others: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = prediction.clone().requires_grad_()
    value = loss(leaf, *others)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@law
@given(SEEDS, KIND, SPATIAL)
def test_equals_a_weighted_mean_of_the_errors(seed: int, kind: str, spatial: tuple[int, ...]) -> None:
    prediction, target, weight = _case(seed, spatial)
    d = (prediction[:, 0] - target).abs()
    error = {"mae": d, "mse": d**2, "huber": torch.where(d <= 1.5, d**2 / 2, 1.5 * (d - 0.75))}[kind]
    loss = RegressionLoss(kind, delta=1.5)
    assert torch.allclose(loss(prediction, target, weight), (error * weight).sum() / weight.sum().clamp(min=1e-30))
    assert torch.equal(loss.weights(target, weight), weight)


@law
@given(SEEDS, KIND, st.sampled_from([float("nan"), float("inf"), 1e30, -7.0]))
def test_what_stands_under_weight_0_changes_nothing(seed: int, kind: str, garbage: float) -> None:
    prediction, target, weight = _case(seed)
    loss = RegressionLoss(kind)
    value, gradient = _gradient(loss, prediction, target, weight)
    other_target = torch.where(weight > 0, target, garbage)
    other_prediction = torch.where(weight.unsqueeze(1) > 0, prediction, 1e30)
    other_value, other_gradient = _gradient(loss, other_prediction, other_target, weight)
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)
    assert (gradient[:, 0][weight == 0] == 0).all()
    assert (gradient[:, 0][weight > 0] != 0).all()
    assert torch.equal(loss.weights(target, weight), loss.weights(other_target, weight))


@law
@given(SEEDS, KIND, st.integers(1, 4))
def test_micro_batches_with_the_joint_total_are_the_batch(seed: int, kind: str, cut: int) -> None:
    case = _case(seed, samples=5)
    loss = RegressionLoss(kind)
    whole, gradient = _gradient(loss, *case)
    total = loss.weights(*case[1:]).sum()
    blocks = slice(None, cut), slice(cut, None)
    parts = [_gradient(loss, *(part[block] for part in case), total) for block in blocks]
    assert torch.allclose(parts[0][0] + parts[1][0], whole, rtol=1e-5)
    assert torch.allclose(torch.cat([parts[0][1], parts[1][1]]), gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [None, torch.tensor(0.0), torch.tensor(5.0)])
def test_a_batch_without_weight_gives_a_finite_zero(kind: str, total: torch.Tensor | None) -> None:
    prediction, target, weight = _case(1)
    target[:] = float("nan")
    value, gradient = _gradient(RegressionLoss(kind), prediction, target, torch.zeros_like(weight), total)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_several_values_per_voxel_are_averaged(kind: str) -> None:
    (first, target, weight), (second, other, _) = _case(2), _case(3)
    loss = RegressionLoss(kind)
    both = loss(torch.cat([first, second], 1), torch.stack([target, other], 1), weight)
    assert torch.allclose(both, (loss(first, target, weight) + loss(second, other, weight)) / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision(dtype: torch.dtype) -> None:
    prediction, target, weight = _case(4)
    value, gradient = _gradient(RegressionLoss("mse"), prediction.to(dtype), target.to(dtype), weight.to(dtype))
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype


def test_integer_targets_are_taken() -> None:
    prediction, target, weight = _case(5)
    rounded = target.round()
    loss = RegressionLoss("mae")
    assert torch.equal(loss(prediction, rounded.int(), weight), loss(prediction, rounded, weight))


def test_wrong_shapes_and_kinds_are_refused() -> None:
    prediction, target, weight = _case(6)
    loss = RegressionLoss("mae")
    for wrong in (
        (prediction, target[:, 1:], weight),
        (prediction, target, weight[:, 1:]),
        (prediction.repeat(1, 2, 1, 1), target, weight),
        (prediction[:, 0], target, weight),
    ):
        with pytest.raises(GeometryError, match="expected a prediction"):
            loss(*wrong)
    with pytest.raises(ConfigError, match="mae, mse, huber, found 'l1'"):
        RegressionLoss("l1")
    for delta in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="delta"):
            RegressionLoss("huber", delta)


def _sparse_case(seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 5, 4, generator=generator)
    classes = torch.randint(0, 3, (2, 5, 4), generator=generator)
    return logits, classes, (torch.rand(2, 5, 4, generator=generator) < 0.5).float()


@law
@given(SEEDS, st.lists(st.floats(0, 10), max_size=3), st.integers(1, 4))
def test_deep_supervision_is_the_weighted_mean_over_outputs(seed: int, rest: list[float], count: int) -> None:
    loss = SparseLoss([1.0, 2.0, 0.5], dice=1.0)
    weights = [1.0, *rest]
    count = min(count, len(weights))
    logits, classes, weight = _sparse_case(seed)
    outputs = [logits.roll(i, 1) for i in range(count)]
    deep = DeepSupervision(loss, weights)
    single = torch.stack([loss(output, classes, weight) for output in outputs])
    used = torch.tensor(weights[:count])
    for given_outputs in (outputs, tuple(outputs)):
        assert torch.allclose(deep(given_outputs, classes, weight), (single * used).sum() / used.sum())
    assert torch.equal(deep.weights(classes, weight), loss.weights(classes, weight))


def test_deep_supervision_of_one_output_is_the_loss_itself() -> None:
    logits, classes, weight = _sparse_case(1)
    loss = SparseLoss([1.0, 2.0, 0.5])
    deep = DeepSupervision(loss, [0.3, 0.7])
    total = torch.tensor(9.0)
    assert torch.equal(deep(logits, classes, weight, total), loss(logits, classes, weight, total))
    assert torch.equal(deep([logits], classes, weight, total), loss(logits, classes, weight, total))


def test_deep_supervision_of_micro_batches_adds_up_and_hides_unlabeled_voxels() -> None:
    logits, classes, weight = _sparse_case(2)
    deep = DeepSupervision(SparseLoss([1.0, 2.0, 0.5], iou=1.0), [1.0, 0.5])
    leaves = [logits.clone().requires_grad_(), logits.flip(1).clone().requires_grad_()]
    total = deep.weights(classes, weight).sum()
    whole = deep(leaves, classes, weight, total)
    parts = [deep([x[i : i + 1] for x in leaves], classes[i : i + 1], weight[i : i + 1], total) for i in range(2)]
    assert torch.allclose(parts[0] + parts[1], whole)
    whole.backward()
    for leaf in leaves:
        assert leaf.grad is not None
        at = leaf.grad.movedim(1, -1)
        assert (at[weight == 0] == 0).all()
        assert (at[weight > 0] != 0).all()


def test_deep_supervision_of_a_regression() -> None:
    prediction, target, weight = _case(7)
    loss = RegressionLoss("huber")
    deep = DeepSupervision(loss, [3.0, 1.0])
    expected = 0.75 * loss(prediction, target, weight) + 0.25 * loss(-prediction, target, weight)
    assert torch.allclose(deep([prediction, -prediction], target, weight), expected)


def test_deep_supervision_refuses_what_does_not_fit() -> None:
    logits, classes, weight = _sparse_case(3)
    loss = SparseLoss([1.0, 2.0, 0.5])
    for count in (0, 3):
        with pytest.raises(ConfigError, match=f"1 to 2 outputs.*found {count}"):
            DeepSupervision(loss, [1.0, 0.5])([logits] * count, classes, weight)
    with pytest.raises(GeometryError):
        DeepSupervision(loss, [1.0, 0.5])([logits, logits[..., 1:]], classes, weight)
    for weights in ([], [0.0, 1.0], [1.0, -1.0], [float("nan")], [1.0, float("inf")]):
        with pytest.raises(ConfigError, match="deep supervision weight"):
            DeepSupervision(loss, weights)


def test_losses_hold_no_state_to_save() -> None:
    assert DeepSupervision(SparseLoss([1.0, 2.0]), [1.0]).state_dict() == {}
    assert RegressionLoss("mse").state_dict() == {}
