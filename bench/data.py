"""The data of every benchmark: 1,000 contacts, three names of events, ten automations.

Contacts follow Zipf's law: the most active one has 13 % of the events, and 500 events in a row have about 230 contacts.
An event has three properties, two of which are coerced. One event in ten matches exactly one automation.

Requests are made once and stored in files, each with its number of matches, so that loads need neither the
definitions nor time to encode.
"""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from signalbox.v1 import event_ingest_pb2 as pb
from signalbox.v1 import event_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

SEND_EVENT = "/signalbox.v1.EventIngest/SendEvent"
SEND_EVENTS = "/signalbox.v1.EventIngest/SendEvents"
STREAM_EVENTS = "/signalbox.v1.EventIngest/StreamEvents"

BATCH = 500
"""Events in a request of SendEvents."""

STREAM_BATCH = 100
"""Events in a message of StreamEvents."""

CONTACTS = 1_000
MATCHING_EVERY = 10
EVENTS = 32_000
"""Different events; loads begin again after the last one."""

KEY = "sb_key_of_the_benchmark"
AUTOSEND_KEY = "AS_key_of_the_benchmark"
REST_PATH = "/v1/events/send"

MATCHES = 10_000
"""Matches that are stored before they are consumed."""

SINGLES = 4_000
"""Different requests of SendEvent."""

NAMES = {"order_completed": 5, "cart_updated": 3, "page_viewed": 2}
"""The names of events, each with its weight."""

CURRENCIES = ("USD", "EUR", "GBP")

_HEADER = struct.Struct(">II")


@dataclass(frozen=True)
class Rule:
    """An automation: its event, its condition, and properties that satisfy this condition and no other one."""

    event: str
    condition: str
    matching: dict[str, str]


RULES = (
    Rule("order_completed", "properties.order_total >= 900", {"order_total": "999.00", "currency": "USD"}),
    Rule("order_completed", 'properties.currency == "CHF"', {"currency": "CHF"}),
    Rule(
        "order_completed",
        "properties.order_total >= 600 && properties.order_total < 700",
        {"order_total": "650.50", "currency": "GBP"},
    ),
    Rule(
        "order_completed",
        'properties.currency in ["SEK", "NOK"] && properties.is_first_purchase',
        {"currency": "NOK", "is_first_purchase": "true"},
    ),
    Rule("cart_updated", "properties.order_total > 800", {"order_total": "850.25"}),
    Rule(
        "cart_updated",
        'properties.currency == "CHF" && !properties.is_first_purchase',
        {"currency": "CHF", "is_first_purchase": "false"},
    ),
    Rule("cart_updated", 'properties.currency.startsWith("J")', {"currency": "JPY"}),
    Rule(
        "page_viewed",
        "properties.order_total > 800 && properties.is_first_purchase",
        {"order_total": "801.00", "is_first_purchase": "true"},
    ),
    Rule("page_viewed", 'properties.currency == "AUD"', {"currency": "AUD"}),
    Rule("page_viewed", 'properties.currency in ["CAD", "NZD"]', {"currency": "NZD"}),
)
NEVER = ' && properties.currency == "XXX"'
"""Appended to a condition, so that it holds for no event: XXX is ISO 4217's code for no currency."""


@dataclass(frozen=True)
class Request:
    """A serialized request and the number of matches that its events have."""

    body: bytes
    matches: int


def email(number: int) -> str:
    """Return the address of a contact."""
    return f"contact{number}@example.com"


def event_inputs(
    count: int, contacts: int = CONTACTS, every: int = MATCHING_EVERY, exponent: float = 1.0
) -> Iterator[tuple[pb.EventInput, bool]]:
    """Yield `count` events, the same each time, and whether each matches: one of `every`.

    `exponent` is that of Zipf's law; with 0 all contacts are alike.
    """
    chance = random.Random(20)
    weights = list(accumulate(rank**-exponent for rank in range(1, contacts + 1)))
    numbers = chance.choices(range(contacts), cum_weights=weights, k=count)
    names = chance.choices(list(NAMES), weights=list(NAMES.values()), k=count)
    for index, (number, name) in enumerate(zip(numbers, names, strict=True)):
        properties = {
            "order_total": f"{chance.randrange(100, 50_000) / 100:.2f}",
            "currency": chance.choice(CURRENCIES),
            "is_first_purchase": chance.choice(("true", "false")),
        }
        matches = index % every == every - 1
        if matches:
            properties |= chance.choice([rule for rule in RULES if rule.event == name]).matching
        event = pb.EventInput(name=name, email=email(number))
        event.properties.update(properties)
        yield event, matches


def matching_events(count: int) -> Iterator[pb.EventInput]:
    """Yield `count` events that all match.

    All contacts are alike: a subscription in the order of contacts delivers the matches of one contact one after the
    other, so that the most active one would decide alone how long the delivery of stored matches takes.
    """
    return (event for event, _ in event_inputs(count, every=1, exponent=0.0))


