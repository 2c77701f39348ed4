"""Payloads that no budget allows: they are not built from a request, and are refused as if they were."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from registry.values.json_values import (
    AUTOMATION_BUDGET,
    CONTACT_BUDGET,
    EVENT_BUDGET,
    MAX_BYTES,
    MAX_VALUES,
    RUN_BUDGET,
)
from server.errors import InvalidArgument, MalformedRequest
from server.rpc.json_parsing import JsonParser
from server.rpc.messages.structs import read_struct
from server.rpc.parsing import PIECE_BYTES, Parser
from server.rpc.payload_bounds import stand_in_for_large, stand_in_for_many
from server.sharing.loop_time import LoopTime
from tests.support.contract import METHODS
from tests.support.messages import struct
from tests.support.wire import send_event

if TYPE_CHECKING:
    from registry.values.json_values import PayloadBudget

SEND = METHODS["EventIngest.SendEvent"]
BUDGETS = [AUTOMATION_BUDGET, CONTACT_BUDGET, EVENT_BUDGET, RUN_BUDGET]

LARGE: dict[str, Any] = {
    "empty lists": {"a": [[]] * 70_000},
    "numbers": {"a": [1] * 30_000},
    "members": {f"p{number}": "x" * 20 for number in range(9_000)},
    "a text": {"a": "x" * MAX_BYTES},
}
MANY: dict[str, Any] = {
    "empty lists": {"a": [[]] * 300_000},
    "lists in lists": {"a": [[[]]] * 200_000},
    "objects": {"a": [{"b": 1}] * 100_000},
    "members": {f"p{number}": {} for number in range(MAX_VALUES + 1)},
    "levels": {"a": [[[[]] * 100] * 100] * 2},
}


def parsed(data: bytes) -> Any:
    return asyncio.run(Parser(SEND).parse_in_slices(data, LoopTime(), 1))


def read_json(properties: Any) -> Any:
    body = json.dumps({"event": {"properties": properties}}, separators=(",", ":"))
    return asyncio.run(JsonParser(SEND).parse_in_slices(body.encode(), LoopTime(), 1))


def refusal(properties: Struct, budget: PayloadBudget = EVENT_BUDGET) -> tuple[str, str, str]:
    """Return the reason, the path and the text with which a payload is refused."""
    with pytest.raises(InvalidArgument) as caught:
        read_struct(properties, budget=budget)
    (violation,) = caught.value.violations
    return violation.reason, violation.path, violation.message


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_budget_refuses_a_stand_in(budget: PayloadBudget) -> None:
    many, large = Struct(), Struct()
    stand_in_for_many(many)
    stand_in_for_large(large, MAX_BYTES + 1)
    assert (refusal(many, budget)[0], refusal(large, budget)[0]) == ("TOO_MANY_VALUES", "TOO_LARGE")


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 2**21 - 1, 2**21, *range(2**21 + 5, 2**21 + 25)])
def test_a_stand_in_has_as_many_bytes_as_the_payload(size: int) -> None:
    payload = struct({"a": 1})
    stand_in_for_large(payload, size)
    assert size - 4 <= payload.ByteSize() <= size


@pytest.mark.parametrize("form", LARGE)
def test_a_payload_of_too_many_bytes_is_refused_as_if_it_were_built(form: str) -> None:
    built = struct(LARGE[form])
    found = parsed(send_event(built.SerializeToString())).event
    assert refusal(found.properties) == refusal(built)
    assert len(found.properties.fields) == 1
    assert found.email == "ada@example.com"


def test_a_payload_in_parts_is_refused_if_one_of_them_is_too_large() -> None:
    large, small = (
        send_event(struct(LARGE["numbers"]).SerializeToString()),
        send_event(struct({"": 1}).SerializeToString()),
    )
    for parts in (large + small, small + large):
        assert refusal(parsed(parts).event.properties)[0] == "TOO_LARGE"


def test_a_payload_of_the_most_bytes_is_built() -> None:
    payload = struct({"a": "x" * (MAX_BYTES - 50), "b": [[], {}, 1]})
    assert PIECE_BYTES < payload.ByteSize() <= MAX_BYTES
    assert parsed(send_event(payload.SerializeToString())).event.properties == payload


@pytest.mark.parametrize("form", MANY)
def test_a_payload_of_too_many_values_is_refused_and_not_built(form: str) -> None:
    found = read_json(MANY[form]).event
    reason, path, _ = refusal(found.properties)
    assert (reason, path, len(found.properties.fields)) == ("TOO_MANY_VALUES", "properties", 1)


def test_a_payload_of_the_most_values_is_built() -> None:
    properties = {"a": [[]] * (MAX_VALUES - 3), "b": {"c": 1}}
    found = read_json(properties).event
    assert found.properties == json_format.ParseDict(properties, Struct())
    assert read_struct(found.properties) == properties


def test_a_repeated_name_in_a_payload_of_too_many_values_is_refused() -> None:
    body = b'{"event":{"properties":{"a":[%s],"b":{"c":1,"c":2}}}}' % b",".join([b"{}"] * (MAX_VALUES + 1))
    with pytest.raises(MalformedRequest, match="the name c twice"):
        JsonParser(SEND).parse(body)
