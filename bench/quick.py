"""The quick benchmark, `make bench-quick`: what Signalbox adds to what cannot be avoided. See bench/README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import sleep
from typing import TYPE_CHECKING, TypeAlias

import grpc

from bench.messages import BATCH, SEND_EVENT, SEND_EVENTS, framed, send_event_body, send_events_request
from server.demo import PROJECT, SECRET
from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import projects_pb2
from signalbox.v1.automations_pb2_grpc import AutomationsStub
from signalbox.v1.projects_pb2_grpc import ProjectsStub

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONNECTIONS, STREAMS = 8, 8
BATCH_CONNECTIONS, BATCH_STREAMS = 4, 2
WARM_UP_SECONDS = 1.0
ADMIN_KEY = "sb_admin_of_the_benchmark"
GRACE_SECONDS = 15.0
LOAD_TIMEOUT_SECONDS = 60

UNARY = "SendEvent, 64 in flight"
NO_OP = "  no-op gRPC server"
BATCHES = "SendEvents of 500, 8 in flight"
BARE = "  bare loop"
STREAM = "StreamEvents, 100 a message"
CLIENT_BATCHES = "  SendEvents from the same client"

Rates: TypeAlias = dict[str, list[float]]
"""Events a second of each subject, one for each round."""


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


RATIOS = (Ratio(UNARY, NO_OP, 0.60), Ratio(BATCHES, BARE, 0.40), Ratio(STREAM, CLIENT_BATCHES))


@dataclass(frozen=True)
class H2load:
    """One kind of load: a request that is sent again and again over so many connections of so many streams."""

    url: str
    body: Path
    connections: int
    streams: int

    @property
    def in_flight(self) -> int:
        """How many requests are on their way at once."""
        return self.connections * self.streams

    def run(self, seconds: float) -> int:
        """Send for a time. Returns how many requests were answered in it."""
        headers = ("content-type: application/grpc", "te: trailers", f"authorization: Bearer {SECRET}")
        output = _run(
            *("h2load", "-D", f"{seconds * 1_000:.0f}ms", "-t", "1", "-d", str(self.body)),
            *("-c", str(self.connections), "-m", str(self.streams)),
            *(word for header in headers for word in ("-H", header)),
            self.url,
        )
        found = re.search(r"(\d+) succeeded, (\d+) failed", output)
        if found is None or int(found[2]) or not int(found[1]):
            raise Failed(f"h2load was not answered:\n{output}")
        return int(found[1])


@dataclass
class Bench:
    """The subjects of one run: addresses of the servers, files, and how long each measurement takes."""

    folder: Path
    signalbox: str
    no_op: str
    seconds: float
    rates: Rates = field(default_factory=dict)

    def unary_round(self) -> None:
        """Measure SendEvent and the no-op server once."""
        self._note(UNARY, self._signalbox_unary(self.seconds))
        self._note(NO_OP, self._unary_load(self.no_op).run(self.seconds) / self.seconds)

    def batch_round(self) -> None:
        """Measure SendEvents and the bare loop once."""
        self._note(BATCHES, self._signalbox_h2load(self._batch_load(), BATCH, self.seconds))
        self._note(BARE, _rate(_python("bare_loop", str(self.folder / "bare.db"), str(self.seconds))))

    def stream_round(self) -> None:
        """Measure StreamEvents and SendEvents of one client once."""
        self._note(STREAM, self._signalbox_load("stream", self.seconds))
        self._note(CLIENT_BATCHES, self._signalbox_load("batches", self.seconds))

    def warm_up(self) -> None:
        """Let every server run for a moment that does not count."""
        self._signalbox_unary(WARM_UP_SECONDS)
        self._unary_load(self.no_op).run(WARM_UP_SECONDS)
        self._signalbox_h2load(self._batch_load(), BATCH, WARM_UP_SECONDS)
        for kind in ("batches", "stream"):
            self._signalbox_load(kind, WARM_UP_SECONDS)

    def _note(self, subject: str, rate: float) -> None:
        self.rates.setdefault(subject, []).append(rate)

    def _unary_load(self, address: str) -> H2load:
        body = self.folder / "send_event.bin"
        body.write_bytes(send_event_body())
        return H2load(f"http://{address}{SEND_EVENT}", body, CONNECTIONS, STREAMS)

    def _batch_load(self) -> H2load:
        body = self.folder / "send_events.bin"
        body.write_bytes(framed(send_events_request()))
        return H2load(f"http://{self.signalbox}{SEND_EVENTS}", body, BATCH_CONNECTIONS, BATCH_STREAMS)

    def _signalbox_unary(self, seconds: float) -> float:
        return self._signalbox_h2load(self._unary_load(self.signalbox), 1, seconds)

    def _signalbox_h2load(self, load: H2load, size: int, seconds: float) -> float:
        """Load a method. h2load reads no gRPC status: the log tells what was recorded."""
        before = self._settled_position()
        succeeded = load.run(seconds) * size
        stored = self._settled_position() - before
        if not succeeded <= stored <= succeeded + load.in_flight * size:
            raise Failed(f"{load.url}: {succeeded:,} events were answered, but the log has {stored:,} more")
        return succeeded / seconds

    def _signalbox_load(self, kind: str, seconds: float) -> float:
        before = self._settled_position()
        result = _python("load", kind, self.signalbox, str(seconds))
        stored = self._settled_position() - before
        if stored != result["events"]:
            raise Failed(f"{kind}: {result['events']:,} events were receipted, but the log has {stored:,} more")
        return _rate(result)

    def _settled_position(self) -> int:
        """Read the position of the newest event once it stands still: cancelled calls may still be committed."""
        position = -1
        while position != (position := self._position()):
            sleep(0.1)
        return position

    def _position(self) -> int:
        with grpc.insecure_channel(self.signalbox) as channel:
            request = projects_pb2.GetProjectRequest(project=PROJECT)
            metadata = (("authorization", f"Bearer {ADMIN_KEY}"),)
            return ProjectsStub(channel).GetProject(request, metadata=metadata, timeout=30).project.head_position


def _rate(result: dict[str, float]) -> float:
    return result["events"] / result["seconds"]


def _python(module: str, *arguments: str) -> dict[str, float]:
    """Run a module of the benchmark in its own process; it prints what it did."""
    result: dict[str, float] = json.loads(_run(sys.executable, "-m", f"bench.{module}", *arguments))
    return result


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LOAD_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command[:4])} did not end within {LOAD_TIMEOUT_SECONDS} s") from error
    if done.returncode:
        raise Failed(f"{' '.join(command[:4])} ended with {done.returncode}:\n{done.stderr[-2_000:]}")
    return done.stdout


@contextmanager
def _server(folder: Path, *arguments: str) -> Iterator[str]:
    """Run a server in its own process. Gives its address; raises Failed if it does not start or end well."""
    errors = folder / f"{arguments[0]}.log"
    command = (sys.executable, "-m", *arguments)
    with errors.open("w") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip().rpartition("grpc=")[2] or _give_up(arguments[0])
        except (Failed, grpc.RpcError) as error:
            # A server that broke down says more about the cause than the load that it left without answers.
            if code := _end(process):
                raise Failed(f"{error}\n{arguments[0]} ended with {code}:\n{errors.read_text()[-2_000:]}") from error
            raise
        finally:
            code = _end(process)
    if code:
        raise Failed(f"{arguments[0]} ended with {code}:\n{errors.read_text()[-2_000:]}")


def _give_up(server: str) -> str:
    raise Failed(f"{server} did not start")


def _end(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def measure(rounds: int, seconds: float) -> Rates:
    """Start the servers, measure so many rounds, and end the servers."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-bench-")))
        database = f"sqlite:///{folder / 'signalbox.db'}"
        options = (
            "--dev",
            "--grpc",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--database",
            database,
            "--admin-key",
            ADMIN_KEY,
        )
        signalbox = stack.enter_context(_server(folder, "server", "serve", *options))
        pause_automations(signalbox)
        no_op = stack.enter_context(_server(folder, "bench.no_op"))
        bench = Bench(folder, signalbox, no_op, seconds)
        bench.warm_up()
        for number in range(1, rounds + 1):
            _progress(f"round {number} of {rounds}")
            bench.unary_round()
            bench.batch_round()
            bench.stream_round()
        _progress("")
        return bench.rates