def matching_requests(_contacts: int = CONTACTS) -> Iterator[Request]:
    """Yield requests of SendEvents whose events all match."""
    events = matching_events(MATCHES)
    while batch := list(islice(events, BATCH)):
        yield Request(pb.SendEventsRequest(events=batch).SerializeToString(), len(batch))


def rest_requests(contacts: int = CONTACTS) -> Iterator[Request]:
    """Yield HTTP requests that send an event in AutoSend's dialect."""
    for event, matches in event_inputs(SINGLES, contacts):
        properties = MessageToDict(event.properties)
        body = json.dumps({"eventName": event.name, "email": event.email, "eventProperties": properties}).encode()
        head = (
            f"POST {REST_PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {AUTOSEND_KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        yield Request(head.encode() + body, int(matches))


def connect_proto_requests(contacts: int = CONTACTS) -> Iterator[Request]:
    """Yield HTTP requests that send an event over Connect, in Protocol Buffers."""
    for event, matches in event_inputs(SINGLES, contacts):
        yield _connect_request("application/proto", pb.SendEventRequest(event=event).SerializeToString(), int(matches))


def connect_json_requests(contacts: int = CONTACTS) -> Iterator[Request]:
    """Yield HTTP requests that send an event over Connect, in JSON."""
    for event, matches in event_inputs(SINGLES, contacts):
        body = json.dumps(MessageToDict(pb.SendEventRequest(event=event)), separators=(",", ":")).encode()
        yield _connect_request("application/json", body, int(matches))


def _connect_request(content_type: str, body: bytes, matches: int) -> Request:
    head = (
        f"POST {SEND_EVENT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Request(head.encode() + body, matches)


def single_requests(contacts: int = CONTACTS) -> Iterator[Request]:
    """Yield requests of SendEvent."""
    for event, matches in event_inputs(SINGLES, contacts):
        yield Request(pb.SendEventRequest(event=event).SerializeToString(), int(matches))


def batch_requests(contacts: int = CONTACTS) -> Iterator[Request]:
    """Yield requests of SendEvents."""
    inputs = event_inputs(EVENTS, contacts)
    while batch := list(islice(inputs, BATCH)):
        request = pb.SendEventsRequest(events=[event for event, _ in batch])
        yield Request(request.SerializeToString(), sum(matches for _, matches in batch))


def stream_requests(contacts: int = CONTACTS) -> Iterator[Request]:
    """Yield messages of StreamEvents without their sequence, which may be appended."""
    inputs = event_inputs(EVENTS, contacts)
    while batch := list(islice(inputs, STREAM_BATCH)):
        request = pb.StreamEventsRequest(events=[event for event, _ in batch])
        yield Request(request.SerializeToString(), sum(matches for _, matches in batch))


def introduction() -> pb.SendEventsRequest:
    """Return a request with one event of each contact, none of which matches."""
    request = pb.SendEventsRequest()
    for number in range(CONTACTS):
        event = request.events.add(name=next(iter(NAMES)), email=email(number))
        event.properties.update({"order_total": 1, "currency": CURRENCIES[0], "is_first_purchase": False})
    return request


def write_requests(path: Path, requests: Iterable[Request]) -> Path:
    """Write requests to a file. Return its path."""
    with path.open("wb") as file:
        for request in requests:
            file.write(_HEADER.pack(len(request.body), request.matches))
            file.write(request.body)
    return path


def read_requests(path: Path) -> Sequence[Request]:
    """Return the requests of a file."""
    data = path.read_bytes()
    requests, at = [], 0
    while at < len(data):
        size, matches = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        requests.append(Request(data[at : at + size], matches))
        at += size
    return requests


def send_event_response() -> pb.SendEventResponse:
    """Return a response of the size and shape of Signalbox's response to the request."""
    response = pb.SendEventResponse()
    receipt = response.receipt
    receipt.coercion_count = 2
    event = receipt.event
    event.id = event.definition_id = event.contact_id = "01890a5d-ac96-774b-bcce-b302099a8057"
    event.name, event.email = "order_completed", email(7)
    event.position = event.revision = 1
    event.properties.update({"order_total": 129.99, "currency": "USD", "is_first_purchase": True})
    for path, before, after in (("order_total", "129.99", 129.99), ("is_first_purchase", "true", True)):
        coercion = event.coercions.add(path=path, kind=event_pb2.Coercion.KIND_CONVERTED)
        getattr(coercion, "from").string_value = before
        if isinstance(after, bool):
            coercion.to.bool_value = after
        else:
            coercion.to.number_value = after
    event.occurred_at.CopyFrom(Timestamp(seconds=1_700_000_000, nanos=1_000))
    event.received_at.CopyFrom(event.occurred_at)
    return response
