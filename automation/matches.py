"""Matches, as values: the entries of a project's match log."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class MatchKind(StrEnum):
    """Why a match is in the log."""

    STARTED = "started"
    """The event satisfied the automation and started a run."""
    RESUMED = "resumed"
    """The event is the one that a waiting run waited for."""
    TIMED_OUT = "timed_out"
    """A run waited in vain."""


# A msgspec struct: many are made for every commit, in a quarter of the time of a frozen dataclass.
class Match(msgspec.Struct, frozen=True):
    """One entry of a project's match log.

    `run_number` is the position of the match that started the run. `event_position` is the event's place in the log of
    events; for TIMED_OUT that of the event which started the run. `contact_key` is 0 where there is no contact.
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
