"""What is measured and by what: a Signalbox of the benchmark's own, and the loads.

After each load the heads of the logs of events and of matches are read: they must have risen by exactly the events
that were acknowledged, and by their matches.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

import grpc

from bench.data import (
    CONTACTS,
    NAMES,
    NEVER,
    RULES,
    STREAM_BATCH,
    batch_requests,
    introduction,
    single_requests,
    write_requests,
)
from bench.harness import Failed, run, run_python, server
from signalbox.v1 import automations_pb2, event_definitions_pb2, match_stream_pb2, projects_pb2
from signalbox.v1.automations_pb2_grpc import AutomationsStub
from signalbox.v1.event_definitions_pb2_grpc import EventDefinitionsStub
from signalbox.v1.event_ingest_pb2_grpc import EventIngestStub
from signalbox.v1.match_stream_pb2_grpc import MatchStreamStub
from signalbox.v1.projects_pb2_grpc import ProjectsStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bench.data import Request

ROOT = Path(__file__).parent.parent
ADMIN_KEY = "sb_admin_of_the_benchmark"
KEY = "sb_key_of_the_benchmark"
AUTOSEND_KEY = "AS_key_of_the_benchmark"
PROJECT = "bench"
METADATA = (("authorization", f"Bearer {KEY}"),)
ADMIN_METADATA = (("authorization", f"Bearer {ADMIN_KEY}"),)
OPTIONS = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin-key", ADMIN_KEY, "--drain", "0")

PROPERTIES = {
    "order_total": event_definitions_pb2.PROPERTY_TYPE_NUMBER,
    "currency": event_definitions_pb2.PROPERTY_TYPE_STRING,
    "is_first_purchase": event_definitions_pb2.PROPERTY_TYPE_BOOLEAN,
}


class Matching(Enum):
    """Which automations the project has."""

    ONE_IN_TEN = "ten automations; one event in ten matches one of them"
    NEVER = "ten automations that never match"
    NO_AUTOMATIONS = "no automations"
    ITS_OWN = "automations that the benchmark creates itself"


@dataclass(frozen=True)
class Requests:
    """The files of prepared requests, in a folder."""

    folder: Path

    def singles(self, contacts: int = CONTACTS) -> Path:
        """Return the file with requests of SendEvent."""
        return self._file(f"singles_{contacts}", single_requests, contacts)

    def batches(self, contacts: int = CONTACTS) -> Path:
        """Return the file with requests of SendEvents."""
        return self._file(f"batches_{contacts}", batch_requests, contacts)

    def messages(self, contacts: int = CONTACTS) -> Path:
        """Return the file with messages of StreamEvents."""
        return self._file(f"messages_{contacts}", lambda contacts: batch_requests(contacts, STREAM_BATCH), contacts)

    def of(self, kind: str, contacts: int = CONTACTS) -> Path:
        """Return the file for a kind of load."""
        return {"unary": self.singles, "batches": self.batches, "stream": self.messages}[kind](contacts)

    def _file(self, name: str, make: Callable[[int], Iterable[Request]], contacts: int) -> Path:
        path = self.folder / f"{name}.bin"
        return path if path.exists() else write_requests(path, make(contacts))


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
class Heads:
    """The positions of the newest event and of the newest match."""

    events: int
    matches: int

    def __sub__(self, other: Heads) -> Heads:
        return Heads(self.events - other.events, self.matches - other.matches)


@dataclass(frozen=True)
class Signalbox:
    """A server with the benchmark's project; `grpc` and `http` are its addresses."""

    grpc: str
    http: str
    matching: Matching
    requests: Requests
    process: int
    contacts: int = CONTACTS

    def load(self, kind: str, seconds: float, requests: Path | None = None) -> float:
        """Load it for `seconds`: `unary`, `batches` or `stream`. Return events per second.

        Raise Failed unless every acknowledged event and each of its matches is in the logs.
        """
        before = self.heads()
        file = requests or self.requests.of(kind, self.contacts)
        result = run_python("load", kind, self.grpc, KEY, str(file), str(seconds))
        matches = int(result["matches"]) if self.matching in {Matching.ONE_IN_TEN, Matching.ITS_OWN} else 0
        acknowledged = Heads(int(result["events"]), matches)
        stored = self.heads() - before
        if stored != acknowledged:
            raise Failed(f"{kind}: {acknowledged} were acknowledged, but the logs have {stored} more")
        return result["events"] / result["seconds"]

    def load_rest(self, load: Wrk, seconds: float) -> float:
        """Load it by wrk, which leaves requests unanswered when its time is up. Return events per second."""
        before = self.settled_heads().events
        succeeded = load.run(seconds)
        stored = self.settled_heads().events - before
        if not succeeded <= stored <= succeeded + load.in_flight:
            raise Failed(f"{load.url}: {succeeded:,} events were answered, but the log has {stored:,} more")
        return succeeded / seconds

    def heads(self) -> Heads:
        """Return the heads of the logs."""
        with grpc.insecure_channel(self.grpc) as channel:
            request = projects_pb2.GetProjectRequest(project=PROJECT)
            project = ProjectsStub(channel).GetProject(request, metadata=ADMIN_METADATA, timeout=30).project
            watch = MatchStreamStub(channel).WatchMatches(match_stream_pb2.WatchMatchesRequest(), metadata=METADATA)
            matches = next(watch).head_position
            watch.cancel()
            return Heads(project.head_position, matches)

    def settled_heads(self) -> Heads:
        """Return the heads once they no longer move: calls that were given up may still be committed."""
        heads = None
        while heads != (heads := self.heads()):
            sleep(0.1)
        return heads


