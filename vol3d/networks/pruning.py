"""U-Net++ after training, cut down to what one of its heads needs (Zhou et al. 2018, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vol3d.config import UNetPlusPlusConfig
from vol3d.errors import ModelError


def prune(
    config: UNetPlusPlusConfig, weights: Mapping[str, Tensor], depth: int
) -> tuple[UNetPlusPlusConfig, dict[str, Tensor]]:
    """(configuration, weights) of the network that is head `depth` of a trained U-Net++ and nothing more.

    weights: as in the network's `state_dict`; the tensors are not copied. Loaded into the network of the configuration
    they answer exactly what that head of the whole network answers. Raises `ModelError` where there is no such head.
    """
    heads = sorted(
        int(name.split(".")[1]) for name in weights if name.startswith("scores.") and name.endswith("weight")
    )
    if not config.deep_supervision or depth not in heads:
        raise ModelError(
            f"cannot prune to head {depth}: the network has head {' '.join(map(str, heads)) or '(none)'}; "
            "train it with deep_supervision to have one for every depth"
        )
    pruned = config.model_copy(update={"prune": depth})
    return pruned, {name: value for name, value in weights.items() if _is_needed(name, depth)}


def _is_needed(name: str, depth: int) -> bool:
    """Whether head `depth` needs a weight: node i, j where i + j ≤ depth."""
    part, place = name.split(".")[:2]
    if part == "scores":
        return int(place) == depth
    return sum(map(int, place.split("_"))) <= depth
