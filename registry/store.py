"""Reading and writing definitions and their revisions: all the SQL of the registry.

Every function takes an open connection and neither begins nor ends a transaction. Writers look before
they write, so the caller lets only one transaction at a time write the definitions of a project.
Where a definition is given by `name_or_id`, the id is tried first and then the name of a live one;
deleted ones are reached by id only. Times are microseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, UnsetType
from sqlalchemy import and_, func, insert, or_, select, update

from registry.codegen.field_numbers import NO_LAYOUT, layout_from_json, layout_to_json, next_layout
from registry.compatibility import check_compatibility
from registry.definitions import EventDefinition, Revision
from registry.errors import (
    DefinitionAlreadyExists,
    DefinitionDeleted,
    DefinitionNotDeleted,
    DefinitionNotFound,
    IncompatibleSchema,
    InvalidDescription,
    InvalidSchema,
    RevisionNotFound,
    TooManyDefinitions,
    TooManyRevisions,
    Violation,
)
from registry.etags import check_etag
from registry.names import check_event_name
from registry.pages import read_page
from registry.schema import (
    MAX_DESCRIPTION_LENGTH,
    Compatibility,
    check_schema,
    same_schema,
    schema_from_json,
    schema_to_json,
)
from registry.tables import event_definition, event_definition_revision

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Row, Select

    from registry.codegen.field_numbers import MessageLayout
    from registry.compatibility import Incompatibility
    from registry.schema import Schema

MAX_LIVE_DEFINITIONS: Final = 100
"""Of one project."""
MAX_REVISIONS: Final = 1_000
"""Of one definition: a transitive rule compares a change with each, inside its transaction."""
MAX_LAYOUT_CHARACTERS: Final = 1_000_000
"""The largest layout of a generated type as JSON: it has the names of all properties that ever existed."""

_definition = event_definition.c
_revision = event_definition_revision.c
_live = _definition.deleted_at.is_(None)
_latest = and_(_revision.definition_id == _definition.id, _revision.number == _definition.revision)

# A layout remembers every field there ever was: it is read where it is needed.
_REVISION: tuple[ColumnElement[Any], ...] = (
    _revision.definition_id,
    _revision.number,
    _revision.schema,
    _revision.created_at,
)


@dataclass(frozen=True, slots=True)
class DefinitionChanges:
    """What an update asks for; UNSET leaves a field as it is."""

    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    schema: Schema | UnsetType = UNSET
    compatibility: Compatibility | UnsetType = UNSET


def create_definition(
    conn: Connection,
    project_id: str,
    definition_id: str,
    name: str,
    description: str,
    schema: Schema,
    compatibility: Compatibility,
    now: int,
) -> EventDefinition:
    """Create a definition with revision 1. The name of a deleted one is free to be used again.

    The field numbers of the generated type go on from those that definitions of its name had before.

    Raises InvalidName, InvalidDescription, InvalidSchema, DefinitionAlreadyExists and TooManyDefinitions.
    """
    check_event_name(name)
    _check_description(description)
    check_schema(schema)
    _check_room(conn, project_id, name)
    created = EventDefinition(
        id=definition_id,
        project_id=project_id,
        name=name,
        description=description,
        schema=schema,
        compatibility=compatibility,
        revision=1,
        version=1,
        created_at=now,
        updated_at=now,
        deleted_at=None,
    )
    _insert(conn, created)
    return created


def get_definition(conn: Connection, project_id: str, name_or_id: str, *, deleted: bool = False) -> EventDefinition:
    """Return one definition; with `deleted`, also one that is deleted. Raises DefinitionNotFound."""
    query = _definitions(project_id).where(
        or_(_definition.id == name_or_id, and_(_definition.name == name_or_id, _live))
    )
    found = [_to_definition(row) for row in conn.execute(query)]
    found.sort(key=lambda each: each.id != name_or_id)
    if not found or (found[0].deleted_at is not None and not deleted):
        raise DefinitionNotFound(name_or_id)
    return found[0]


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

    `after` is the (created_at, id) of the last one of the page before. `search` keeps the names that
    contain it, in any case.
    """
    query = _definitions(project_id).order_by(_definition.created_at.desc(), _definition.id.desc())
    if after is not None:
        query = query.where(_older_than(*after))
    if not show_deleted:
        query = query.where(_live)
    if search:
        query = query.where(_definition.name.icontains(search, autoescape=True))
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

    Another schema makes a new revision, and so does another name. A schema that differs in property order at most is
    the same one. Where nothing differs nothing is written. A schema that differs must satisfy the compatibility rule
    that applies after the update. An empty etag is not compared.

    The field numbers of the generated type go on from those that definitions of the new name had before. A deleted
    definition with the new id `retired_id` keeps the former name and its numbers, for those who use that name again.

    Raises DefinitionNotFound, DefinitionDeleted, EtagMismatch, InvalidName, DefinitionAlreadyExists,
    InvalidDescription, InvalidSchema, IncompatibleSchema and TooManyRevisions.
    """
    current = _live_definition(conn, project_id, name_or_id, etag)
    return current, _change(conn, current, changes, now, retired_id)


def rollback_revision(
    conn: Connection, project_id: str, name_or_id: str, number: int, etag: str, now: int
) -> tuple[EventDefinition, EventDefinition]:
    """Make a new revision with the schema of an old one, unless the latest has it.

    Return the definition before and after.

    Raises DefinitionNotFound, DefinitionDeleted, EtagMismatch, RevisionNotFound, IncompatibleSchema and
    TooManyRevisions.
    """
    current = _live_definition(conn, project_id, name_or_id, etag)
    schema = get_revision(conn, current.id, number).schema
    return current, _change(conn, current, DefinitionChanges(schema=schema), now)


def incompatibilities(
    conn: Connection, definition: EventDefinition, rule: Compatibility, candidate: Schema
) -> tuple[Incompatibility, ...]:
    """Find what a rule has against a valid schema as the next revision; reads the revisions it compares with."""
    if rule is Compatibility.NONE:
        return ()
    earlier = list_revisions(conn, definition.id, limit=None if rule.endswith("_transitive") else 1)
    return check_compatibility(rule, candidate, earlier)


def delete_definition(conn: Connection, project_id: str, name_or_id: str, etag: str, now: int) -> EventDefinition:
    """Delete a live definition softly: its name is free again, its revisions stay.

    Raises DefinitionNotFound, DefinitionDeleted and EtagMismatch.
    """
    current = _live_definition(conn, project_id, name_or_id, etag)
    deleted = replace(current, version=current.version + 1, updated_at=now, deleted_at=now)
    _write(conn, deleted)
    return deleted


def undelete_definition(conn: Connection, project_id: str, definition_id: str, etag: str, now: int) -> EventDefinition:
    """Bring a deleted definition back under its name.

    Raises DefinitionNotFound, DefinitionNotDeleted, EtagMismatch, DefinitionAlreadyExists where the name
    was taken meanwhile, and TooManyDefinitions.
    """
    current = get_definition(conn, project_id, definition_id, deleted=True)
    if current.deleted_at is None:
        raise DefinitionNotDeleted(current.name)
    check_etag(etag, current.etag)
    _check_room(conn, project_id, current.name)
    restored = replace(current, version=current.version + 1, updated_at=now, deleted_at=None)
    _write(conn, restored)
    return restored


def list_revisions(conn: Connection, definition_id: str, limit: int | None) -> list[Revision]:
    """Return the newest revisions, newest first; all of them without a limit."""
    return [_to_revision(row) for row in conn.execute(_revisions(definition_id).limit(limit))]


def revision_page(conn: Connection, definition_id: str, limit: int, before: int | None) -> tuple[list[Revision], bool]:
    """Return a page of revisions with numbers below `before`, newest first, and whether there are more."""
    query = _revisions(definition_id)
    if before is not None:
        query = query.where(_revision.number < before)
    page, more = read_page(conn, query, limit, lambda row: len(row.schema))
    return [_to_revision(row) for row in page], more


def _revisions(definition_id: str) -> Select[Any]:
    return select(*_REVISION).where(_revision.definition_id == definition_id).order_by(_revision.number.desc())


def get_revision(conn: Connection, definition_id: str, number: int, field: str = "number") -> Revision:
    """Return one revision. Raises RevisionNotFound, which names the request's field that gave the number."""
    query = select(*_REVISION).where(_revision.definition_id == definition_id, _revision.number == number)
    row = conn.execute(query).one_or_none()
    if row is None:
        raise RevisionNotFound(definition_id, number, field)
    return _to_revision(row)


