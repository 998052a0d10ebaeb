import pytest
import torch
from training_parts import (
    Patches,
    cpu,
    one_thread,  # noqa: F401  a fixture
    settings,
    sparse_loss,
    tiny_network,
)

from vol3d.training.learner import Learner
from vol3d.training.loader import Batch, Share, Span, load_batches
from vol3d.training.step import accumulate_gradients, total_weight


def _prepared(fabric, **how):
    network = tiny_network(**how)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return network, *fabric.setup(network, optimizer)


def _gradient(batches, loss=None, clip=None, precision="32-true"):
    fabric = cpu(precision)
    network, module, optimizer = _prepared(fabric, norm=False)
    found = accumulate_gradients(module, optimizer, loss or sparse_loss(), batches, fabric=fabric, clip=clip)
    return found.read(), torch.cat([p.grad.flatten() for p in network.parameters()])


def _batches(batch_size, accumulate, source=None):
    return next(load_batches(source or Patches(labeled=0.3), Span(Share(batch_size, accumulate), 0, 1)))


@pytest.mark.parametrize("dice", [0.0, 0.7])
def test_accumulation_is_one_large_batch(dice):
    whole, gradient = _gradient(_batches(6, 1), sparse_loss(dice))
    for size in (1, 2, 3):
        split, other = _gradient(_batches(size, 6 // size), sparse_loss(dice))
        assert split == pytest.approx(whole, rel=1e-5)
        assert torch.allclose(other, gradient, atol=1e-6)


def test_the_total_weight_counts_every_micro_batch_once():
    batches = _batches(1, 4)
    expected = sum(sparse_loss().weights(b.classes, b.weight).sum() for b in batches)
    assert total_weight(sparse_loss(), batches, cpu()) == expected


def test_unlabeled_micro_batches_change_nothing():
    labeled = _batches(2, 1)
    empty = [Batch(b.image * 3, b.classes, b.weight * 0) for b in _batches(2, 1, Patches(5))]
    assert _gradient([*labeled, *empty])[0] == _gradient(labeled)[0]
    assert torch.equal(_gradient([*labeled, *empty])[1], _gradient(labeled)[1])


def test_r14_no_labeled_voxel_in_the_whole_batch_is_a_finite_zero():
    (value, norm), gradient = _gradient(_batches(2, 2, Patches(labeled=0.0)))
    assert (value, norm) == (0.0, 0.0)
    assert not gradient.any()


def test_clipping_returns_the_norm_before_it():
    (_, norm), gradient = _gradient(_batches(2, 1))
    assert norm == pytest.approx(float(gradient.norm()), rel=1e-6)
    (_, again), clipped = _gradient(_batches(2, 1), clip=norm / 4)
    assert again == norm
    assert float(clipped.norm()) == pytest.approx(norm / 4, rel=1e-4)


@pytest.mark.parametrize(
    ("layer", "last"),
    [
        (torch.nn.Conv2d(4, 8, 3, stride=2), True),
        (torch.nn.Conv2d(4, 8, 1), True),
        (torch.nn.Conv2d(4, 8, 1, stride=2), False),  # ends the process, in its backward pass with AVX2
        (torch.nn.Conv3d(4, 8, 3), True),
        (torch.nn.Conv3d(4, 8, 3, groups=4), False),  # takes twice as long
    ],
)
def test_channels_last_only_where_a_cpu_can_do_it(layer, last):
    learner = Learner(torch.nn.Sequential(layer), sparse_loss(), settings(channels_last=True), cpu())
    wanted = {4: torch.channels_last, 5: torch.channels_last_3d}[layer.weight.ndim]
    assert learner.memory_format == (wanted if last else torch.contiguous_format)


def test_bf16_stays_near_float32_and_reaches_the_loss_in_float32():
    seen = []

    class Watching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = sparse_loss()

        def weights(self, classes, weight):
            return self.inner.weights(classes, weight)

        def forward(self, logits, classes, weight, total):
            seen.append(logits.dtype)
            return self.inner(logits, classes, weight, total)

    exact, _ = _gradient(_batches(2, 1))
    rough, _ = _gradient(_batches(2, 1), Watching(), precision="bf16-mixed")
    assert seen == [torch.float32]
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_gpu_finds_the_gradient_of_the_cpu(precision):
    import lightning_fabric

    fabric = lightning_fabric.Fabric(accelerator="cuda", devices=1, precision=precision)
    _, module, optimizer = _prepared(fabric, norm=False)
    on_gpu = [b.pin_memory().to(fabric.device, torch.channels_last_3d) for b in _batches(2, 2)]
    loss = sparse_loss().to(fabric.device)
    value, norm = accumulate_gradients(module, optimizer, loss, on_gpu, fabric=fabric).read()
    assert (value, norm) == pytest.approx(_gradient(_batches(2, 2))[0], rel=0.05)
