from __future__ import annotations

import pytest

from server.cli.arguments.message_parsers import property_of
from server.cli.arguments.schema_options import SchemaOptions
from signalbox.v1 import event_definitions_pb2 as pb

INNER = pb.Property(name="zip", type=pb.PROPERTY_TYPE_STRING)
NOTE = pb.Property(
    name="note", type=pb.PROPERTY_TYPE_STRING, description="said", personal=True, suggested_values=["a", "b"]
)
HOME = pb.Property(name="home", type=pb.PROPERTY_TYPE_OBJECT, description="lives", personal=True, properties=[INNER])
PRESENT = pb.EventDefinition(schema=pb.Schema(properties=[NOTE, HOME]), etag="7")


def changed(present: pb.Property, **fields: object) -> pb.Property:
    copy = pb.Property()
    copy.CopyFrom(present)
    for name in fields:
        copy.ClearField(name)  # type: ignore[arg-type]
    copy.MergeFrom(pb.Property(**fields))  # type: ignore[arg-type]
    return copy


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("note:string!", changed(NOTE, required=True)),
        ("note:number", changed(NOTE, type=pb.PROPERTY_TYPE_NUMBER, suggested_values=[])),
        ("home:object!", changed(HOME, required=True)),
        ("home:array<object>", changed(HOME, type=pb.PROPERTY_TYPE_ARRAY, item_type=pb.PROPERTY_TYPE_OBJECT)),
        ("home:string", changed(HOME, type=pb.PROPERTY_TYPE_STRING, properties=[])),
        ("new:string", pb.Property(name="new", type=pb.PROPERTY_TYPE_STRING)),
    ],
)
async def test_a_present_property_keeps_what_the_option_cannot_state(given: str, expected: pb.Property) -> None:
    async def read() -> pb.EventDefinition:
        return PRESENT

    options = SchemaOptions(
        (property_of(given),), pb.UNKNOWN_PROPERTIES_UNSPECIFIED, pb.COERCION_MODE_UNSPECIFIED, None
    )
    schema, etag = await options.next_of(read, ())
    assert schema is not None
    assert ({each.name: each for each in schema.properties}[expected.name], etag) == (expected, "7")
