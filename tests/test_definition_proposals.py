"""The YAML of `definition infer` and the reader of `plan` and `apply`: a file says everything about its definitions."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from registry.definitions.schema import Compatibility, Property, PropertyType, Schema
from server.cli.arguments.message_parsers import definition_retention
from server.cli.definitions.documents import read_definitions
from server.cli.definitions.infer import proposal
from server.cli.definitions.plan import message_of
from server.rpc.messages.definitions import write_schema
from server.rpc.messages.enums import COMPATIBILITY
from signalbox.v1 import event_definitions_pb2 as pb
from tests.support.payloads import SCHEMAS

TEXTS = st.sampled_from(["", "ISO 4217", "yes", "a: b # c", "two\nlines", "null"])


@st.composite
def described(draw: st.DrawFn, property_: Property) -> Property:
    most = 2 if property_.type is PropertyType.STRING else 0
    return replace(
        property_,
        description=draw(TEXTS),
        personal=draw(st.booleans()),
        suggested_values=tuple(draw(st.lists(TEXTS.filter(bool), max_size=most, unique=True))),
        properties=tuple(draw(described(inner)) for inner in property_.properties),
    )


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    schema = draw(SCHEMAS)
    return replace(schema, properties=tuple(draw(described(each)) for each in schema.properties))


@given(
    st.builds(
        pb.EventDefinition,
        name=st.sampled_from(["order_completed", "yes", "a: b", "größe"]),
        description=TEXTS,
        schema=schemas().map(write_schema),
        compatibility=st.sampled_from(Compatibility).map(COMPATIBILITY.write),
        event_retention=st.sampled_from(["project", "forever", "90d", "1s", "3601s"]).map(definition_retention),
    )
)
def test_a_proposal_says_everything_that_its_definition_has(definition: pb.EventDefinition) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "definitions.yaml"
        file.write_text(proposal(pb.InferEventDefinitionResponse(event_definition=definition)), encoding="utf-8")
        (document,) = read_definitions([file])
    assert message_of(document) == definition
