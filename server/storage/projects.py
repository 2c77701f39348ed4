"""SQL of projects, their heads and their API keys."""

from __future__ import annotations

import json
from dataclasses import replace
from random import getrandbits
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from automation.bulk import chunks
from automation.unused_keys import unused_key
from registry.etags import check_etag
from registry.text_columns import as_text
from registry.unreadable_rows import UNREADABLE_ROWS
from server.errors import KeyInvalid, KeyNotFound, ProjectAlreadyExists, ProjectNotFound, SecretInUse
from server.model import (
    UNLIMITED,
    ApiKey,
    Dialect,
    Erasure,
    NameCase,
    Project,
    Quota,
    RefusedEvents,
    Rules,
    Scope,
    UndefinedEvents,
    UnknownContacts,
)
from server.storage.head_turns import await_turn
from server.storage.tables import api_key, project, project_head

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Connection, Row, Select

R = TypeVar("R", UndefinedEvents, UnknownContacts, NameCase, Erasure, RefusedEvents)

_kept = project.c.deleted_at.is_(None)
_PROJECTS: Select[Any] = (
    sa.select(*as_text(project), project_head.c.position)
    .join(project_head, project_head.c.project_key == project.c.key)
    .where(_kept)
)
_KEYS: Select[Any] = (
    sa.select(*as_text(api_key), project.c.id.label("project_id"))
    .join(project, project.c.key == api_key.c.project_key)
    .where(_kept)
)


_VERSION_RANDOM_BITS = 32
_VERSION_STEP = 1 << _VERSION_RANDOM_BITS


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
    key = connection.scalar(insert.returning(project.c.key))
    first = _VERSION_STEP + getrandbits(_VERSION_RANDOM_BITS)
    connection.execute(project_head.insert().values(project_key=key, catalog_version=first, position=0, received_at=0))
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


def advance_catalog(connection: Connection, project_pk: int) -> None:
    """Advance the catalog version of a project.

    Every write to definitions, automations, rules or keys, and every deletion of a contact, calls this first: on
    PostgreSQL it locks the project's head, so that changes and commits of one project come one after the other.
    """
    await_turn(connection, [project_pk])
    advanced = connection.execute(
        project_head.update()
        .where(project_head.c.project_key == project_pk)
        .values(catalog_version=_next_version(project_head.c.catalog_version))
    )
    if not advanced.rowcount:
        # The project was deleted since the caller was authenticated.
        raise KeyInvalid


def advance_automations(connection: Connection, project_pk: int) -> int:
    """Advance the version of the automations, within a change of the catalog.

    Return the position of the newest event; the change applies after it.
    """
    own = project_head.c.project_key == project_pk
    changed = (
        project_head.update().where(own).values(automations_version=_next_version(project_head.c.automations_version))
    )
    return int(connection.scalar(changed.returning(project_head.c.position)) or 0)


