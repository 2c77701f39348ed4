"""The standard streams, prepared for terminals of any encoding, and for those that the caller has closed.

| closed | reads and writes | because |
|---|---|---|
| stdin | fail | an empty file would be another input |
| stdout | fail | a command whose output is lost has failed |
| stderr | are discarded | nothing could report it; the exit code is that of the command |
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

if TYPE_CHECKING:
    from typing import Any


def prepare_streams() -> None:
    """Escape characters that a terminal cannot show; replace the streams that are closed, for which Python has None."""
    _occupy_closed_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    stdin: io.TextIOBase | Any = sys.stdin
    stdout: io.TextIOBase | Any = sys.stdout
    stderr: io.TextIOBase | Any = sys.stderr
    if stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_Closed("input")))
    if stdout is None:
        sys.stdout = io.TextIOWrapper(_Closed("output"), write_through=True)
    if stderr is None:
        sys.stderr = _discarding()


def announce(text: str) -> None:
    """Print a line of a server on stdout. A server that was started without one, or on a full disk, runs all the same.

    The line is lost then, and so is what the stream still holds of it, which would fail again at the exit.
    """
    try:
        click.echo(text)
    except OSError:
        sys.stdout = _discarding()


def _discarding() -> TextIO:
    """Return a stream whose texts are lost."""
    return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")  # noqa: PTH123 - kept open


def _occupy_closed_descriptors() -> None:
    """Open the null device for each standard stream that is closed.

    Otherwise the next file, such as a database, would get its number, and what a library of C prints would be written
    into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is the one that is closed.
            os.open(os.devnull, os.O_RDWR)


class _Closed(io.RawIOBase):
    """A closed standard stream: reads and writes fail instead of finding nothing or being lost."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self.name = f"<std{what.removesuffix('put')}>"

    def readable(self) -> bool:
        """Return True, so that reads reach `readinto`."""
        return True

    def writable(self) -> bool:
        """Return True, so that writes reach `write`."""
        return True

    def readinto(self, buffer: object) -> NoReturn:
        """Raise OSError."""
        raise self._error()

    def write(self, data: Any) -> int:
        """Raise OSError unless there is nothing to write, by which click finds out what kind of stream this is."""
        if memoryview(data).nbytes:
            raise self._error()
        return 0

    def fileno(self) -> NoReturn:
        """Raise OSError."""
        raise self._error()

    def _error(self) -> OSError:
        return OSError(errno.EBADF, f"standard {self._what} is closed")
