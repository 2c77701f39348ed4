"""Values that fill every field of a message, and what their messages are as JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.json_format import MessageToDict

from automation.automations import Automation, AutomationState, EntryRule
from automation.matches import Match, MatchFilter, MatchKind
from automation.runs import Run, RunStatus, Wait
from automation.subscriptions.values import Backoff, DeliveryOrder
from registry.coercion.report import Coercion, CoercionKind
from registry.definitions.schema import CoercionMode, Property, PropertyType, Schema, UnknownProperties
from server.model import Event
from server.rpc.messages.events import event_message
from server.rpc.messages.structs import depth_of
from tests.support import subscriptions

if TYPE_CHECKING:
    from google.protobuf.message import Message


SECOND: Final = 1_000_000
COERCIONS = (
    Coercion("properties.n", CoercionKind.CONVERTED, "5", 5),
    Coercion("properties.x", CoercionKind.UNKNOWN_DROPPED, "y", None),
)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EVENT = Event(
    id="e1",
    position=21,
    name="paid",
    definition_id="d1",
    revision=2,
    contact_id="c1",
    email="ada@example.com",
    properties={"n": 5},
    coercions=COERCIONS,
    occurred_at=1_000_000,
    received_at=2_000_001,
    match_count=1,
    unreadable="why",
    traceparent=TRACEPARENT,
)
MATCH = Match(31, "m1", MatchKind.STARTED, 4, 31, "r1", 21, "paid", 9, 3_000_002)
AUTOMATION = Automation(
    key=4,
    project_pk=1,
    id="a1",
    name="Welcome",
    event_name="paid",
    condition="properties.n > 1",
    state=AutomationState.ACTIVE,
    entry_rule=EntryRule.ONCE_PER_CONTACT,
    labels={"team": "growth"},
    attributes={"step": 1},
    activated_position=20,
    version=3,
    created_at=1_000_000,
    updated_at=2_000_000,
    unreadable="why",
)
RUN = Run(
    number=31,
    id="r1",
    automation_key=4,
    contact_key=9,
    event_position=21,
    status=RunStatus.WAITING,
    match_position=31,
    wait=Wait("returned", "true", 22, 9_000_000),
    reason="because",
    attributes={"step": 2},
    version=2,
    created_at=1_000_000,
    updated_at=2_000_000,
    finished_at=3_000_000,
    finished_position=23,
    unreadable="why",
)
SUBSCRIPTION = replace(
    subscriptions.SUBSCRIPTION,
    key=1,
    project_pk=1,
    id="s1",
    filter=MatchFilter(("a1",), {"team": "growth"}, ("paid",)),
    order=DeliveryOrder.CONTACT,
    ack_deadline=5_500_000,
    backoff=Backoff(1_000_000, 60_000_000, 1.5),
    read_position=12,
    floor_position=11,
    last_serial=7,
    seek_serial=1,
    version=6,
    created_at=1_000_000,
    updated_at=2_000_000,
)
SCHEMA = Schema(
    (
        Property("n", PropertyType.NUMBER, required=True, description="A number"),
        Property("tags", PropertyType.ARRAY, item_type=PropertyType.STRING),
        Property("who", PropertyType.OBJECT, properties=(Property("name", PropertyType.STRING),)),
        Property("kind", PropertyType.STRING, suggested_values=("new", "old")),
    ),
    UnknownProperties.DROP,
    CoercionMode.STRICT,
)


def plain(message: Message) -> dict[str, Any]:
    """Return a message as JSON values, with the names of the protos."""
    return MessageToDict(message, preserving_proto_field_name=True)


def unset(message: Message) -> set[str]:
    """Return the names of the fields that have no value."""
    return {field.name for field in message.DESCRIPTOR.fields} - {field.name for field, _ in message.ListFields()}


MATCH_AS_JSON = {
    "id": "m1",
    "position": "31",
    "kind": "KIND_STARTED",
    "automation_id": "a1",
    "automation_name": "Welcome",
    "labels": {"team": "growth"},
    "run_id": "r1",
    "contact_id": "c1",
    "event": plain(event_message(EVENT)),
    "matched_at": "1970-01-01T00:00:03.000002Z",
    "traceparent": TRACEPARENT,
}


def nested(depth: int) -> dict[str, Any]:
    """Return properties of a number of levels."""
    made: dict[str, Any] = {"n": 1}
    for _ in range(depth - 1):
        made = {"inner": made}
    assert depth_of(made) == depth
    return made


def with_properties(properties: dict[str, Any]) -> Event:
    return Event("e1", 21, "paid", "d1", 2, "c1", "", properties, COERCIONS, 1, 2, 1)