def _prepare(address: str, matching: Matching) -> None:
    """Create the project, its keys, definitions, contacts and automations."""
    with grpc.insecure_channel(address) as channel:
        projects = ProjectsStub(channel)
        project = projects_pb2.Project(name=PROJECT, unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE)
        projects.CreateProject(projects_pb2.CreateProjectRequest(project=project), metadata=ADMIN_METADATA)
        for dialect, secret in ((projects_pb2.DIALECT_NATIVE, KEY), (projects_pb2.DIALECT_AUTOSEND, AUTOSEND_KEY)):
            wanted = projects_pb2.CreateApiKeyRequest(project=PROJECT, dialect=dialect, secret=secret)
            projects.CreateApiKey(wanted, metadata=ADMIN_METADATA)
        for name in NAMES:
            definition = event_definitions_pb2.EventDefinition(name=name)
            for property_name, kind in PROPERTIES.items():
                definition.schema.properties.add(name=property_name, type=kind)
            request = event_definitions_pb2.CreateEventDefinitionRequest(event_definition=definition)
            EventDefinitionsStub(channel).CreateEventDefinition(request, metadata=METADATA)
        _create_automations(AutomationsStub(channel), matching)
        # The first events wait until the conditions of the automations are compiled.
        EventIngestStub(channel).SendEvents(introduction(), metadata=METADATA, timeout=60)


def _create_automations(automations: AutomationsStub, matching: Matching) -> None:
    if matching in {Matching.NO_AUTOMATIONS, Matching.ITS_OWN}:
        return
    for number, rule in enumerate(RULES):
        automation = automations_pb2.Automation(
            name=f"automation {number}",
            event_name=rule.event,
            condition=rule.condition + (NEVER if matching is Matching.NEVER else ""),
            state=automations_pb2.AUTOMATION_STATE_ACTIVE,
        )
        automations.CreateAutomation(automations_pb2.CreateAutomationRequest(automation=automation), metadata=METADATA)


@contextmanager
def signalbox(
    folder: Path,
    matching: Matching = Matching.ONE_IN_TEN,
    contacts: int = CONTACTS,
    *,
    checkout: Path = ROOT,
    database: Path | None = None,
) -> Iterator[Signalbox]:
    """Run the server of a checkout over an SQLite file, by default a new one, with the benchmark's project in it.

    All servers run in the environment of this command. Prepared requests are stored in `folder`.
    """
    with ExitStack() as stack:
        own = folder / f"signalbox-{len(list(folder.glob('signalbox-*')))}"
        own.mkdir()
        file = database or own / "signalbox.db"
        path = os.pathsep.join((str(checkout), str(checkout / "generated")))
        arguments = ("server", "serve", "--database", f"sqlite:///{file}", *OPTIONS)
        running = server(own, *arguments, cwd=checkout, env={"PYTHONPATH": path})
        addresses = stack.enter_context(running)
        if database is None:
            _prepare(addresses["grpc"], matching)
        yield Signalbox(
            addresses["grpc"], addresses["http"], matching, Requests(folder), int(addresses["pid"]), contacts
        )
