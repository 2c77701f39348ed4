"""The time of a page of each list by each filter, alone and in pairs, and of an explanation, among 5 million events.

python -m bench.lists
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc

from bench.data import CONTACTS, EVENTS, NAMES, email
from bench.harness import Group, main
from bench.results import Ratio
from bench.stored import SPAN_MICROSECONDS, STORED, stored_events
from bench.subjects import METADATA, signalbox
from signalbox.v1 import automations_pb2, contacts_pb2, event_ingest_pb2, match_stream_pb2
from signalbox.v1.automations_pb2_grpc import AutomationsStub
from signalbox.v1.contacts_pb2_grpc import ContactsStub
from signalbox.v1.event_ingest_pb2_grpc import EventIngestStub
from signalbox.v1.match_stream_pb2_grpc import MatchStreamStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from google.protobuf.message import Message

    from bench.harness import Round

CALLS = 5
"""How many times each call is made in a round; the median counts."""

PAGE = 50
HALF = timedelta(microseconds=STORED // EVENTS * SPAN_MICROSECONDS // 2)
"""The time in which half of the events were stored."""

SUBSCRIPTION = "lists"
PAGE_ALLOWED, EXPLANATION_ALLOWED = "20 ms", "10 ms"


@dataclass(frozen=True)
class Measured:
    """A method and its requests."""

    method: Callable[..., Any]
    requests: Sequence[Message]

    def slowest(self) -> float:
        """Return the longest time of a call, in milliseconds."""
        return max(map(self._milliseconds, self.requests))

    def _milliseconds(self, request: Message) -> float:
        times = []
        for _ in range(CALLS):
            began = perf_counter()
            self.method(request, metadata=METADATA)
            times.append(perf_counter() - began)
        return 1_000 * median(times)


def filtered(request: Message, filters: Mapping[str, Sequence[Any]]) -> list[Message]:
    """Return a request with no filter, with each value of each filter, and with each pair of values of two filters."""
    named = [(field, value) for field, values in filters.items() for value in values]
    chosen = [{}, *({field: value} for field, value in named)]
    chosen += [dict(pair) for pair in combinations(named, 2) if len(dict(pair)) == len(pair)]
    requests = []
    for fields in chosen:
        requests.append(type(request)(**fields))
        requests[-1].MergeFrom(request)
    return requests


def measured(channel: grpc.Channel) -> dict[str, Measured]:
    """Return the calls to measure: filters that many rows pass, few, and none."""
    events, automations = EventIngestStub(channel), AutomationsStub(channel)
    contacts, matches = ContactsStub(channel), MatchStreamStub(channel)
    newest = events.ListEvents(event_ingest_pb2.ListEventsRequest(page_size=1), metadata=METADATA).events[0]
    now = newest.received_at.ToDatetime()
    times = [now - timedelta(days=365), now - HALF, now]
    windows = ("received_from", "received_until", "occurred_from", "occurred_until")
    automation = automations.ListAutomations(automations_pb2.ListAutomationsRequest(), metadata=METADATA).automations[0]
    addresses = [email(0), email(CONTACTS - 1), "nobody@example.com"]
    matched = automations.ListRuns(automations_pb2.ListRunsRequest(page_size=1), metadata=METADATA).runs[0].event_id
    return {
        "ListEvents": Measured(
            events.ListEvents,
            filtered(
                event_ingest_pb2.ListEventsRequest(page_size=PAGE),
                {"name": [*NAMES, "never"], "contact_id": [newest.contact_id], "email": addresses}
                | dict.fromkeys(windows, times)
                | {"after_position": [0, STORED // 2, 2 * STORED]},
            ),
        ),
        "ListRuns": Measured(
            automations.ListRuns,
            filtered(
                automations_pb2.ListRunsRequest(page_size=PAGE),
                {
                    "statuses": [[automations_pb2.RUN_STATUS_QUEUED], [automations_pb2.RUN_STATUS_FAILED]],
                    "automation_id": [automation.id],
                    "contact_id": [newest.contact_id],
                    "email": addresses,
                },
            ),
        ),
        "ListContacts": Measured(
            contacts.ListContacts,
            filtered(contacts_pb2.ListContactsRequest(page_size=PAGE), {"search": ["contact", "7", "never"]}),
        ),
        "ListParkedMatches": Measured(
            matches.ListParkedMatches,
            filtered(
                match_stream_pb2.ListParkedMatchesRequest(page_size=PAGE, subscription=SUBSCRIPTION),
                {"automation_id": [automation.id], "parked_until": times},
            ),
        ),
        "ExplainEvent": Measured(
            automations.ExplainEvent,
            [automations_pb2.ExplainEventRequest(event_id=each) for each in (newest.id, matched)],
        ),
    }


@contextmanager
def lists(folder: Path, _seconds: float) -> Iterator[Round]:
    """Measure the slowest call of each method."""
    with (
        signalbox(folder, database=stored_events(folder)) as subject,
        subject.subscription(SUBSCRIPTION, from_start=True),
        grpc.insecure_channel(subject.grpc) as channel,
    ):
        calls = measured(channel)
        yield (
            lambda: (
                {PAGE_ALLOWED: 20.0, EXPLANATION_ALLOWED: 10.0}
                | {title: call.slowest() for title, call in calls.items()}
            )
        )


LISTS = Group(
    "Slowest page by one or two filters, 5 million stored events",
    "ms",
    (
        *(
            Ratio(title, PAGE_ALLOWED, 1.0, at_most=True)
            for title in ("ListEvents", "ListRuns", "ListContacts", "ListParkedMatches")
        ),
        Ratio("ExplainEvent", EXPLANATION_ALLOWED, 1.0, at_most=True),
    ),
    lists,
    rounds=3,
)

if __name__ == "__main__":
    main(__doc__, (LISTS,))
