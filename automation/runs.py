"""Runs, as values: passages of contacts through automations."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class RunStatus(StrEnum):
    """The status of a run."""

    QUEUED = "queued"
    """Its newest match has not been delivered through a subscription yet."""
    RUNNING = "running"
    WAITING = "waiting"
    """It waits for an event of its contact."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class RunOutcome(StrEnum):
    """The results with which an engine finishes a run."""

    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The work was not needed."""

    @property
    def status(self) -> RunStatus:
        """The status of a run that was finished with this outcome."""
        return RunStatus(self.value)


OPEN = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING)
"""The statuses of runs that have not ended."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The wait of a run for an event after `from_position`. `timeout_at` is 0 if there is no timeout."""

    event_name: str
    condition: str
    from_position: int
    timeout_at: int


@dataclass(frozen=True, slots=True)
class Run:
    """One passage of a contact through an automation.

    `number` is the position of the match that started it, `match_position` the position of its newest match.
    `finished_at`, and `finished_position`, the position of the newest event when it ended, are 0 while it is open.
    Times are microseconds UTC.
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
    """The reason why the attributes, which are then empty, cannot be read."""

    @property
    def etag(self) -> str:
        """The version as text; an update that presents it is refused if the run was changed since."""
        return str(self.version)