def get_layout(conn: Connection, definition_id: str, number: int) -> MessageLayout:
    """Return the layout of the generated type of a revision that exists."""
    query = select(_revision.layout).where(_revision.definition_id == definition_id, _revision.number == number)
    return layout_from_json(conn.execute(query).scalar_one())


def get_schema(conn: Connection, definition: EventDefinition, revision: int) -> Schema:
    """Return the schema of a revision, 0 for the latest. Raises RevisionNotFound."""
    if not revision:
        return definition.schema
    return get_revision(conn, definition.id, revision, field="revision").schema


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
        _check_free(conn, current.project_id, changed.name)
        _retire_name(conn, current, retired_id, now)
    if changed.revision != current.revision:
        if changed.revision > MAX_REVISIONS:
            raise TooManyRevisions(current.name, MAX_REVISIONS)
        _check_compatible(conn, current, changed)
        _insert_revision(conn, changed)
    _write(conn, changed)
    return changed


def _check_compatible(conn: Connection, current: EventDefinition, changed: EventDefinition) -> None:
    # An equal schema is no change, also where the rule was another one when the revisions before it were made.
    if changed.schema is current.schema:
        return
    if found := incompatibilities(conn, current, changed.compatibility, changed.schema):
        violations = [each.violation() for each in found]
        raise IncompatibleSchema(current.name, changed.compatibility.name, current.revision, violations)


