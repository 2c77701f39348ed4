"""Events between their messages and the values that ingest works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import SignalboxError
from server.errors import ContactRequired
from server.ingest.draft import Draft, UnreadableRequest, check_idempotency_key
from server.rpc.messages.enums import COERCION_KIND
from server.rpc.messages.response_size import write_details
from server.rpc.messages.structs import read_struct, write_struct, write_value
from server.rpc.messages.times import read_timestamp, write_timestamp
from server.rpc.messages.typed_properties import read_typed
from server.services.emails import normalize_email
from server.status import code_of, message_of, reason_of
from signalbox.v1 import event_ingest_pb2 as pb
from signalbox.v1 import event_pb2

if TYPE_CHECKING:
    from registry.coercion import Coercion
    from registry.errors import Violation
    from server.model import Event
    from server.rpc.messages.structs import Later
    from server.rpc.messages.typed_properties import Readers


def read_draft(
    message: pb.EventInput, readers: Readers, *, contact_optional: bool = False, later: Later | None = None
) -> Draft:
    """Read an event, with the readers that its typed properties need. `later` is as for `read_struct`.

    Raise InvalidArgument, ContactRequired unless it may be about nobody, and what `identify` finds wrong with the
    typed properties.
    """
    contact_id = email = ""
    if message.HasField("email"):
        email = normalize_email(message.email)
    else:
        contact_id = message.contact_id
        if not contact_id and not contact_optional:
            raise ContactRequired
    typed = readers and message.HasField("typed_properties")
    return Draft(
        message.name,
        contact_id,
        email,
        read_typed(message, readers) if typed else read_struct(message.properties, later=later),
        read_timestamp(message, "occurred_at") if message.HasField("occurred_at") else None,
        check_idempotency_key(message.idempotency_key) if message.idempotency_key else "",
    )


def read_draft_or_refuse(message: pb.EventInput, readers: Readers, later: Later | None = None) -> Draft:
    """Read an event of a batch; one that cannot be read becomes a draft that is refused."""
    try:
        return read_draft(message, readers, later=later)
    except SignalboxError as error:
        return unreadable_draft(message, error.detached())


# What is written for every event is written in place: a message given to a constructor is copied.
def write_event(event: Event, into: event_pb2.Event) -> None:
    """Write a whole event; of coercions that are not recorded, and beyond MAX_DETAIL_BYTES, only the count."""
    into.id = event.id
    into.position = event.position
    into.name = event.name
    into.definition_id = event.definition_id
    into.revision = event.revision
    into.contact_id = event.contact_id
    into.email = event.email
    into.properties.SetInParent()
    write_struct(event.properties, into.properties)
    if event.coercions:
        unwritten = write_details(event.coercions, write_coercion, into.coercions)
        into.omitted_coercion_count = event.omitted_coercions + unwritten
    elif event.omitted_coercions:
        into.omitted_coercion_count = event.omitted_coercions
    write_timestamp(event.occurred_at, into.occurred_at)
    write_timestamp(event.received_at, into.received_at)
    if event.unreadable:
        into.unreadable_reason = event.unreadable
    if event.erased_at:
        write_timestamp(event.erased_at, into.erased_at)
    if event.traceparent:
        into.traceparent = event.traceparent


def event_message(event: Event) -> event_pb2.Event:
    """Return a whole event as a message of its own."""
    message = event_pb2.Event()
    write_event(event, message)
    return message


def write_coercion(coercion: Coercion, into: event_pb2.Coercion) -> None:
    """Write one coercion of a payload."""
    into.path = coercion.path
    into.kind = COERCION_KIND.write(coercion.kind)
    write_value(coercion.before, getattr(into, "from"))
    if coercion.after is not None:
        write_value(coercion.after, into.to)


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


def unreadable_draft(message: pb.EventInput, error: Exception) -> Draft:
    """Return a draft that is refused."""
    named = (message.name, message.contact_id, message.email, message.idempotency_key)
    unread = UnreadableRequest(message.SerializeToString, message.ByteSize(), *named)
    return Draft(message.name, "", "", {}, invalid=error, unread=unread)
