"""Projects made in one transaction: most tests begin with one, and its requests would take half of their time.

The audit log has none of it.
"""

from __future__ import annotations

import secrets
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from uuid_utils import uuid7

from registry.definitions.event_definitions import NewDefinition
from registry.storage.definition_store import create_definition
from registry.times.timestamps import now_micros
from server.app import storage as app_storage
from server.auth.credentials import digest_of
from server.bridge.dialects import DIALECTS
from server.model import ApiKey, Dialect, Rules, Scope
from server.rpc.messages.definitions import read_schema
from server.services.api_keys import NATIVE_PREFIX
from server.storage.contacts import insert_contact
from server.storage.opening import open_database
from server.storage.projects.heads import advance_catalog
from server.storage.projects.keys import insert_key
from server.storage.projects.projects import get_project, insert_project
from tests.support.messages import ADA, ORDER, ORDER_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from server.model import Project
    from server.storage.database import Database

PREFIXES = {Dialect.NATIVE: NATIVE_PREFIX} | {dialect.name: dialect.key_prefixes[0] for dialect in DIALECTS}

opened: ContextVar[Database] = ContextVar("opened")
"""The database that a server has opened last in this context."""


async def _opening(url: str, **options: Any) -> Database:
    database = await open_database(url, **options)
    opened.set(database)
    return database


setattr(app_storage, "open_database", _opening)  # noqa: B010 - the type checker takes a module for constant


async def make_project(database: Database, name: str, *, shop: bool) -> tuple[str, str]:
    """Make a project with a key; in a shop, order_completed is defined and Ada is known. Return its id and the key."""
    secret = _new_secret(Dialect.NATIVE)

    def work(connection: Connection) -> str:
        project = insert_project(connection, str(uuid7()), name, Rules(), now_micros())
        _insert_key(connection, project, secret, Dialect.NATIVE, [])
        if shop:
            _fill(connection, project)
        return project.id

    return await database.write(work), secret


async def make_key(database: Database, project: str, dialect: Dialect, scopes: Sequence[str]) -> str:
    """Make a key of a project; return its secret."""
    secret = _new_secret(dialect)
    await database.write(
        lambda connection: _insert_key(connection, get_project(connection, project), secret, dialect, scopes)
    )
    return secret


def _new_secret(dialect: Dialect) -> str:
    return PREFIXES[dialect] + secrets.token_urlsafe(32)


def _insert_key(connection: Connection, project: Project, secret: str, dialect: Dialect, scopes: Sequence[str]) -> None:
    advance_catalog(connection, project.pk)
    granted = frozenset(Scope(scope) for scope in scopes or [Scope.ALL])
    now, hint = now_micros(), f"{PREFIXES[dialect]}…{secret[-4:]}"
    key = ApiKey(str(uuid7()), project.pk, project.id, dialect, granted, "", hint, False, now, None)
    insert_key(connection, key, digest_of(secret))


def _fill(connection: Connection, project: Project) -> None:
    advance_catalog(connection, project.pk)
    definition = NewDefinition(ORDER, read_schema(ORDER_SCHEMA))
    create_definition(connection, project.id, str(uuid7()), definition, now_micros())
    insert_contact(connection, project.pk, str(uuid7()), ADA, {}, now_micros())
