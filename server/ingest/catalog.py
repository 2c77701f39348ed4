"""The catalog: the definitions, rules and automations that each project's events are validated and matched with.

A `CatalogSnapshot` holds those of one project at one catalog version, immutable and in memory. A commit compares that
version with the one in the database, under the lock of the project's head (`_current_snapshot` in `commit.py`):

    version in memory    version in the database    what happens
    same                 same                       the batch is committed as it was validated
    7                    8 (another server's)       the commit loads snapshot 8, validates again, commits
    7, and the batch is refused before any commit   `Catalog.current` compares them before the refusal is returned
    8 (rolled back)      7 (failover or restore)    not equal either, so handled as the second line

So no event is recorded and none is refused by an outdated catalog, whichever server changed it. Where other servers
share the database, `server.background.catalog_refresh` calls `Catalog.refresh` too. Versions are compared for equality
and have random bits below their count: a database that lost its newest changes reuses the same numbers, and a snapshot
of the lost history must not be taken for one of the new history.

The race: a snapshot can be read just before a change is committed and arrive just after the change invalidated the
cache. Keeping it then would leave an outdated snapshot in the cache after the invalidation. Every reader therefore
notes `Catalog.invalidations` before it reads, and `keep` drops a snapshot when that count has moved (one count for all
projects: at worst a snapshot is read once more).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from automation.automation_store import automations_by_key, versions_by_key
from automation.bulk import chunks
from automation.matching import LiveAutomations
from registry.coercion.validation import compile_schema
from registry.errors import RowUnreadable
from registry.storage.definition_store import active_definitions
from registry.suggestions import Suggestions
from server.audit.audited_changes import AuditedChanges
from server.sharing.work_thread import SLICE_SECONDS, WorkThread
from server.storage.projects.heads import advance_catalog, automations_version, catalog_version, catalog_versions
from server.storage.projects.projects import project_by_pk

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from automation.automations import Automation
    from registry.coercion.validation import Coercer
    from registry.definitions.event_definitions import EventDefinition
    from server.audit.audited_changes import AuditRecorder
    from server.model import Project, Rules
    from server.storage.database import Database

T = TypeVar("T")

_PAGE: Final = 500
"""The automations that one statement reads."""


class LiveDefinition:
    """A definition that accepts events; its schema is compiled for the first one."""

    def __init__(self, definition: EventDefinition) -> None:
        self.id = definition.id
        self.name = definition.name
        self.revision = definition.revision
        self.schema = definition.schema

    @cached_property
    def coerce(self) -> Coercer:
        """The compiled schema."""
        return compile_schema(self.schema)


class CatalogSnapshot:
    """The catalog of one project at one version."""

    def __init__(
        self, project: Project, version: int, definitions: list[EventDefinition], automations: LiveAutomations
    ) -> None:
        self.project_pk = project.pk
        self.project_id = project.id
        self.rules: Rules = project.rules
        self.sealed = project.sealed
        self.quota = project.quota
        self.version = version
        self.automations = automations
        self._definitions = {definition.name: LiveDefinition(definition) for definition in definitions}
        # Of names that differ in case only, the oldest definition serves all spellings that have none of their own.
        self._folded: dict[str, LiveDefinition] = {}
        for name, definition in self._definitions.items():
            self._folded.setdefault(name.casefold(), definition)

    @cached_property
    def _suggestions(self) -> Suggestions:
        return Suggestions([*self._definitions])

    def closest_name(self, name: str) -> str | None:
        """Return the name of the definition that was probably meant; None if none is close."""
        return self._suggestions.closest(name)

    def definition(self, name: str, rules: Rules | None = None) -> LiveDefinition | None:
        """Return the definition that validates events of this name, by the project's rules unless others are given."""
        found = self._definitions.get(name)
        if found is None and (rules or self.rules).ignore_case:
            found = self._folded.get(name.casefold())
        return found


