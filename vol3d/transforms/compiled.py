"""How functions are compiled; the global interpreter lock is released in them.

Compiled code is kept on disk: in `__pycache__` beside its source, in the user's cache where that cannot be written, or
where NUMBA_CACHE_DIR says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numpy.typing import NDArray

Array = NDArray[Any]
Call = TypeVar("Call", bound=Callable[..., Any])


def compiled(function: Call) -> Call:
    """A function of arrays and numbers, compiled when it is first called.

    Without assumptions that would lose a NaN; products and sums may be fused.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}}
    try:
        made: Call = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep compiled code in
        made = numba.njit(**options)(function)
    return made
