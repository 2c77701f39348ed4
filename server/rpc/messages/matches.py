"""Matches as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from automation.matches import MatchKind
from registry.values.json_values import MAX_DEPTH
from server.rpc.messages.encoding import NAMES, VARINTS, sized_text, sized_time, tags, to_bytes
from server.rpc.messages.enums import MATCH_KIND
from server.rpc.messages.events import encoded_event
from server.rpc.messages.structs import depth_of, is_flat
from server.rpc.messages.times import write_timestamp
from signalbox.v1 import match_pb2

if TYPE_CHECKING:
    from automation.automations import Automation
    from automation.matches import Match
    from server.delivery.recent_matches import LoadedMatch
    from server.model import Event


_ID, _POSITION, _KIND, _AUTOMATION, _AUTOMATION_NAME, _LABELS, _RUN, _CONTACT, _EVENT = tags(
    match_pb2.Match,
    *("id", "position", "kind", "automation_id", "automation_name", "labels", "run_id", "contact_id", "event"),
)
_KINDS = {kind: f"{_KIND}{VARINTS[MATCH_KIND.write(kind)]}" for kind in MatchKind}
_MATCHED_AT, _CONTACT_DELETED, _TRACEPARENT = tags(match_pb2.Match, "matched_at", "contact_deleted", "traceparent")
_KEY, _VALUE = tags(match_pb2.Match.LabelsEntry, "key", "value")


def encoded_match(match: Match, automation: Automation, event: Event) -> str:
    """Return a match of an automation, encoded; for TIMED_OUT the event is the one that started the run."""
    content = encoded_event(event)
    encoded = (
        f"{_ID}{sized_text(match.id)}{_POSITION}{VARINTS[match.position]}{_KINDS[match.kind]}"
        f"{_AUTOMATION}{NAMES[automation.id]}{_AUTOMATION_NAME}{NAMES[automation.name]}"
        f"{_RUN}{sized_text(match.run_id)}{_CONTACT}{sized_text(event.contact_id)}"
        f"{_EVENT}{VARINTS[len(content)]}{content}{_MATCHED_AT}{sized_time(match.matched_at)}"
    )
    for key, value in automation.labels.items():
        label = f"{_KEY}{sized_text(key)}{_VALUE}{sized_text(value)}"
        encoded += f"{_LABELS}{VARINTS[len(label)]}{label}"
    if event.contact_deleted:
        encoded += f"{_CONTACT_DELETED}\x01"
    if event.traceparent:
        encoded += f"{_TRACEPARENT}{sized_text(event.traceparent)}"
    return encoded


def encoded_loaded(loaded: LoadedMatch) -> str:
    """Return a match inside a delivery, encoded.

    A message is at most 100 levels deep: properties that reach their limit have no room there, and are left to
    GetEvent.
    """
    match, automation, event = loaded
    if not is_flat(event.properties) and depth_of(event.properties) >= MAX_DEPTH:
        event = replace(event, properties={}, coercions=())
    return encoded_match(match, automation, event)


def write_match(match: Match, automation: Automation, event: Event, into: match_pb2.Match) -> None:
    """Write a match into an empty message, as `encoded_match` does."""
    into.MergeFromString(to_bytes(encoded_match(match, automation, event)))


def write_loaded(loaded: LoadedMatch, into: match_pb2.Match) -> None:
    """Write a match inside a delivery into an empty message, as `encoded_loaded` does."""
    into.MergeFromString(to_bytes(encoded_loaded(loaded)))


def write_log_entry(match: Match, into: match_pb2.Match) -> None:
    """Write a match from the match log alone, without its automation and the content of its event."""
    into.id = match.id
    into.position = match.position
    into.kind = MATCH_KIND.write(match.kind)
    into.run_id = match.run_id
    into.event.position = match.event_position
    into.event.name = match.event_name
    write_timestamp(match.matched_at, into.matched_at)
