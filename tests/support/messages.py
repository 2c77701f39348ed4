"""Messages that many tests send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

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


def schema(*, keep_unknown: bool = False, **types: str) -> event_definitions_pb2.Schema:
    """Make a schema: `schema(order_total="number")`."""
    policy = "UNKNOWN_PROPERTIES_KEEP" if keep_unknown else "UNKNOWN_PROPERTIES_REJECT"
    return event_definitions_pb2.Schema(
        properties=[
            event_definitions_pb2.Property(
                name=name, type=event_definitions_pb2.PropertyType.Value(f"PROPERTY_TYPE_{kind.upper()}")
            )
            for name, kind in types.items()
        ],
        unknown_properties=event_definitions_pb2.UnknownProperties.Value(policy),
    )


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
    if email is None and contact_id is None:
        email = ADA
    return event_ingest_pb2.EventInput(
        name=name,
        contact_id=contact_id,
        email=email,
        properties=properties if properties is None or isinstance(properties, Struct) else struct(properties),
        occurred_at=None if occurred_at is None else Timestamp(seconds=occurred_at),
        idempotency_key=key,
    )


def orders(count: int) -> list[event_ingest_pb2.EventInput]:
    """Make so many events, told apart by their order_total."""
    return [event({"order_total": number}) for number in range(count)]
