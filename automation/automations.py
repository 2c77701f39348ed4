"""Automations, as values: which events set off runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class AutomationState(StrEnum):
    """Whether an automation judges events."""

    DRAFT = "draft"
    """It is being made, and judges no events yet."""
    ACTIVE = "active"
    PAUSED = "paused"
    """It is made, and judges no events now."""


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
    project_pk: int
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
    unreadable: str = ""
    """Why labels or attributes cannot be read; those that cannot are empty."""

    @property
    def etag(self) -> str:
        """Name of the state of the automation."""
        return str(self.version)


@dataclass(frozen=True, slots=True)
class NewAutomation:
    """What is said of an automation that is to be created; the fields are those of Automation."""

    name: str
    event_name: str
    condition: str = ""
    state: AutomationState = AutomationState.DRAFT
    entry_rule: EntryRule = EntryRule.EVERY_TIME
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class AutomationChanges:
    """What an update asks for; None leaves a field as it is, and so does a label that is not named.

    A label with an empty value is removed.
    """

    name: str | None = None
    event_name: str | None = None
    condition: str | None = None
    entry_rule: EntryRule | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    attributes: Mapping[str, Any] | None = field(default=None, hash=False)
    state: AutomationState | None = None

    def apply(self, current: Automation, now: int) -> Automation:
        """Return the automation as it is to be."""
        stated = {
            "name": self.name,
            "event_name": self.event_name,
            "condition": self.condition,
            "entry_rule": self.entry_rule,
            "attributes": self.attributes,
            "state": self.state,
        }
        merged = {key: value for key, value in {**current.labels, **self.labels}.items() if value}
        given: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
        return replace(current, labels=merged, updated_at=now, **given)


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
