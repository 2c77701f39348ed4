"""The standard streams, prepared for closed input and terminals of any encoding."""

from __future__ import annotations

import errno
import io
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from typing import Any


def prepare_streams() -> None:
    """Escape characters that a terminal cannot show; make reads of a closed standard input fail with a plain error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Python has None for a stream that the shell closed.
    stdin: io.TextIOBase | Any = sys.stdin
    if stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput()))


class _ClosedInput(io.RawIOBase):
    """A closed standard input: reads fail instead of returning an empty file."""

    name = "<stdin>"

    def readable(self) -> bool:
        """Return True, so that reads reach `readinto`."""
        return True

    def readinto(self, buffer: object) -> NoReturn:
        """Raise OSError."""
        raise _input_closed()

    def fileno(self) -> NoReturn:
        """Raise OSError."""
        raise _input_closed()


def _input_closed() -> OSError:
    return OSError(errno.EBADF, "standard input is closed")
