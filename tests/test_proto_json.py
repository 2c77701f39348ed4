"""JSON of the contract's messages: read and written as the library does, which is slow and names no paths."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import SignalboxError
from server.errors import MalformedRequest
from server.rpc import json_parsing, json_reading, json_writing
from server.rpc.contract import SERVICES
from server.rpc.json_parsing import JsonParser
from server.rpc.json_writing import write_json, write_json_in_slices
from server.sharing.loop_time import LoopTime
from signalbox.v1 import event_ingest_pb2, match_stream_pb2
from tests.support.laws import examples

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, MethodDescriptor
    from google.protobuf.message import Message

EXAMPLES = examples(6)
"""For each method."""

METHODS = {method.full_name: method for service in SERVICES for method in service.methods}
SEND_EVENT = METHODS["signalbox.v1.EventIngest.SendEvent"]
SEND_EVENTS = METHODS["signalbox.v1.EventIngest.SendEvents"]

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
INTEGERS = st.one_of(
    st.integers(-(2**31), 2**31 - 1),
    st.sampled_from([0, 1, -1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 1.0, 1.5, 1e10]),
)
INTEGER_TEXTS = INTEGERS.map(str) | st.sampled_from(["1.0", "1e3", " 1", "1 ", "0x10", "1_0", "", "1.5", "-0", "+7"])
TIMES = st.datetimes().map(lambda time: f"{time.isoformat()}Z") | st.sampled_from(
    ["2026-06-01T12:00:00Z", "2026-06-01T12:00:00.123456789+02:00", "2026-06-01", "", "9999-12-31T23:59:59.999999999Z"]
)
DURATIONS = st.sampled_from(["30s", "1.5s", "-0.000000001s", "315576000000s", "315576000001s", "1m", "s", ""])
BYTES = st.binary(max_size=8).flatmap(
    lambda data: st.sampled_from(
        [
            base64.b64encode(data).decode(),
            base64.urlsafe_b64encode(data).decode(),
            base64.urlsafe_b64encode(data).decode().rstrip("="),
        ]
    )
) | st.sampled_from(["-_+/", "a", "!!!!", "aé"])


def valid(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Draw JSON values for one value of a field, most of which are valid."""
    if field.message_type is not None:
        return objects(field.message_type)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        names = [value.name for value in field.enum_type.values]
        return st.sampled_from([*names, 0, 1, 2, 99, "1", "99", "NO_SUCH", "", 1.0])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return BYTES if field.type == FieldDescriptor.TYPE_BYTES else st.text(max_size=6)
    if field.cpp_type in {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}:
        numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6)
        return numbers | st.sampled_from(["1.5", "NaN", "Infinity", "-Infinity", "nan", "1e3", "x"])
    return INTEGERS | INTEGER_TEXTS


