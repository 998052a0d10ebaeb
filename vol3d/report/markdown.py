"""Pieces of GitHub-flavoured Markdown in which foreign words stay words."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SIGNS = re.compile(r"([\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_]))")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "@": "&#64;"}
_LEAD = re.compile(r"^(\d+)([.)])(?= |$)|^([-+=])")
_LINK = re.compile(r"(?i)\b(https?|ftp):(?=//)|\bwww\.")


def escape(text: str) -> str:
    """One line that renders as `text`: no markup, no HTML, no table cell ends in it. Nothing becomes –."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    line = _SIGNS.sub(r"\\\1", "".join(_ENTITIES.get(sign, sign) for sign in line)).replace("&\\#", "&#")
    line = _LEAD.sub(lambda m: f"{m[1]}\\{m[2]}" if m[1] else f"\\{m[3]}", line)
    line = _LINK.sub(lambda m: m[0][:-1] + ("&#58;" if m[0].endswith(":") else "&#46;"), line)
    return line or "–"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of cells that are Markdown already; the first `left` columns to the left, the others to the right."""
    rule = [":---" if number < left else "---:" for number in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def code_block(lines: Sequence[str]) -> str:
    """Lines to be copied into a shell, one each."""
    flat = ["".join(sign if sign.isprintable() else "?" for sign in line) for line in lines]
    fence = "`" * max(3, 1 + max(len(run) for run in re.findall("`*", " ".join(flat))))
    return "\n".join([f"{fence}sh", *flat, fence])


def number(value: float, form: str = ".3f") -> str:
    """A number for a cell; – where it is not defined."""
    return "–" if value != value else format(value, form)  # noqa: PLR0124  nan is not itself


def signed(value: float) -> str:
    """A difference with its sign; – where it is not defined."""
    return number(value, "+.3f").replace("-", "−")


def duration(seconds: float) -> str:
    """Such as 48 s, 12 min 5 s or 2 h 7 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
