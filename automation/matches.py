"""Matches, as values: the entries of a project's match log, and which of them to read."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import msgspec


class MatchKind(StrEnum):
    """The kinds of matches."""

    STARTED = "started"
    """The event satisfied the condition of the automation and started a run."""
    RESUMED = "resumed"
    """The event is the one that a run was waiting for."""
    TIMED_OUT = "timed_out"
    """The wait of a run timed out."""


# A msgspec struct: many are made for every commit, in a quarter of the time of a frozen dataclass.
class Match(msgspec.Struct, frozen=True):
    """One entry of a project's match log.

    `run_number` is the position of the match that started the run. `event_position` is the position in the event log,
    for TIMED_OUT that of the event that started the run. `contact_key` is 0 if there is no contact.
    """

    position: int
    id: str
    kind: MatchKind
    automation_key: int
    run_number: int
    run_id: str
    event_position: int
    event_name: str
    contact_key: int
    matched_at: int


@dataclass(frozen=True, slots=True)
class MatchFilter:
    """Which matches to read; an empty field selects all. Labels are the current ones of the automation."""

    automation_ids: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    event_names: tuple[str, ...] = ()
