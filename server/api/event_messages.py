"""Events between their messages and the values that ingest works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import Violation
from server.api.enums import CHANGE_KIND, View
from server.api.structs import read_struct, write_struct, write_value
from server.api.times import read_timestamp, timestamp
from server.emails import normal_email
from server.errors import ContactRequired, InvalidArgument
from server.ingest.draft import Draft
from server.status import code_of, message_of, reason_of
from signalbox.v1 import event_ingest_pb2 as pb
from signalbox.v1 import event_pb2

if TYPE_CHECKING:
    from registry.coercion import Change
    from server.errors import ServiceError
    from server.model import Event

MAX_IDEMPOTENCY_KEY = 255


def read_draft(message: pb.EventInput) -> Draft:
    """Read an event. Raises InvalidArgument and ContactRequired."""
    contact = message.WhichOneof("contact")
    contact_id = email = ""
    if contact == "email":
        email = normal_email(message.email)
    elif contact == "contact_id":
        contact_id = message.contact_id
    if not (contact_id or email):
        raise ContactRequired
    return Draft(
        message.name,
        contact_id,
        email,
        read_struct(message.properties) if message.HasField("properties") else {},
        read_timestamp(message, "occurred_at"),
        _idempotency_key(message.idempotency_key),
    )


def read_draft_or_refuse(message: pb.EventInput) -> Draft:
    """Read an event of a batch; one that cannot be read becomes a draft that is refused."""
    try:
        return read_draft(message)
    except (InvalidArgument, ContactRequired) as error:
        return _unreadable(message.name, error)


def write_event(event: Event) -> event_pb2.Event:
    """Write a whole event."""
    message = event_pb2.Event(
        id=event.id,
        position=event.position,
        name=event.name,
        definition_id=event.definition_id,
        revision=event.revision,
        contact_id=event.contact_id,
        email=event.email,
        occurred_at=timestamp(event.occurred_at),
        received_at=timestamp(event.received_at),
    )
    message.properties.SetInParent()
    write_struct(event.properties, message.properties)
    for change in event.coercions:
        write_change(change, message.coercions.add())
    return message


def write_change(change: Change, message: event_pb2.Coercion) -> None:
    """Write one change into an empty message."""
    message.path = change.path
    message.kind = CHANGE_KIND.write(change.kind)
    write_value(change.before, getattr(message, "from"))
    if change.after is not None:
        write_value(change.after, message.to)


def write_receipt(event: Event, *, duplicate: bool, view: View) -> pb.EventReceipt:
    """Write what became of an accepted event, as much of it as the view asks for."""
    return pb.EventReceipt(
        event=_brief(event) if view is View.RECEIPT else write_event(event),
        duplicate=duplicate,
        coercion_count=len(event.coercions),
        match_count=event.match_count,
    )


def write_result(draft: Draft, view: View) -> pb.EventResult:
    """Write what became of one event of a batch."""
    if draft.event is not None:
        return pb.EventResult(receipt=write_receipt(draft.event, duplicate=draft.duplicate, view=view))
    assert draft.error is not None
    return pb.EventResult(error=write_error(draft.error))


def write_error(error: Exception) -> pb.EventError:
    """Write why an event or a batch was refused."""
    violations: tuple[Violation, ...] = getattr(error, "violations", ())
    code: int = code_of(error).value[0]
    return pb.EventError(
        code=code,
        reason=reason_of(error),
        message=message_of(error),
        violations=[write_violation(one) for one in violations],
    )


def write_violation(violation: Violation) -> event_pb2.Violation:
    """Write a violation."""
    return event_pb2.Violation(path=violation.path, reason=violation.reason, message=violation.message)


def _brief(event: Event) -> event_pb2.Event:
    return event_pb2.Event(
        id=event.id,
        position=event.position,
        revision=event.revision,
        contact_id=event.contact_id,
        received_at=timestamp(event.received_at),
    )


def _idempotency_key(key: str) -> str:
    if len(key) > MAX_IDEMPOTENCY_KEY or not (key.isascii() and key.isprintable()):
        message = f"idempotency_key must be at most {MAX_IDEMPOTENCY_KEY} printable ASCII characters"
        raise InvalidArgument(message, violations=[Violation("idempotency_key", "INVALID_ARGUMENT", message)])
    return key


def _unreadable(name: str, error: ServiceError) -> Draft:
    return Draft(name, "", "", {}, invalid=error)
