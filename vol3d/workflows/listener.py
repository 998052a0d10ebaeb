"""What a workflow tells whoever called it. The command line prints it; a script may ignore it."""

from __future__ import annotations

import logging
import warnings
from typing import Any, Protocol

_LOG = logging.getLogger("vol3d")


class Listener(Protocol):
    """Receives what a workflow has to say while it runs."""

    def note(self, text: str) -> None:
        """A fact worth knowing, one line."""

    def warn(self, text: str) -> None:
        """Something that may make the result wrong, one line."""

    def progress(self, what: str, done: int, total: int, fields: dict[str, Any]) -> None:
        """`done` of `total` steps of `what`; fields: numbers to show beside it. done = total ends it."""


class Quiet:
    """Notes go to the log `vol3d`, warnings to Python's warnings, progress nowhere. The default of the API."""

    def note(self, text: str) -> None:
        """Log it."""
        _LOG.info(text)

    def warn(self, text: str) -> None:
        """Warn."""
        warnings.warn(text, UserWarning, stacklevel=3)

    def progress(self, what: str, done: int, total: int, fields: dict[str, Any]) -> None:
        """Say nothing."""
