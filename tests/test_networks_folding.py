"""BatchNorm folded into convolutions."""

import pytest
import torch
from torch import nn

from vol3d.config import UNetConfig, UNetPlusPlusConfig
from vol3d.networks import build, use_current_statistics
from vol3d.networks.folding import fold_batch_norm


def lived(config, channels=2):
    """A network whose statistics, scales and shifts are no longer those it began with."""
    generator = torch.Generator().manual_seed(3)
    network = build(config, channels, 3, generator=generator)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d):
            for tensor, low in ((module.weight.data, 0.5), (module.running_var, 0.2)):
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize(
    ("config", "size", "count"),
    [
        (UNetConfig(encoder=((4, 5), (6, 7), (8, 8))), (12, 16, 8), 10),
        (UNetConfig(encoder=((4,), (6,)), dimensions=2), (12, 16), 3),
        (UNetConfig(encoder=((4,), (6, 6)), bias=False), (12, 16, 8), 4),
        (UNetConfig(encoder=((4, 5), (6, 7)), padding="valid"), (28, 28, 28), 6),
        (UNetConfig(encoder=((4, 5), (6, 7)), normalization="none"), (8, 8, 8), 0),
        (UNetConfig(encoder=((4, 5), (6, 7)), normalization="instance"), (8, 8, 8), 0),
        (UNetPlusPlusConfig(widths=(4, 6)), (8, 8, 8), 6),
    ],
)
def test_answers_stay(config, size, count):
    network = lived(config)
    image = torch.randn((1, 2, *size), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = network(image)
        folded = fold_batch_norm(network)
        after = network(image)
    assert folded == count
    assert torch.allclose(after, before, atol=1e-5 * float(before.abs().max()), rtol=0)
    assert sum(isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d) for module in network.modules()) == 0


@pytest.mark.parametrize("bias", [True, False])
def test_norms_without_statistics_stay(bias):
    network = lived(UNetConfig(encoder=((4, 5), (6, 7)), bias=bias))
    use_current_statistics(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert fold_batch_norm(network) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
