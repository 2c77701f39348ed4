"""Automations, as values: events of a name that satisfy a condition start runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class AutomationState(StrEnum):
    """The states of an automation: only an active one is matched with events."""

    DRAFT = "draft"
    """It is not finished, and is not matched with events yet."""
    ACTIVE = "active"
    PAUSED = "paused"
    """It is finished, but is not matched with events at the moment."""
    UNREADABLE = "unreadable"
    """The stored state cannot be read: no event is matched until it is set again."""


class EntryRule(StrEnum):
    """How often a contact may enter an automation. An event without a contact enters every time."""

    EVERY_TIME = "every_time"
    ONCE_PER_CONTACT = "once_per_contact"
    ONCE_WHILE_RUNNING = "once_while_running"
    UNREADABLE = "unreadable"
    """The stored rule cannot be read: no event is matched until it is set again."""


@dataclass(frozen=True, slots=True)
class Automation:
    """Events of one name that satisfy a condition start runs.

    `condition` is empty if every event matches. `activated_position` is the position of the newest event when the
    automation was last activated, None if it never was: the events after that position are matched. `attributes` are
    free-form data of an engine. `key` identifies it inside the database. Times are microseconds UTC.
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
    """Why labels, attributes, state or entry rule cannot be read; unreadable labels and attributes are empty."""

    @property
    def has_rules(self) -> bool:
        """Whether it is known which events it is matched with."""
        return self.state is not AutomationState.UNREADABLE and self.entry_rule is not EntryRule.UNREADABLE

    @property
    def etag(self) -> str:
        """The version as text; an update that presents it is refused if the automation was changed since."""
        return str(self.version)


@dataclass(frozen=True, slots=True)
class NewAutomation:
    """The fields of an automation to be created."""

    name: str
    event_name: str
    condition: str = ""
    state: AutomationState = AutomationState.DRAFT
    entry_rule: EntryRule = EntryRule.EVERY_TIME
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class AutomationChanges:
    """The changes of an update; None leaves a field unchanged.

    `labels` are merged into the current ones; a label with an empty value is removed.
    """

    name: str | None = None
    event_name: str | None = None
    condition: str | None = None
    entry_rule: EntryRule | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    attributes: Mapping[str, Any] | None = field(default=None, hash=False)
    state: AutomationState | None = None

    def apply(self, current: Automation, now: int) -> Automation:
        """Return the changed automation."""
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
    """The rules of an automation for the events after a position of the log."""

    automation_key: int
    version: int
    since_position: int
    state: AutomationState
    event_name: str
    condition: str
    entry_rule: EntryRule
