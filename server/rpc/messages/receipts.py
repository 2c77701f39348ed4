"""Receipts and errors of sent events, as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from automation.matches import MatchKind
from registry.values.json_values import MAX_DEPTH
from server.paging import MAX_RESPONSE_BYTES
from server.rpc.messages.enums import View
from server.rpc.messages.events import write_error, write_event
from server.rpc.messages.matches import write_match
from server.rpc.messages.response_size import size_of
from server.rpc.messages.structs import depth_of
from server.rpc.messages.times import write_timestamp
from server.status import cut
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    from server.ingest.draft import Draft
    from server.model import Event
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
        into.match_count = started_matches(draft)
        if view is View.MATCHES:
            into.truncated = not _write_matches(draft, event, into.matches, room - size_of(into.event))


def write_results(drafts: Sequence[Draft], view: View, into: RepeatedCompositeFieldContainer[pb.EventResult]) -> None:
    """Write the results of a batch, as `result_slices` does."""
    for _ in result_slices(drafts, view, into):
        pass


def result_slices(
    drafts: Sequence[Draft], view: View, into: RepeatedCompositeFieldContainer[pb.EventResult]
) -> Iterator[None]:
    """Write the results of a batch, each at least in its brief form: one with each step of the iteration.

    Views are written while there is room, violations only of the first MAX_DETAILED refused events: the response to a
    stored batch must reach its client.
    """
    room = MAX_RESPONSE_BYTES - len(drafts) * BRIEF_BYTES
    refused = 0
    brief = _BriefResults(into)
    for draft in drafts:
        if draft.error is not None:
            refused += 1
            room = _write_refused(draft.error, into.add().error, room, detailed=refused <= MAX_DETAILED and room >= 0)
        elif view is View.RECEIPT:
            brief.add(draft)
        else:
            room = _write_accepted(draft, view, into.add().receipt, room)
        yield


class _BriefResults:
    """Writes results in their brief form: copies of one message, in which only what differs is set again.

    Of a batch, few events differ in more than ids and position. A copy takes half of the time of a message of its own.
    """

    def __init__(self, into: RepeatedCompositeFieldContainer[pb.EventResult]) -> None:
        self._into = into
        self._result = pb.EventResult()
        self._receipt = self._result.receipt
        self._event = self._receipt.event
        self._common: tuple[int, int, int, int, bool] | None = None

    def add(self, draft: Draft) -> None:
        """Append the result of an accepted event."""
        event, message = draft.event, self._event
        assert event is not None
        coercions = len(event.coercions) + event.omitted_coercions
        common = (event.received_at, event.revision, coercions, started_matches(draft), draft.duplicate)
        if common != self._common:
            self._common = common
            write_timestamp(event.received_at, message.received_at)
            message.revision = event.revision
            _, _, self._receipt.coercion_count, self._receipt.match_count, self._receipt.duplicate = common
        message.id = event.id
        message.position = event.position
        message.contact_id = event.contact_id
        self._into.append(self._result)


def started_matches(draft: Draft) -> int:
    """Return how many automations the event matched."""
    return sum(match.kind is MatchKind.STARTED for match, _ in draft.matches) if draft.matches else 0


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
