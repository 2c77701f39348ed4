"""The event definitions of a project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from uuid_utils import uuid7

from automation.automation_store import active_automations
from registry.definitions.schema import check_schema, same_schema
from registry.storage import definition_store, revision_store
from registry.times.timestamps import now_micros
from server.errors import DefinitionInUse
from server.services.dependents import ReadingAutomation, SchemaErrors, check_conditions, reading_automations
from server.storage.events import history as log

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from registry.compatibility.comparison import Incompatibility
    from registry.definitions.event_definitions import EventDefinition, NewDefinition, Revision
    from registry.definitions.schema import Compatibility, Schema
    from registry.personal.marks import Marks
    from registry.storage.definition_store import DefinitionChanges
    from server.audit.audited_changes import AuditRecorder
    from server.auth.caller import Caller
    from server.ingest.catalog import Catalog
    from server.paging import Page, PageRequest
    from server.storage.database import Database

_FEW_CONDITIONS: Final = 50
"""More conditions than this are checked before the transaction that changes the schema: each takes 0.1 ms."""

Dependent: TypeAlias = "ReadingAutomation | log.Traffic"


@dataclass(frozen=True, slots=True)
class CompatibilityVerdict:
    """The incompatibilities of a candidate schema by a rule; `changed` if it differs from the latest revision."""

    rule: Compatibility
    incompatibilities: tuple[Incompatibility, ...]
    changed: bool


class Definitions:
    """Manages definitions. A change applies to the next event that is recorded."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    async def create(self, caller: Caller, new: NewDefinition, *, validate_only: bool = False) -> EventDefinition:
        """Define an event.

        Raise InvalidName, InvalidDescription, InvalidSchema, DefinitionAlreadyExists and TooManyDefinitions.
        """

        def create(connection: Connection, record: AuditRecorder) -> EventDefinition:
            created = definition_store.create_definition(connection, caller.project_id, str(uuid7()), new, now_micros())
            record(connection, caller.project_pk, None, created)
            return created

        return await self._catalog.change(caller.project_pk, "CreateEventDefinition", create, dry_run=validate_only)

    async def get(self, caller: Caller, name_or_id: str) -> EventDefinition:
        """Read a definition; a deleted one by id alone. Raise DefinitionNotFound."""
        return await self._database.read(
            lambda connection: definition_store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
        )

    async def list(
        self, caller: Caller, request: PageRequest, search: str = "", *, show_deleted: bool = False
    ) -> Page[EventDefinition]:
        """List definitions, newest first; `search` is a part of the name, in any ASCII case."""
        limit, filters = request.limit(), ("definitions", caller.project_id, search, show_deleted)
        after = request.cursor(filters, int, str)
        found, more = await self._database.read(
            lambda connection: definition_store.list_definitions(
                connection, caller.project_id, limit=limit, after=after, show_deleted=show_deleted, search=search
            )
        )
        return request.page(found, filters, lambda definition: (definition.created_at, definition.id), more=more)

    async def update(
        self,
        caller: Caller,
        name_or_id: str,
        changes: DefinitionChanges,
        etag: str,
        *,
        validate_only: bool = False,
        force: bool = False,
    ) -> EventDefinition:
        """Update a definition. Events and automations keep a former name.

        Raise DefinitionNotFound, DefinitionDeleted, EtagMismatch, InvalidName, DefinitionAlreadyExists,
        InvalidDescription, InvalidSchema, IncompatibleSchema, TooManyRevisions and, without force, ConditionsBroken.
        """
        return await self._update(
            caller,
            "UpdateEventDefinition",
            lambda connection: definition_store.update_definition(
                connection, caller.project_id, name_or_id, changes, etag, str(uuid7()), now_micros()
            ),
            validate_only=validate_only,
            force=force,
        )

    async def rollback(
        self,
        caller: Caller,
        name_or_id: str,
        number: int,
        etag: str,
        *,
        validate_only: bool,
        force: bool,
    ) -> EventDefinition:
        """Create a revision with the schema of an old one, unless the latest has it. What is personal stays so.

        Raise DefinitionNotFound, DefinitionDeleted, EtagMismatch, RevisionNotFound, InvalidSchema, IncompatibleSchema,
        TooManyRevisions and, without force, ConditionsBroken.
        """
        return await self._update(
            caller,
            "RollbackRevision",
            lambda connection: definition_store.rollback_revision(
                connection, caller.project_id, name_or_id, number, etag, now_micros()
            ),
            validate_only=validate_only,
            force=force,
        )

    async def delete(self, caller: Caller, name_or_id: str, etag: str, *, unless_used: bool = False) -> EventDefinition:
        """Delete a definition, softly; with `unless_used` only one of which no automation is active.

        Raise DefinitionNotFound, DefinitionDeleted, EtagMismatch and DefinitionInUse.
        """

        def delete(connection: Connection, record: AuditRecorder) -> EventDefinition:
            before = definition_store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
            deleted = definition_store.delete_definition(connection, caller.project_id, name_or_id, etag, now_micros())
            if unless_used and (count := active_automations(connection, caller.project_pk, deleted.name)):
                raise DefinitionInUse(deleted.name, count)
            record(connection, caller.project_pk, before, deleted)
            return deleted

        return await self._catalog.change(caller.project_pk, "DeleteEventDefinition", delete)

    async def undelete(self, caller: Caller, definition_id: str, etag: str) -> EventDefinition:
        """Restore a deleted definition.

        Raise DefinitionNotFound, DefinitionNotDeleted, DefinitionAlreadyExists, TooManyDefinitions and EtagMismatch.
        """

        def undelete(connection: Connection, record: AuditRecorder) -> EventDefinition:
            before = definition_store.get_definition(connection, caller.project_id, definition_id, deleted=True)
            restored = definition_store.undelete_definition(
                connection, caller.project_id, definition_id, etag, now_micros()
            )
            record(connection, caller.project_pk, before, restored)
            return restored

        return await self._catalog.change(caller.project_pk, "UndeleteEventDefinition", undelete)

    async def revisions(self, caller: Caller, name_or_id: str, request: PageRequest) -> Page[Revision]:
        """List the revisions of a definition, newest first. Raise DefinitionNotFound."""
        limit = request.limit()

        def work(connection: Connection) -> tuple[object, list[Revision], bool]:
            definition = definition_store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
            filters = "revisions", definition.id
            (before,) = request.cursor(filters, int, most=definition_store.MAX_REVISIONS) or (None,)
            return filters, *revision_store.revision_page(connection, definition.id, limit, before)

        filters, found, more = await self._database.read(work)
        return request.page(found, filters, lambda revision: (revision.number,), more=more)

    async def revision(self, caller: Caller, name_or_id: str, number: int) -> Revision:
        """Read one revision of a definition. Raise DefinitionNotFound and RevisionNotFound."""

        def work(connection: Connection) -> Revision:
            definition = definition_store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
            return revision_store.get_revision(connection, definition.id, number)

        return await self._database.read(work)

    async def check(
        self, caller: Caller, name_or_id: str, candidate: Schema, rule: Compatibility | None
    ) -> CompatibilityVerdict:
        """Check a candidate by a rule, the definition's own if None. Raise DefinitionNotFound and InvalidSchema."""
        check_schema(candidate)

        def work(connection: Connection) -> CompatibilityVerdict:
            definition = definition_store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
            applied = rule or definition.compatibility
            found = definition_store.incompatibilities(connection, definition, applied, candidate)
            return CompatibilityVerdict(applied, found, not same_schema(candidate, definition.schema))

        return await self._database.read(work)

    async def schema(self, caller: Caller, name_or_id: str, revision: int) -> Schema:
        """Read the schema of a revision, 0 for the latest. Raise DefinitionNotFound and RevisionNotFound."""

        def work(connection: Connection) -> Schema:
            definition = definition_store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
            return revision_store.get_schema(connection, definition, revision)

        return await self._database.read(work)

    async def earlier_marks(self, caller: Caller, name: str) -> Marks:
        """Read which properties earlier revisions of a name declare as personal, also of deleted definitions."""
        return await self._database.read(
            lambda connection: revision_store.earlier_marks(connection, caller.project_id, name)
        )

    async def dependents(self, caller: Caller, name_or_id: str, request: PageRequest) -> Page[Dependent]:
        """List the dependents of a definition: automations, oldest first, then the revisions of its recent events.

        Raise DefinitionNotFound.
        """
        limit = request.limit()

        def work(connection: Connection) -> tuple[object, list[Dependent]]:
            definition = definition_store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
            filters = "dependents", definition.id
            after_id, before = request.cursor(filters, str, int, most=definition_store.MAX_REVISIONS) or ("", 0)
            key, found = caller.project_pk, list[Dependent]()
            if not before:
                found += reading_automations(connection, key, definition, limit + 1, after_id)
            if len(found) <= limit:
                found += log.traffic(connection, key, definition, limit + 1 - len(found), before or None)
            return filters, found

        filters, found = await self._database.read(work)
        return request.page(found, filters, _cursor)

    async def _update(
        self,
        caller: Caller,
        action: str,
        work: Callable[[Connection], tuple[EventDefinition, EventDefinition]],
        *,
        validate_only: bool,
        force: bool,
    ) -> EventDefinition:
        """Update a definition; `work` returns it before and after. Raise ConditionsBroken without force."""
        project_pk = caller.project_pk
        automations = (await self._catalog.load(project_pk)).automations
        ahead: SchemaErrors | None = None
        if not force and len(automations.conditions) > _FEW_CONDITIONS:
            old, new = await self._catalog.change(
                project_pk, action, lambda connection, _record: work(connection), dry_run=True
            )
            ahead = SchemaErrors(old.schema, new.schema, automations.conditions)
            await self._catalog.thread.run_in_slices(project_pk, ahead.proceed)

        def update(connection: Connection, record: AuditRecorder) -> EventDefinition:
            before, after = work(connection)
            if not force:
                check_conditions(connection, project_pk, before, after, automations, ahead)
            record(connection, project_pk, before, after)
            return after

        return await self._catalog.change(project_pk, action, update, dry_run=validate_only)


def _cursor(dependent: Dependent) -> tuple[str, int]:
    return (dependent.automation.id, 0) if isinstance(dependent, ReadingAutomation) else ("", dependent.revision)
