"""The groups that measure delivering matches. See bench/README.md."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from bench import peers
from bench.data import KEY, MATCHING_EVERY
from bench.harness import GRACE_SECONDS, Group, rate
from bench.results import Failed, Ratio
from bench.subjects import Signalbox, signalbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.harness import Round

RATE = 500
WATCHED_RATE = 100
WATCHERS, CONSUMERS = 1_000, 500
"""Streams: the most that two projects may have open on a server."""

SECOND_KEY = "sb_second_key_of_the_benchmark"
PERCENTILES = ("p50", "p99")

CONSUME, WATCH = "ConsumeMatches", "WatchMatches"
WINDOW_1000 = "ConsumeMatches, window 1,000"
WINDOW_100 = "ConsumeMatches, window 100"
FOUR = "ConsumeMatches, window 1,000, four consumers"
BY_CONTACT = "ConsumeMatches, window 1,000, order by contact"
ALONE = "SendEvent p50, no watchers"
LIVE = "SendEvent p50, 1,000 watchers, one event in ten matches"
MEMORY, MEMORY_ALLOWED = "resident memory, MB", "150 MB"
CPU, CPU_ALLOWED = "CPU, % of a core", "3 %"


@contextmanager
def lags(folder: Path, seconds: float) -> Iterator[Round]:
    """Measure the time from the response to SendEvent to the arrival of the match, and the same of the peers."""
    with signalbox(folder) as subject, peers.running(folder, peers.JETSTREAM, peers.REDIS) as running:

        def take() -> dict[str, float]:
            values: dict[str, float] = {}
            for kind, title in (("consume", CONSUME), ("watch", WATCH)):
                figures = subject.lag(kind, RATE, seconds)
                values |= {f"{title} {percent}": figures[f"lag_{percent}"] for percent in PERCENTILES}
            for peer, client in running.items():
                figures = client("lag", str(RATE), str(seconds))
                values |= {f"{peer.title} {percent}": figures[f"lag_{percent}"] for percent in PERCENTILES}
            return values

        yield take


@contextmanager
def deliveries(folder: Path, _seconds: float) -> Iterator[Round]:
    """Measure acknowledged deliveries of stored matches, and of the peers' messages."""
    compared = (peers.JETSTREAM, peers.JETSTREAM_ALWAYS, peers.REDIS, peers.JOBS)
    with signalbox(folder) as subject, peers.running(folder, *compared) as running:
        subject.store_matches()
        for peer, client in running.items():
            client("fill", str(peer.deliveries))

        def take() -> dict[str, float]:
            values = {
                WINDOW_1000: subject.deliveries(),
                WINDOW_100: subject.deliveries(100),
                FOUR: subject.deliveries(consumers=4),
                BY_CONTACT: subject.deliveries(by_contact=True),
            }
            for peer, client in running.items():
                for kind in peer.consumes:
                    values[f"{peer.title}, {kind}"] = rate(client("consume", kind, str(peer.deliveries)))
            return values

        yield take