def _next_version(version: sa.Column[int]) -> sa.ColumnElement[int]:
    """Return the next version: the count after this one, with 32 new random bits below it.

    After a failover or a restore that lost the newest changes, the same counts are given out again. The random bits
    distinguish a state that was read before from another one with the same count.
    """
    return (version // _VERSION_STEP + 1) * _VERSION_STEP + getrandbits(_VERSION_RANDOM_BITS)


def automations_version(connection: Connection, project_pk: int) -> int:
    """Return the version of the automations of one project."""
    query = sa.select(project_head.c.automations_version).where(project_head.c.project_key == project_pk)
    return int(connection.scalar(query) or 0)


def match_positions(connection: Connection, project_pks: Sequence[int] | None = None) -> dict[int, int]:
    """Return the position of the newest match of each project, or of all projects if none are named."""
    query = sa.select(project_head.c.project_key, project_head.c.match_position)
    if project_pks is not None:
        query = query.where(project_head.c.project_key.in_(project_pks))
    rows = connection.execute(query)
    return {row.project_key: row.match_position for row in rows}


def catalog_versions(connection: Connection) -> dict[int, int]:
    """Return the catalog version of every project, by `project_pk`."""
    rows = connection.execute(sa.select(project_head.c.project_key, project_head.c.catalog_version))
    return {row.project_key: row.catalog_version for row in rows}


def catalog_version(connection: Connection, project_pk: int) -> int:
    """Return the catalog version of one project."""
    query = sa.select(project_head.c.catalog_version).where(project_head.c.project_key == project_pk)
    return int(connection.scalar(query) or 0)


def insert_key(connection: Connection, key: ApiKey, digest: bytes) -> None:
    """Store a key under the SHA-256 of its secret. Raise SecretInUse."""
    lock_names(connection)
    _check_secret_free(connection, digest)
    connection.execute(
        api_key.insert().values(
            id=key.id,
            project_key=key.project_pk,
            digest=digest,
            dialect=key.dialect,
            scopes=json.dumps(sorted(key.scopes)),
            description=key.description,
            hint=key.hint,
            demo=key.demo,
            created_at=key.created_at,
            name=key.name,
            expires_at=key.expires_at,
        )
    )


def key_by_digest(connection: Connection, digest: bytes) -> ApiKey | None:
    """Return the API key of which a secret has this SHA-256, revoked or not; None if there is none.

    Its `expires_at` is when this secret ends.
    """
    row = connection.execute(_KEYS.where(_with_secret(digest))).one_or_none()
    if row is None:
        return None
    key = _key(row)
    if bytes(row.digest) == digest:
        return key
    ends = [at for at in (key.expires_at, key.previous_expires_at) if at is not None]
    return replace(key, expires_at=min(ends))


def rotate_key(connection: Connection, key: ApiKey, digest: bytes, hint: str, previous_expires_at: int) -> ApiKey:
    """Give a key a new secret; the old one stays valid until a time. Raise SecretInUse."""
    lock_names(connection)
    _check_secret_free(connection, digest)
    connection.execute(
        api_key.update()
        .where(api_key.c.id == key.id)
        .values(previous_digest=api_key.c.digest, previous_expires_at=previous_expires_at, digest=digest, hint=hint)
    )
    return key_by_id(connection, key.id)


def note_use(connection: Connection, key_ids: Collection[str], now: int) -> None:
    """Note that keys were used."""
    for chunk in chunks(sorted(key_ids)):
        connection.execute(api_key.update().where(api_key.c.id.in_(chunk)).values(last_used_at=now))


def key_by_id(connection: Connection, key_id: str) -> ApiKey:
    """Read an API key. Raise KeyNotFound."""
    key = _first_key(connection, _KEYS.where(api_key.c.id == key_id))
    if key is None:
        raise KeyNotFound(key_id)
    return key


def list_keys(connection: Connection, project_pk: int, limit: int, before_id: str = "") -> list[ApiKey]:
    """List the API keys of a project that are older than `before_id`, newest first."""
    query = _KEYS.where(api_key.c.project_key == project_pk).order_by(api_key.c.id.desc()).limit(limit)
    if before_id:
        query = query.where(api_key.c.id < before_id)
    return [_key(row) for row in connection.execute(query)]


def revoke_key(connection: Connection, key_id: str, now: int) -> ApiKey:
    """Revoke an API key; a key that is revoked already keeps its time. Raise KeyNotFound."""
    unrevoked = (api_key.c.id == key_id) & api_key.c.revoked_at.is_(None)
    connection.execute(api_key.update().where(unrevoked).values(revoked_at=now))
    return key_by_id(connection, key_id)


def _with_secret(digest: bytes) -> sa.ColumnElement[bool]:
    return (api_key.c.digest == digest) | (api_key.c.previous_digest == digest)


def _check_secret_free(connection: Connection, digest: bytes) -> None:
    """Raise SecretInUse if a key has the secret, or had it before its last rotation."""
    if connection.scalar(sa.select(api_key.c.id).where(_with_secret(digest))) is not None:
        raise SecretInUse


def _first_key(connection: Connection, query: Select[Any]) -> ApiKey | None:
    row = connection.execute(query).one_or_none()
    return None if row is None else _key(row)


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


def _key(row: Row[Any]) -> ApiKey:
    scopes: Sequence[str] = json.loads(row.scopes)
    return ApiKey(
        id=row.id,
        project_pk=row.project_key,
        project_id=row.project_id,
        dialect=Dialect(row.dialect),
        scopes=frozenset(map(Scope, scopes)),
        description=row.description,
        hint=row.hint,
        demo=row.demo,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        name=row.name,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        previous_expires_at=row.previous_expires_at,
    )
