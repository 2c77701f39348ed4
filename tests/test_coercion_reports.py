"""The report of coercions is bounded, wherever it is made, stored and sent, and so is the memory for its paths."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any, Final

import pytest
from google.protobuf.struct_pb2 import Struct

from registry.coercion.report import MAX_COERCION_CHARACTERS, MAX_COERCIONS
from registry.coercion.validation import coerce_undefined, compile_schema
from registry.definitions.schema import Property, PropertyType, Schema, UnknownProperties
from registry.values.json_values import EVENT_BUDGET, payload_violation
from server.errors import InvalidArgument
from server.rpc.messages.structs import read_struct
from server.storage.events.history import RecordedPayload
from signalbox.v1 import event_definitions_pb2, event_ingest_pb2
from tests.support.messages import ANYTHING, event

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.service import Client

MIB: Final = 1024 * 1024
LONG_NAME: Final = "\x01" * 255
"""Takes 1,530 characters in a path."""


def nested(inner: Any, levels: int = 29) -> dict[str, Any]:
    """Return a payload with a value under a path of 45,000 characters."""
    for _ in range(levels):
        inner = {LONG_NAME: inner}
    return {LONG_NAME: inner}


LENIENT: Final = Schema(
    tuple(Property(f"p{number}", PropertyType.ARRAY, item_type=PropertyType.NUMBER) for number in range(2))
)
DROPPING: Final = Schema((), UnknownProperties.DROP)

PAYLOADS: Final[dict[str, tuple[Callable[..., Any], dict[str, Any], int]]] = {
    "converted": (compile_schema(LENIENT), {"p0": ["5"] * 4_000, "p1": ["6"] * 4_000}, 8_000),
    "dropped": (compile_schema(DROPPING), {f"x{number}": 1 for number in range(9_000)}, 9_000),
    "dropped, with long names": (
        compile_schema(DROPPING),
        {f"{number}{LONG_NAME}"[:200]: 1 for number in range(1_200)},
        1_200,
    ),
    "rounded": (coerce_undefined, {f"x{number}": 2**60 for number in range(5_000)}, 5_000),
    "rounded, far inside": (coerce_undefined, nested([2**60] * 9_000), 9_000),
    "rounded, each in a list": (coerce_undefined, nested([[2**60]] * 4_000), 4_000),
}


@pytest.mark.parametrize("kind", PAYLOADS)
def test_coercions_are_reported_up_to_the_budget_and_the_rest_is_counted(kind: str) -> None:
    coerce, payload, count = PAYLOADS[kind]
    coerced = coerce(payload)
    assert 1 <= len(coerced.coercions) <= MAX_COERCIONS
    assert sum(len(coercion.path) for coercion in coerced.coercions) <= MAX_COERCION_CHARACTERS
    assert len(coerced.coercions) + coerced.omitted == count
    assert coerce(coerced.properties).properties == coerced.properties


def test_a_report_within_the_budget_is_whole() -> None:
    coerced = coerce_undefined({f"x{number}": 2**60 for number in range(MAX_COERCIONS)})
    assert (len(coerced.coercions), coerced.omitted) == (MAX_COERCIONS, 0)


def memory_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


DEEP: Final = {
    "lists": nested([[] for _ in range(9_000)]),
    "objects": nested([{} for _ in range(9_000)]),
    "scalars": nested(list(range(9_000))),
    "numbers to round": nested([2.0**60] * 9_000),
    "numbers to round in lists": nested([[2.0**60] for _ in range(4_000)]),
}
REJECTED: Final = {
    "a wrong number": nested([0] * 4_000 + [1e400] + [0] * 4_000),
    "wrong text": nested([[] for _ in range(4_000)] + ["\ud800"]),
    "too deep": nested([[] for _ in range(4_000)] + [[[[[[]]]]]]),
}


@pytest.mark.parametrize("kind", DEEP)
def test_paths_of_deep_payloads_take_no_more_memory_than_their_values(kind: str) -> None:
    struct = Struct()
    struct.update(DEEP[kind])
    assert memory_of(lambda: read_struct(struct)) < 16 * MIB
    assert memory_of(lambda: coerce_undefined(DEEP[kind])) < 16 * MIB


@pytest.mark.parametrize("kind", REJECTED)
def test_the_place_of_a_violation_is_found_within_the_memory_of_the_payload(kind: str) -> None:
    found = []
    assert memory_of(lambda: found.append(payload_violation(REJECTED[kind], "properties", EVENT_BUDGET))) < 16 * MIB
    assert found[0] is not None
    assert len(found[0].path) <= 401


def test_the_path_of_a_violation_is_cut_where_it_was_before() -> None:
    struct = Struct()
    struct.update(nested([{"x": float("inf")}]))
    with pytest.raises(InvalidArgument) as refused:
        read_struct(struct)
    path = refused.value.violations[0].path
    exact = "properties" + '["' + "\\u0001" * 255
    assert path == exact[:400] + "…"


def test_what_was_sent_is_not_guessed_from_a_part_of_the_coercions() -> None:
    whole = RecordedPayload("id", 1, 1, '{"a":5}', '[["properties.a","converted","5",5]]')
    assert whole.sent() == {"a": "5"}
    with pytest.raises(ValueError, match="12 of its coercions were not recorded"):
        whole._replace(coercions='[["properties.a","converted","5",5],12]').sent()


async def test_what_is_not_recorded_is_counted_in_receipts_events_and_tests(shop: Client) -> None:
    await shop.define("values", ANYTHING)
    sent = {f"x{number}": 2.0**60 for number in range(MAX_COERCIONS + 25)}
    request = event_ingest_pb2.SendEventRequest(event=event(sent, name="values"))
    receipt = (await shop.ingest.SendEvent(request)).receipt
    assert receipt.coercion_count == MAX_COERCIONS + 25
    found = (await shop.ingest.GetEvent(event_ingest_pb2.GetEventRequest(id=receipt.event.id))).event
    for answered in (receipt.event, found):
        assert (len(answered.coercions), answered.omitted_coercion_count) == (MAX_COERCIONS, 25)
    assert found.properties == receipt.event.properties
    payload = Struct()
    payload.update(sent)
    validated = await shop.definitions.ValidateEvent(
        event_definitions_pb2.ValidateEventRequest(event_definition="values", properties=payload)
    )
    assert (len(validated.coercions), validated.omitted_coercion_count) == (MAX_COERCIONS, 25)
