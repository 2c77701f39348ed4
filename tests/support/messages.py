"""Messages that many tests send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.struct_pb2 import Struct

from signalbox.v1 import event_definitions_pb2, event_ingest_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

ORDER = "order_completed"
ADA = "ada@example.com"
BOB = "bob@example.com"

INDEPENDENT = event_ingest_pb2.BATCH_MODE_INDEPENDENT
ALL_OR_NOTHING = event_ingest_pb2.BATCH_MODE_ALL_OR_NOTHING
RECEIPT = event_ingest_pb2.RESULT_VIEW_RECEIPT
COERCED = event_ingest_pb2.RESULT_VIEW_COERCED
MATCHES = event_ingest_pb2.RESULT_VIEW_MATCHES


def schema(**types: str) -> event_definitions_pb2.Schema:
    """Make a schema: `schema(order_total="number")`."""
    return event_definitions_pb2.Schema(
        properties=[
            event_definitions_pb2.Property(
                name=name, type=event_definitions_pb2.PropertyType.Value(f"PROPERTY_TYPE_{kind.upper()}")
            )
            for name, kind in types.items()
        ]
    )


ANYTHING = event_definitions_pb2.Schema(unknown_properties=event_definitions_pb2.UNKNOWN_PROPERTIES_KEEP)
ORDER_SCHEMA = schema(order_total="number", currency="string", is_first_purchase="boolean")


def struct(values: Mapping[str, Any]) -> Struct:
    """Make a Struct."""
    made = Struct()
    made.update(values)
    return made


def event(
    properties: Mapping[str, Any] | Struct | None = None,
    *,
    name: str = ORDER,
    email: str | None = None,
    contact_id: str | None = None,
    occurred_at: int | None = None,
    key: str = "",
) -> event_ingest_pb2.EventInput:
    """Make an event, about Ada unless it says otherwise; `occurred_at` in seconds."""
    made = event_ingest_pb2.EventInput(name=name, email=ADA if email is None else email, idempotency_key=key)
    if contact_id is not None:
        made.contact_id = contact_id
    if properties is not None:
        made.properties.CopyFrom(properties if isinstance(properties, Struct) else struct(properties))
    if occurred_at is not None:
        made.occurred_at.seconds = occurred_at
    return made


def orders(count: int) -> list[event_ingest_pb2.EventInput]:
    """Return `count` events, distinguished by their order_total."""
    return [event({"order_total": number}) for number in range(count)]
