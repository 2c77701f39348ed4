"""Matches and runs, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


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


class RunStatus(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    """Its newest match was not yet delivered through a subscription."""
    RUNNING = "running"
    WAITING = "waiting"
    """It waits for an event of its contact."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class RunOutcome(StrEnum):
    """How an engine ends a run."""

    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The work was not to be done."""

    @property
    def status(self) -> RunStatus:
        """Where a run with this outcome stands."""
        return RunStatus(self.value)


OPEN = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING)
"""The statuses of runs that have not ended."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What a waiting run waits for: an event behind `from_position`. `timeout_at` is 0 where it waits for ever."""

    event_name: str
    condition: str
    from_position: int
    timeout_at: int


@dataclass(frozen=True, slots=True)
class Run:
    """One passage of a contact through an automation.

    `number` is the position of the match that started it, `match_position` that of its newest one. `finished_at` is 0
    while it is open, and so is `finished_position`, the position of the newest event when it ended. Times are
    microseconds UTC.
    """

    number: int
    id: str
    automation_key: int
    contact_key: int
    event_position: int
    status: RunStatus
    match_position: int
    wait: Wait | None
    reason: str
    attributes: Mapping[str, Any] = field(hash=False)
    version: int
    created_at: int
    updated_at: int
    finished_at: int
    finished_position: int
    unreadable: str = ""
    """Why the attributes cannot be read, which are empty then."""

    @property
    def etag(self) -> str:
        """Name of the state of the run."""
        return str(self.version)
