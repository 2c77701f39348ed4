"""Events between their messages and the values that ingest works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.coercion.report import CoercionKind
from registry.errors import SignalboxError
from server.errors import ContactRequired
from server.ingest.draft import Draft, UnreadableRequest, check_idempotency_key
from server.rpc.messages.encoding import NAMES, VARINTS, sized_text, sized_time, tags, to_bytes
from server.rpc.messages.enums import COERCION_KIND
from server.rpc.messages.response_size import FRAMING, MAX_DETAIL_BYTES
from server.rpc.messages.structs import encoded_struct, encoded_value, read_struct
from server.rpc.messages.times import read_timestamp
from server.rpc.messages.typed_properties import read_typed
from server.services.emails import normalize_email
from server.status import code_of, message_of, reason_of
from signalbox.v1 import event_ingest_pb2 as pb
from signalbox.v1 import event_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.coercion.report import Coercion
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


_ID, _POSITION, _NAME, _DEFINITION, _REVISION, _CONTACT, _EMAIL, _PROPERTIES, _COERCIONS = tags(
    event_pb2.Event,
    *("id", "position", "name", "definition_id", "revision", "contact_id", "email", "properties", "coercions"),
)
_OCCURRED_AT, _RECEIVED_AT, _OMITTED, _UNREADABLE, _ERASED_AT, _TRACEPARENT = tags(
    event_pb2.Event,
    *("occurred_at", "received_at", "omitted_coercion_count", "unreadable_reason", "erased_at", "traceparent"),
)
_PATH, _KIND, _FROM, _TO = tags(event_pb2.Coercion, "path", "kind", "from", "to")
_KINDS = {kind: f"{_KIND}{VARINTS[COERCION_KIND.write(kind)]}" for kind in CoercionKind}


def encoded_event(event: Event) -> str:
    """Return a whole event, encoded; of coercions not recorded, and beyond MAX_DETAIL_BYTES, only the count."""
    properties = encoded_struct(event.properties)
    encoded = (
        f"{_ID}{sized_text(event.id)}{_POSITION}{VARINTS[event.position]}{_NAME}{NAMES[event.name]}"
        f"{_DEFINITION}{NAMES[event.definition_id]}{_REVISION}{VARINTS[event.revision]}"
        f"{_CONTACT}{sized_text(event.contact_id)}{_EMAIL}{sized_text(event.email)}"
        f"{_PROPERTIES}{VARINTS[len(properties)]}{properties}"
        f"{_OCCURRED_AT}{sized_time(event.occurred_at)}{_RECEIVED_AT}{sized_time(event.received_at)}"
    )
    if event.coercions:
        coercions, left_out = _encoded_coercions(event.coercions)
        encoded += f"{coercions}{_OMITTED}{VARINTS[event.omitted_coercions + left_out]}"
    elif event.omitted_coercions:
        encoded += f"{_OMITTED}{VARINTS[event.omitted_coercions]}"
    if event.unreadable:
        encoded += f"{_UNREADABLE}{sized_text(event.unreadable)}"
    if event.erased_at:
        encoded += f"{_ERASED_AT}{sized_time(event.erased_at)}"
    if event.traceparent:
        encoded += f"{_TRACEPARENT}{sized_text(event.traceparent)}"
    return encoded


def write_event(event: Event, into: event_pb2.Event) -> None:
    """Write a whole event into an empty message, as `encoded_event` does."""
    into.MergeFromString(to_bytes(encoded_event(event)))


def event_message(event: Event) -> event_pb2.Event:
    """Return a whole event as a message of its own."""
    return event_pb2.Event.FromString(to_bytes(encoded_event(event)))


def _encoded_coercions(coercions: Sequence[Coercion]) -> tuple[str, int]:
    """Return the fields of the first MAX_DETAIL_BYTES of coercions, and how many are left out."""
    fields: list[str] = []
    room = MAX_DETAIL_BYTES
    for coercion in coercions:
        content = encoded_coercion(coercion)
        room -= len(content) + FRAMING
        if room < 0:
            break
        fields.append(f"{_COERCIONS}{VARINTS[len(content)]}{content}")
    return "".join(fields), len(coercions) - len(fields)


def encoded_coercion(coercion: Coercion) -> str:
    """Return one coercion of a payload, encoded."""
    before = encoded_value(coercion.before)
    encoded = f"{_PATH}{NAMES[coercion.path]}{_KINDS[coercion.kind]}{_FROM}{VARINTS[len(before)]}{before}"
    if coercion.after is None:
        return encoded
    after = encoded_value(coercion.after)
    return f"{encoded}{_TO}{VARINTS[len(after)]}{after}"


def write_coercion(coercion: Coercion, into: event_pb2.Coercion) -> None:
    """Write one coercion of a payload into an empty message."""
    into.MergeFromString(to_bytes(encoded_coercion(coercion)))


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
