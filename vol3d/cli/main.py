"""The entry point: parse, call one workflow, print. Exit codes: 0 done, 1 failed, 2 refused, 130 interrupted."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Sequence

from vol3d.cli.parser import build_parser
from vol3d.errors import Vol3dError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. arguments: without the program's name; None takes sys.argv."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    if rest:  # the command's own parser knows which flags are near
        action = next(a for a in parser._actions if a.dest == "command")
        action.choices[options.command].error(f"unrecognized arguments: {' '.join(rest)}")  # type: ignore[index]
    from vol3d.cli.commands import COMMANDS

    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)  # our lines say it
    try:
        return COMMANDS[options.command](options)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  nobody reads any more; keep the exit quiet
        return 1
    except (Exception, KeyboardInterrupt) as error:
        told = _in_words(error)
        if told is None or (options.debug and not isinstance(error, KeyboardInterrupt)):
            raise
    code, text = told
    _complain(f"vol3d {options.command}: {' '.join(text.split())}")
    return code


def _in_words(error: BaseException) -> tuple[int, str] | None:
    """Exit code and message for an error that a user can do something about; None for one that is our own fault."""
    if isinstance(error, Vol3dError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    kind = type(error).__name__  # by name: neither pydantic nor torch is imported for this
    if kind == "ValidationError":
        return 2, str(error)
    if kind == "OutOfMemoryError":
        return 1, "the GPU has too little memory. Take a smaller sampling.patch_size or batch_size (--set), or network."
    if isinstance(error, (OSError, MemoryError)):
        return 1, f"{kind}: {error}"
    return None


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")


def run() -> None:
    """Console script: a process of its own, so PyTorch may ask Linux for pages of 2 MB, which are filled sooner."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    code = main()
    gc.freeze()  # the interpreter would look for cycles in all of PyTorch and MONAI before it ends, for seconds
    sys.exit(code)
