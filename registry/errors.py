"""Everything the registry refuses.

    SignalboxError               the root of all packages' errors
    RegistryError
    ├── InvalidName
    ├── InvalidDescription
    ├── ViolationsFound
    │   ├── InvalidSchema
    │   └── PayloadRejected
    ├── IncompatibleSchema
    ├── DefinitionNotFound
    ├── DefinitionAlreadyExists
    ├── DefinitionDeleted
    ├── DefinitionNotDeleted
    ├── TooManyDefinitions
    ├── TooManyRevisions
    ├── RevisionNotFound
    ├── RowUnreadable            the stored data of a resource cannot be read
    └── EtagMismatch

The APIs translate `reason`; the message is for people and may be shown to the caller as it is. The docstring of an
error class is its message, unless its constructor makes another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong at one place.

    `path` leads to the place (`properties.order_total`, `schema.properties[2].name`), `reason` is
    UPPER_SNAKE for programs and `message` a sentence for people. Where the value of a property was refused
    as INVALID_PROPERTY_VALUE, `expected` is the name of its type: the declared one, or `number` for an undeclared
    number that is not finite. It is empty elsewhere. `masked` is the message without the value if the property is
    personal, and empty else.
    """

    path: str
    reason: str
    message: str
    expected: str = ""
    masked: str = ""


class SignalboxError(Exception):
    """The root of all errors that callers see.

    `reason` is the name of the error for programs, `message` a sentence for people, `metadata` has the facts in the
    message by name, and `violations` the faulty places of the request; `field` makes one of a single field.
    Without a message the docstring of the error is its message, with the metadata filled in.
    """

    reason: ClassVar[str]
    retry_after: float = 0.0
    """Seconds after which a retry may succeed; 0 if it makes no difference."""

    def __init__(
        self, message: str = "", *, field: str = "", violations: Sequence[Violation] = (), **metadata: str
    ) -> None:
        self.message = message or _message_of(type(self)).format_map(metadata)
        super().__init__(self.message)
        self.metadata = metadata
        self.violations = tuple(violations) or ((Violation(field, self.reason, self.message),) if field else ())

    def detached(self) -> Self:
        """Return this error without the frames that it came through, to be kept.

        They hold what was refused, and lead back to whatever keeps the error: all of it would stay in memory until the
        next collection of garbage.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


def _message_of(error: type[SignalboxError]) -> str:
    paragraph, _, _ = (error.__doc__ or error.reason).partition("\n\n")
    return " ".join(paragraph.split()).removesuffix(".")


class RegistryError(SignalboxError):
    """The registry refused a request."""


class InvalidName(RegistryError):
    """A name breaks the naming rules; `field` is where the request gives it."""

    reason = "INVALID_NAME"

    def __init__(self, message: str, field: str = "name") -> None:
        super().__init__(message, field=field)


class InvalidDescription(RegistryError):
    """The description of a definition is too long."""

    reason = "INVALID_DESCRIPTION"

    def __init__(self, message: str) -> None:
        super().__init__(message, field="description")


class ViolationsFound(RegistryError):
    """Violations were found; all of them are in `violations`, and there is at least one."""

    subject: ClassVar[str]

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        first = violations[0].message
        many = f"{self.subject} has {len(violations)} violations. The first one: {first}"
        super().__init__(first if len(violations) == 1 else many, violations=violations)


class InvalidSchema(ViolationsFound):
    """A schema breaks the rules for schemas."""

    reason = "INVALID_SCHEMA"
    subject = "The schema"


class PayloadRejected(ViolationsFound):
    """A payload does not satisfy the schema of its event."""

    reason = "PAYLOAD_REJECTED"
    subject = "The payload"


class IncompatibleSchema(RegistryError):
    """The compatibility rule of a definition does not allow a schema as its next revision.

    `latest` is the number of the latest revision; there is a violation for each incompatibility.
    """

    reason = "INCOMPATIBLE_SCHEMA"

    def __init__(self, name: str, rule: str, latest: int, violations: Sequence[Violation]) -> None:
        first, count = violations[0], len(violations)
        places = f"in {count} places, first at" if count > 1 else "at"
        super().__init__(
            f'The schema breaks the compatibility rule {rule} of event "{name}" {places} {first.path}: {first.message}',
            violations=violations,
            event=name,
            compatibility=rule,
            revision=str(latest),
        )


class DefinitionNotFound(RegistryError):
    """Event "{event}" is not defined in this project."""

    reason = "DEFINITION_NOT_FOUND"

    def __init__(self, name: str, meant: str | None = None) -> None:
        suggestion = meant and f'Event "{name}" is not defined in this project; did you mean "{meant}"?'
        super().__init__(suggestion or "", event=name)


class DefinitionAlreadyExists(RegistryError):
    """An event named "{event}" already exists in this project."""

    reason = "DEFINITION_ALREADY_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(event=name)


class DefinitionDeleted(RegistryError):
    """Event "{event}" is deleted; undelete it first."""

    reason = "DEFINITION_DELETED"

    def __init__(self, name: str) -> None:
        super().__init__(field="event_definition", event=name)


class DefinitionNotDeleted(RegistryError):
    """Event "{event}" is not deleted."""

    reason = "DEFINITION_NOT_DELETED"

    def __init__(self, name: str) -> None:
        super().__init__(event=name)


class TooManyDefinitions(RegistryError):
    """The project already has {limit} event definitions, the maximum; delete one first."""

    reason = "TOO_MANY_DEFINITIONS"

    def __init__(self, limit: int) -> None:
        super().__init__(field="event_definition", limit=str(limit))


class TooManyRevisions(RegistryError):
    """The definition has as many revisions as a definition may have."""

    reason = "MAX_REVISIONS_REACHED"

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(
            f'Event "{name}" has {limit:,} revisions, the maximum; delete the definition and create a new one',
            field="event_definition",
            limit=str(limit),
        )


class RevisionNotFound(RegistryError):
    """Revision {revision} does not exist.

    `field` is where the request gives its number.
    """

    reason = "REVISION_NOT_FOUND"

    def __init__(self, definition_id: str, number: int, field: str) -> None:
        super().__init__(field=field, event=definition_id, revision=str(number))


class RowUnreadable(RegistryError):
    """The stored data of a resource cannot be read, so it cannot be changed safely."""

    reason = "ROW_UNREADABLE"

    def __init__(self, kind: str, resource_id: str, fault: str) -> None:
        super().__init__(f"The stored data of {kind} {resource_id} cannot be read: {fault}")
        self.metadata[kind] = resource_id


class EtagMismatch(RegistryError):
    """Somebody changed the resource since the caller read it."""

    reason = "ETAG_MISMATCH"

    def __init__(self, given: str, current: str) -> None:
        super().__init__(
            f'The resource has been changed: its etag is "{current}", not "{given}"; read it again and retry',
            field="etag",
            etag=current,
        )
