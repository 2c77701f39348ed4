"""Runs, as values: passages of contacts through automations."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


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
