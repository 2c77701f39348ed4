"""Receipts and errors of sent events, as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from automation.matches import MatchKind
from server.api.messages.enums import View
from server.api.messages.events import write_error, write_event
from server.api.messages.matches import write_match
from server.api.messages.structs import depth_of
from server.api.messages.times import write_timestamp
from server.api.response_size import size_of
from server.budgets import MAX_DEPTH, MAX_RESPONSE_BYTES
from server.status import cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    from server.ingest.draft import Draft
    from server.model import Event
    from signalbox.v1 import event_ingest_pb2 as pb
    from signalbox.v1 import event_pb2, match_pb2

MAX_DETAILED = 100
MAX_BRIEF_MESSAGE = 120
"""Bytes of the message of an error beyond the first MAX_DETAILED."""

BRIEF_BYTES = 256
"""The largest brief form of a result: ids and a time, or reason and MAX_BRIEF_MESSAGE."""


def write_receipt(draft: Draft, view: View, into: pb.EventReceipt, room: int) -> None:
    """Write the receipt of an accepted event: as much of the view as fits into `room` bytes."""
    event = draft.event
    assert event is not None
    if view is View.RECEIPT:
        _write_brief(event, into.event)
    else:
        write_event(event, into.event)
    # Fields that stay at their default are not set: each setting costs a tenth of a microsecond.
    if draft.duplicate:
        into.duplicate = True
    if event.coercions:
        into.coercion_count = len(event.coercions) + event.omitted_coercions
    if draft.matches:
        into.match_count = sum(match.kind is MatchKind.STARTED for match, _ in draft.matches)
        if view is View.MATCHES:
            into.truncated = not _write_matches(draft, event, into.matches, room - size_of(into.event))


def write_results(drafts: Sequence[Draft], view: View, into: RepeatedCompositeFieldContainer[pb.EventResult]) -> None:
    """Write the results of a batch, as `result_steps` does."""
    for _ in result_steps(drafts, view, into):
        pass


def result_steps(
    drafts: Sequence[Draft], view: View, into: RepeatedCompositeFieldContainer[pb.EventResult]
) -> Iterator[None]:
    """Write the results of a batch, each at least in its brief form: one with each step of the iteration.

    Views are written while there is room, violations only of the first MAX_DETAILED refused events: the response to a
    stored batch must reach its client.
    """
    room = MAX_RESPONSE_BYTES - len(drafts) * BRIEF_BYTES
    refused = 0
    for draft in drafts:
        result = into.add()
        if draft.error is not None:
            refused += 1
            room = _write_refused(draft.error, result.error, room, detailed=refused <= MAX_DETAILED and room >= 0)
        elif view is View.RECEIPT:
            write_receipt(draft, view, result.receipt, room)
        else:
            room = _write_accepted(draft, view, result.receipt, room)
        yield


def _write_accepted(draft: Draft, view: View, into: pb.EventReceipt, room: int) -> int:
    """Write a receipt, in its brief form if the view takes more than `room` bytes; return the rest of `room`.

    Nothing is left once one did not fit: a batch is not written twice to fill the last bytes.
    """
    if room >= 0:
        write_receipt(draft, view, into, room)
        left = room - size_of(into)
        if left >= 0:
            return left
        into.Clear()
    write_receipt(draft, View.RECEIPT, into, room)
    into.truncated = True
    return -1


def _write_refused(error: Exception, into: pb.EventError, room: int, *, detailed: bool) -> int:
    """Write the error of a refused event, in brief if `room` bytes are too few; return the rest of `room`."""
    into.CopyFrom(write_error(error))
    if detailed:
        room -= size_of(into)
        if room >= 0:
            return room
    del into.violations[:]
    into.message = cut(into.message, MAX_BRIEF_MESSAGE)
    return room


def _write_brief(event: Event, into: event_pb2.Event) -> None:
    into.id = event.id
    into.position = event.position
    into.revision = event.revision
    into.contact_id = event.contact_id
    write_timestamp(event.received_at, into.received_at)


def _write_matches(
    draft: Draft, event: Event, into: RepeatedCompositeFieldContainer[match_pb2.Match], room: int
) -> bool:
    """Write the matches, each with the event, and return whether all of them fit into `room` bytes.

    A message is at most 100 levels deep: properties that reach their limit have no room inside a match, and stand in
    the receipt's own event alone.
    """
    if depth_of(event.properties) >= MAX_DEPTH:
        event = replace(event, properties={}, coercions=())
    for match, automation in draft.matches:
        message = into.add()
        write_match(match, automation, event, message)
        room -= size_of(message)
        if room < 0:
            del into[-1]
            return False
    return True