def load_snapshot(
    connection: Connection, project_pk: int, previous: CatalogSnapshot | None = None, most: int | None = None
) -> CatalogSnapshot:
    """Read the catalog as this transaction sees it.

    Of the automations of the previous snapshot, those that did not change are taken over: reading thousands and
    compiling their conditions takes seconds. Raise TooManyChanged if more than `most` have to be read.
    """
    project = project_by_pk(connection, project_pk)
    version = catalog_version(connection, project_pk)
    automations = previous.automations if previous is not None else None
    stored = automations_version(connection, project_pk)
    if automations is None or automations.version != stored:
        current = _current_automations(connection, project_pk, automations, most)
        automations = LiveAutomations(stored, current, before=automations)
    return CatalogSnapshot(project, version, active_definitions(connection, project.id), automations)


class TooManyChanged(Exception):
    """More automations have changed than are to be read in this transaction."""


def _current_automations(
    connection: Connection, project_pk: int, before: LiveAutomations | None, most: int | None
) -> list[Automation]:
    """Return the automations that are not deleted, oldest first.

    They are read in pages: on PostgreSQL the event loop serves others between two statements.

    Raise RowUnreadable if the state or entry rule of one cannot be read: set it again, or delete the automation.
    """
    versions = versions_by_key(connection, project_pk)
    known = before.by_key if before is not None else {}
    same = {key for key, each in known.items() if versions.get(key) == (each.version, each.updated_at)}
    changed = [key for key in versions if key not in same]
    if most is not None and len(changed) > most:
        raise TooManyChanged
    read: dict[int, Automation] = {}
    for keys in chunks(changed, _PAGE):
        read |= automations_by_key(connection, keys)
    for automation in read.values():
        if not automation.has_rules:
            # To leave it out, or to match it by a guessed rule, would record events with wrong matches.
            raise RowUnreadable("automation", automation.id, automation.unreadable)
    return [read.get(key) or known[key] for key in versions]


def definitions_only(connection: Connection, project_pk: int) -> CatalogSnapshot:
    """Read the definitions that a transaction sees, to find which of them validates events of a name.

    The snapshot has no automations and no version, and is not for the cache.
    """
    project = project_by_pk(connection, project_pk)
    return CatalogSnapshot(project, 0, active_definitions(connection, project.id), LiveAutomations(0, ()))


