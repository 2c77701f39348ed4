"""Event definitions and their revisions, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.definitions.schema import Compatibility

if TYPE_CHECKING:
    from registry.definitions.schema import Schema


@dataclass(frozen=True, slots=True)
class EventDefinition:
    """A named kind of event in one project, with the schema of its latest revision.

    `revision` numbers the schemas from 1; `version` counts all changes of the definition, also those that keep the
    schema. Times are microseconds UTC; `deleted_at` is None while it is live.
    """

    id: str
    project_id: str
    name: str
    description: str
    schema: Schema
    compatibility: Compatibility
    revision: int
    version: int
    created_at: int
    updated_at: int
    deleted_at: int | None
    event_retention: int | None = None
    """How long its events are kept, in microseconds: 0 for ever, None as long as the project says."""

    @property
    def etag(self) -> str:
        """The version as text; an update that presents it is refused if the definition was changed since."""
        return str(self.version)


@dataclass(frozen=True, slots=True)
class NewDefinition:
    """A definition to be created; the fields are those of EventDefinition."""

    name: str
    schema: Schema
    compatibility: Compatibility = Compatibility.NONE
    description: str = ""
    event_retention: int | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """One immutable schema of a definition, numbered from 1."""

    definition_id: str
    number: int
    schema: Schema
    created_at: int
