from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from hypothesis import given
from hypothesis import strategies as st

from server.rpc.messages import encoding
from server.rpc.messages.encoding import NAMES, VARINTS, sized_text, sized_time, tags, to_bytes
from signalbox.v1 import event_pb2
from tests.support import boundaries

texts = boundaries.texts | st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**15))
def test_an_integer_is_encoded_as_the_library_does(number: int) -> None:
    expected = Int64Value(value=number).SerializeToString() or b"\x08\0"
    assert to_bytes(f"\x08{VARINTS[number]}") == expected


@given(texts)
def test_a_text_is_encoded_as_the_library_does(text: str) -> None:
    expected = StringValue(value=text).SerializeToString() or b"\x0a\0"
    assert to_bytes(f"\x0a{sized_text(text)}") == to_bytes(f"\x0a{NAMES[text]}") == expected


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_a_time_is_read_by_the_library(micros: int) -> None:
    message = event_pb2.Event.FromString(to_bytes(f"{tags(event_pb2.Event, 'occurred_at')[0]}{sized_time(micros)}"))
    expected = Timestamp()
    expected.FromMicroseconds(micros)
    assert message.occurred_at == expected


def test_a_tag_has_the_type_of_its_field() -> None:
    assert tags(event_pb2.Event, "id", "position", "properties", "traceparent") == ("\x0a", "\x10", "B", "\x82\x01")
    assert tags(event_pb2.Coercion, "kind") == ("\x10",)


def test_few_names_are_remembered_and_no_long_ones() -> None:
    for number in range(2 * encoding._MAX_NAMES):
        assert NAMES[f"name{number}"] == sized_text(f"name{number}")
    assert len(NAMES) <= encoding._MAX_NAMES
    assert NAMES["x" * 101] == sized_text("x" * 101)
    assert "x" * 101 not in NAMES
