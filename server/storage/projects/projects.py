"""SQL of projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from automation.unused_keys import unused_key
from registry.etags import check_etag
from registry.sql.text_columns import as_text
from registry.sql.unreadable_rows import UNREADABLE_ROWS
from server.errors import KeyInvalid, ProjectAlreadyExists, ProjectNotFound
from server.model import (
    UNLIMITED,
    Erasure,
    NameCase,
    Project,
    Quota,
    RefusedEvents,
    Rules,
    UndefinedEvents,
    UnknownContacts,
)
from server.storage.projects.heads import insert_head
from server.storage.tables import project, project_head

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection, Row, Select

R = TypeVar("R", UndefinedEvents, UnknownContacts, NameCase, Erasure, RefusedEvents)

kept = project.c.deleted_at.is_(None)
_PROJECTS: Select[Any] = (
    sa.select(*as_text(project), project_head.c.position)
    .join(project_head, project_head.c.project_key == project.c.key)
    .where(kept)
)


def lock_names(connection: Connection) -> None:
    """Lock names and secrets until the transaction ends, so that one found to be free stays free.

    On SQLite writing transactions never run at the same time.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7446255)")


def insert_project(
    connection: Connection,
    project_id: str,
    name: str,
    rules: Rules,
    now: int,
    event_retention: int = 0,
    quota: Quota = UNLIMITED,
) -> Project:
    """Create a project with an empty log. Raise ProjectAlreadyExists."""
    lock_names(connection)
    if connection.scalar(sa.select(project.c.key).where(project.c.name == name)) is not None:
        raise ProjectAlreadyExists(name)
    insert = project.insert().values(
        **unused_key(connection, project),
        id=project_id,
        name=name,
        **_rule_columns(rules),
        **_quota_columns(quota),
        version=1,
        created_at=now,
        updated_at=now,
        event_retention=event_retention,
    )
    key = connection.execute(insert.returning(project.c.key)).scalar_one()
    insert_head(connection, key)
    return get_project(connection, project_id)


def get_project(connection: Connection, id_or_name: str) -> Project:
    """Read a project by its id or else by its name. Raise ProjectNotFound."""
    for column in (project.c.id, project.c.name):
        row = connection.execute(_PROJECTS.where(column == id_or_name)).one_or_none()
        if row is not None:
            return _project(row)
    raise ProjectNotFound(id_or_name)


def project_by_pk(connection: Connection, key: int) -> Project:
    """Read the project of an integer key that the database gave out.

    Raise KeyInvalid if there is none: a failover or a restore took the project back, and its API keys with it.
    """
    row = connection.execute(_PROJECTS.where(project.c.key == key)).one_or_none()
    if row is None:
        raise KeyInvalid
    return _project(row)


def project_ids(connection: Connection, keys: Collection[int]) -> dict[int, str]:
    """Return the ids of projects, by their integer keys."""
    rows = connection.execute(sa.select(project.c.key, project.c.id).where(project.c.key.in_(keys)))
    return {row.key: row.id for row in rows}


def list_projects(connection: Connection, limit: int, before_id: str = "") -> list[Project]:
    """List projects older than `before_id`, newest first."""
    query = _PROJECTS.order_by(project.c.id.desc()).limit(limit)
    if before_id:
        query = query.where(project.c.id < before_id)
    return [_project(row) for row in connection.execute(query)]


def update_project(connection: Connection, current: Project, changed: Project, etag: str, now: int) -> Project:
    """Store the name, the rules and the quota of a changed project; an equal one changes nothing.

    Raise EtagMismatch and ProjectAlreadyExists.
    """
    check_etag(etag, current.etag)
    if changed == current:
        return current
    lock_names(connection)
    taken = sa.select(project.c.key).where(project.c.name == changed.name, project.c.key != current.pk)
    if connection.scalar(taken) is not None:
        raise ProjectAlreadyExists(changed.name)
    connection.execute(
        project.update()
        .where(project.c.key == current.pk)
        .values(
            name=changed.name,
            **_rule_columns(changed.rules),
            **_quota_columns(changed.quota),
            version=current.version + 1,
            updated_at=now,
            event_retention=changed.event_retention,
        )
    )
    return get_project(connection, current.id)


def _rule_columns(rules: Rules) -> dict[str, str]:
    return {
        "undefined_events": rules.undefined_events,
        "unknown_contacts": rules.unknown_contacts,
        "name_case": rules.name_case,
        "erasure": rules.erasure,
        "refused_events": rules.refused_events,
    }


def _quota_columns(quota: Quota) -> dict[str, int]:
    return {
        "events_per_second": quota.events_per_second,
        "event_burst": quota.event_burst,
        "events_per_day": quota.events_per_day,
    }


def _project(row: Row[Any]) -> Project:
    return Project(
        pk=row.key,
        id=row.id,
        name=row.name,
        rules=Rules(
            _rule(UndefinedEvents, row, "undefined_events"),
            _rule(UnknownContacts, row, "unknown_contacts"),
            _rule(NameCase, row, "name_case"),
            erasure=_rule(Erasure, row, "erasure"),
            refused_events=_rule(RefusedEvents, row, "refused_events"),
        ),
        version=row.version,
        head_position=row.position,
        created_at=row.created_at,
        updated_at=row.updated_at,
        sealed=row.sealed,
        event_retention=row.event_retention,
        quota=Quota(row.events_per_second, row.event_burst, row.events_per_day),
    )


def _rule(kind: type[R], row: Row[Any], column: str) -> R:
    """Return a rule of a project; the first of its kind, which new projects have, if the stored one is unreadable."""
    try:
        return kind(getattr(row, column))
    except ValueError as error:
        UNREADABLE_ROWS.report("project", row.id, error)
        return next(iter(kind))
