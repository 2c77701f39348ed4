"""The SQL of event definitions; `registry.storage.revision_store` has that of their revisions.

Every function takes an open connection and neither begins nor ends a transaction. Writers read before they write
(is the name free? is the etag current?), so the caller lets only one transaction at a time write the definitions of a
project. A parameter `name_or_id` is an id, or else the name of a live definition: a deleted definition is found by its
id only, because its name may be in use again. Times are microseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, UnsetType
from sqlalchemy import and_, func, insert, or_, select, update

from registry.compatibility.comparison import check_compatibility
from registry.definitions.event_definitions import EventDefinition
from registry.definitions.schema import (
    MAX_DESCRIPTION_LENGTH,
    MAX_PROPERTIES,
    Compatibility,
    check_schema,
    same_schema,
    schema_from_json,
)
from registry.errors import (
    DefinitionAlreadyExists,
    DefinitionDeleted,
    DefinitionNotDeleted,
    DefinitionNotFound,
    IncompatibleSchema,
    InvalidDescription,
    InvalidSchema,
    TooManyDefinitions,
    TooManyRevisions,
    Violation,
)
from registry.etags import check_etag
from registry.names import check_event_name
from registry.personal.marks import count_properties, keep_personal, needs_marks
from registry.sql.name_search import name_contains
from registry.sql.page_sizes import read_page
from registry.sql.text_columns import as_text, text_of
from registry.sql.unreadable_rows import load_word
from registry.storage.revision_store import LATEST, earlier_marks, get_revision, insert_revision, list_revisions
from registry.storage.tables import event_definition, event_definition_revision
from registry.suggestions import Suggestions

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Row, Select

    from registry.compatibility.comparison import Incompatibility
    from registry.definitions.event_definitions import NewDefinition
    from registry.definitions.schema import Schema

MAX_LIVE_DEFINITIONS: Final = 100
"""The most live definitions of one project."""
MAX_REVISIONS: Final = 1_000
"""The most revisions of one definition: a transitive rule compares all of them, within the transaction of a change."""

_definition = event_definition.c
_revision = event_definition_revision.c
_live = _definition.deleted_at.is_(None)


@dataclass(frozen=True, slots=True)
class DefinitionChanges:
    """The changes of an update; UNSET leaves a field unchanged."""

    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    schema: Schema | UnsetType = UNSET
    compatibility: Compatibility | UnsetType = UNSET
    event_retention: int | UnsetType | None = UNSET


def create_definition(
    conn: Connection, project_id: str, definition_id: str, new: NewDefinition, now: int
) -> EventDefinition:
    """Create a definition with revision 1. The name of a deleted definition can be used again.

    The field numbers of the generated type continue after those of earlier definitions of the name.

    Raise InvalidName, InvalidDescription, InvalidSchema, DefinitionAlreadyExists and TooManyDefinitions.
    """
    check_event_name(new.name)
    _check_description(new.description)
    check_schema(new.schema)
    _check_addable(conn, project_id, new.name)
    created = EventDefinition(
        id=definition_id,
        project_id=project_id,
        name=new.name,
        description=new.description,
        schema=new.schema,
        compatibility=new.compatibility,
        revision=1,
        version=1,
        created_at=now,
        updated_at=now,
        deleted_at=None,
        event_retention=new.event_retention,
    )
    _insert(conn, created)
    return created


def get_definition(conn: Connection, project_id: str, name_or_id: str, *, deleted: bool = False) -> EventDefinition:
    """Return one definition; with `deleted`, also one that is deleted. Raise DefinitionNotFound."""
    query = _definitions(project_id).where(
        or_(_definition.id == name_or_id, and_(_definition.name == name_or_id, _live))
    )
    definitions = [_to_definition(row) for row in conn.execute(query)]
    definitions.sort(key=lambda definition: definition.id != name_or_id)
    if not definitions or (definitions[0].deleted_at is not None and not deleted):
        names = conn.scalars(select(text_of(_definition.name)).where(_definition.project_id == project_id, _live)).all()
        raise DefinitionNotFound(name_or_id, Suggestions(names).closest(name_or_id))
    return definitions[0]


def list_definitions(
    conn: Connection,
    project_id: str,
    *,
    limit: int,
    after: tuple[int, str] | None = None,
    show_deleted: bool = False,
    search: str = "",
) -> tuple[list[EventDefinition], bool]:
    """Return a page of definitions, newest first, and whether there are more.

    `after` is the (created_at, id) of the last definition of the previous page. `search` selects the names that contain
    it, in any case.
    """
    query = _definitions(project_id).order_by(_definition.created_at.desc(), _definition.id.desc())
    if after is not None:
        query = query.where(_older_than(*after))
    if not show_deleted:
        query = query.where(_live)
    if search:
        query = query.where(name_contains(_definition.name, search, ignore_case=True))
    page, more = read_page(conn, query, limit, lambda row: len(row.schema))
    return [_to_definition(row) for row in page], more


def active_definitions(conn: Connection, project_id: str) -> list[EventDefinition]:
    """Return all live definitions of the project, oldest first."""
    query = _definitions(project_id).where(_live).order_by(_definition.created_at, _definition.id)
    return [_to_definition(row) for row in conn.execute(query)]


def update_definition(
    conn: Connection,
    project_id: str,
    name_or_id: str,
    changes: DefinitionChanges,
    etag: str,
    retired_id: str,
    now: int,
) -> tuple[EventDefinition, EventDefinition]:
    """Update a live definition. Return it before and after.

    A different schema or name makes a new revision; schemas that differ only in the order of properties are the same.
    If nothing differs, nothing is written. A different schema must satisfy the compatibility rule that applies after
    the update. An empty etag is not compared.

    After a new name, the field numbers of the generated type continue after those of earlier definitions of that name.
    A deleted definition with the id `retired_id` is inserted under the former name, to keep its field numbers for
    later definitions of that name.

    Raise DefinitionNotFound, DefinitionDeleted, EtagMismatch, InvalidName, DefinitionAlreadyExists,
    InvalidDescription, InvalidSchema, IncompatibleSchema and TooManyRevisions.
    """
    current = _live_definition(conn, project_id, name_or_id, etag)
    return current, _change(conn, current, changes, now, retired_id)


def rollback_revision(
    conn: Connection, project_id: str, name_or_id: str, number: int, etag: str, now: int
) -> tuple[EventDefinition, EventDefinition]:
    """Create a revision with the schema of an old one, unless the latest revision has that schema.

    What is personal stays so: whoever restores an old schema does not say that it no longer is. Return the definition
    before and after.

    Raise DefinitionNotFound, DefinitionDeleted, EtagMismatch, RevisionNotFound, InvalidSchema, IncompatibleSchema and
    TooManyRevisions.
    """
    current = _live_definition(conn, project_id, name_or_id, etag)
    schema = get_revision(conn, current.id, number).schema
    earlier = earlier_marks(conn, project_id, current.name) if needs_marks(schema, current.schema) else {}
    kept = keep_personal(schema, current.schema, earlier)
    if (count := count_properties(kept)) > MAX_PROPERTIES:
        message = (
            f"Revision {number} cannot be restored: with the personal properties that stay declared, the schema would "
            f"have {count} properties; at most {MAX_PROPERTIES} are allowed"
        )
        raise InvalidSchema((Violation("number", "TOO_MANY_PROPERTIES", message),))
    return current, _change(conn, current, DefinitionChanges(schema=kept), now)


def incompatibilities(
    conn: Connection, definition: EventDefinition, rule: Compatibility, candidate: Schema
) -> tuple[Incompatibility, ...]:
    """Return the incompatibilities, by a rule, of a valid schema as the next revision of a definition."""
    if rule is Compatibility.NONE:
        return ()
    earlier = list_revisions(conn, definition.id, limit=None if rule.endswith("_transitive") else 1)
    return check_compatibility(rule, candidate, earlier)


def delete_definition(conn: Connection, project_id: str, name_or_id: str, etag: str, now: int) -> EventDefinition:
    """Mark a live definition as deleted: its name can be used again, its revisions stay.

    Raise DefinitionNotFound, DefinitionDeleted and EtagMismatch.
    """
    current = _live_definition(conn, project_id, name_or_id, etag)
    deleted = replace(current, version=current.version + 1, updated_at=now, deleted_at=now)
    _write(conn, deleted)
    return deleted


def undelete_definition(conn: Connection, project_id: str, definition_id: str, etag: str, now: int) -> EventDefinition:
    """Restore a deleted definition under its name.

    Raise DefinitionNotFound, DefinitionNotDeleted, EtagMismatch, TooManyDefinitions, and DefinitionAlreadyExists if
    another definition has the name now.
    """
    current = get_definition(conn, project_id, definition_id, deleted=True)
    if current.deleted_at is None:
        raise DefinitionNotDeleted(current.name)
    check_etag(etag, current.etag)
    _check_addable(conn, project_id, current.name)
    restored = replace(current, version=current.version + 1, updated_at=now, deleted_at=None)
    _write(conn, restored)
    return restored


def _check_description(description: str) -> None:
    if len(description) > MAX_DESCRIPTION_LENGTH:
        raise InvalidDescription(
            f"The description must be at most {MAX_DESCRIPTION_LENGTH} characters long; it has {len(description)}"
        )


def _change(
    conn: Connection, current: EventDefinition, changes: DefinitionChanges, now: int, retired_id: str = ""
) -> EventDefinition:
    changed = _apply(current, changes)
    if changed == current:
        return current
    changed = replace(changed, version=current.version + 1, updated_at=now)
    if changed.name != current.name:
        _check_name_free(conn, current.project_id, changed.name)
        _retire_name(conn, current, retired_id, now)
    if changed.revision != current.revision:
        if changed.revision > MAX_REVISIONS:
            raise TooManyRevisions(current.name, MAX_REVISIONS)
        _check_compatible(conn, current, changed)
        insert_revision(conn, changed)
    _write(conn, changed)
    return changed


def _check_compatible(conn: Connection, current: EventDefinition, changed: EventDefinition) -> None:
    # A new name or an unchanged schema needs no comparison, also if the rule did not hold for earlier revisions.
    if changed.schema is current.schema:
        return
    if found := incompatibilities(conn, current, changed.compatibility, changed.schema):
        violations = [incompatibility.violation() for incompatibility in found]
        raise IncompatibleSchema(current.name, changed.compatibility.name, current.revision, violations)


def _retire_name(conn: Connection, former: EventDefinition, retired_id: str, now: int) -> None:
    """Insert a deleted definition under the former name, because layouts are found by name."""
    retired = replace(former, id=retired_id, revision=1, version=1, created_at=now, updated_at=now, deleted_at=now)
    _insert(conn, retired)


def _apply(current: EventDefinition, changes: DefinitionChanges) -> EventDefinition:
    changed = current
    if changes.name is not UNSET and changes.name != current.name:
        check_event_name(changes.name)
        changed = replace(changed, name=changes.name, revision=current.revision + 1)
    if changes.description is not UNSET:
        _check_description(changes.description)
        changed = replace(changed, description=changes.description)
    if changes.compatibility is not UNSET:
        changed = replace(changed, compatibility=changes.compatibility)
    if changes.event_retention is not UNSET:
        changed = replace(changed, event_retention=changes.event_retention)
    if changes.schema is not UNSET:
        check_schema(changes.schema)
        if not same_schema(changes.schema, current.schema):
            changed = replace(changed, schema=changes.schema, revision=current.revision + 1)
    return changed


def _live_definition(conn: Connection, project_id: str, name_or_id: str, etag: str) -> EventDefinition:
    current = get_definition(conn, project_id, name_or_id, deleted=True)
    if current.deleted_at is not None:
        raise DefinitionDeleted(current.name)
    check_etag(etag, current.etag)
    return current


def _check_addable(conn: Connection, project_id: str, name: str) -> None:
    """Raise DefinitionAlreadyExists or TooManyDefinitions unless the project may have one more definition."""
    _check_name_free(conn, project_id, name)
    live = select(func.count()).where(_definition.project_id == project_id, _live)
    if (conn.scalar(live) or 0) >= MAX_LIVE_DEFINITIONS:
        raise TooManyDefinitions(MAX_LIVE_DEFINITIONS)


def _check_name_free(conn: Connection, project_id: str, name: str) -> None:
    named = select(func.count()).where(_definition.project_id == project_id, _live, _definition.name == name)
    if conn.scalar(named):
        raise DefinitionAlreadyExists(name)


def _older_than(created_at: int, definition_id: str) -> ColumnElement[bool]:
    same_age = and_(_definition.created_at == created_at, _definition.id < definition_id)
    return or_(_definition.created_at < created_at, same_age)


def _definitions(project_id: str) -> Select[Any]:
    return (
        select(*as_text(event_definition), text_of(_revision.schema))
        .join(event_definition_revision, LATEST)
        .where(_definition.project_id == project_id)
    )


def _write(conn: Connection, changed: EventDefinition) -> None:
    conn.execute(update(event_definition).where(_definition.id == changed.id).values(_columns(changed)))


def _insert(conn: Connection, definition: EventDefinition) -> None:
    conn.execute(insert(event_definition).values(id=definition.id, **_columns(definition)))
    insert_revision(conn, definition)


def _columns(definition: EventDefinition) -> dict[str, Any]:
    """Return every column but the id."""
    return {column.name: getattr(definition, column.name) for column in event_definition.columns if column.name != "id"}


def _to_definition(row: Row[Any]) -> EventDefinition:
    values = row._asdict()
    values["schema"] = schema_from_json(values["schema"])
    values["compatibility"] = load_word(Compatibility, "event_definition", row.id, row.compatibility)
    return EventDefinition(**values)
