"""The quick benchmark, `make bench-quick`: what Signalbox adds to what cannot be avoided. See bench/README.md."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness import Failed, Rates, Ratio, main, progress, run_python, server
from bench.messages import BATCH, SEND_EVENT, SEND_EVENTS, framed, send_event_body, send_events_request
from bench.subjects import H2load, Signalbox, signalbox

CONNECTIONS, STREAMS = 8, 8
BATCH_CONNECTIONS, BATCH_STREAMS = 4, 2
WARM_UP_SECONDS = 1.0

UNARY = "SendEvent, 64 in flight"
NO_OP = "  no-op gRPC server"
BATCHES = "SendEvents of 500, 8 in flight"
BARE = "  bare loop"
STREAM = "StreamEvents, 100 a message"
CLIENT_BATCHES = "  SendEvents from the same client"

RATIOS = (Ratio(UNARY, NO_OP, 0.60), Ratio(BATCHES, BARE, 0.40), Ratio(STREAM, CLIENT_BATCHES))


@dataclass
class Bench:
    """The subjects of one run: the servers, files, and how long each measurement takes."""

    folder: Path
    signalbox: Signalbox
    no_op: str
    seconds: float
    rates: Rates = field(default_factory=dict)

    def unary_round(self) -> None:
        """Measure SendEvent and the no-op server once."""
        self._note(UNARY, self._signalbox_unary(self.seconds))
        self._note(NO_OP, self._unary_load(self.no_op).run(self.seconds) / self.seconds)

    def batch_round(self) -> None:
        """Measure SendEvents and the bare loop once."""
        self._note(BATCHES, self.signalbox.load(self._batch_load(), BATCH, self.seconds))
        self._note(BARE, _rate(run_python("bare_loop", str(self.folder / "bare.db"), str(self.seconds))))

    def stream_round(self) -> None:
        """Measure StreamEvents and SendEvents of one client once."""
        self._note(STREAM, self._signalbox_load("stream", self.seconds))
        self._note(CLIENT_BATCHES, self._signalbox_load("batches", self.seconds))

    def warm_up(self) -> None:
        """Let every server run for a moment that does not count."""
        self._signalbox_unary(WARM_UP_SECONDS)
        self._unary_load(self.no_op).run(WARM_UP_SECONDS)
        self.signalbox.load(self._batch_load(), BATCH, WARM_UP_SECONDS)
        for kind in ("batches", "stream"):
            self._signalbox_load(kind, WARM_UP_SECONDS)

    def _note(self, subject: str, rate: float) -> None:
        self.rates.setdefault(subject, []).append(rate)

    def _unary_load(self, address: str) -> H2load:
        return unary_load(self.folder, address)

    def _batch_load(self) -> H2load:
        body = self.folder / "send_events.bin"
        body.write_bytes(framed(send_events_request()))
        return H2load(f"http://{self.signalbox.grpc}{SEND_EVENTS}", body, BATCH_CONNECTIONS, BATCH_STREAMS)

    def _signalbox_unary(self, seconds: float) -> float:
        return self.signalbox.load(self._unary_load(self.signalbox.grpc), 1, seconds)

    def _signalbox_load(self, kind: str, seconds: float) -> float:
        before = self.signalbox.settled_position()
        result = run_python("load", kind, self.signalbox.grpc, str(seconds))
        stored = self.signalbox.settled_position() - before
        if stored != result["events"]:
            raise Failed(f"{kind}: {result['events']:,} events were receipted, but the log has {stored:,} more")
        return _rate(result)


def unary_load(folder: Path, address: str) -> H2load:
    """Return the load of SendEvent."""
    body = folder / "send_event.bin"
    body.write_bytes(send_event_body())
    return H2load(f"http://{address}{SEND_EVENT}", body, CONNECTIONS, STREAMS)


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
            bench.unary_round()
            bench.batch_round()
            bench.stream_round()
        progress("")
        return bench.rates


def _rate(result: dict[str, float]) -> float:
    return result["events"] / result["seconds"]


if __name__ == "__main__":
    main(__doc__, ("h2load",), measure, RATIOS)
