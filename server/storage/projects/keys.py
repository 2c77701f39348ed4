"""SQL of API keys."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from automation.bulk import chunks
from registry.sql.text_columns import as_text, text_of
from server.errors import KeyNotFound, SecretInUse
from server.model import ApiKey, Dialect, Scope
from server.storage.projects.projects import kept, lock_names
from server.storage.tables import api_key, project

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Connection, Row, Select

_KEYS: Select[Any] = (
    sa.select(*as_text(api_key), text_of(project.c.id).label("project_id"))
    .join(project, project.c.key == api_key.c.project_key)
    .where(kept)
)


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
