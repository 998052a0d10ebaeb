"""What the training scans were like, kept in a model so that `predict` can tell when a scan is unlike them."""

from __future__ import annotations

from typing import Any

from vol3d.workflows.case import Case


def training_range(cases: list[Case]) -> dict[str, Any]:
    """What the training scans were like: spacing, orientation, intensities per channel."""
    spacings = [case.scan["spacing_mm"] for case in cases]
    channels = range(len(cases[0].scan["intensities"]))
    return {
        "spacing_mm": {
            "minimum": [min(s[a] for s in spacings) for a in range(3)],
            "maximum": [max(s[a] for s in spacings) for a in range(3)],
        },
        "orientations": sorted({case.scan["orientation"] for case in cases}),
        "intensities": [
            {
                "p1": min(case.scan["intensities"][c]["p1"] for case in cases),
                "p99": max(case.scan["intensities"][c]["p99"] for case in cases),
            }
            for c in channels
        ],
    }
