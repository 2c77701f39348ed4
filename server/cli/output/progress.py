"""Progress of long commands on stderr: a bar on a terminal, only notes elsewhere."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Protocol

import click

from server.cli.output.tables import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import rich.progress


class Progress(Protocol):
    """The progress of a command."""

    def advance(self, size: int) -> None:
        """Report `size` more bytes as done."""
        ...

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        ...


@contextmanager
def progress(file: IO[bytes]) -> Iterator[Progress]:
    """Show the progress through a file inside the context."""
    if not sys.stderr.isatty():
        yield _Notes()
        return
    # rich is slow to import, and only needed on a terminal.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("sending"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, bar.add_task("sending", total=_size(file)))


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a count inside the context; call the yielded function with (done, total) to update it."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    # rich is slow to import, and only needed on a terminal.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Notes:
    def advance(self, size: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Print a line."""
        click.echo(printable(text), err=True)


class _Bar:
    def __init__(self, bar: rich.progress.Progress, task: rich.progress.TaskID) -> None:
        self._bar = bar
        self._task = task

    def advance(self, size: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, size)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def _size(file: IO[bytes]) -> int | None:
    """Return the size of a regular file in bytes; None for a pipe or a terminal."""
    state = os.fstat(file.fileno())
    return state.st_size if stat.S_ISREG(state.st_mode) else None
