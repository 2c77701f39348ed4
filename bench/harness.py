"""What every benchmark shares: processes, and the program that measures groups in rounds and reports the ratios."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import grpc

from bench.results import Failed, Ratio, Result, from_json, merged, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

GRACE_SECONDS = 15.0
"""The time for a server to end after SIGTERM."""

LOAD_TIMEOUT_SECONDS = 90
"""The time limit of a load."""

Round: TypeAlias = Callable[[], dict[str, float]]
"""Measures every subject of a group once, one right after the other, and returns their values."""


@dataclass(frozen=True)
class Group:
    """Subjects that are measured together, and the ratios between them.

    `opened` starts the servers in a folder, for measurements of a number of seconds each. `unit` is the unit of all
    values. `skipped` returns a line for each optional peer that is not installed.
    """

    title: str
    unit: str
    ratios: Sequence[Ratio]
    opened: Callable[[Path, float], AbstractContextManager[Round]]
    skipped: Callable[[], Sequence[str]] = tuple
    rounds: int | None = None

    def measure(self, rounds: int, seconds: float) -> Result:
        """Start the servers, measure a number of rounds after one that does not count, and stop the servers."""
        values: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory(prefix="signalbox-bench-") as name, self.opened(Path(name), seconds) as take:
            if self.rounds is None:
                progress(f"{self.title}: warming up")
                take()
            rounds = self.rounds or rounds
            for number in range(1, rounds + 1):
                progress(f"{self.title}: round {number} of {rounds}")
                for subject, value in take().items():
                    values.setdefault(subject, []).append(value)
        progress("")
        skipped = tuple(self.skipped())
        return Result(self.title, self.unit, values, tuple(self.ratios), skipped, f"{commit()}, {datetime.now(UTC):%F}")


def run(*command: str) -> str:
    """Run a command to its end and return what it printed. Raise Failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LOAD_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command[:4])} did not end within {LOAD_TIMEOUT_SECONDS} s") from error
    if done.returncode:
        raise Failed(f"{' '.join(command[:4])} ended with {done.returncode}:\n{done.stderr[-2_000:]}")
    return done.stdout


def run_python(module: str, *arguments: str) -> dict[str, float]:
    """Run a module of the benchmark in its own process, and return the figures that it prints."""
    result: dict[str, float] = json.loads(run(sys.executable, "-m", f"bench.{module}", *arguments))
    return result


def rate(result: Mapping[str, float]) -> float:
    """Return the events per second of a load's figures."""
    return result["events"] / result["seconds"]


@contextmanager
def server(
    folder: Path, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Mapping[str, str]]:
    """Run a server in its own process. Yield its addresses, `grpc` and `http`, and its `pid`.

    Raise Failed if it does not start or end well.
    """
    errors = folder / f"{'-'.join(arguments[:2])}.log"
    command = (sys.executable, "-m", *arguments)
    variables = os.environ | (env or {})
    with (
        errors.open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=cwd, env=variables) as process,
    ):
        try:
            assert process.stdout is not None
            addresses = dict(re.findall(r"(grpc|http)=(\S+)", process.stdout.readline()))
            if not addresses:
                raise Failed(f"{arguments[0]} did not start")
            yield addresses | {"pid": str(process.pid)}
        except (Failed, grpc.RpcError) as error:
            # If the server broke down, its log tells more about the cause than the error of the load.
            if code := _end(process):
                raise Failed(f"{error}\n{arguments[0]} ended with {code}:\n{errors.read_text()[-2_000:]}") from error
            raise
        finally:
            code = _end(process)
    if code:
        raise Failed(f"{arguments[0]} ended with {code}:\n{errors.read_text()[-2_000:]}")


def progress(text: str) -> None:
    """Show progress, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def commit() -> str:
    """Return the commit of this checkout, with a plus if files were changed."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*")
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown commit"


def machine() -> str:
    """Describe where this runs."""
    python, sqlite = platform.python_version(), sqlite3.sqlite_version
    return f"{os.cpu_count()} cores, Python {python}, SQLite {sqlite}, grpcio {grpc.__version__}, {platform.platform()}"


def main(description: str | None, groups: Sequence[Group], rounds: int = 7, json_file: Path | None = None) -> None:
    """Measure groups and print their tables.

    The exit code is not zero if a server or a load failed or, with --require, if a ratio misses its target.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds of each measurement ({rounds})")
    parser.add_argument("--seconds", type=float, default=1.2, help="seconds of each measurement (1.2)")
    titles = ", ".join(group.title for group in groups)
    parser.add_argument("--groups", default="", help=f"only groups that contain one of these words: {titles}")
    parser.add_argument("--require", action="store_true", help="fail if a ratio misses its target")
    parser.add_argument("--json", type=Path, default=json_file, help="the file for results; those of other groups stay")
    arguments = parser.parse_args()
    words = arguments.groups.lower().split(",")
    print(machine(), flush=True)
    results = []
    for group in groups:
        if any(word in group.title.lower() for word in words):
            try:
                results.append(group.measure(arguments.rounds, arguments.seconds))
            except (Failed, grpc.RpcError) as error:
                sys.exit(f"The benchmark failed: {error}")
            print(f"\n{results[-1].table()}", flush=True)
            if arguments.json:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                kept = from_json(arguments.json.read_text())[1] if arguments.json.exists() else []
                arguments.json.write_text(to_json(machine(), merged(kept, results)))
    if arguments.require and (missed := [line for result in results for line in result.missed()]):
        sys.exit("\n".join(missed))


def _end(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
    # uvicorn sends itself the signal again when it has ended well.
    return 0 if code == -signal.SIGTERM else code
