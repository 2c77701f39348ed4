"""SQL that deletes a project: it is marked first, and its rows go in small transactions.

    table with a project column    its rows, some at a time
    parent with children           the children of a row, some at a time, and the row with the last of them
    the rest                       once all of that is empty, under the lock of the head: keys, head, project

Rows that a transaction which began before the mark adds meanwhile are found by the last step, which begins again then.
The subscriptions go first, so that nothing is delivered any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from automation import tables as automation_tables
from automation.subscriptions import tables as subscription_tables
from registry.etags import check_etag
from registry.storage import tables as registry_tables
from server.errors import KeyInvalid
from server.storage import tables
from server.storage.projects.heads import lock_heads
from server.storage.projects.projects import get_project
from server.storage.tables import api_key, audit_entry, contact, project, project_head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Column, Connection, Table

    from server.model import Project

_CHILDREN: Final[Mapping[Table, tuple[Column[int] | Column[str], ...]]] = {
    subscription_tables.subscription: (
        subscription_tables.subscription_delivery.c.subscription_key,
        subscription_tables.subscription_parked.c.subscription_key,
        subscription_tables.subscription_push.c.subscription_key,
    ),
    automation_tables.automation: (automation_tables.automation_version.c.automation_key,),
    registry_tables.event_definition: (registry_tables.event_definition_revision.c.definition_id,),
}
"""The tables whose rows have children, with the columns of the children that hold the keys of their parents."""

_LAST: Final = (api_key, project_head)
"""The tables that are emptied last, at once: a project has few rows in them."""

_ALL: Final = (registry_tables.metadata, automation_tables.metadata, tables.metadata)


def _own(table: Table, project_pk: int, project_id: str) -> sa.ColumnElement[bool] | None:
    """Return the condition on the rows of a project; None for a table without a project column."""
    if "project_key" in table.c:
        return table.c.project_key == project_pk
    return table.c.project_id == project_id if "project_id" in table.c else None


def _plain_tables() -> list[Table]:
    found = [
        table
        for metadata in _ALL
        for table in metadata.sorted_tables
        if {"project_key", "project_id"} & set(table.c.keys())
    ]
    return [table for table in found if table not in (*_CHILDREN, *_LAST, audit_entry)]


_PLAIN: Final = _plain_tables()


def mark_deleted(connection: Connection, current: Project, etag: str, now: int) -> None:
    """Mark a project: from now on it is read as missing, its name and the secrets of its keys are free.

    Its subscriptions push no more, on any server.

    Raise EtagMismatch.
    """
    check_etag(etag, current.etag)
    # No project can have this name: names have no control characters.
    name = f"\x1f{current.id}"
    connection.execute(project.update().where(project.c.key == current.pk).values(deleted_at=now, name=name))
    connection.execute(api_key.delete().where(api_key.c.project_key == current.pk))
    subscription = subscription_tables.subscription
    pushing = subscription.c.project_key == current.pk, subscription.c.pushes
    connection.execute(subscription.update().where(*pushing).values(pushes=False))


def deleted_projects(connection: Connection) -> list[tuple[int, str]]:
    """Return the keys and IDs of the projects that are marked."""
    rows = connection.execute(sa.select(project.c.key, project.c.id).where(project.c.deleted_at.is_not(None)))
    return [(row.key, row.id) for row in rows]


def deletion_preview(connection: Connection, id_or_name: str) -> tuple[Project, dict[str, int]]:
    """Return a project, and the numbers of what its deletion deletes. Raise ProjectNotFound."""
    found = get_project(connection, id_or_name)
    matches = connection.scalar(sa.select(project_head.c.match_position).where(project_head.c.project_key == found.pk))
    counts = {"event_count": found.head_position, "match_count": int(matches or 0)}
    counted = {
        "contact_count": contact,
        "definition_count": registry_tables.event_definition,
        "automation_count": automation_tables.automation,
        "subscription_count": subscription_tables.subscription,
        "api_key_count": api_key,
    }
    for name, table in counted.items():
        own = _own(table, found.pk, found.id)
        assert own is not None
        counts[name] = connection.scalar(sa.select(sa.func.count()).select_from(table).where(own)) or 0
    return found, counts


def delete_portion(connection: Connection, project_pk: int, project_id: str, limit: int) -> bool:
    """Delete up to about `limit` rows of a marked project. Return whether there may be more."""
    for parent, columns in _CHILDREN.items():
        own = _own(parent, project_pk, project_id)
        assert own is not None
        (key,) = parent.primary_key.columns
        first = connection.scalar(sa.select(key).where(own).limit(1).with_for_update())
        if first is None:
            continue
        if not any(_delete(connection, column.table, column == first, limit) == limit for column in columns):
            connection.execute(parent.delete().where(key == first))
        return True
    for table in _PLAIN:
        own = _own(table, project_pk, project_id)
        assert own is not None
        if _delete(connection, table, own, limit):
            return True
    return not _end(connection, project_pk, project_id)


def _end(connection: Connection, project_pk: int, project_id: str) -> bool:
    """Delete what is left, unless a transaction has added rows meanwhile. Return whether all is deleted."""
    try:
        lock_heads(connection, [project_pk])
    except KeyInvalid:
        # Another server was quicker.
        return True
    for table in (*_CHILDREN, *_PLAIN):
        own = _own(table, project_pk, project_id)
        assert own is not None
        if connection.scalar(sa.select(sa.literal(1)).select_from(table).where(own).limit(1)) is not None:
            return False
    for table in _LAST:
        connection.execute(table.delete().where(table.c.project_key == project_pk))
    connection.execute(project.delete().where(project.c.key == project_pk))
    return True


def _delete(connection: Connection, table: sa.FromClause, condition: sa.ColumnElement[bool], limit: int) -> int:
    """Delete up to `limit` rows. Return their number."""
    assert isinstance(table, sa.Table)
    keys = list(table.primary_key.columns)
    some = sa.select(*keys).where(condition).limit(limit)
    return connection.execute(table.delete().where(condition, sa.tuple_(*keys).in_(some))).rowcount
