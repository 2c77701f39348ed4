"""SendEvent over JSON: what is read and written without messages is what the messages give."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.coercion.report import Coercion, CoercionKind
from registry.errors import SignalboxError
from server.ingest.draft import Draft
from server.model import Event
from server.rpc.json_parsing import JsonParser
from server.rpc.json_writing import write_json
from server.rpc.messages.enums import View
from server.rpc.messages.events import read_draft
from server.rpc.messages.send_event_json import SentEvent, plain_draft
from signalbox.v1 import event_ingest_pb2 as pb

PARSER = JsonParser(pb.DESCRIPTOR.services_by_name["EventIngest"].methods_by_name["SendEvent"])

SCALARS = st.one_of(
    st.text(max_size=5),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none(),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.text(max_size=3), SCALARS, max_size=2))
PROPERTIES = st.dictionaries(st.text(max_size=5), VALUES, max_size=5)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["order", "", 'a": b', 5, None]),
    "email": st.sampled_from(["Ada@Example.com", "no address", "", None]),
    "contactId": st.sampled_from(["c1", "", None]),
    "contact_id": st.just("c1"),
    "properties": st.one_of(PROPERTIES, st.none(), st.just([])),
    "idempotencyKey": st.sampled_from(["k1", "", "é", "k" * 256]),
    "occurredAt": st.just("2026-06-01T12:00:00Z"),
    "nmae": st.just("order"),
}


def through_messages(data: bytes) -> Draft | None:
    """Read a request as others are read; None if it is refused."""
    try:
        request = PARSER.parse(data)
        return None if request.view else read_draft(request.event, {})
    except SignalboxError:
        return None


@given(st.fixed_dictionaries({}, optional=FIELDS), st.booleans())
def test_a_plain_request_is_read_as_its_message_would_be(event: dict[str, Any], indented: bool) -> None:
    data = json.dumps({"event": event}, indent=2 if indented else None).encode()
    plain = plain_draft(data)
    assert plain is None or repr(plain) == repr(through_messages(data))


@pytest.mark.parametrize(
    "text",
    [
        '{"event":{"name":"a","name":"b","email":"ada@example.com"}}',
        '{"event":{"name":"a","email":"ada@example.com","properties":{"x":1,"x":2}}}',
        '{"event":{"name":"a","email":"ada@example.com"},"event":{"name":"b","email":"ada@example.com"}}',
        '{"event":{"name":"a","email":"ada@example.com","contactId":""}}',
        '{"event":{"name":"a","email":"ada@example.com","properties":{"x":"\\u0000"}}}',
        '{"event":{"name":"a","email":"ada@example.com","properties":{"x":1e400}}}',
        '{"event":{"name":"a","email":"ada@example.com"},"view":"RESULT_VIEW_MATCHES"}',
        "[]",
        "",
    ],
)
def test_what_is_not_plain_is_left_to_the_messages(text: str) -> None:
    assert plain_draft(text.encode()) is None


def test_the_usual_request_is_plain() -> None:
    draft = plain_draft(b'{"event":{"name":"order","email":"Ada@example.com","properties":{"b":2.0,"a":"x","c":0.5}}}')
    assert draft == Draft("order", "", "ada@example.com", {"a": "x", "b": 2, "c": 0.5}, None, "")


@given(
    PROPERTIES,
    st.lists(st.builds(Coercion, st.text(max_size=3), st.sampled_from(CoercionKind), VALUES, VALUES), max_size=3),
    st.sampled_from([View.COERCED, View.RECEIPT]),
    st.tuples(*[st.booleans()] * 5),
)
def test_a_response_is_written_as_its_message_would_be(
    properties: dict[str, Any], coercions: list[Coercion], view: View, with_: tuple[bool, ...]
) -> None:
    defined, contact, erased, duplicate, traced = with_
    event = Event(
        "e1",
        7,
        "order",
        "d1" if defined else "",
        3 if defined else 0,
        "c1" if contact else "",
        "ada@example.com" if contact else "",
        properties,
        tuple(coercions),
        1_780_000_000_123_456,
        1_780_000_000_000_000,
        0,
        erased_at=1_780_000_000_500_000 if erased else 0,
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" if traced else "",
    )
    draft = Draft("order", "", "", {}, event=event, duplicate=duplicate)
    sent = SentEvent(draft, view)
    assert sent.json() == write_json(sent.message())
    assert sent.SerializeToString() == sent.message().SerializeToString()
