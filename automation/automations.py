"""Automations, as values: which events set off runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class AutomationState(StrEnum):
    """Whether an automation judges events."""

    DRAFT = "draft"
    """It was never active."""
    ACTIVE = "active"
    PAUSED = "paused"
    """It was active and judges no events now."""


class EntryRule(StrEnum):
    """How often a contact may enter an automation. An event without a contact enters every time."""

    EVERY_TIME = "every_time"
    ONCE_PER_CONTACT = "once_per_contact"
    ONCE_WHILE_RUNNING = "once_while_running"


@dataclass(frozen=True, slots=True)
class Automation:
    """Events of one name that satisfy a condition start runs.

    `condition` is empty where every event will do. `activated_position` is the position of the newest event when the
    automation was last activated, None while it never was: it judges the events behind that one. `attributes` are
    whatever an engine keeps with it. `key` stands for it inside the database. Times are microseconds UTC.
    """

    key: int
    project_key: int
    id: str
    name: str
    event_name: str
    condition: str
    state: AutomationState
    entry_rule: EntryRule
    labels: Mapping[str, str] = field(hash=False)
    attributes: Mapping[str, Any] = field(hash=False)
    activated_position: int | None
    version: int
    created_at: int
    updated_at: int
    deleted_at: int | None = None

    @property
    def etag(self) -> str:
        """Name of the state of the automation."""
        return str(self.version)


@dataclass(frozen=True, slots=True)
class AutomationVersion:
    """What an automation judged by, from behind one position of the log on."""

    automation_key: int
    version: int
    since_position: int
    state: AutomationState
    event_name: str
    condition: str
    entry_rule: EntryRule
