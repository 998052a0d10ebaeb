"""The entry point: parse, call one workflow, print. Exit codes: 0 done, 1 failed, 2 refused, 130 interrupted."""

from __future__ import annotations

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
    except Vol3dError as error:
        code, text = error.exit_code, str(error)
        if options.debug:
            raise
    except KeyboardInterrupt:
        code, text = 130, "interrupted"
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  nobody reads any more; keep the exit quiet
        return 1
    except (OSError, MemoryError) as error:
        if options.debug:
            raise
        code, text = 1, f"{type(error).__name__}: {error}"
    _complain(f"vol3d {options.command}: {' '.join(text.split())}")
    return code


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")


def run() -> None:
    """Console script."""
    sys.exit(main())
