"""The service's own resources as plain values. Times are microseconds since the epoch, UTC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from registry.coercion.report import Coercion


class UndefinedEvents(StrEnum):
    """Whether an event without a definition is accepted."""

    REJECT = "reject"
    ACCEPT = "accept"


class UnknownContacts(StrEnum):
    """Whether an event about an unknown e-mail address is accepted, and whether its contact is created."""

    REJECT = "reject"
    CREATE = "create"
    CREATE_ON_MATCH = "create_on_match"


class UnknownIds(StrEnum):
    """Whether an event about an unknown contact id is accepted."""

    REJECT = "reject"
    ACCEPT = "accept"
    """The event is recorded without a contact."""


class Erasure(StrEnum):
    """Which properties of its events are erased with a person."""

    DELETE_ALL = "delete_all"
    KEEP_NOT_PERSONAL = "keep_not_personal"
    """All but those that the definition declares as not personal."""


class NameCase(StrEnum):
    """Whether event names are compared by case when an event is sent."""

    SENSITIVE = "sensitive"
    INSENSITIVE = "insensitive"


class RefusedEvents(StrEnum):
    """Whether a refused event is stored, apart from the log."""

    DROP = "drop"
    QUARANTINE = "quarantine"


class Dialect(StrEnum):
    """The API whose rules, requests and responses the calls of a key follow."""

    NATIVE = "native"
    AUTOSEND = "autosend"
    OPENSEND = "opensend"
    EMAILSENDX = "emailsendx"
    ARSEL = "arsel"
    RESEND = "resend"


class Scope(StrEnum):
    """A permission of an API key."""

    EVENTS_WRITE = "events:write"
    EVENTS_READ = "events:read"
    DEFINITIONS_WRITE = "definitions:write"
    DEFINITIONS_READ = "definitions:read"
    CONTACTS_WRITE = "contacts:write"
    CONTACTS_READ = "contacts:read"
    AUTOMATIONS_WRITE = "automations:write"
    AUTOMATIONS_READ = "automations:read"
    MATCHES_READ = "matches:read"
    PERSONAL_READ = "personal:read"
    AUDIT_READ = "audit:read"
    ALL = "*"


@dataclass(frozen=True, slots=True)
class Rules:
    """How a project, or a dialect in its place, accepts events. A project always refuses unknown ids.

    The project alone decides what happens to refused events.
    """

    undefined_events: UndefinedEvents = UndefinedEvents.REJECT
    unknown_contacts: UnknownContacts = UnknownContacts.REJECT
    name_case: NameCase = NameCase.SENSITIVE
    unknown_ids: UnknownIds = UnknownIds.REJECT
    erasure: Erasure = Erasure.DELETE_ALL
    refused_events: RefusedEvents = RefusedEvents.DROP

    @property
    def quarantines(self) -> bool:
        """Whether refused events are stored."""
        return self.refused_events is RefusedEvents.QUARANTINE

    @property
    def ignore_case(self) -> bool:
        """Whether names that differ in case only are the same."""
        return self.name_case is NameCase.INSENSITIVE


@dataclass(frozen=True, slots=True)
class Quota:
    """How many events a project may send; 0 means any number. Without a burst, it is that of one second."""

    events_per_second: int = 0
    event_burst: int = 0
    events_per_day: int = 0

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.events_per_second > 0 or self.events_per_day > 0


UNLIMITED: Final = Quota()


@dataclass(frozen=True, slots=True)
class Project:
    """A tenant. `pk` is its integer key in the database."""

    pk: int
    id: str
    name: str
    rules: Rules
    version: int
    head_position: int
    created_at: int
    updated_at: int
    event_retention: int
    """How long its events are kept, in microseconds; 0 is for ever."""
    sealed: bool = False
    """Whether idempotency keys may be sealed, because a person was erased."""
    quota: Quota = UNLIMITED

    @property
    def etag(self) -> str:
        """The entity tag of this version."""
        return str(self.version)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A project's credential, without its secret."""

    id: str
    project_pk: int
    project_id: str
    dialect: Dialect
    scopes: frozenset[Scope]
    description: str
    hint: str
    demo: bool
    created_at: int
    revoked_at: int | None
    name: str = ""
    expires_at: int | None = None
    last_used_at: int | None = None
    previous_expires_at: int | None = None
    """Until when the secret before the last rotation is valid."""

    def active(self, now: int) -> bool:
        """Return whether the key can be used at a time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A change that someone made. `key_id` is empty for the admin key and for the server, whose `api` is "server".

    `before` and `after` are JSON, empty where the resource does not exist; `omitted` names fields left out of them.
    """

    id: str
    occurred_at: int
    project_id: str
    key_id: str
    api: str
    request_id: str
    action: str
    resource_type: str
    resource_id: str
    before: str
    after: str
    omitted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contact:
    """The person an event is about. A deleted contact has neither address nor properties."""

    key: int
    id: str
    email: str
    properties: dict[str, Any]
    version: int
    created_at: int
    updated_at: int
    unreadable: str = ""
    """Why the properties cannot be read, which are empty then."""

    @property
    def etag(self) -> str:
        """The entity tag of this version."""
        return str(self.version)


# A msgspec struct: one is made for every event, in a quarter of the time of a frozen dataclass.
class Event(msgspec.Struct, frozen=True):
    """One recorded occurrence. `revision` is 0 and `definition_id` empty where no definition covered it.

    With `ignore_case` its name is compared with those of automations and waits without regard to case. `email` is empty
    if the contact is deleted.
    """

    id: str
    position: int
    name: str
    definition_id: str
    revision: int
    contact_id: str
    email: str
    properties: dict[str, Any]
    coercions: tuple[Coercion, ...]
    occurred_at: int
    received_at: int
    match_count: int
    ignore_case: bool = False
    contact_deleted: bool = False
    unreadable: str = ""
    """Why properties or coercions cannot be read, both of which are empty then."""
    omitted_coercions: int = 0
    """The number of further coercions that were not recorded."""
    erased_at: int = 0
    """When the person was erased that the event is about; 0 otherwise."""
    traceparent: str = ""
