"""What is measured and by what: a Signalbox of the benchmark's own, and the loads that public tools make."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from time import sleep
from typing import TYPE_CHECKING

import grpc

from bench.harness import Failed, run, server
from bench.messages import event_input
from server.demo import PROJECT, SECRET
from signalbox.v1 import automations_pb2, projects_pb2
from signalbox.v1.automations_pb2_grpc import AutomationsStub
from signalbox.v1.event_ingest_pb2 import SendEventRequest
from signalbox.v1.event_ingest_pb2_grpc import EventIngestStub
from signalbox.v1.projects_pb2_grpc import ProjectsStub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADMIN_KEY = "sb_admin_of_the_benchmark"
ANY_PORTS = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
METADATA = (("authorization", f"Bearer {SECRET}"),)


@dataclass(frozen=True)
class H2load:
    """One kind of load: a gRPC request sent repeatedly over `connections` connections of `streams` streams each."""

    url: str
    body: Path
    connections: int
    streams: int

    @property
    def in_flight(self) -> int:
        """The number of requests in flight at once."""
        return self.connections * self.streams

    def run(self, seconds: float) -> int:
        """Send for `seconds`. Return the number of requests answered."""
        headers = ("content-type: application/grpc", "te: trailers", f"authorization: Bearer {SECRET}")
        output = run(
            *("h2load", "-D", f"{seconds * 1_000:.0f}ms", "-t", "1", "-d", str(self.body)),
            *("-c", str(self.connections), "-m", str(self.streams)),
            *(word for header in headers for word in ("-H", header)),
            self.url,
        )
        found = re.search(r"(\d+) succeeded, (\d+) failed", output)
        if found is None or int(found[2]) or not int(found[1]):
            raise Failed(f"h2load was not answered:\n{output}")
        return int(found[1])


@dataclass(frozen=True)
class Wrk:
    """One kind of load: a POST sent repeatedly over `in_flight` connections, one at a time on each."""

    url: str
    script: Path
    in_flight: int

    def run(self, seconds: float) -> int:
        """Send for `seconds`. Return the number of successful requests."""
        output = run(
            *("wrk", "-t", "1", "-c", str(self.in_flight), "-d", f"{max(1, round(seconds))}s"),
            *("-s", str(self.script), self.url),
        )
        found = re.search(r"(\d+) requests in ([\d.]+)s", output)
        if found is None or "Non-2xx" in output or "Socket errors" in output:
            raise Failed(f"wrk was not answered well:\n{output}")
        return int(found[1])


@dataclass(frozen=True)
class Signalbox:
    """A server with the demo's project; `grpc` and `http` are its addresses."""

    grpc: str
    http: str

    def load(self, load: H2load | Wrk, size: int, seconds: float) -> float:
        """Load it with requests of `size` events each. Return events per second.

        h2load reads no gRPC status, so the recorded events are read from the log. Raise Failed if their number does
        not match the answers.
        """
        before = self.settled_position()
        succeeded = load.run(seconds) * size
        stored = self.settled_position() - before
        if not succeeded <= stored <= succeeded + load.in_flight * size:
            raise Failed(f"{load.url}: {succeeded:,} events were answered, but the log has {stored:,} more")
        return succeeded / seconds

    def send_one(self) -> None:
        """Send an event; the first one waits until the conditions of automations are compiled."""
        with grpc.insecure_channel(self.grpc) as channel:
            EventIngestStub(channel).SendEvent(SendEventRequest(event=event_input()), metadata=METADATA, timeout=60)

    def settled_position(self) -> int:
        """Return the position of the newest event once it no longer moves: cancelled calls may still be committed."""
        position = -1
        while position != (position := self._position()):
            sleep(0.1)
        return position

    def pause_automations(self) -> None:
        """Pause the demo's automation: only recording is compared."""
        with grpc.insecure_channel(self.grpc) as channel:
            stub = AutomationsStub(channel)
            for each in stub.ListAutomations(automations_pb2.ListAutomationsRequest(), metadata=METADATA).automations:
                stub.PauseAutomation(automations_pb2.PauseAutomationRequest(id=each.id), metadata=METADATA)

    def _position(self) -> int:
        with grpc.insecure_channel(self.grpc) as channel:
            request = projects_pb2.GetProjectRequest(project=PROJECT)
            metadata = (("authorization", f"Bearer {ADMIN_KEY}"),)
            return ProjectsStub(channel).GetProject(request, metadata=metadata, timeout=30).project.head_position


@contextmanager
def signalbox(folder: Path) -> Iterator[Signalbox]:
    """Run a server over an SQLite file in a folder, with the demo in it and its automation paused."""
    options = ("--dev", *ANY_PORTS, "--database", f"sqlite:///{folder / 'signalbox.db'}", "--admin-key", ADMIN_KEY)
    with server(folder, "server", "serve", *options) as addresses:
        running = Signalbox(addresses["grpc"], addresses["http"])
        running.pause_automations()
        yield running
