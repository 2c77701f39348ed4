"""What every benchmark shares: processes, rounds that take turns, and the table of what came of them."""

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
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

GRACE_SECONDS = 15.0
LOAD_TIMEOUT_SECONDS = 60

Rates: TypeAlias = dict[str, list[float]]
"""Events a second of each subject, one for each round."""

Measure: TypeAlias = Callable[[int, float], Rates]
"""Starts the subjects, measures a number of rounds of a number of seconds, and stops them."""


class Failed(Exception):
    """The benchmark cannot go on, or what it measured is void."""


@dataclass(frozen=True)
class Ratio:
    """What is compared with what, and how much of it is wanted at least."""

    subject: str
    base: str
    wanted: float | None = None

    def of_rounds(self, rates: Rates) -> list[float]:
        """Compare round by round: both sides of a round ran one right after the other."""
        return [one / other for one, other in zip(rates[self.subject], rates[self.base], strict=True)]


def run(*command: str) -> str:
    """Run a command to its end and give what it printed. Raises Failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LOAD_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command[:4])} did not end within {LOAD_TIMEOUT_SECONDS} s") from error
    if done.returncode:
        raise Failed(f"{' '.join(command[:4])} ended with {done.returncode}:\n{done.stderr[-2_000:]}")
    return done.stdout


def run_python(module: str, *arguments: str) -> dict[str, float]:
    """Run a module of the benchmark in its own process; it prints what it did."""
    result: dict[str, float] = json.loads(run(sys.executable, "-m", f"bench.{module}", *arguments))
    return result


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
            # A server that broke down says more about the cause than the load that it left without answers.
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


def machine() -> str:
    """Describe where this runs."""
    python, sqlite = platform.python_version(), sqlite3.sqlite_version
    return f"{os.cpu_count()} cores, Python {python}, SQLite {sqlite}, grpcio {grpc.__version__}, {platform.platform()}"


def table(rates: Rates, ratios: Sequence[Ratio]) -> str:
    """Write the rates and the ratios as aligned columns."""
    lines = [f"{'events/s':<48}{'median':>10}{'min':>10}{'max':>10}"]
    lines += [_line(subject, values, "{:,.0f}") for subject, values in rates.items()]
    lines += ["", f"{'ratio, round by round':<48}{'median':>10}{'min':>10}{'max':>10}{'wanted':>10}"]
    for ratio in ratios:
        title = f"{ratio.subject.partition(',')[0]} / {ratio.base.partition(',')[0].strip()}"
        wanted = "" if ratio.wanted is None else f"{ratio.wanted:>10.2f}"
        lines.append(_line(title, ratio.of_rounds(rates), "{:.2f}") + wanted)
    return "\n".join(lines)


def too_low(rates: Rates, ratios: Sequence[Ratio]) -> list[str]:
    """Return a line for each ratio that is below its required value."""
    low = []
    for ratio in ratios:
        reached = median(ratio.of_rounds(rates))
        if ratio.wanted is not None and reached < ratio.wanted:
            low.append(f"{ratio.subject} reached {reached:.2f}; wanted are {ratio.wanted:.2f}")
    return low


def main(description: str | None, measure: Measure, ratios: Sequence[Ratio]) -> None:
    """Measure and write the table; the exit code says whether it failed or, with --require, a ratio is too low."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each measurement (7)")
    parser.add_argument("--seconds", type=float, default=1.2, help="seconds of each measurement (1.2)")
    parser.add_argument("--require", action="store_true", help="fail if a ratio is lower than wanted")
    arguments = parser.parse_args()
    print(machine(), end="\n\n", flush=True)
    try:
        rates = measure(arguments.rounds, arguments.seconds)
    except (Failed, grpc.RpcError) as error:
        sys.exit(f"The benchmark failed: {error}")
    print(table(rates, ratios))
    if arguments.require and (low := too_low(rates, ratios)):
        sys.exit("\n".join(low))


def _line(title: str, values: Sequence[float], form: str) -> str:
    figures = (form.format(value) for value in (median(values), min(values), max(values)))
    return f"{title:<48}" + "".join(f"{figure:>10}" for figure in figures)


def _end(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
    # uvicorn sends itself the signal again when it has ended well.
    return 0 if code == -signal.SIGTERM else code
