"""Who calls, and what they may do."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from server.errors import AdminRequired, KeyInvalid, KeyMissing, ProjectNotFound, ProjectRequired, ScopeMissing
from server.model import Dialect, Scope
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
    """Who made a call: an API key of a project, or the admin key, perhaps on behalf of a project.

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

    def require(self, scope: str) -> None:
        """Raise ScopeMissing, AdminRequired or ProjectRequired unless the caller may use the scope."""
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
    """Tells callers by their secrets.

    Only hashes of secrets are held; looking up a hash tells an attacker nothing by its timing, and the stored hash is
    compared in constant time all the same. Revoked keys are forgotten at once here, and with the next catalogue
    refresh on other servers. A key is cached with the catalog version under which it was read, and for one epoch
    of the database, so that a key lost in a failover is forgotten too.
    """

    LIMIT = 10_000

    def __init__(self, database: Database, admin_secret: str, *, demo: bool = False) -> None:
        self._database = database
        self._admin_digest = digest_of(admin_secret)
        self._demo = demo
        self._callers: dict[bytes, tuple[Caller, int]] = {}
        self._epoch = database.epoch
        self._forgotten = 0

    async def caller(self, authorization: str, project: str) -> Caller:
        """Tell the caller by the `authorization` value; `project` is the one that the call names, if any.

        Raises KeyMissing, KeyInvalid and ProjectNotFound.
        """
        return await self.by_secret(bearer_secret(authorization), project)

    async def by_secret(self, secret: str, project: str = "") -> Caller:
        """Tell the caller by a bare secret. Raises KeyInvalid and ProjectNotFound."""
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
        if project and project != caller.project_id and (await self._project(project)).key != caller.project_pk:
            raise ProjectNotFound(project)
        return caller

    def forget(self, project_pk: int) -> None:
        """Have the keys of a project read again at their next use."""
        self._forgotten += 1
        self._forget_where(lambda caller, _: caller.project_pk == project_pk)

    def forget_outdated(self, versions: Mapping[int, int]) -> None:
        """Forget the keys that were read under other catalog versions than `versions`, by project key."""
        self._forget_where(lambda caller, version: versions.get(caller.project_pk) != version)

    def _forget_where(self, outdated: Callable[[Caller, int], bool]) -> None:
        for digest in [digest for digest, known in self._callers.items() if outdated(*known)]:
            del self._callers[digest]

    async def _admin(self, project: str) -> Caller:
        if not project:
            return Caller(0, "", frozenset({ADMIN}))
        found = await self._project(project)
        return Caller(found.key, found.id, frozenset({ADMIN}))

    async def _project(self, project: str) -> Project:
        return await self._database.read(lambda connection: get_project(connection, project), brief=True)

    async def _by_key(self, digest: bytes) -> Caller:
        forgotten = self._forgotten
        key, version = await self._database.read(lambda connection: _key_and_version(connection, digest), brief=True)
        if key is None or key.revoked_at is not None or (key.demo and not self._demo):
            raise KeyInvalid
        caller = Caller(key.project_pk, key.project_id, frozenset(key.scopes), key.dialect, key.id)
        if len(self._callers) >= self.LIMIT:
            self._callers.clear()
        # A key that was revoked while it was read must not be remembered.
        if forgotten == self._forgotten:
            self._callers[digest] = caller, version
        return caller


def _key_and_version(connection: Connection, digest: bytes) -> tuple[ApiKey | None, int]:
    key = key_by_digest(connection, digest)
    return key, catalog_version(connection, key.project_pk) if key is not None else 0


def bearer_secret(authorization: str) -> str:
    """Take the secret out of an `authorization` value. Raises KeyMissing."""
    scheme, _, secret = authorization.partition(" ")
    if not secret or scheme.lower() != "bearer":
        raise KeyMissing
    return secret


def digest_of(secret: str) -> bytes:
    """Hash a secret. 256 random bits need no salt and no slow hash."""
    return sha256(secret.encode()).digest()
