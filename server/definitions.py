"""The event definitions of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uuid_utils import uuid7

from registry import store
from registry.timestamps import now_micros
from server.dependents import check_conditions
from server.storage.database import finished
from server.storage.projects import advance_catalog

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from registry.definitions import EventDefinition, Revision
    from registry.schema import Compatibility, Schema
    from registry.store import DefinitionChanges
    from server.access import Caller
    from server.catalog import Catalog
    from server.paging import Page, PageRequest
    from server.storage.database import Database


class _DryRun(Exception):
    """Rolls a change back that was only to be checked, keeping what it would have given."""

    def __init__(self, definition: EventDefinition) -> None:
        self.definition = definition


class Definitions:
    """Keeps definitions; every change is seen by the next event that is judged."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    async def create(
        self,
        caller: Caller,
        name: str,
        description: str,
        schema: Schema,
        compatibility: Compatibility,
        *,
        validate_only: bool = False,
    ) -> EventDefinition:
        """Define an event. Raises InvalidName, InvalidSchema, DefinitionAlreadyExists and TooManyDefinitions."""
        return await self._change(
            caller,
            lambda connection: store.create_definition(
                connection, caller.project_id, str(uuid7()), name, description, schema, compatibility, now_micros()
            ),
            validate_only=validate_only,
        )

    async def get(self, caller: Caller, name_or_id: str) -> EventDefinition:
        """Read a definition; a deleted one by id alone. Raises DefinitionNotFound."""
        return await self._database.read(
            lambda connection: store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
        )

    async def list(
        self, caller: Caller, request: PageRequest, search: str = "", *, show_deleted: bool = False
    ) -> Page[EventDefinition]:
        """List definitions, newest first; `search` is a part of the name, in any ASCII case."""
        limit, filters = request.limit(), (caller.project_id, search, show_deleted)
        after = request.cursor(filters, int, str)
        found = await self._database.read(
            lambda connection: store.list_definitions(
                connection, caller.project_id, limit=limit + 1, after=after, show_deleted=show_deleted, search=search
            )
        )
        return request.page(found, filters, lambda definition: (definition.created_at, definition.id))

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
        """Change a definition.

        Raises DefinitionNotFound, DefinitionDeleted, EtagMismatch and InvalidSchema, and ConditionsBroken without
        force.
        """
        return await self._change_schema(
            caller,
            name_or_id,
            lambda connection: store.update_definition(
                connection, caller.project_id, name_or_id, changes, etag, now_micros()
            ),
            validate_only=validate_only,
            force=force,
        )

    async def delete(self, caller: Caller, name_or_id: str, etag: str) -> EventDefinition:
        """Delete a definition, softly. Raises DefinitionNotFound and EtagMismatch."""
        return await self._change(
            caller,
            lambda connection: store.delete_definition(connection, caller.project_id, name_or_id, etag, now_micros()),
        )

    async def undelete(self, caller: Caller, definition_id: str, etag: str) -> EventDefinition:
        """Bring a deleted definition back.

        Raises DefinitionNotFound, DefinitionNotDeleted, DefinitionAlreadyExists, TooManyDefinitions and EtagMismatch.
        """
        return await self._change(
            caller,
            lambda connection: store.undelete_definition(
                connection, caller.project_id, definition_id, etag, now_micros()
            ),
        )

    async def revisions(self, caller: Caller, name_or_id: str, request: PageRequest) -> Page[Revision]:
        """List the revisions of a definition, newest first. Raises DefinitionNotFound."""
        limit, filters = request.limit(), (caller.project_id, name_or_id)
        (before,) = request.cursor(filters, int) or (None,)

        def work(connection: Connection) -> list[Revision]:
            definition = store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
            return store.list_revisions(connection, definition.id, limit + 1, before)

        found = await self._database.read(work)
        return request.page(found, filters, lambda revision: (revision.number,))

    async def revision(self, caller: Caller, name_or_id: str, number: int) -> Revision:
        """Read one revision of a definition. Raises DefinitionNotFound and RevisionNotFound."""

        def work(connection: Connection) -> Revision:
            definition = store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
            return store.get_revision(connection, definition.id, number)

        return await self._database.read(work)

    async def _change_schema(
        self,
        caller: Caller,
        name_or_id: str,
        work: Callable[[Connection], EventDefinition],
        *,
        validate_only: bool,
        force: bool,
    ) -> EventDefinition:
        """Change a definition; without force only if no condition in use breaks by it."""

        def change(connection: Connection) -> EventDefinition:
            before = store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
            after = work(connection)
            if not force:
                check_conditions(connection, caller.project_key, before, after)
            return after

        return await self._change(caller, change, validate_only=validate_only)

    async def _change(
        self, caller: Caller, work: Callable[[Connection], EventDefinition], *, validate_only: bool = False
    ) -> EventDefinition:
        def change(connection: Connection) -> EventDefinition:
            advance_catalog(connection, caller.project_key)
            definition = work(connection)
            if validate_only:
                raise _DryRun(definition)
            return definition

        async def changed() -> EventDefinition:
            definition = await self._database.write(change)
            self._catalog.forget(caller.project_key)
            return definition

        try:
            return await finished(changed())
        except _DryRun as dry:
            return dry.definition