def _retire_name(conn: Connection, former: EventDefinition, retired_id: str, now: int) -> None:
    """Leave a deleted definition under a name that is about to be given up: layouts are found by name."""
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


def _check_room(conn: Connection, project_id: str, name: str) -> None:
    """Check that the project may have one more live definition, of this name."""
    _check_free(conn, project_id, name)
    live = select(func.count()).where(_definition.project_id == project_id, _live)
    if (conn.scalar(live) or 0) >= MAX_LIVE_DEFINITIONS:
        raise TooManyDefinitions(MAX_LIVE_DEFINITIONS)


def _check_free(conn: Connection, project_id: str, name: str) -> None:
    named = select(func.count()).where(_definition.project_id == project_id, _live, _definition.name == name)
    if conn.scalar(named):
        raise DefinitionAlreadyExists(name)


def _older_than(created_at: int, definition_id: str) -> ColumnElement[bool]:
    same_age = and_(_definition.created_at == created_at, _definition.id < definition_id)
    return or_(_definition.created_at < created_at, same_age)


def _definitions(project_id: str) -> Select[Any]:
    return (
        select(event_definition, _revision.schema)
        .join(event_definition_revision, _latest)
        .where(_definition.project_id == project_id)
    )


def _write(conn: Connection, changed: EventDefinition) -> None:
    conn.execute(update(event_definition).where(_definition.id == changed.id).values(_columns(changed)))


def _newest_layout(conn: Connection, project_id: str, name: str) -> MessageLayout:
    """Return the layout that was made last under a name, also where its definition is deleted."""
    query = (
        select(_revision.layout)
        .join(event_definition, _latest)
        .where(_definition.project_id == project_id, _definition.name == name)
        .order_by(_revision.created_at.desc(), _definition.id.desc())
        .limit(1)
    )
    newest = conn.scalar(query)
    return NO_LAYOUT if newest is None else layout_from_json(newest)


def _insert(conn: Connection, made: EventDefinition) -> None:
    conn.execute(insert(event_definition).values(id=made.id, **_columns(made)))
    _insert_revision(conn, made)


def _insert_revision(conn: Connection, changed: EventDefinition) -> None:
    earlier = _newest_layout(conn, changed.project_id, changed.name)
    layout = layout_to_json(next_layout(earlier, changed.name, changed.schema))
    if len(layout) > MAX_LAYOUT_CHARACTERS:
        raise InvalidSchema((_layout_too_large(changed.name),))
    conn.execute(
        insert(event_definition_revision).values(
            definition_id=changed.id,
            number=changed.revision,
            schema=schema_to_json(changed.schema),
            created_at=changed.updated_at,
            layout=layout,
        )
    )


def _layout_too_large(name: str) -> Violation:
    message = (
        f'The generated type of "{name}" would reserve too many names of removed properties: '
        f"its layout is limited to {MAX_LAYOUT_CHARACTERS:,} characters; define the event under another name"
    )
    return Violation("schema", "TOO_MANY_RESERVED_NAMES", message)


def _columns(definition: EventDefinition) -> dict[str, Any]:
    """Every column but the id."""
    return {column.name: getattr(definition, column.name) for column in event_definition.columns if column.name != "id"}


def _to_definition(row: Row[Any]) -> EventDefinition:
    values = row._asdict()
    schema = schema_from_json(values.pop("schema"))
    return EventDefinition(**values | {"schema": schema, "compatibility": Compatibility(row.compatibility)})


def _to_revision(row: Row[Any]) -> Revision:
    return Revision(row.definition_id, row.number, schema_from_json(row.schema), row.created_at)
