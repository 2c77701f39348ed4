"""What became of events that were sent, as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from automation.runs import MatchKind
from server.api.enums import View
from server.api.event_messages import write_error, write_event
from server.api.match_messages import write_match
from server.api.structs import depth_of
from server.api.times import write_timestamp
from server.budgets import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    from server.ingest.draft import Draft
    from server.model import Event
    from signalbox.v1 import event_ingest_pb2 as pb
    from signalbox.v1 import event_pb2, match_pb2

MAX_DETAILED = 100
MAX_BRIEF_MESSAGE = 120


def write_receipt(draft: Draft, view: View, into: pb.EventReceipt) -> None:
    """Write what became of an accepted event, as much of it as the view asks for."""
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
        into.coercion_count = len(event.coercions)
    if draft.matches:
        into.match_count = sum(match.kind is MatchKind.STARTED for match, _ in draft.matches)
        if view is View.MATCHES:
            _write_matches(draft, event, into.matches)


def write_results(drafts: Sequence[Draft], view: View, into: RepeatedCompositeFieldContainer[pb.EventResult]) -> None:
    """Write what became of the events of a batch; violations only of the first MAX_DETAILED that were refused.

    A client that refuses answers beyond 4 MiB, as they do by default, still learns which of its events were taken.
    """
    refused = 0
    for draft in drafts:
        if draft.error is None:
            write_receipt(draft, view, into.add().receipt)
        else:
            refused += 1
            error = write_error(draft.error)
            if refused > MAX_DETAILED:
                del error.violations[:]
                error.message = error.message[:MAX_BRIEF_MESSAGE]
            into.add().error.CopyFrom(error)


def _write_brief(event: Event, into: event_pb2.Event) -> None:
    into.id = event.id
    into.position = event.position
    into.revision = event.revision
    into.contact_id = event.contact_id
    write_timestamp(event.received_at, into.received_at)


def _write_matches(draft: Draft, event: Event, into: RepeatedCompositeFieldContainer[match_pb2.Match]) -> None:
    """Write the matches, each with the event.

    A message is at most 100 levels deep: properties that reach their limit have no room inside a match, and stand in
    the receipt's own event alone.
    """
    if depth_of(event.properties) >= MAX_DEPTH:
        event = replace(event, properties={}, coercions=())
    for match, automation in draft.matches:
        write_match(match, automation, event, into.add())
