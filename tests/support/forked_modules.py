"""What `subprocess` is to programs that start modules of Python: here those are forked, as commands and servers are."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests.support.command_line import forker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.support.forking import ForkedProcess

PIPE = subprocess.PIPE
TimeoutExpired = subprocess.TimeoutExpired


def run(command: Sequence[str], *, timeout: float | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE`, forked, and every other command as it is; return what it wrote as text."""
    if timeout is None or command[:2] != (sys.executable, "-m"):
        return subprocess.run(command, timeout=timeout, **options)  # noqa: PLW1510 - the caller gives `check`
    _, _, module, *arguments = command
    done = forker.run(arguments, dict(os.environ), Path.cwd(), stdin="", timeout=timeout, module=module)
    return subprocess.CompletedProcess(command, *done)


@contextmanager
def Popen(  # noqa: N802 - as in `subprocess`
    command: Sequence[str], *, stderr: IO[str], cwd: Path | None, env: Mapping[str, str], **_: Any
) -> Iterator[ForkedProcess]:
    """Start `python -m MODULE`; its standard output is a pipe."""
    _python, _m, module, *arguments = command
    reading, writing = os.pipe()
    with open(reading) as out, open(os.devnull) as nothing:
        try:
            streams = (nothing.fileno(), writing, stderr.fileno())
            process = forker.start(arguments, env, cwd or Path.cwd(), streams, module)
        finally:
            os.close(writing)
        process.stdout = out
        yield process
