"""Names of the files that `predict` and `suggest` leave beside a scan, and scans without them."""

from __future__ import annotations

from collections.abc import Sequence

from vol3d import io

RESULT_TAGS = (("_seg", "label"), ("_values", "values"))  # of labels, of a regression: tag and HDF5 dataset
PAINT_TAG = "_paint"
_FURTHER = ("_probabilities", "_uncertainty", "_provenance")


def without_results(found: Sequence[str], named: Sequence[str]) -> list[str]:
    """The scans among `found` in folders and globs: no file that an earlier command left beside another of them.

    named: what was asked for; a file that is named itself stays.
    """
    files = [_file(scan) for scan in found]  # in an HDF5 file, whichever dataset
    tags = (*(tag for tag, _ in RESULT_TAGS), PAINT_TAG)
    beside = {_file(io.default_output(file, tag)) for file in files for tag in tags}
    beside |= {_file(io.default_output(name, tag)) for name in beside for tag in _FURTHER}
    return [scan for scan, file in zip(found, files, strict=True) if scan in named or file not in beside]


def _file(name: str) -> str:
    return str(io.split_name(name)[0])