class Catalog:
    """The snapshots of the projects that are in use."""

    def __init__(
        self,
        database: Database,
        invalidated: Callable[[int], object] = lambda project_pk: None,
        changes: AuditedChanges | None = None,
    ) -> None:
        """`invalidated` is called with a project whose catalog has changed."""
        self.changes = changes or AuditedChanges(database)
        self._database = database
        self._invalidated = invalidated
        self.thread = WorkThread()
        self._snapshots: dict[int, CatalogSnapshot] = {}
        self._previous: dict[int, CatalogSnapshot] = {}
        self._loading: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._reading: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._next_reads: dict[int, asyncio.Task[int]] = {}
        self.invalidations = 0
        self.on_forget: list[Callable[[str, int], object]] = []
        """Called with the ID and the key of each project that is deleted for good."""

    def cached(self, project_pk: int) -> CatalogSnapshot | None:
        """Return the snapshot of a project if it is in memory."""
        return self._snapshots.get(project_pk)

    async def load(self, project_pk: int) -> CatalogSnapshot:
        """Return the snapshot of a project, reading it if it is not in memory. Concurrent callers share one read."""
        snapshot = self._snapshots.get(project_pk)
        if snapshot is not None:
            return snapshot
        async with self._loading[project_pk]:
            return self._snapshots.get(project_pk) or await self._read(project_pk)

    async def _read(self, project_pk: int) -> CatalogSnapshot:
        invalidations = self.invalidations
        previous = self._previous.get(project_pk)
        snapshot = await self._database.read(
            lambda connection: load_snapshot(connection, project_pk, previous), brief=True
        )
        # Kept even if it is outdated by now: the conditions that it has compiled serve the next snapshot.
        self._previous[project_pk] = snapshot
        if previous is None or snapshot.automations is not previous.automations:
            # Compiling thousands of conditions takes seconds. In a thread, only senders to this project wait for it.
            await self.thread.run_in_slices(project_pk, partial(snapshot.automations.compile, SLICE_SECONDS))
        self.keep(snapshot, invalidations)
        return snapshot

    async def current(self, snapshot: CatalogSnapshot) -> CatalogSnapshot:
        """Return the current snapshot, reloading it if its version is out of date.

        Called before a refusal is returned: refused events reach no commit, which would compare the versions.
        """
        project_pk = snapshot.project_pk
        version = await self._version(project_pk)
        if version != snapshot.version:
            self.invalidate(project_pk)
        return await self.load(project_pk)

    async def _version(self, project_pk: int) -> int:
        """Return the version that the database has. Calls that wait for the same read share the next one.

        One that has begun may have missed a change that the caller knows of.
        """
        next_read = self._next_reads.get(project_pk)
        if next_read is None:
            next_read = self._next_reads[project_pk] = asyncio.create_task(self._read_version(project_pk))
            # Its callers may be gone.
            next_read.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(next_read)

    async def _read_version(self, project_pk: int) -> int:
        async with self._reading[project_pk]:
            del self._next_reads[project_pk]
            return await self._database.read(lambda connection: catalog_version(connection, project_pk), brief=True)

    def keep(self, snapshot: CatalogSnapshot, invalidations: int) -> None:
        """Cache a snapshot whose reading began when `invalidations` had this value, unless it may be outdated."""
        if invalidations == self.invalidations:
            self._snapshots[snapshot.project_pk] = self._previous[snapshot.project_pk] = snapshot

    def invalidate(self, project_pk: int) -> None:
        """Drop the snapshot of a project, because its catalog has changed."""
        self.invalidations += 1
        self._snapshots.pop(project_pk, None)
        self._invalidated(project_pk)

    async def change(
        self,
        project_pk: int,
        action: str,
        work: Callable[[Connection, AuditRecorder], T],
        apply: Callable[[T], object] = lambda _: None,
        *,
        dry_run: bool = False,
    ) -> T:
        """Change the catalog of a project in one transaction, and invalidate its snapshot. Return the result of `work`.

        The work records what it changes for the audit log, as the effect of `action`, the name of an RPC. Its result
        is applied as `AuditedChanges.write` does.

        The version is advanced before the work is done: on PostgreSQL that locks the project's head, so that changes
        and commits of one project come one after the other. With `dry_run` everything is done, and then rolled back.
        """

        def in_transaction(connection: Connection, record: AuditRecorder) -> T:
            advance_catalog(connection, project_pk)
            result = work(connection, record)
            if dry_run:
                raise _RolledBack(result)
            return result

        def invalidate_and_apply(result: T) -> None:
            self.invalidate(project_pk)
            apply(result)

        try:
            return await self.changes.write(action, in_transaction, invalidate_and_apply)
        except _RolledBack as dry:
            result: T = dry.result
            return result

    async def refresh(self) -> dict[int, int]:
        """Invalidate the snapshots whose versions are out of date. Return the current versions by project.

        The cached snapshots are compared, not the versions of the last refresh: a snapshot may have been read in
        between, and its version lost in a failover since.
        """
        loaded = dict(self._previous)
        versions = await self._database.read(catalog_versions, brief=True)
        outdated = [pk for pk, snapshot in self._snapshots.items() if snapshot.version != versions.get(pk)]
        for project_pk in outdated:
            self.invalidate(project_pk)
        # Not those that were loaded since the read began: it may have missed that they were created.
        for project_pk in loaded.keys() - versions.keys():
            self.forget(loaded[project_pk].project_id, project_pk)
        return versions

    def forget(self, project_id: str, project_pk: int) -> None:
        """Forget a project that is deleted for good, and have others forget it."""
        for by_project in (self._snapshots, self._previous, self._loading, self._reading):
            by_project.pop(project_pk, None)
        for forget in self.on_forget:
            forget(project_id, project_pk)


class _RolledBack(Exception):
    """Rolls the transaction of a dry run back, and carries its result out of it."""

    def __init__(self, result: Any) -> None:
        self.result = result
