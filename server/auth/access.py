"""Callers: authenticated by their secrets, authorized by their scopes."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from server.current_project import work_for
from server.errors import AdminRequired, KeyInvalid, KeyMissing, ProjectNotFound, ProjectRequired, ScopeMissing
from server.model import Dialect, Scope
from server.paging import sign_with
from server.storage.projects import catalog_version, get_project, key_by_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection

    from server.model import ApiKey, Project
    from server.storage.database import Database

ADMIN = "admin"
"""The scope of methods that only the admin key may call."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The maker of a call: an API key of a project, or the admin key, perhaps on behalf of a project.

    `key_id` is empty for the admin key.
    """

    project_pk: int
    project_id: str
    scopes: frozenset[str]
    dialect: Dialect = Dialect.NATIVE
    key_id: str = ""

    @property
    def admin(self) -> bool:
        """Whether this is the admin key."""
        return ADMIN in self.scopes

    def authorize(self, scope: str) -> None:
        """Raise ScopeMissing, AdminRequired or ProjectRequired unless the caller has the scope."""
        if scope in self.scopes:
            return
        if scope == ADMIN:
            raise AdminRequired
        if self.admin:
            if not self.project_pk:
                raise ProjectRequired
            return
        if Scope.ALL not in self.scopes:
            raise ScopeMissing(scope)


class Access:
    """Authenticates callers.

    Only hashes of secrets are held: the time that it takes to look up a hash reveals nothing of the secret, and the
    admin key's hash is compared in constant time all the same. A revoked key is dropped from this cache at once, and on
    other servers with their next refresh. A key is cached with the catalog version under which it was read, and for one
    epoch of the database, so that a key lost in a failover is dropped too.
    """

    LIMIT = 10_000

    def __init__(
        self, database: Database, admin_secret: str, *, demo: bool = False, page_secret: bytes | None = None
    ) -> None:
        self._database = database
        self._admin_digest = digest_of(admin_secret)
        self._demo = demo
        self._page_secret = secrets.token_bytes() if page_secret is None else page_secret
        self._callers: dict[bytes, tuple[Caller, int]] = {}
        self._epoch = database.epoch
        self._invalidations = 0

    async def authenticate(self, authorization: str, project: str) -> Caller:
        """Return the caller of an `authorization` value; `project` is the one that the call names, if any.

        Raise KeyMissing, KeyInvalid and ProjectNotFound.
        """
        return await self.authenticate_secret(bearer_secret(authorization), project)

    async def authenticate_secret(self, secret: str, project: str = "") -> Caller:
        """Return the caller of a bare secret, for whose project the task works from now on, with our page tokens.

        Raise KeyInvalid and ProjectNotFound.
        """
        caller = await self._identify(secret, project)
        work_for(caller.project_pk)
        sign_with(self._page_secret)
        return caller

    async def _identify(self, secret: str, project: str) -> Caller:
        digest = digest_of(secret)
        if self._epoch != self._database.epoch:
            self._epoch = self._database.epoch
            self._callers.clear()
        known = self._callers.get(digest)
        if known is not None:
            caller = known[0]
        else:
            if hmac.compare_digest(digest, self._admin_digest):
                return await self._admin(project)
            caller = await self._by_key(digest)
        if project and project != caller.project_id and (await self._project(project)).pk != caller.project_pk:
            raise ProjectNotFound(project)
        return caller

    def invalidate(self, project_pk: int) -> None:
        """Drop the keys of a project from the cache, because one of them was revoked."""
        self._invalidations += 1
        self._drop_where(lambda caller, _: caller.project_pk == project_pk)

    def invalidate_outdated(self, versions: Mapping[int, int]) -> None:
        """Drop the keys that were read under other catalog versions than `versions`, by project."""
        self._drop_where(lambda caller, version: versions.get(caller.project_pk) != version)

    def _drop_where(self, outdated: Callable[[Caller, int], bool]) -> None:
        for digest in [digest for digest, known in self._callers.items() if outdated(*known)]:
            del self._callers[digest]

    async def _admin(self, project: str) -> Caller:
        if not project:
            return Caller(0, "", frozenset({ADMIN}))
        found = await self._project(project)
        return Caller(found.pk, found.id, frozenset({ADMIN}))

    async def _project(self, project: str) -> Project:
        return await self._database.read(lambda connection: get_project(connection, project), brief=True)

    async def _by_key(self, digest: bytes) -> Caller:
        invalidations = self._invalidations
        key, version = await self._database.read(lambda connection: _key_and_version(connection, digest), brief=True)
        if key is None or key.revoked_at is not None or (key.demo and not self._demo):
            raise KeyInvalid
        caller = Caller(key.project_pk, key.project_id, frozenset(key.scopes), key.dialect, key.id)
        if len(self._callers) >= self.LIMIT:
            self._callers.clear()
        # A key that was revoked while it was read must not be kept.
        if invalidations == self._invalidations:
            self._callers[digest] = caller, version
        return caller


def _key_and_version(connection: Connection, digest: bytes) -> tuple[ApiKey | None, int]:
    key = key_by_digest(connection, digest)
    return key, catalog_version(connection, key.project_pk) if key is not None else 0


def bearer_secret(authorization: str) -> str:
    """Return the secret of an `authorization` value. Raise KeyMissing if there is none."""
    scheme, _, secret = authorization.partition(" ")
    if not secret or scheme.lower() != "bearer":
        raise KeyMissing
    return secret


def digest_of(secret: str) -> bytes:
    """Return the hash of a secret. 256 random bits need no salt and no slow hash."""
    return sha256(secret.encode()).digest()
