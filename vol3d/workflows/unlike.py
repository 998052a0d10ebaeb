"""Ways in which a scan is not like those that a model learned from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from vol3d.volume import Volume


def unlike_training(volume: Volume, training: dict[str, Any]) -> Iterable[str]:
    """Ways in which a scan's geometry leaves the range seen in training."""
    low, high = np.array(training["spacing_mm"]["minimum"]), np.array(training["spacing_mm"]["maximum"])
    spacing = volume.affine.orientation.apply_spacing(volume.affine.spacing)
    if (spacing < low / 1.5).any() or (spacing > high * 1.5).any():
        found = "×".join(f"{v:.4g}" for v in spacing)
        wanted = "×".join(f"{v:.4g}" for v in (low + high) / 2)
        yield f"spacing {found} mm differs from training ({wanted} mm); labels may be worse: train with spacing_mm set"
    if volume.affine.codes not in training["orientations"]:
        yield (
            f"orientation {volume.affine.codes} was not seen in training ({', '.join(training['orientations'])}); "
            f"it is turned to RAS as in training, so check that its header is right"
        )


def intensities_unlike_training(statistics: list[dict[str, float]], training: dict[str, Any]) -> Iterable[str]:
    """Channels whose intensities hardly overlap those seen in training."""
    for channel, (seen, found) in enumerate(zip(training["intensities"], statistics, strict=True)):
        width = max(seen["p99"] - seen["p1"], 1e-12)
        shared = min(seen["p99"], found["p99"]) - max(seen["p1"], found["p1"])
        if shared < 0.25 * width or found["p99"] - found["p1"] > 4 * width:
            yield (
                f"channel {channel} runs from {found['p1']:.4g} to {found['p99']:.4g} (1st to 99th percentile), "
                f"in training from {seen['p1']:.4g} to {seen['p99']:.4g}; is it the same kind of scan?"
            )
