"""Projects and their API keys."""

from __future__ import annotations

import secrets
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from uuid_utils import uuid7

from registry.names import given_name_problem
from registry.timestamps import now_micros
from server.auth.access import digest_of
from server.errors import InvalidArgument, KeyInvalid, KeyNotActive, ProjectNotFound, SecretInUse
from server.model import UNLIMITED, ApiKey, Dialect, Project, Quota, Rules, Scope
from server.storage.projects import deletion as project_deletion
from server.storage.projects import keys as key_store
from server.storage.projects import projects as store

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import Connection

    from server.audit.audited_changes import AuditRecorder
    from server.auth.access import Access
    from server.auth.caller import Caller
    from server.ingest.catalog import Catalog
    from server.paging import Page, PageRequest
    from server.storage.database import Database

NATIVE_PREFIX = "sb_"
"""The prefix of new secrets of native keys."""

SECRET_BYTES = 32
MIN_SECRET, MAX_SECRET = 16, 255
MAX_DESCRIPTION = 255
MAX_GRACE = 30 * 86_400 * 1_000_000
"""The longest time for which a secret that was rotated stays valid, in microseconds."""
NO_CHANGES: Mapping[str, int] = MappingProxyType({})
QUOTA_LIMITS = {"events_per_second": 1_000_000, "event_burst": 10_000_000, "events_per_day": 1_000_000_000_000}


class Projects:
    """Manages projects and API keys."""

    def __init__(
        self, database: Database, catalog: Catalog, access: Access, key_prefixes: Mapping[Dialect, str]
    ) -> None:
        """`key_prefixes` has the prefix of new secrets for each REST dialect."""
        self._database = database
        self._catalog = catalog
        self._access = access
        self.key_prefixes = {Dialect.NATIVE: NATIVE_PREFIX, **key_prefixes}

    async def create(self, name: str, rules: Rules, event_retention: int = 0, quota: Quota = UNLIMITED) -> Project:
        """Create a project. Raise InvalidArgument and ProjectAlreadyExists."""
        _check_name(name)
        _check_quota(quota)

        def create(connection: Connection, record: AuditRecorder) -> Project:
            created = store.insert_project(connection, str(uuid7()), name, rules, now_micros(), event_retention, quota)
            record(connection, created.pk, None, created)
            return created

        return await self._catalog.changes.write("CreateProject", create)

    async def get(self, id_or_name: str) -> Project:
        """Read a project. Raise ProjectNotFound."""
        return await self._database.read(lambda connection: store.get_project(connection, id_or_name))

    async def list(self, request: PageRequest) -> Page[Project]:
        """List projects, newest first."""
        limit = request.limit()
        (before,) = request.cursor(("projects",), str) or ("",)
        found = await self._database.read(lambda connection: store.list_projects(connection, limit + 1, before))
        return request.page(found, ("projects",), lambda project: (project.id,))

    async def update(
        self,
        id_or_name: str,
        *,
        name: str | None,
        rules: Mapping[str, Any],
        event_retention: int | None = None,
        quota: Mapping[str, int] = NO_CHANGES,
        etag: str = "",
    ) -> Project:
        """Update the name and the retention of events, if not None, the given rules and limits of the quota.

        Raise InvalidArgument, ProjectNotFound, ProjectAlreadyExists and EtagMismatch.
        """
        found = await self.get(id_or_name)
        if name is not None:
            _check_name(name, found.name)

        def update(connection: Connection, record: AuditRecorder) -> Project:
            current = _read_again(connection, found)
            changed = replace(
                current,
                name=current.name if name is None else name,
                rules=replace(current.rules, **rules),
                event_retention=current.event_retention if event_retention is None else event_retention,
                quota=_changed_quota(current.quota, quota),
            )
            updated = store.update_project(connection, current, changed, etag, now_micros())
            record(connection, found.pk, current, updated)
            return updated

        return await self._catalog.change(found.pk, "UpdateProject", update)

    async def delete(
        self, id_or_name: str, confirm_name: str, etag: str = "", *, validate_only: bool = False
    ) -> tuple[Project, Mapping[str, int]]:
        """Delete a project for good, named once more by its name. Return it, and the numbers of what it contains.

        Raise InvalidArgument, ProjectNotFound and EtagMismatch.
        """
        found, counts = await self._database.read(
            lambda connection: project_deletion.deletion_preview(connection, id_or_name)
        )
        if confirm_name != found.name:
            message = "confirm_name must be the name of the project, so that no other one is deleted by mistake"
            raise InvalidArgument.at("confirm_name", "INVALID_ARGUMENT", message)

        def delete(connection: Connection, record: AuditRecorder) -> None:
            current = _read_again(connection, found)
            record(connection, found.pk, current, None)
            project_deletion.mark_deleted(connection, current, etag, now_micros())

        try:
            await self._catalog.change(found.pk, "DeleteProject", delete, dry_run=validate_only)
        finally:
            self._access.invalidate(found.pk)
        return found, counts

    async def create_key(
        self,
        id_or_name: str,
        dialect: Dialect = Dialect.NATIVE,
        scopes: Collection[str] = (),
        description: str = "",
        secret: str = "",
        *,
        name: str = "",
        expires_at: int | None = None,
        demo: bool = False,
    ) -> tuple[ApiKey, str]:
        """Create a key; `*` if no scopes are given, with a new secret if none is given. Return the key and its secret.

        Raise InvalidArgument, ProjectNotFound and SecretInUse.
        """
        if secret:
            _check_secret(secret)
            if self._access.is_admin_key(secret):
                # Whoever has it is the admin, whatever the scopes of this key.
                raise SecretInUse
        granted = _scopes(scopes or (Scope.ALL,))
        _check_description(description)
        _check_key_name(name)
        _check_expiry(expires_at)
        shown = secret or self.key_prefixes[dialect] + secrets.token_urlsafe(SECRET_BYTES)

        found = await self.get(id_or_name)

        def create(connection: Connection, record: AuditRecorder) -> ApiKey:
            project = _read_again(connection, found)
            key = ApiKey(
                str(uuid7()),
                project.pk,
                project.id,
                dialect,
                granted,
                description,
                self._hint(shown),
                demo,
                now_micros(),
                None,
                name,
                expires_at,
            )
            key_store.insert_key(connection, key, digest_of(shown))
            record(connection, project.pk, None, key)
            return key

        try:
            return await self._catalog.change(found.pk, "CreateApiKey", create), shown
        finally:
            self._access.key_created()

    async def keys(self, id_or_name: str, request: PageRequest) -> Page[ApiKey]:
        """List the keys of a project, newest first. Raise ProjectNotFound."""
        limit = request.limit()
        project = await self.get(id_or_name)
        # By the key: another project may have the name when the token comes back.
        filters = ("keys", project.pk)
        (before,) = request.cursor(filters, str) or ("",)
        found = await self._database.read(
            lambda connection: key_store.list_keys(connection, project.pk, limit + 1, before)
        )
        return request.page(found, filters, lambda key: (key.id,))

    async def revoke_key(self, key_id: str) -> ApiKey:
        """Revoke a key for good. Raise KeyNotFound."""
        key = await self._database.read(lambda connection: key_store.key_by_id(connection, key_id))

        def revoke(connection: Connection, record: AuditRecorder) -> ApiKey:
            before = key_store.key_by_id(connection, key_id)
            revoked = key_store.revoke_key(connection, key_id, now_micros())
            record(connection, key.project_pk, before, revoked)
            return revoked

        try:
            return await self._catalog.change(key.project_pk, "RevokeApiKey", revoke)
        finally:
            # Also if the caller is cancelled: the key is revoked by now.
            self._access.invalidate(key.project_pk)

    async def rotate_key(self, key_id: str, grace: int) -> tuple[ApiKey, str]:
        """Give a key a new secret; the old one stays valid for `grace` microseconds. Return the key and the secret.

        Raise InvalidArgument, KeyNotFound and KeyNotActive.
        """
        if not 0 <= grace <= MAX_GRACE:
            message = f"grace is {grace / 86_400_000_000:g} days; it must be 0 to 30 days"
            raise InvalidArgument.at("grace", "OUT_OF_RANGE", message)
        key = await self._database.read(lambda connection: key_store.key_by_id(connection, key_id))
        shown = self.key_prefixes[key.dialect] + secrets.token_urlsafe(SECRET_BYTES)

        def rotate(connection: Connection, record: AuditRecorder) -> ApiKey:
            before, now = key_store.key_by_id(connection, key_id), now_micros()
            if not before.active(now):
                raise KeyNotActive(key_id)
            rotated = key_store.rotate_key(connection, before, digest_of(shown), self._hint(shown), now + grace)
            record(connection, key.project_pk, before, rotated)
            return rotated

        try:
            return await self._catalog.change(key.project_pk, "RotateApiKey", rotate), shown
        finally:
            self._access.invalidate(key.project_pk)
            self._access.key_created()

    async def who_is(self, caller: Caller) -> tuple[Project | None, ApiKey | None]:
        """Return the project and the key of a caller; each None if it has none."""

        def read(connection: Connection) -> tuple[Project | None, ApiKey | None]:
            project = store.project_by_pk(connection, caller.project_pk) if caller.project_pk else None
            return project, key_store.key_by_id(connection, caller.key_id) if caller.key_id else None

        return await self._database.read(read)

    def _hint(self, secret: str) -> str:
        """Return a form of a secret that identifies it to its owner, and is too short to guess the rest."""
        prefix = next((prefix for prefix in self.key_prefixes.values() if secret.startswith(prefix)), "")
        return f"{prefix}…{secret[-4:]}" if len(secret) - len(prefix) >= MIN_SECRET else f"{prefix}…"


