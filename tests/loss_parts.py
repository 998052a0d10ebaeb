"""Logits, classes and weights of random cases, and the gradient of a loss on them."""

import torch

from vol3d.losses import SparseLoss

K = 4
Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def random_case(seed: int, spatial: tuple[int, ...], samples: int = 3, labeled: float = 0.4) -> Case:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, K, *spatial, generator=generator)
    classes = torch.randint(0, K, (samples, *spatial), generator=generator)
    mask = torch.rand(samples, *spatial, generator=generator) < labeled
    return logits, classes, mask * (0.1 + torch.rand(samples, *spatial, generator=generator))


def gradient_of(
    loss: SparseLoss,
    logits: torch.Tensor,
    classes: torch.Tensor,
    weight: torch.Tensor,
    total: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, classes, weight, total)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad
