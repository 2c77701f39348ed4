"""API keys of projects."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from uuid_utils import uuid7

from registry.names import given_name_problem
from registry.times.timestamps import now_micros
from server.auth.credentials import digest_of
from server.errors import InvalidArgument, KeyNotActive, SecretInUse
from server.model import ApiKey, Dialect, Scope
from server.services.projects import read_again
from server.storage.projects import keys as store
from server.storage.projects.projects import project_by_pk

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import Connection

    from server.audit.audited_changes import AuditRecorder
    from server.auth.access import Access
    from server.auth.caller import Caller
    from server.ingest.catalog import Catalog
    from server.model import Project
    from server.paging import Page, PageRequest
    from server.services.projects import Projects
    from server.storage.database import Database

NATIVE_PREFIX = "sb_"
"""The prefix of new secrets of native keys."""

SECRET_BYTES = 32
MIN_SECRET, MAX_SECRET = 16, 255
MAX_DESCRIPTION = 255
MAX_GRACE = 30 * 86_400 * 1_000_000
"""The longest time for which a secret that was rotated stays valid, in microseconds."""


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key to create. Without scopes it has all of them, without a secret a new one; `expires_at` in microseconds."""

    dialect: Dialect = Dialect.NATIVE
    scopes: Collection[str] = ()
    description: str = ""
    secret: str = field(default="", repr=False)
    name: str = ""
    expires_at: int | None = None
    demo: bool = False


class ApiKeys:
    """Manages the API keys of projects."""

    def __init__(
        self, database: Database, projects: Projects, catalog: Catalog, access: Access, prefixes: Mapping[Dialect, str]
    ) -> None:
        """`prefixes` has the prefix of new secrets for each REST dialect."""
        self.prefixes = {Dialect.NATIVE: NATIVE_PREFIX, **prefixes}
        self._database = database
        self._projects = projects
        self._catalog = catalog
        self._access = access

    async def create(self, project: str, new: NewApiKey) -> tuple[ApiKey, str]:
        """Create a key of a project, given by its id or name. Return the key and its secret.

        Raise InvalidArgument, ProjectNotFound and SecretInUse.
        """
        self._check(new)
        granted = _scopes(new.scopes or (Scope.ALL,))
        secret = new.secret or self._new_secret(new.dialect)
        found = await self._projects.get(project)

        def create(connection: Connection, record: AuditRecorder) -> ApiKey:
            owner = read_again(connection, found)
            key = ApiKey(
                id=str(uuid7()),
                project_pk=owner.pk,
                project_id=owner.id,
                dialect=new.dialect,
                scopes=granted,
                description=new.description,
                hint=self._hint(secret),
                demo=new.demo,
                created_at=now_micros(),
                revoked_at=None,
                name=new.name,
                expires_at=new.expires_at,
            )
            store.insert_key(connection, key, digest_of(secret))
            record(connection, owner.pk, None, key)
            return key

        created = await self._catalog.change(found.pk, "CreateApiKey", create, lambda _: self._access.key_created())
        return created, secret

    async def list(self, project: str, request: PageRequest) -> Page[ApiKey]:
        """List the keys of a project, newest first. Raise ProjectNotFound."""
        limit = request.limit()
        owner = await self._projects.get(project)
        # By the key: another project may have the name when the token comes back.
        filters = ("keys", owner.pk)
        (before,) = request.cursor(filters, str) or ("",)
        found = await self._database.read(lambda connection: store.list_keys(connection, owner.pk, limit + 1, before))
        return request.page(found, filters, lambda key: (key.id,))

    async def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key for good. Raise KeyNotFound."""
        key = await self._database.read(lambda connection: store.key_by_id(connection, key_id))

        def revoke(connection: Connection, record: AuditRecorder) -> ApiKey:
            before = store.key_by_id(connection, key_id)
            revoked = store.revoke_key(connection, key_id, now_micros())
            record(connection, key.project_pk, before, revoked)
            return revoked

        return await self._catalog.change(
            key.project_pk, "RevokeApiKey", revoke, lambda _: self._access.invalidate(key.project_pk)
        )

    async def rotate(self, key_id: str, grace: int) -> tuple[ApiKey, str]:
        """Give a key a new secret; the old one stays valid for `grace` microseconds. Return the key and the secret.

        Raise InvalidArgument, KeyNotFound and KeyNotActive.
        """
        if not 0 <= grace <= MAX_GRACE:
            message = f"grace is {grace / 86_400_000_000:g} days; it must be 0 to 30 days"
            raise InvalidArgument.at("grace", "OUT_OF_RANGE", message)
        key = await self._database.read(lambda connection: store.key_by_id(connection, key_id))
        shown = self._new_secret(key.dialect)

        def rotate(connection: Connection, record: AuditRecorder) -> ApiKey:
            before, now = store.key_by_id(connection, key_id), now_micros()
            if not before.active(now):
                raise KeyNotActive(key_id)
            rotated = store.rotate_key(connection, before, digest_of(shown), self._hint(shown), now + grace)
            record(connection, key.project_pk, before, rotated)
            return rotated

        def apply(_: ApiKey) -> None:
            self._access.invalidate(key.project_pk)
            self._access.key_created()

        return await self._catalog.change(key.project_pk, "RotateApiKey", rotate, apply), shown

    async def who_is(self, caller: Caller) -> tuple[Project | None, ApiKey | None]:
        """Return the project and the key of a caller; each None if it has none."""

        def read(connection: Connection) -> tuple[Project | None, ApiKey | None]:
            project = project_by_pk(connection, caller.project_pk) if caller.project_pk else None
            return project, store.key_by_id(connection, caller.key_id) if caller.key_id else None

        return await self._database.read(read)

    def _check(self, new: NewApiKey) -> None:
        if new.secret:
            _check_secret(new.secret)
            if self._access.is_admin_key(new.secret):
                # Its owner is the admin, whatever the scopes of this key.
                raise SecretInUse
        _check_description(new.description)
        _check_name(new.name)
        _check_expiry(new.expires_at)

    def _new_secret(self, dialect: Dialect) -> str:
        return self.prefixes[dialect] + secrets.token_urlsafe(SECRET_BYTES)

    def _hint(self, secret: str) -> str:
        """Return a form of a secret that identifies it to its owner, and is too short to guess the rest."""
        prefix = next((prefix for prefix in self.prefixes.values() if secret.startswith(prefix)), "")
        return f"{prefix}…{secret[-4:]}" if len(secret) - len(prefix) >= MIN_SECRET else f"{prefix}…"


def _check_description(description: str) -> None:
    if len(description) > MAX_DESCRIPTION:
        message = f"The description must be at most {MAX_DESCRIPTION} characters long"
        raise InvalidArgument.at("description", "INVALID_ARGUMENT", message)


def _check_name(name: str) -> None:
    if name and (problem := given_name_problem(name)):
        raise InvalidArgument.at("name", "INVALID_ARGUMENT", f"The name {problem}")


def _check_expiry(expires_at: int | None) -> None:
    if expires_at is not None and expires_at <= now_micros():
        raise InvalidArgument.at("expires_at", "OUT_OF_RANGE", "expires_at is past; it must be in the future")


def _check_secret(secret: str) -> None:
    printable = all("!" <= character <= "~" for character in secret)
    if not printable or not MIN_SECRET <= len(secret) <= MAX_SECRET:
        message = f"A secret must be {MIN_SECRET} to {MAX_SECRET} printable ASCII characters without blanks"
        raise InvalidArgument.at("secret", "INVALID_ARGUMENT", message)


def _scopes(names: Collection[str]) -> frozenset[Scope]:
    try:
        return frozenset(map(Scope, names))
    except ValueError:
        unknown = next(name for name in names if name not in list(Scope))
        message = f'"{unknown}" is not a scope; use one of {", ".join(Scope)}'
        raise InvalidArgument.at("scopes", "INVALID_ARGUMENT", message) from None
