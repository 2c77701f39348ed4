"""Projects."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from uuid_utils import uuid7

from registry.names import given_name_problem
from registry.times.timestamps import now_micros
from server.errors import InvalidArgument, KeyInvalid, ProjectNotFound
from server.model import UNLIMITED, Project, Quota, Rules
from server.storage.projects import deletion as project_deletion
from server.storage.projects import projects as store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection

    from server.audit.audited_changes import AuditRecorder
    from server.auth.access import Access
    from server.ingest.catalog import Catalog
    from server.paging import Page, PageRequest
    from server.storage.database import Database

NO_CHANGES: Mapping[str, int] = MappingProxyType({})
QUOTA_LIMITS = {"events_per_second": 1_000_000, "event_burst": 10_000_000, "events_per_day": 1_000_000_000_000}


class Projects:
    """Manages projects."""

    def __init__(self, database: Database, catalog: Catalog, access: Access) -> None:
        self._database = database
        self._catalog = catalog
        self._access = access
        self.on_delete: list[Callable[[int], object]] = []
        """Called with the key of each project that this server deletes, once that is committed."""

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
            current = read_again(connection, found)
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
            current = read_again(connection, found)
            record(connection, found.pk, current, None)
            project_deletion.mark_deleted(connection, current, etag, now_micros())

        def apply(_: None) -> None:
            self._access.invalidate(found.pk)
            for deleted in self.on_delete:
                deleted(found.pk)

        await self._catalog.change(found.pk, "DeleteProject", delete, apply, dry_run=validate_only)
        return found, counts


def read_again(connection: Connection, found: Project) -> Project:
    """Return the current state of a project that was read before.

    Raise ProjectNotFound, even if another one is named like its ID.
    """
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