@cache
def objects(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Draw JSON values for a message of a type."""
    well_known: dict[str, st.SearchStrategy[Any]] = {
        "google.protobuf.Struct": st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4),
        "google.protobuf.Value": JSON_VALUES,
        "google.protobuf.ListValue": st.lists(JSON_VALUES, max_size=4),
        "google.protobuf.Timestamp": TIMES,
        "google.protobuf.Duration": DURATIONS,
    }
    if descriptor.full_name in well_known:
        return well_known[descriptor.full_name]

    @st.composite
    def draw_object(draw: st.DrawFn) -> dict[str, Any]:
        value: dict[str, Any] = {}
        fields = (
            draw(st.lists(st.sampled_from([*descriptor.fields]), max_size=4, unique=True)) if descriptor.fields else []
        )
        for field in fields:
            value[draw(st.sampled_from([field.name, field.json_name]))] = draw(member(field))
        if draw(st.integers(0, 15)) == 0:
            value[draw(st.sampled_from(["noSuchField", "[a.b]", "", "propertes"]))] = draw(JSON_VALUES)
        return value

    return st.deferred(draw_object)


def member(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Draw JSON values for a field: mostly valid ones, null, and values of other types."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        values = valid(field.message_type.fields_by_name["value"])
        proper: st.SearchStrategy[Any] = st.dictionaries(st.text(max_size=4), values | st.none(), max_size=3)
    elif field.is_repeated:
        proper = st.one_of(st.lists(valid(field), max_size=3), st.lists(valid(field) | st.none(), max_size=3))
    else:
        proper = valid(field)
    # An empty text or list in place of an object is refused here, and passed over by the library.
    other = JSON_VALUES.filter(lambda value: value not in ("", []))
    return st.integers(0, 15).flatmap(lambda die: other if die == 0 else st.none() if die == 1 else proper)


def ours(method: MethodDescriptor, body: bytes) -> Message | None:
    try:
        read: Message = JsonParser(method).parse(body)
    except SignalboxError:
        return None
    return read


def library(descriptor: Descriptor, body: bytes) -> Message | None:
    try:
        return json_format.Parse(body, GetMessageClass(descriptor)())
    except json_format.Error:
        return None


def has_nul(value: Any) -> bool:
    return "\\u0000" in json.dumps(value)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_requests_are_read_and_written_as_by_the_library(method: MethodDescriptor) -> None:
    @settings(max_examples=EXAMPLES)
    @given(objects(method.input_type).filter(lambda value: not has_nul(value)))
    def law(value: Any) -> None:
        body = json.dumps(value).encode()
        expected, message = library(method.input_type, body), ours(method, body)
        assert (message is None) is (expected is None), f"{body!r}: ours {message}, the library's {expected}"
        if message is not None and expected is not None:
            assert message.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
            check_written(message)

    law()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_responses_are_written_as_the_library_writes_them(method: MethodDescriptor) -> None:
    @settings(max_examples=EXAMPLES)
    @given(objects(method.output_type))
    def law(value: Any) -> None:
        if (message := library(method.output_type, json.dumps(value).encode())) is not None:
            check_written(message)

    law()


def check_written(message: Message) -> None:
    if finite(message):
        assert json.loads(write_json(message)) == json_format.MessageToDict(message)


def finite(message: Message) -> bool:
    """Return whether the library can write a message: not a Value of an infinite number."""
    try:
        json_format.MessageToDict(message)
    except (json_format.Error, ValueError):
        return False
    return True


@settings(max_examples=examples(200))
@given(
    st.binary(max_size=40) | st.text(max_size=30).map(str.encode) | JSON_VALUES.map(lambda v: json.dumps(v).encode())
)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    message = ours(SEND_EVENT, body)
    assert message is None or message == library(SEND_EVENT.input_type, body)


GUESSED = {
    "occurredAt": [
        "2026-6-1T1:2:3Z", "2026-06-01T01:02:03+24:00", "2026-06-01T01:02:03+99:99", "2026-06-01T01:02:03+1:2",
        "2026-06-01T01:02:03+-1:00", "2026-06-01T01:02:03+ 1:00", "2026-06-01T01:02:03.5+1_0:00",
        "2026-06-01T01:02:03.Z", "2026-06-01T01:02:03.5 Z", "2026-06-01T01:02:03.5e0Z", "2026-06-01T01:02:03.1_0Z",
        "\uff12026-06-01T01:02:03Z", "2026-06-01T01:02:03.\u0665Z",
    ],
    "wait": ["1_000s", " 5s", "+5s", "5 s", "5.s", "5.1_0s", "\uff15s", "1.0000000001s"],
}  # fmt: skip
"""Texts that the library takes for a time or a duration, by a field that has them."""


@pytest.mark.parametrize("text", GUESSED["occurredAt"])
def test_a_time_is_not_guessed(text: str) -> None:
    body = json.dumps({"event": {"occurredAt": text}}).encode()
    assert library(SEND_EVENT.input_type, body) is not None
    assert ours(SEND_EVENT, body) is None


@pytest.mark.parametrize("text", GUESSED["wait"])
def test_a_duration_is_not_guessed(text: str) -> None:
    pull = METHODS["signalbox.v1.MatchStream.PullMatches"]
    body = json.dumps({"wait": text}).encode()
    assert library(pull.input_type, body) is not None
    assert ours(pull, body) is None


REFUSED: list[tuple[str, str, str]] = [
    ('{"event": {"naem": "x"}}', "event.naem", "event.naem is not a field of EventInput; did you mean name?"),
    ('{"events": []}', "events", "events is not a field of SendEventRequest; did you mean event?"),
    ('{"event": {"name": 5}}', "event.name", "event.name must be a text, not 5"),
    ('{"event": "x"}', "event", 'event must be an object, not "x"'),
    ('{"event": []}', "event", "event must be an object, not a list"),
    ('{"view": "RESULT_VIEW_ALL"}', "view", "view must be one of RESULT_VIEW_RECEIPT, RESULT_VIEW_COERCED,"),
    ('{"event": {"occurredAt": "yesterday"}}', "event.occurredAt", "event.occurredAt must be a text, an RFC 3339 time"),
    ('{"event": {"occurredAt": 5}}', "event.occurredAt", "event.occurredAt must be a text, an RFC 3339 time"),
    ('{"event": {"properties": [1]}}', "event.properties", "event.properties must be an object, not a list"),
    ('{"event": {"email": "a", "contactId": "b"}}', "event.contactId", "event.contactId is the second field of"),
    ('{"event": {"contact_id": "a", "contactId": "b"}}', "event.contactId", "event.contactId is given twice"),
    (
        '{"event": {"typedProperties": {"message": 5}}}',
        "event.typedProperties.message",
        "must be bytes in base64, not 5",
    ),
    ('{"event": {"typedProperties": {"revision": 1.5}}}', "event.typedProperties.revision", "must be a whole number"),
    (
        '{"event": {"typedProperties": {"revision": 3e9}}}',
        "event.typedProperties.revision",
        "number from -2147483648 to",
    ),
    ('{"event": {"properties": {"a": [1, {"b": 1e400}]}}}', "event.properties.a[1].b", "beyond the range of a double"),
    ("[]", "", "The request must be an object, not a list"),
    ("null", "", "The request must be an object, not null"),
]


@pytest.mark.parametrize(("body", "path", "text"), REFUSED, ids=[body for body, _, _ in REFUSED])
def test_errors_name_the_field(body: str, path: str, text: str) -> None:
    with pytest.raises(SignalboxError) as caught:
        JsonParser(SEND_EVENT).parse(body.encode())
    (violation,) = caught.value.violations
    assert violation.path == path
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("{", "The request is not valid JSON: "),
        ("", "The request is not valid JSON: "),
        ('{"event": {}} {}', "The request is not valid JSON: "),
        ('{"event": {"name": NaN}}', "The request is not valid JSON: "),
        ('{"event": {"name": "a", "name" : "b"}}', "The JSON has the name name twice in one object"),
        ('{"event": {"properties": {"a\\":": 1, "b": 1, "b": 2}}}', "The JSON has the name b twice in one object"),
        ("[" * 100_000 + "]" * 100_000, "The JSON is nested too deeply to be read"),
    ],
)
def test_what_is_no_json_is_refused(body: str, text: str) -> None:
    with pytest.raises(SignalboxError) as caught:
        JsonParser(SEND_EVENT).parse(body.encode())
    assert caught.value.message.startswith(text)


@pytest.mark.parametrize("depth", [46, 47, 48, 49, 50, 51, 60])
def test_as_many_levels_are_read_as_by_the_library(depth: int) -> None:
    for opening, closing in (('{"a":', "}"), ("[", "]")):
        body = f'{{"event":{{"properties":{{"a":{opening * depth}1{closing * depth}}}}}}}'.encode()
        assert ours(SEND_EVENT, body) == library(SEND_EVENT.input_type, body)


def test_a_text_that_looks_like_a_name_is_no_repeated_name() -> None:
    body = json.dumps({"event": {"name": '"a":1,"a":', "properties": {'x":': '":'}}}).encode()
    assert ours(SEND_EVENT, body) == library(SEND_EVENT.input_type, body)


def test_large_requests_are_read_and_large_responses_written_in_small_steps() -> None:
    event = {
        "name": "x",
        "email": "a@b.c",
        "properties": {"list": [*range(4_999)], "object": {str(n): n for n in range(4_999)}},
    }
    body = json.dumps({"events": [event] * 4}).encode()
    expected = library(SEND_EVENTS.input_type, body)
    loop_time = LoopTime()

    async def both() -> tuple[Message, bytes]:
        message = await JsonParser(SEND_EVENTS).parse_in_slices(body, loop_time, 1)
        return message, await write_json_in_slices(message, loop_time, 1)

    message, written = asyncio.run(both())
    assert message == expected
    assert json.loads(written) == json.loads(body)


async def test_why_a_large_text_was_rejected_is_searched_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def waiting(_: bytes) -> None:
        assert released.wait(5)

    monkeypatch.setattr(json_parsing, "json_violation", waiting)
    parsing = asyncio.create_task(JsonParser(SEND_EVENT).parse_in_slices(b'{"event": 1e400}', LoopTime(), 1))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(released.set)
    with pytest.raises(MalformedRequest):
        await parsing


def test_no_step_has_more_members_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    body = json.dumps({"event": {"properties": {"list": [*range(4_999)], "object": {str(n): n for n in range(4_999)}}}})
    for module, name in ((json_reading, "_read_value"), (json_writing, "_convert_value")):
        real = getattr(module, name)

        def counted(*arguments: Any, real: Any = real) -> Any:
            sizes[-1] += 1
            return real(*arguments)

        monkeypatch.setattr(module, name, counted)
    request = event_ingest_pb2.SendEventRequest()
    sizes.append(0)
    sizes.extend(0 for _ in JsonParser(SEND_EVENT)._slices(body.encode(), request))
    sizes.extend(0 for _ in json_writing._slices(request, {}))
    assert sum(sizes) >= 20_000
    assert max(sizes) <= json_reading.CHUNK


def test_times_are_written_as_the_library_writes_them() -> None:
    @settings(max_examples=examples(100))
    @given(
        st.integers(-62135596800, 253402300799),
        st.sampled_from([0, 1, 1_000, 999_000, 1_000_000, 120_000_000, 999_999_999]),
    )
    def law(seconds: int, nanos: int) -> None:
        message = match_stream_pb2.StartPoint()
        message.time.seconds, message.time.nanos = seconds, nanos
        assert json.loads(write_json(message)) == json_format.MessageToDict(message)

    law()
