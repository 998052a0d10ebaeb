"""An argument parser that answers in one line, and the types of its arguments."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a misspelt flag with the one that was probably meant."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            message = self._explain_unknown(message.removeprefix(prefix))
        self.exit(2, f"{self.prog}: {message} (see `{self.prog} --help`)\n")

    def _explain_unknown(self, rest: str) -> str:
        flags = [word.partition("=")[0] for word in rest.split() if word.startswith("-")]
        if not flags:
            return f"unexpected argument: {rest}"
        near = difflib.get_close_matches(flags[0], list(self._option_string_actions), 1, 0.5)
        return f"unknown option {flags[0]}" + (f". Did you mean {near[0]}?" if near else ".")


def count(least: int) -> Callable[[str], int]:
    """A whole number from `least` on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, found {text!r}")
        return int(text)

    return parse


def codes(text: str) -> tuple[int, ...]:
    """Codes with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected codes such as 1,4, found {text!r}")
    return tuple(int(part) for part in parts)