def pause_automations(address: str) -> None:
    """Pause the demo's automation: what is compared is the way into the log."""
    metadata = (("authorization", f"Bearer {SECRET}"),)
    with grpc.insecure_channel(address) as channel:
        automations = AutomationsStub(channel)
        for each in automations.ListAutomations(pb.ListAutomationsRequest(), metadata=metadata).automations:
            automations.PauseAutomation(pb.PauseAutomationRequest(id=each.id), metadata=metadata)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def machine() -> str:
    """Describe where this runs."""
    python, sqlite = platform.python_version(), sqlite3.sqlite_version
    return f"{os.cpu_count()} cores, Python {python}, SQLite {sqlite}, grpcio {grpc.__version__}, {platform.platform()}"


def table(rates: Rates) -> str:
    """Write the rates and the ratios as aligned columns."""
    lines = [f"{'events/s':<44}{'median':>10}{'min':>10}{'max':>10}"]
    lines += [_line(subject, values, "{:,.0f}") for subject, values in rates.items()]
    lines += ["", f"{'ratio, round by round':<44}{'median':>10}{'min':>10}{'max':>10}{'wanted':>10}"]
    for ratio in RATIOS:
        title = f"{ratio.subject.partition(',')[0]} / {ratio.base.partition(',')[0].strip()}"
        wanted = "" if ratio.wanted is None else f"{ratio.wanted:>10.2f}"
        lines.append(_line(title, ratio.of_rounds(rates), "{:.2f}") + wanted)
    return "\n".join(lines)


def _line(title: str, values: Sequence[float], form: str) -> str:
    figures = (form.format(value) for value in (median(values), min(values), max(values)))
    return f"{title:<44}" + "".join(f"{figure:>10}" for figure in figures)


def too_low(rates: Rates) -> list[str]:
    """Name the ratios that are below what is wanted."""
    low = []
    for ratio in RATIOS:
        reached = median(ratio.of_rounds(rates))
        if ratio.wanted is not None and reached < ratio.wanted:
            low.append(f"{ratio.subject} reached {reached:.2f}; wanted are {ratio.wanted:.2f}")
    return low


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-quick", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each measurement (7)")
    parser.add_argument("--seconds", type=float, default=1.2, help="seconds of each measurement (1.2)")
    parser.add_argument("--require", action="store_true", help="fail if a ratio is lower than wanted")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    if shutil.which("h2load") is None:
        sys.exit("h2load is missing. Install it: apt-get install nghttp2-client (macOS: brew install nghttp2)")
    print(machine(), end="\n\n", flush=True)
    try:
        rates = measure(arguments.rounds, arguments.seconds)
    except (Failed, grpc.RpcError) as error:
        sys.exit(f"The benchmark failed: {error}")
    print(table(rates))
    if arguments.require and (low := too_low(rates)):
        sys.exit("\n".join(low))


if __name__ == "__main__":
    main()
