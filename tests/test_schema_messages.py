"""Schemas that are read from messages."""

from __future__ import annotations

import pytest

from registry.definitions.schema import MAX_PROPERTIES, MAX_SUGGESTED_VALUES, check_schema
from registry.errors import InvalidSchema
from server.rpc.messages.definitions import read_schema
from signalbox.v1 import event_definitions_pb2 as pb


def level(depth: int) -> list[pb.Property]:
    inner = level(depth - 1) if depth else []
    return [pb.Property(name=f"p{number}", type=pb.PROPERTY_TYPE_OBJECT, properties=inner) for number in range(70)]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_of_too_many_properties_no_more_are_read_than_to_refuse_them(depth: int) -> None:
    """A message may have a million: to read all of them would hold the event loop for seconds."""
    found = read_schema(pb.Schema(properties=level(depth)))
    assert sum(1 + len(each.properties) for each in found.properties) <= 2 * MAX_PROPERTIES**2
    with pytest.raises(InvalidSchema) as refused:
        check_schema(found)
    assert [each.reason for each in refused.value.violations] == ["TOO_MANY_PROPERTIES"]


def test_of_too_many_suggested_values_no_more_are_read_than_to_refuse_them() -> None:
    declared = pb.Property(name="p", type=pb.PROPERTY_TYPE_STRING, suggested_values=map(str, range(1_000)))
    found = read_schema(pb.Schema(properties=[declared]))
    assert len(found.properties[0].suggested_values) == MAX_SUGGESTED_VALUES + 1
    with pytest.raises(InvalidSchema):
        check_schema(found)
