"""Memory under mixed load: `python -m bench.soak [SECONDS]`, ten minutes by default.

Sends of every kind, deliveries with acknowledgements, and streams that come and go take turns. After each turn the
resident memory of the server is read. It ends with an error if the median of the last quarter is more than GROWTH above
that of the second one; the first one is left out, in which caches fill.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.delivery import open_streams, resident
from bench.harness import progress
from bench.results import Failed
from bench.subjects import signalbox

SECONDS = 600.0
GROWTH = 0.1
STREAMS = 200
KINDS = ("unary", "connect_proto", "connect_json", "rest", "batches", "stream")
MEBIBYTE = 1024 * 1024


def soak(seconds: float) -> list[float]:
    """Return the resident memory after each turn, in MiB. Raise Failed if an event is lost."""
    taken: list[float] = []
    with tempfile.TemporaryDirectory(prefix="signalbox-bench-") as name, signalbox(Path(name)) as subject:
        began = perf_counter()
        while (passed := perf_counter() - began) < seconds:
            progress(f"{passed:.0f} of {seconds:.0f} s, {taken[-1] if taken else 0:.0f} MiB")
            for kind in KINDS:
                subject.load(kind, 1)
            subject.deliveries(count=1_000)
            for kind in ("watch", "consume"):
                with open_streams(subject, kind, STREAMS):
                    subject.load("unary", 1)
            taken.append(resident(subject.process) / MEBIBYTE)
    progress("")
    return taken


def main(seconds: float) -> None:
    """Print the memory by quarters of the time."""
    try:
        taken = soak(seconds)
    except Failed as error:
        sys.exit(f"The benchmark failed: {error}")
    size = max(1, len(taken) // 4)
    quarters = [
        median(taken[start : start + size]) for start in range(0, 4 * size, size) if taken[start : start + size]
    ]
    print(f"{len(taken)} turns; MiB by quarters: {', '.join(f'{each:.0f}' for each in quarters)}")
    if len(quarters) > 2 and quarters[-1] > (1 + GROWTH) * quarters[1]:
        sys.exit("The memory grows")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
