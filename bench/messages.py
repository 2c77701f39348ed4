"""The messages that every measurement sends: the demo's event, with two of its three properties to coerce."""

from __future__ import annotations

import json
import struct

from google.protobuf.timestamp_pb2 import Timestamp

from server.demo import EMAIL, EVENT, PROPERTIES
from signalbox.v1 import event_ingest_pb2 as pb
from signalbox.v1 import event_pb2

SEND_EVENT = "/signalbox.v1.EventIngest/SendEvent"
SEND_EVENTS = "/signalbox.v1.EventIngest/SendEvents"
STREAM_EVENTS = "/signalbox.v1.EventIngest/StreamEvents"

BATCH = 500
"""Events in a request of SendEvents."""

STREAM_BATCH = 100
"""Events in a message of StreamEvents."""


def event_input() -> pb.EventInput:
    """Return one event."""
    event = pb.EventInput(name=EVENT, email=EMAIL)
    event.properties.update(json.loads(PROPERTIES))
    return event


def framed(message: bytes) -> bytes:
    """Return a message with the prefix of a gRPC frame."""
    return struct.pack(">BI", 0, len(message)) + message


def send_event_body() -> bytes:
    """Return a framed request of SendEvent."""
    return framed(pb.SendEventRequest(event=event_input()).SerializeToString())


def send_events_request() -> bytes:
    """Return a request of SendEvents."""
    return pb.SendEventsRequest(events=[event_input()] * BATCH).SerializeToString()


def stream_events_request() -> bytes:
    """Return a message of StreamEvents without its sequence, which may be appended."""
    return pb.StreamEventsRequest(events=[event_input()] * STREAM_BATCH).SerializeToString()


def send_event_response() -> pb.SendEventResponse:
    """Return a response of the size and shape of Signalbox's response to the request."""
    response = pb.SendEventResponse()
    receipt = response.receipt
    receipt.coercion_count = 2
    event = receipt.event
    event.id = event.definition_id = event.contact_id = "01890a5d-ac96-774b-bcce-b302099a8057"
    event.name, event.email = EVENT, EMAIL
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
