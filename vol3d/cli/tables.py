"""Tables on stdout: drawn on a terminal, plain aligned lines where the output is piped."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vol3d.cli.console import write

_GAP = "  "


def write_table(title: str, cells: Sequence[Sequence[str]]) -> None:
    """A title, a heading (the first line of `cells`), the lines, an empty line; the first column to the left."""
    if sys.stdout.isatty():
        _draw(title, cells)
        return
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    write(title)
    for number, line in enumerate(cells):
        placed = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        write(_GAP.join(placed).rstrip())
        if number == 0:
            write("-" * (sum(widths) + len(_GAP) * (len(widths) - 1)))
    write("")


def _draw(title: str, cells: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)
    for number, name in enumerate(cells[0]):
        table.add_column(Text(name), justify="right" if number else "left")
    for line in cells[1:]:
        table.add_row(*(Text(cell) for cell in line))
    Console(highlight=False).print(table)
