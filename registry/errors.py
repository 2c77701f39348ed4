"""Everything the registry refuses.

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
    ├── RowUnreadable            what is stored of a resource cannot be read
    └── EtagMismatch

A front door translates `reason`; the message is for people and may be shown to the caller as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from registry.compatibility import Incompatibility
    from registry.schema import Compatibility


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong at one place.

    `path` leads to the place (`properties.order_total`, `schema.properties[2].name`), `reason` is
    UPPER_SNAKE for programs and `message` a sentence for people. Where the value of a property was refused
    as INVALID_PROPERTY_VALUE, `expected` is the name of its type: the declared one, or `number` for an undeclared
    number that is not finite. It is empty elsewhere.
    """

    path: str
    reason: str
    message: str
    expected: str = ""


class RegistryError(Exception):
    """The registry refused a request.

    `metadata` holds the facts behind the message, by name, for programs. `violations` says which places
    of the request are at fault; where it is a single field, `field` names it.
    """

    reason: ClassVar[str]

    def __init__(self, message: str, *, field: str = "", **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata
        self.violations: tuple[Violation, ...] = (Violation(field, self.reason, message),) if field else ()


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
        super().__init__(first if len(violations) == 1 else many)
        self.violations = violations


class InvalidSchema(ViolationsFound):
    """A schema breaks the rules for schemas."""

    reason = "INVALID_SCHEMA"
    subject = "The schema"


class PayloadRejected(ViolationsFound):
    """A payload does not satisfy the schema of its event."""

    reason = "PAYLOAD_REJECTED"
    subject = "The payload"


class IncompatibleSchema(RegistryError):
    """A definition's rule does not allow a schema as its next revision; `incompatibilities` says why not.

    `latest` is the number of the latest revision.
    """

    reason = "INCOMPATIBLE_SCHEMA"

    def __init__(
        self, name: str, rule: Compatibility, latest: int, incompatibilities: tuple[Incompatibility, ...]
    ) -> None:
        violations = tuple(Violation(one.path, one.kind, _sentence(one)) for one in incompatibilities)
        first, count = violations[0], len(violations)
        places = f"in {count} places, first at" if count > 1 else "at"
        super().__init__(
            f'The schema breaks the compatibility rule {rule.name} of event "{name}" {places} {first.path}: '
            f"{first.message}",
            event=name,
            compatibility=rule.name,
            revision=str(latest),
        )
        self.incompatibilities = incompatibilities
        self.violations = violations


def _sentence(one: Incompatibility) -> str:
    earlier = f"revision {one.revision}"
    given, taker = (earlier, "the schema") if one.direction == "backward" else ("the schema", earlier)
    return (
        f'It is "{one.old}" in {earlier} and "{one.new}" in the schema; to be {one.direction} compatible, '
        f"{taker} must accept every payload that {given} accepts, and coerce it to the same values"
    )


class DefinitionNotFound(RegistryError):
    """No definition of this name or id is in the project, or only a deleted one."""

    reason = "DEFINITION_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f'Event "{name}" is not defined in this project', event=name)


class DefinitionAlreadyExists(RegistryError):
    """A live definition of the project already has this name."""

    reason = "DEFINITION_ALREADY_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f'An event named "{name}" already exists in this project', event=name)


class DefinitionDeleted(RegistryError):
    """The definition is deleted; only undeleting it is possible."""

    reason = "DEFINITION_DELETED"

    def __init__(self, name: str) -> None:
        super().__init__(f'Event "{name}" is deleted; undelete it first', field="event_definition", event=name)


class DefinitionNotDeleted(RegistryError):
    """The definition to be undeleted is live."""

    reason = "DEFINITION_NOT_DELETED"

    def __init__(self, name: str) -> None:
        super().__init__(f'Event "{name}" is not deleted', event=name)


class TooManyDefinitions(RegistryError):
    """The project has as many live definitions as a project may have."""

    reason = "TOO_MANY_DEFINITIONS"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This project already has {limit} event definitions, the maximum; delete one first",
            field="event_definition",
            limit=str(limit),
        )


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
    """The definition has no revision of this number, which the request gave in `field`."""

    reason = "REVISION_NOT_FOUND"

    def __init__(self, definition_id: str, number: int, field: str) -> None:
        super().__init__(f"Revision {number} does not exist", field=field, event=definition_id, revision=str(number))


class RowUnreadable(RegistryError):
    """What is stored of a resource cannot be read, so that a change would lose it or rest on nothing."""

    reason = "ROW_UNREADABLE"

    def __init__(self, kind: str, resource_id: str, fault: str) -> None:
        super().__init__(f"The stored data of {kind} {resource_id} cannot be read: {fault}", **{kind: resource_id})


class EtagMismatch(RegistryError):
    """Somebody changed the resource since the caller read it."""

    reason = "ETAG_MISMATCH"

    def __init__(self, given: str, current: str) -> None:
        super().__init__(
            f'The resource has been changed: its etag is "{current}", not "{given}"; read it again and retry',
            field="etag",
            etag=current,
        )