def _read_again(connection: Connection, found: Project) -> Project:
    """Return the current state of a project. Raise ProjectNotFound, even if another one is named like its ID."""
    try:
        return store.project_by_pk(connection, found.pk)
    except KeyInvalid:
        raise ProjectNotFound(found.id) from None


def _check_name(name: str, before: str = "") -> None:
    if problem := given_name_problem(name, before):
        raise InvalidArgument.at("name", "INVALID_ARGUMENT", f"The project name {problem}")


def _changed_quota(quota: Quota, changes: Mapping[str, int]) -> Quota:
    """Return a quota with changed limits; without a rate, the burst goes. Raise InvalidArgument."""
    if changes.get("events_per_second") == 0:
        changes = {"event_burst": 0, **changes}
    changed = replace(quota, **changes)
    _check_quota(changed)
    return changed


def _check_quota(quota: Quota) -> None:
    for name, most in QUOTA_LIMITS.items():
        value = getattr(quota, name)
        if not 0 <= value <= most:
            message = f"{name} is {value:,}; it must be 1 to {most:,}, or 0 for any number"
            raise InvalidArgument.at(name, "OUT_OF_RANGE", message)
    if quota.event_burst and not quota.events_per_second:
        raise InvalidArgument.at("event_burst", "INVALID_ARGUMENT", "event_burst needs events_per_second")


def _check_description(description: str) -> None:
    if len(description) > MAX_DESCRIPTION:
        message = f"The description must be at most {MAX_DESCRIPTION} characters long"
        raise InvalidArgument.at("description", "INVALID_ARGUMENT", message)


def _check_key_name(name: str) -> None:
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
