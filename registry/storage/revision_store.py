"""The SQL of revisions, and of the layouts of their generated types.

Every function takes an open connection and neither begins nor ends a transaction. Revisions are only ever added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, insert, select

from registry.codegen.field_numbers import NO_LAYOUT, layout_from_json, layout_to_json, next_layout
from registry.definitions.event_definitions import Revision
from registry.definitions.schema import schema_from_json, schema_to_json
from registry.errors import InvalidSchema, RevisionNotFound, Violation
from registry.personal.marks import latest_marks
from registry.sql.page_sizes import read_page, rows_at_once
from registry.sql.text_columns import text_of
from registry.storage.tables import event_definition, event_definition_revision

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Row, Select

    from registry.codegen.field_numbers import MessageLayout
    from registry.definitions.event_definitions import EventDefinition
    from registry.definitions.schema import Schema
    from registry.personal.marks import Marks

MAX_LAYOUT_CHARACTERS: Final = 1_000_000
"""The largest layout of a generated type as JSON: it keeps the names of all properties that ever existed."""

MAX_RECALLED_REVISIONS: Final = 1_000
"""The most revisions of a name that are searched for what was personal."""

_definition = event_definition.c
_revision = event_definition_revision.c

LATEST: Final = and_(_revision.definition_id == _definition.id, _revision.number == _definition.revision)
"""Joins a definition with its latest revision."""

# Without the layout, which may be large because it keeps every field that ever existed; few callers need it.
_REVISION: tuple[ColumnElement[Any], ...] = (
    text_of(_revision.definition_id),
    _revision.number,
    text_of(_revision.schema),
    _revision.created_at,
)


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
    """Return one revision. Raise RevisionNotFound, for the field of the request that contained the number."""
    query = select(*_REVISION).where(_revision.definition_id == definition_id, _revision.number == number)
    row = conn.execute(query).one_or_none()
    if row is None:
        raise RevisionNotFound(definition_id, number, field)
    return _to_revision(row)


def earlier_marks(conn: Connection, project_id: str, name: str) -> Marks:
    """Return which properties are personal by the newest revisions of a name, also of deleted definitions."""
    query = (
        select(text_of(_revision.schema))
        .join(event_definition, _revision.definition_id == _definition.id)
        .where(_definition.project_id == project_id, _definition.name == name)
        .order_by(_revision.created_at.desc(), _definition.id.desc(), _revision.number.desc())
        .limit(MAX_RECALLED_REVISIONS)
    )
    with conn.execute(query, execution_options={"yield_per": rows_at_once(conn)}) as rows:
        return latest_marks(schema_from_json(row.schema) for row in rows)


def get_layout(conn: Connection, definition_id: str, number: int) -> MessageLayout:
    """Return the layout of the generated type of a revision that exists."""
    query = select(text_of(_revision.layout))
    query = query.where(_revision.definition_id == definition_id, _revision.number == number)
    return layout_from_json(conn.execute(query).scalar_one())


def get_schema(conn: Connection, definition: EventDefinition, revision: int) -> Schema:
    """Return the schema of a revision, 0 for the latest. Raise RevisionNotFound."""
    if not revision:
        return definition.schema
    return get_revision(conn, definition.id, revision, field="revision").schema


def insert_revision(conn: Connection, definition: EventDefinition) -> None:
    """Insert the latest revision of a definition, with its layout. Raise InvalidSchema if the layout is too large."""
    earlier = _newest_layout(conn, definition.project_id, definition.name)
    layout = layout_to_json(next_layout(earlier, definition.name, definition.schema))
    if len(layout) > MAX_LAYOUT_CHARACTERS:
        raise InvalidSchema((_layout_too_large(definition.name),))
    conn.execute(
        insert(event_definition_revision).values(
            definition_id=definition.id,
            number=definition.revision,
            schema=schema_to_json(definition.schema),
            created_at=definition.updated_at,
            layout=layout,
        )
    )


def _layout_too_large(name: str) -> Violation:
    message = (
        f'The generated type of "{name}" would reserve too many names of removed properties: '
        f"its layout is limited to {MAX_LAYOUT_CHARACTERS:,} characters; define the event under another name"
    )
    return Violation("schema", "TOO_MANY_RESERVED_NAMES", message)


def _newest_layout(conn: Connection, project_id: str, name: str) -> MessageLayout:
    """Return the newest layout of a name, also if its definition is deleted: its numbers must not be used again."""
    query = (
        select(text_of(_revision.layout))
        .join(event_definition, LATEST)
        .where(_definition.project_id == project_id, _definition.name == name)
        .order_by(_revision.created_at.desc(), _definition.id.desc())
        .limit(1)
    )
    newest = conn.scalar(query)
    return NO_LAYOUT if newest is None else layout_from_json(newest)


def _to_revision(row: Row[Any]) -> Revision:
    return Revision(row.definition_id, row.number, schema_from_json(row.schema), row.created_at)
