"""The benchmark of the REST bridge, `make bench-rest`: a send beside an echo and a service written by hand."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.data import KEY
from bench.harness import Rates, Ratio, main, progress, run_python, server
from bench.subjects import signalbox

WARM_UP_SECONDS = 1.0

SEND = "POST /v1/events/send, 64 in flight"
ECHO = "  Starlette echo"
BY_HAND = "  FastAPI + SQLAlchemy + aiosqlite"

RATIOS = (Ratio(SEND, ECHO, 0.60), Ratio(SEND, BY_HAND, 10.0))


def measure(rounds: int, seconds: float) -> Rates:
    """Start the servers, measure `rounds` rounds of `seconds`, and stop the servers."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-bench-")))
        subject = stack.enter_context(signalbox(folder))
        echo = stack.enter_context(server(folder, "bench.rest_peers", "echo"))["http"]
        by_hand = stack.enter_context(server(folder, "bench.rest_peers", "by_hand", str(folder / "by_hand.db")))["http"]
        requests = str(subject.requests.of("rest"))

        def load(address: str, seconds: float) -> float:
            result = run_python("load", "rest", address, KEY, requests, str(seconds))
            return result["events"] / result["seconds"]

        subject.load("rest", WARM_UP_SECONDS)
        load(echo, WARM_UP_SECONDS)
        load(by_hand, WARM_UP_SECONDS)
        rates: Rates = {SEND: [], ECHO: [], BY_HAND: []}
        for number in range(1, rounds + 1):
            progress(f"round {number} of {rounds}")
            rates[SEND].append(subject.load("rest", seconds))
            rates[ECHO].append(load(echo, seconds))
            rates[BY_HAND].append(load(by_hand, seconds))
        progress("")
        return rates


if __name__ == "__main__":
    main(__doc__, measure, RATIOS)
