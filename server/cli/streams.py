"""The standard streams, made fit for whatever a shell does with them."""

from __future__ import annotations

import errno
import io
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from typing import Any


def prepare_streams() -> None:
    """Write characters that a terminal lacks as escapes; make a closed standard input say that it is closed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Python has None for a stream that the shell closed.
    stdin: io.TextIOBase | Any = sys.stdin
    if stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput()))


class _ClosedInput(io.RawIOBase):
    """Standard input that is closed: an empty one would look as if there were nothing to do."""

    name = "<stdin>"

    def readable(self) -> bool:
        """Let it be read, to find out."""
        return True

    def readinto(self, buffer: object) -> NoReturn:
        """Refuse."""
        raise OSError(errno.EBADF, "standard input is closed")
