"""The command line and its server, both as processes of their own."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests.support.forking import ForkedProcess, Forker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROGRAM = (sys.executable, "-m", "server")
forker = Forker()
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SIGNALBOX_")}


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Server:
    """A server in a process of its own."""

    process: ForkedProcess
    address: str
    http_address: str
    folder: Path
    dev_output: str

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder}/signalbox.db"

    @property
    def variables(self) -> dict[str, str]:
        return {"SIGNALBOX_SERVER": self.address, "SIGNALBOX_DATABASE": self.database}

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        return command(*arguments, stdin=stdin, variables=self.variables)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT | self.variables | {"PYTHONUNBUFFERED": "1"},
            preexec_fn=_heed_interrupts,  # noqa: PLW1509 - it only sets a signal
        )

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=20)


def command(
    *arguments: str, stdin: str = "", variables: Mapping[str, str] | None = None, folder: Path | None = None
) -> Result:
    """Run a command in a process of its own, and wait until it ends."""
    environment = ENVIRONMENT | dict(variables or {})
    return Result(*forker.run(arguments, environment, folder or Path.cwd(), stdin=stdin, timeout=60))


def _heed_interrupts() -> None:
    """Undo what a shell does to commands in the background: they ignore SIGINT, and so do all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def serving(folder: Path, address: str = "127.0.0.1:0", *options: str) -> Iterator[Server]:
    if not (database := folder / "signalbox.db").exists():
        shutil.copy(empty_database(), database)
    arguments = (
        "serve",
        "--dev",
        "--grpc",
        address,
        "--http",
        "127.0.0.1:0",
        "--database",
        f"sqlite:///{database}",
        *options,
    )
    reading, writing = os.pipe()
    with (folder / "log").open("a") as log, open(os.devnull) as nothing, open(reading) as out:
        try:
            process = forker.start(arguments, ENVIRONMENT, Path.cwd(), (nothing.fileno(), writing, log.fileno()))
        finally:
            os.close(writing)
        try:
            ready = read_line(out)
            told = re.fullmatch(r"signalbox ready grpc=(127\.0\.0\.1:[0-9]+) http=(127\.0\.0\.1:[0-9]+)\n", ready)
            assert told, (ready, (folder / "log").read_text())
            yield Server(process, told[1], told[2], folder, _paragraphs(out))
        finally:
            process.kill()
            process.wait()


@cache
def empty_database() -> Path:
    """Return a database without rows, made once to be copied: a server takes longer to make one than to start."""
    folder = tempfile.TemporaryDirectory(prefix="signalbox-empty-")
    atexit.register(folder.cleanup)
    path = Path(folder.name, "signalbox.db")
    made = command("migrate", "--database", f"sqlite:///{path}")
    assert made.code == 0, made.err
    return path


def read_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def _paragraphs(stream: IO[str] | None) -> str:
    lines = [read_line(stream)]
    while "be_demo_key" not in "".join(lines[-3:-1]):
        lines.append(read_line(stream))
    return "".join(lines)