@dataclass(frozen=True)
class OpenStreams:
    """A process that holds many streams of a server open."""

    process: subprocess.Popen[str]

    def await_position(self, position: int) -> None:
        """Wait until every watcher has received everything up to a position. Raise Failed."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{position}\n")
        self.process.stdin.flush()
        self.expect("caught up")

    def expect(self, line: str) -> None:
        """Wait for a line. Raise Failed if another one comes."""
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != line:
            raise Failed("the process with the streams has failed")


@contextmanager
def open_streams(subject: Signalbox, kind: str, count: int, key: str = KEY) -> Iterator[OpenStreams]:
    """Hold streams open that `watch` or `consume`; consumers share a new subscription."""
    with subject.subscription("streams", key=key) as name:
        command = (sys.executable, "-m", "bench.streams", kind, subject.grpc, key, str(count), name)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            streams = OpenStreams(process)
            try:
                streams.expect("ready")
                yield streams
            finally:
                assert process.stdin is not None
                with suppress(BrokenPipeError):
                    process.stdin.close()
                process.wait(GRACE_SECONDS)


@contextmanager
def watched(folder: Path, seconds: float) -> Iterator[Round]:
    """Measure SendEvent with and without 1,000 watchers that receive all matches."""
    with (
        signalbox(folder) as alone,
        signalbox(folder) as subject,
        open_streams(subject, "watch", WATCHERS) as streams,
    ):

        def send(watched: Signalbox) -> float:
            sent = watched.lag("alone", WATCHED_RATE, seconds, MATCHING_EVERY)["send_p50"]
            if watched is subject:
                streams.await_position(watched.heads().matches)
            return sent

        yield lambda: {ALONE: send(alone), LIVE: send(subject)}


@contextmanager
def idle(folder: Path, seconds: float) -> Iterator[Round]:
    """Measure memory and CPU of a server with idle watchers of one project, and idle consumers of another one."""
    with signalbox(folder) as subject, ExitStack() as stack:
        subject.add_project(SECOND_KEY)
        stack.enter_context(open_streams(subject, "watch", WATCHERS))
        stack.enter_context(open_streams(subject, "consume", CONSUMERS, SECOND_KEY))
        sleep(5 * seconds)  # until the server has settled

        def take() -> dict[str, float]:
            before, began = cpu_seconds(subject.process), monotonic()
            sleep(5 * seconds)
            used = (cpu_seconds(subject.process) - before) / (monotonic() - began)
            memory = resident(subject.process) / 1e6
            return {MEMORY: memory, MEMORY_ALLOWED: 150.0, CPU: 100 * used, CPU_ALLOWED: 3.0}

        yield take


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(process: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


LAGS = Group(
    f"Accepted to delivered, {RATE} matches a second",
    "ms",
    tuple(
        Ratio(f"{title} {percent}", f"{peer.title} {percent}", wanted, at_most=True, enough=enough)
        for title in (CONSUME, WATCH)
        for peer, wanted in ((peers.JETSTREAM, 3.0), (peers.REDIS, None))
        for percent, enough in (("p50", 0.5), ("p99", 3.0))
    ),
    lags,
    lambda: peers.missing(peers.JETSTREAM, peers.REDIS),
)
DELIVERIES = Group(
    "Acknowledged deliveries",
    "matches/s",
    (
        Ratio(WINDOW_1000, f"{peers.JETSTREAM.title}, {peers.CONFIRMED}", 1.5),
        Ratio(WINDOW_100, f"{peers.JETSTREAM.title}, {peers.CONFIRMED}", 1.0),
        Ratio(FOUR, WINDOW_1000, 1.0),
        Ratio(BY_CONTACT, WINDOW_1000, 0.9),
        Ratio(WINDOW_1000, f"{peers.JETSTREAM.title}, {peers.UNCONFIRMED}"),
        Ratio(WINDOW_1000, f"{peers.JETSTREAM_ALWAYS.title}, {peers.CONFIRMED}"),
        Ratio(WINDOW_1000, f"{peers.REDIS.title}, {peers.CONFIRMED}"),
        Ratio(WINDOW_1000, f"{peers.JOBS.title}, {peers.CONFIRMED}"),
    ),
    deliveries,
    lambda: peers.missing(peers.JETSTREAM, peers.JETSTREAM_ALWAYS, peers.REDIS, peers.JOBS),
)
WATCHED = Group(
    f"Live watchers, {WATCHED_RATE} events a second",
    "ms",
    (Ratio(LIVE, ALONE, 3.0, at_most=True),),
    watched,
)
IDLE = Group(
    "1,000 idle watchers and 500 idle consumers",
    "MB, %",
    (Ratio(MEMORY, MEMORY_ALLOWED, 1.0, at_most=True), Ratio(CPU, CPU_ALLOWED, 1.0, at_most=True)),
    idle,
    rounds=3,
)

GROUPS = (LAGS, DELIVERIES, WATCHED, IDLE)
