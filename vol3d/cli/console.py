"""What a person sees: a bar on a terminal, plain lines elsewhere. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # commands that only print lines start sooner without it
    from rich.progress import Progress, TaskID

_SECONDS_BETWEEN_LINES = 10.0


class ConsoleListener:
    """A `Listener` that prints. Use it as a context manager, so that a bar is always closed."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._started: dict[str, float] = {}

    def __enter__(self) -> ConsoleListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print a line that stands out."""
        self._console.print(f"warning: {text}", style="yellow", markup=False)

    def progress(self, what: str, done: int, total: int, fields: dict[str, Any]) -> None:
        """Move the bar of `what`, or print a plain line every ten seconds without a terminal."""
        shown = "  ".join(f"{key} {_short(value)}" for key, value in fields.items() if value is not None)
        if self._console.is_terminal:
            self._move(what, done, total, shown)
        else:
            self._line(what, done, total, shown)

    def _move(self, what: str, done: int, total: int, shown: str) -> None:
        if self._bar is None:
            self._bar = self._new_bar()
            self._bar.start()
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total, shown=shown)
        self._bar.update(self._tasks[what], completed=done, total=total, shown=shown)
        if done >= total:
            self._close()

    def _new_bar(self) -> Progress:
        from rich import progress

        return progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[shown]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=self._console,
        )

    def _line(self, what: str, done: int, total: int, shown: str) -> None:
        now = time.monotonic()
        start = self._started.setdefault(what, now)
        if done < total and now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        left = f"  left {_clock((now - start) / done * (total - done))}" if 0 < done < total and now > start else ""
        self._console.print(f"{what} {done}/{total}  {shown}{left}".rstrip(), markup=False)
        if done >= total:
            self._started.pop(what, None)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None
        self._tasks = {}


def write(text: str) -> None:
    """One result line on stdout."""
    sys.stdout.write(text + "\n")


def _short(value: Any) -> str:  # noqa: ANN401  whatever a workflow reports
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
