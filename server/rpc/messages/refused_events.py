"""Refused events between their messages and the values of the quarantine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from grpc import StatusCode

from registry.log_ids import position_of
from server.errors import InvalidArgument, MalformedRequest
from server.rpc.messages.events import read_draft_or_refuse, write_error, write_violation
from server.rpc.messages.response_size import size_of
from server.rpc.messages.structs import write_struct
from server.rpc.messages.times import read_timestamp, write_timestamp
from server.services.quarantine import Selection, check_ids
from server.status import CODES, cut
from server.storage.quarantine.refused_events import RefusalCause, RefusedFilter
from signalbox.v1 import event_ingest_pb2
from signalbox.v1 import refusals_pb2 as pb

if TYPE_CHECKING:
    from server.ingest.draft import Draft
    from server.rpc.messages.typed_properties import TypedReaders
    from server.services.quarantine import Quarantine, Reingested
    from server.storage.quarantine.refused_events import QuarantineUse, RefusalCounts, RefusedEvent

MAX_GROUPS: Final = 1_000
MAX_BRIEF_MESSAGE: Final = 120
_ROOM: Final = 2_000_000
"""Bytes of the errors of events that are still refused; beyond it they have no violations."""


async def reread_event(typed: TypedReaders, project_pk: int, refused: RefusedEvent) -> Draft:
    """Read an EventInput that could not be read before; what is still refused has its error in the draft.

    Raise MalformedRequest if it is not even a message, as it is stored.
    """
    try:
        message = event_ingest_pb2.EventInput.FromString(refused.request)
    except DecodeError as error:
        raise MalformedRequest from error
    return read_draft_or_refuse(message, await typed.needed(project_pk, (message,)))


def read_filter(message: pb.RefusedEventFilter, path: str = "filter") -> RefusedFilter:
    """Read a filter. Raise InvalidArgument."""
    return RefusedFilter(
        message.name,
        message.reason,
        message.path,
        message.door,
        read_timestamp(message, "received_from", f"{path}.received_from"),
        read_timestamp(message, "received_until", f"{path}.received_until"),
    )


def read_selection(request: pb.ReingestRefusedEventsRequest | pb.DiscardRefusedEventsRequest) -> Selection:
    """Read which events a call is about. Raise InvalidArgument."""
    match request.WhichOneof("selection"):
        case "filter":
            return Selection(filter=read_filter(request.filter), after=read_continuation(request.continue_after))
        case "ids":
            if request.continue_after and isinstance(request, pb.DiscardRefusedEventsRequest):
                message = "continue_after is not allowed with ids, all of which are in one call"
                raise InvalidArgument.at("continue_after", "INVALID_ARGUMENT", message)
            return Selection(ids=check_ids(request.ids.ids), after=read_continuation(request.continue_after))
    raise InvalidArgument.at("filter", "INVALID_ARGUMENT", "Set either filter, which may be empty, or ids")


def read_continuation(after: str) -> str:
    """Return the id to continue after, empty to begin. Raise InvalidArgument unless a response had it."""
    if after and position_of(after) is None:
        message = "continue_after must be that of the previous response, or empty to begin"
        raise InvalidArgument.at("continue_after", "INVALID_ARGUMENT", message)
    return after


def refused_event_message(refused: RefusedEvent) -> pb.RefusedEvent:
    """Return a refused event as a message."""
    content = refused.content
    message = pb.RefusedEvent(
        id=refused.id,
        name=content.name,
        contact_id=content.contact_id,
        email=content.email,
        idempotency_key=refused.idempotency_key,
        error=_error(refused.error),
        door=refused.door,
        key_id=refused.key_id,
        request_id=refused.request_id,
        byte_count=refused.byte_count,
        request=refused.request,
        unreadable_reason=refused.unreadable,
    )
    if content.properties is not None:
        message.properties.SetInParent()
        write_struct(content.properties, message.properties)
    if content.occurred_at is not None:
        write_timestamp(content.occurred_at, message.occurred_at)
    write_timestamp(refused.received_at, message.received_at)
    return message


def _error(error: RefusalCause) -> event_ingest_pb2.EventError:
    # A rule that only a dialect has is not among the reasons of the service.
    code: Any = CODES.get(error.reason, StatusCode.INVALID_ARGUMENT).value
    return event_ingest_pb2.EventError(
        code=code[0],
        reason=error.reason,
        message=error.message,
        violations=[write_violation(violation) for violation in error.violations],
    )


def write_counts(counts: RefusalCounts, use: QuarantineUse, quarantine: Quarantine) -> pb.CountRefusedEventsResponse:
    """Return counts as a message."""
    groups = [
        pb.CountRefusedEventsResponse.Group(name=name, reason=reason, path=path, event_count=count)
        for (name, reason, path), count in counts.groups.most_common(MAX_GROUPS)
    ]
    return pb.CountRefusedEventsResponse(
        groups=groups,
        event_count=counts.events,
        kept_event_count=use.events,
        kept_byte_count=use.bytes,
        max_event_count=quarantine.limits.events,
        max_byte_count=quarantine.limits.bytes,
        continue_after=counts.last,
    )


def write_reingested(result: Reingested) -> pb.ReingestRefusedEventsResponse:
    """Return the outcomes of events as a message."""
    response = pb.ReingestRefusedEventsResponse(
        recorded_count=result.recorded,
        duplicate_count=result.duplicates,
        refused_count=result.refused,
        continue_after=result.last,
    )
    room = _ROOM
    for refused in result.still_refused:
        message = response.still_refused.add(id=refused.id, name=refused.name, error=_error_of(refused.error))
        room -= size_of(message)
        if room < 0:
            del message.error.violations[:]
            message.error.message = cut(message.error.message, MAX_BRIEF_MESSAGE)
    return response


def _error_of(error: Exception) -> event_ingest_pb2.EventError:
    reason = getattr(error, "reason", "")
    if not reason or reason in CODES:
        return write_error(error)
    return _error(RefusalCause(reason, str(error)))
