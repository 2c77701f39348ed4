"""The quick benchmark, `make bench-quick`: what Signalbox adds to what cannot be avoided. See bench/README.md."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.data import KEY
from bench.harness import Rates, Ratio, main, progress, run_python, server
from bench.subjects import Requests, Signalbox, signalbox

WARM_UP_SECONDS = 1.0

UNARY = "SendEvent, 64 in flight"
NO_OP = "  no-op gRPC server"
BATCHES = "SendEvents of 500, 4 in flight"
BARE = "  bare loop"
STREAM = "StreamEvents, 100 a message"

RATIOS = (Ratio(UNARY, NO_OP, 0.70), Ratio(BATCHES, BARE, 0.45), Ratio(STREAM, BATCHES))


@dataclass
class Bench:
    """The subjects of one run: the servers, files, and how long each measurement takes."""

    folder: Path
    signalbox: Signalbox
    no_op: str
    seconds: float
    rates: Rates = field(default_factory=dict)

    def round(self) -> None:
        """Measure everything once."""
        self._note(UNARY, self.signalbox.load("unary", self.seconds))
        self._note(NO_OP, self._no_op(self.seconds))
        self._note(BATCHES, self.signalbox.load("batches", self.seconds))
        self._note(BARE, self._bare_loop())
        self._note(STREAM, self.signalbox.load("stream", self.seconds))

    def warm_up(self) -> None:
        """Let every server run for a moment that does not count."""
        self._no_op(WARM_UP_SECONDS)
        for kind in ("unary", "batches", "stream"):
            self.signalbox.load(kind, WARM_UP_SECONDS)

    def _no_op(self, seconds: float) -> float:
        return _rate(run_python("load", "unary", self.no_op, KEY, str(self._requests.of("unary")), str(seconds)))

    def _bare_loop(self) -> float:
        database = str(self.folder / "bare.db")
        return _rate(run_python("bare_loop", database, str(self._requests.of("batches")), str(self.seconds)))

    @property
    def _requests(self) -> Requests:
        return self.signalbox.requests

    def _note(self, subject: str, rate: float) -> None:
        self.rates.setdefault(subject, []).append(rate)


def measure(rounds: int, seconds: float) -> Rates:
    """Start the servers, measure `rounds` rounds of `seconds`, and stop the servers."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-bench-")))
        subject = stack.enter_context(signalbox(folder))
        no_op = stack.enter_context(server(folder, "bench.no_op"))
        bench = Bench(folder, subject, no_op["grpc"], seconds)
        bench.warm_up()
        for number in range(1, rounds + 1):
            progress(f"round {number} of {rounds}")
            bench.round()
        progress("")
        return bench.rates


def _rate(result: dict[str, float]) -> float:
    return result["events"] / result["seconds"]


if __name__ == "__main__":
    main(__doc__, measure, RATIOS)
