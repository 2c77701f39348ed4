"""Compare the speed of this checkout with that of another one, `make bench-check`: `python -m bench.check [OTHER]`.

OTHER is a commit, by default `main`, or the folder of a checkout. Each checkout runs a server of its own in the
environment of this command. The rounds take turns; what this checkout lost by more than 10 % is measured again for as
many rounds, and if it is still lost, the exit code is not zero.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import grpc

from bench.harness import machine, progress
from bench.results import Failed
from bench.subjects import ROOT, Signalbox, signalbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LOST = 0.90
"""A row is lost if this checkout reaches less than this part of the other one."""

RATE = 500
"""Events a second while lags are measured."""

SECONDS = 1.0
LAG_SECONDS = 1.5
"""The seconds of one measurement of a rate, and of a lag."""

LEAST_LAG = 0.1
"""Shorter lags, in milliseconds, count as this one."""


def lag(kind: str) -> Callable[[Signalbox], float]:
    """Return a measurement of the median lag of deliveries, as lags per second so that more is better."""
    return lambda side: 1_000 / max(LEAST_LAG, side.lag(kind, RATE, LAG_SECONDS)["lag_p50"])


ROWS: dict[str, Callable[[Signalbox], float]] = {
    "SendEvent": lambda side: side.load("unary", SECONDS),
    "SendEvents of 500": lambda side: side.load("batches", SECONDS),
    "StreamEvents": lambda side: side.load("stream", SECONDS),
    "POST /v1/events/send": lambda side: side.load("rest", SECONDS),
    "ConsumeMatches with acks": lambda side: side.deliveries(),
    "ConsumeMatches, 1 / lag p50": lag("consume"),
    "WatchMatches, 1 / lag p50": lag("watch"),
}
"""The measurements; more is better."""


@dataclass
class Comparison:
    """Both servers, and what was measured of each row: of this checkout and of the other one, in each round."""

    here: Signalbox
    other: Signalbox
    results: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def measure(self, rows: Iterable[str], rounds: int) -> None:
        """Measure rows for a number of rounds; the checkouts take turns in being first."""
        for number in range(rounds):
            for row in rows:
                progress(f"round {number + 1} of {rounds}: {row}")
                sides = (self.here, self.other) if number % 2 else (self.other, self.here)
                values = {side: ROWS[row](side) for side in sides}
                self.results.setdefault(row, []).append((values[self.here], values[self.other]))
        progress("")

    def ratio(self, row: str) -> float:
        """Return the ratio of this checkout to the other one."""
        return median(here / other for here, other in self.results[row])

    def lost(self) -> list[str]:
        """Return the rows in which this checkout is too slow."""
        return [row for row in self.results if self.ratio(row) < LOST]

    def table(self) -> str:
        """Write the rows as aligned columns."""
        lines = [f"{'a second':<32}{'here':>10}{'other':>10}{'ratio':>8}{'min':>8}{'max':>8}{'rounds':>8}"]
        for row, values in self.results.items():
            here, other = (median(side) for side in zip(*values, strict=True))
            ratios = [one / another for one, another in values]
            figures = f"{here:>10,.0f}{other:>10,.0f}{median(ratios):>8.2f}{min(ratios):>8.2f}{max(ratios):>8.2f}"
            lines.append(f"{row:<32}{figures}{len(values):>8}{'  lost' if median(ratios) < LOST else ''}")
        return "\n".join(lines)


def checkout(other: str, folder: Path) -> Path:
    """Return the folder of the other checkout; a commit is unpacked into `folder`. Raise Failed."""
    if Path(other).is_dir():
        return Path(other).resolve()
    archive = subprocess.run(("git", "-C", str(ROOT), "archive", other), capture_output=True, check=False)
    if archive.returncode:
        raise Failed(f"{other} is neither a folder nor a commit: {archive.stderr.decode().strip()}")
    subprocess.run(("tar", "-x"), cwd=folder, input=archive.stdout, check=True)
    return folder


def compare(other: str, rows: Iterable[str], rounds: int) -> Comparison:
    """Run both servers and measure."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-bench-")))
        unpacked = folder / "checkout"
        unpacked.mkdir()
        here = stack.enter_context(signalbox(folder))
        comparison = Comparison(here, stack.enter_context(signalbox(folder, checkout=checkout(other, unpacked))))
        for side in (comparison.here, comparison.other):
            side.store_matches()
        comparison.measure(rows, 1)  # to warm up
        comparison.results.clear()
        comparison.measure(rows, rounds)
        if lost := comparison.lost():
            comparison.measure(lost, rounds)
        return comparison


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", nargs="?", default="main", help="a commit, or the folder of a checkout (main)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each measurement (7)")
    parser.add_argument("--rows", help=f"only rows that contain one of these words, separated by commas: {list(ROWS)}")
    arguments = parser.parse_args()
    words = (arguments.rows or "").lower().split(",")
    rows = [row for row in ROWS if any(word in row.lower() for word in words)]
    print(machine(), end="\n\n", flush=True)
    try:
        comparison = compare(arguments.other, rows, arguments.rounds)
    except (Failed, grpc.RpcError) as error:
        sys.exit(f"The comparison failed: {error}")
    print(comparison.table())
    if lost := comparison.lost():
        sys.exit(f"Slower than {arguments.other} by more than {1 - LOST:.0%}: {', '.join(lost)}")


if __name__ == "__main__":
    main()
