"""Class and instance number in one label value, as panoptic files hold them: class code × divisor + number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vol3d.errors import GeometryError, LabelError
from vol3d.instances.scheme import DIVISOR

_LARGEST = 2**32 - 1


def join(class_codes: NDArray[Any], ids: NDArray[Any], divisor: int = DIVISOR) -> NDArray[Any]:
    """Class codes and instance numbers (0: stuff) → label values; uint16, or uint32 where that is too small.

    Both: integers ≥ 0 of one shape. Raises `GeometryError` on different shapes, `LabelError` on numbers that do not
    stay below the divisor and on values above 2³² − 1.
    """
    if class_codes.shape != ids.shape:
        raise GeometryError(f"expected classes and instances of one shape, found {class_codes.shape} and {ids.shape}")
    _check_divisor(divisor)
    code, number = _largest(class_codes, "class codes"), _largest(ids, "instance numbers")
    if number >= divisor:
        raise LabelError(
            f"found instance number {number}, but a divisor of {divisor} has room for {divisor - 1} per class. "
            f"Set the divisor to {_round_up(number + 1)}."
        )
    if code * divisor + number > _LARGEST:
        raise LabelError(
            f"class {code} times the divisor {divisor} exceeds what 32-bit labels hold. "
            "Use a smaller divisor or smaller class codes."
        )
    return _small(class_codes.astype(np.uint32) * np.uint32(divisor) + ids.astype(np.uint32))


def split(values: NDArray[Any], divisor: int = DIVISOR) -> tuple[NDArray[Any], NDArray[Any]]:
    """Label values ≥ 0 → (class codes, instance numbers), the inverse of `join`; each uint16, uint32 above 65535.

    Raises `LabelError` on values that are no integers from 0 to 2³² − 1.
    """
    _check_divisor(divisor)
    if _largest(values, "label values") > _LARGEST:
        raise LabelError(f"expected label values up to {_LARGEST}, found {values.max()}")
    codes, numbers = np.divmod(values.astype(np.uint32), np.uint32(divisor))
    return _small(codes), _small(numbers)


def _check_divisor(divisor: int) -> None:
    if not 2 <= divisor <= _LARGEST:
        raise LabelError(f"expected a divisor from 2 to {_LARGEST}, found {divisor}")


def _largest(values: NDArray[Any], name: str) -> int:
    if values.dtype.kind not in "biu" or (values.size and values.min() < 0):
        raise LabelError(f"expected {name} to be integers from 0 up, found {values.dtype} values")
    return int(values.max(initial=0))


def _small(values: NDArray[np.uint32]) -> NDArray[Any]:
    return values.astype(np.uint16) if values.max(initial=0) <= 65535 else values


def _round_up(number: int) -> int:
    """The next power of ten."""
    return 10 ** len(str(number - 1))
