"""Matches as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from registry.json_values import MAX_DEPTH
from server.rpc.messages.enums import MATCH_KIND
from server.rpc.messages.events import write_event
from server.rpc.messages.structs import depth_of
from server.rpc.messages.times import write_timestamp

if TYPE_CHECKING:
    from automation.automations import Automation
    from automation.matches import Match
    from server.delivery.recent_matches import LoadedMatch
    from server.model import Event
    from signalbox.v1 import match_pb2


def write_match(match: Match, automation: Automation, event: Event, into: match_pb2.Match) -> None:
    """Write a match of an automation; for TIMED_OUT the event is the one that started the run."""
    into.id = match.id
    into.position = match.position
    into.kind = MATCH_KIND.write(match.kind)
    into.automation_id = automation.id
    into.automation_name = automation.name
    if automation.labels:
        into.labels.update(automation.labels)
    into.run_id = match.run_id
    into.contact_id = event.contact_id
    into.contact_deleted = event.contact_deleted
    if event.traceparent:
        into.traceparent = event.traceparent
    write_event(event, into.event)
    write_timestamp(match.matched_at, into.matched_at)


def write_loaded(loaded: LoadedMatch, into: match_pb2.Match) -> None:
    """Write a match inside a delivery.

    A message is at most 100 levels deep: properties that reach their limit have no room there, and are left to
    GetEvent.
    """
    match, automation, event = loaded
    if depth_of(event.properties) >= MAX_DEPTH:
        event = replace(event, properties={}, coercions=())
    write_match(match, automation, event, into)


def write_log_entry(match: Match, into: match_pb2.Match) -> None:
    """Write a match from the match log alone, without its automation and the content of its event."""
    into.id = match.id
    into.position = match.position
    into.kind = MATCH_KIND.write(match.kind)
    into.run_id = match.run_id
    into.event.position = match.event_position
    into.event.name = match.event_name
    write_timestamp(match.matched_at, into.matched_at)
