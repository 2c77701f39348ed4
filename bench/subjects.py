"""The server under test, with the benchmark's project, and the loads on it.

After each load the heads of the logs of events and of matches are read: they must have risen by exactly the events
that were acknowledged, and by their matches.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from bench.data import (
    AUTOSEND_KEY,
    CONTACTS,
    KEY,
    MATCHES,
    NAMES,
    NEVER,
    RULES,
    batch_requests,
    connect_json_requests,
    connect_proto_requests,
    introduction,
    matching_requests,
    rest_requests,
    single_requests,
    stream_requests,
    write_requests,
)
from bench.harness import rate, run_python, server
from bench.load import OVER_HTTP
from bench.results import Failed
from signalbox.v1 import automations_pb2, event_definitions_pb2, match_stream_pb2, projects_pb2
from signalbox.v1.automations_pb2_grpc import AutomationsStub
from signalbox.v1.event_definitions_pb2_grpc import EventDefinitionsStub
from signalbox.v1.event_ingest_pb2_grpc import EventIngestStub
from signalbox.v1.match_stream_pb2_grpc import MatchStreamStub
from signalbox.v1.projects_pb2_grpc import ProjectsStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from bench.data import Request

ROOT = Path(__file__).parent.parent
ADMIN_KEY = "sb_admin_of_the_benchmark"
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

    def of(self, kind: str, contacts: int = CONTACTS) -> Path:
        """Return the file for a kind of load."""
        path = self.folder / f"{kind}-{contacts}.bin"
        return path if path.exists() else write_requests(path, REQUESTS[kind](contacts))


REQUESTS: dict[str, Callable[[int], Iterable[Request]]] = {
    "unary": single_requests,
    "one": single_requests,
    "rest": rest_requests,
    "connect_proto": connect_proto_requests,
    "connect_json": connect_json_requests,
    "batches": batch_requests,
    "stream": stream_requests,
    "once": matching_requests,
}
"""The requests that each kind of load sends."""


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
        """Run a load of a kind of `bench.load` for `seconds`. Return events per second."""
        result = self.run_load(kind, seconds, requests)
        return rate(result)

    def run_load(self, kind: str, seconds: float, requests: Path | None = None) -> dict[str, float]:
        """Run a load and return its figures.

        Raise Failed unless every acknowledged event and each of its matches is in the logs.
        """
        before = self.heads()
        file = requests or self.requests.of(kind, self.contacts)
        address = self.http if kind in OVER_HTTP else self.grpc
        result = run_python("load", kind, address, KEY, str(file), str(seconds))
        self._check(kind, before, int(result["events"]), int(result["matches"]))
        return result

    def run_turns(self, other: str, seconds: float) -> dict[str, float]:
        """Load it with single events, and another server by turns. Return the figures, checked as `run_load` does."""
        before = self.heads()
        result = run_python("turns", KEY, str(self.requests.of("unary")), str(seconds), self.grpc, other)
        self._check("turns", before, int(result["events"]), int(result["matches"]))
        return result

    def store_matches(self) -> None:
        """Store events that all match, so that there are matches to deliver."""
        self.run_load("once", 3_600)

    def deliveries(
        self, window: int = 1_000, consumers: int = 1, *, by_contact: bool = False, count: int = MATCHES
    ) -> float:
        """Consume at least `count` matches by a new subscription, with acknowledgements. Return the rate."""
        with self.subscription(by_contact=by_contact, from_start=True) as name:
            counts = (str(count), str(window), str(consumers))
            result = run_python("consume", self.grpc, KEY, name, *counts)
        if result["events"] < count:
            raise Failed(f"{result['events']:,.0f} deliveries were acknowledged instead of {count:,}")
        return rate(result)

    def lag(self, kind: str, per_second: float, seconds: float, every: int = 1) -> dict[str, float]:
        """Send single events at a rate while the matches are received: by `watch`, `consume`, or not, `alone`.

        One of `every` matches; all must if the matches are received. Return the percentiles of `bench.lag`.
        """
        before = self.heads()
        with self.subscription() as name:
            result = run_python("lag", kind, self.grpc, KEY, str(per_second), str(seconds), str(every), name)
        self._check(f"lag of {kind}", before, int(result["events"]), int(result["events"]) // every)
        return result

    def _check(self, load: str, before: Heads, events: int, matches: int) -> None:
        """Raise Failed unless the logs have grown by exactly these events and matches."""
        if self.matching in {Matching.NEVER, Matching.NO_AUTOMATIONS}:
            matches = 0
        acknowledged = Heads(events, matches)
        stored = self.heads() - before
        if stored != acknowledged:
            raise Failed(f"{load}: {acknowledged} were acknowledged, but the logs have {stored} more")

    @contextmanager
    def subscription(
        self, name: str = "bench", *, by_contact: bool = False, from_start: bool = False, key: str = KEY
    ) -> Iterator[str]:
        """Create a subscription, and delete it afterwards. Yield its name."""
        metadata = (("authorization", f"Bearer {key}"),)
        order = match_stream_pb2.DELIVERY_ORDER_CONTACT if by_contact else match_stream_pb2.DELIVERY_ORDER_POSITION
        subscription = match_stream_pb2.Subscription(name=name, order=order)
        end = match_stream_pb2.LOG_END_EARLIEST if from_start else match_stream_pb2.LOG_END_LATEST
        start = match_stream_pb2.StartPoint(log_end=end)
        create = match_stream_pb2.CreateSubscriptionRequest(subscription=subscription, start=start)
        delete = match_stream_pb2.DeleteSubscriptionRequest(subscription=name, force=True)
        with grpc.insecure_channel(self.grpc) as channel:
            stub = MatchStreamStub(channel)
            stub.CreateSubscription(create, metadata=metadata, timeout=60)
            yield name
            stub.DeleteSubscription(delete, metadata=metadata, timeout=60)

    def heads(self) -> Heads:
        """Return the heads of the logs. No stream is opened for it: those of a project are limited."""
        with grpc.insecure_channel(self.grpc) as channel, self.subscription("heads") as name:
            request = projects_pb2.GetProjectRequest(project=PROJECT)
            project = ProjectsStub(channel).GetProject(request, metadata=ADMIN_METADATA, timeout=30).project
            wanted = match_stream_pb2.GetSubscriptionRequest(subscription=name)
            stats = MatchStreamStub(channel).GetSubscription(wanted, metadata=METADATA, timeout=30).subscription.stats
            return Heads(project.head_position, stats.head_position)

    def add_project(self, key: str) -> None:
        """Create another project, with a key."""
        with grpc.insecure_channel(self.grpc) as channel:
            _create_project(ProjectsStub(channel), f"project of {key}", {projects_pb2.DIALECT_NATIVE: key})


def _create_project(projects: ProjectsStub, name: str, keys: Mapping[projects_pb2.Dialect.ValueType, str]) -> None:
    project = projects_pb2.Project(name=name, unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE)
    projects.CreateProject(projects_pb2.CreateProjectRequest(project=project), metadata=ADMIN_METADATA)
    for dialect, secret in keys.items():
        wanted = projects_pb2.CreateApiKeyRequest(project=name, dialect=dialect, secret=secret)
        projects.CreateApiKey(wanted, metadata=ADMIN_METADATA)


def _prepare(address: str, matching: Matching) -> None:
    """Create the project, its keys, definitions, contacts and automations."""
    with grpc.insecure_channel(address) as channel:
        keys = {projects_pb2.DIALECT_NATIVE: KEY, projects_pb2.DIALECT_AUTOSEND: AUTOSEND_KEY}
        _create_project(ProjectsStub(channel), PROJECT, keys)
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
    prepare: bool | None = None,
) -> Iterator[Signalbox]:
    """Run the server of a checkout over an SQLite file, by default a new one, with the benchmark's project in it.

    The project is created if `prepare` is set, by default in a new file.

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
        if database is None if prepare is None else prepare:
            _prepare(addresses["grpc"], matching)
        yield Signalbox(
            addresses["grpc"], addresses["http"], matching, Requests(folder), int(addresses["pid"]), contacts
        )
