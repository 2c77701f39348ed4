"""The generated types of a project: its definitions as messages with lasting field numbers, and as JSON Schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from registry.codegen.json_schema import json_schema
from registry.errors import DefinitionNotFound, InvalidName, RevisionNotFound
from registry.names import check_event_name
from registry.storage import definition_store, revision_store
from registry.storage.definition_store import MAX_LIVE_DEFINITIONS
from server.paging import PageRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import Connection

    from registry.codegen.field_numbers import MessageLayout
    from registry.definitions.event_definitions import EventDefinition
    from registry.definitions.schema import Schema
    from server.auth.caller import Caller
    from server.ingest.catalog import Catalog, CatalogSnapshot
    from server.paging import Page
    from server.storage.database import Database


class RevisionKey(NamedTuple):
    """Identifies a revision, whose content never changes within one epoch of the database."""

    definition_id: str
    number: int
    event_name: str


@dataclass(frozen=True, slots=True)
class GeneratedType:
    """The source of the message of one revision; `place` orders definitions by age."""

    place: tuple[int, str]
    event_name: str
    description: str
    schema: Schema
    layout: MessageLayout


class GeneratedTypes:
    """Returns generated types."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    @property
    def epoch(self) -> int:
        """Results may be cached until this changes."""
        return self._database.epoch

    async def latest(self, caller: Caller, names_or_ids: Iterable[str], page_token: str = "") -> Page[GeneratedType]:
        """Return the types of the latest revisions of live definitions, of all if none is named, oldest first.

        Raise DefinitionNotFound and InvalidPageToken.
        """
        named = tuple(dict.fromkeys(names_or_ids))
        request, filters = PageRequest(MAX_LIVE_DEFINITIONS, page_token), ("types", caller.project_id, named)
        after = request.cursor(filters, int, str) or (0, "")

        def work(connection: Connection) -> list[GeneratedType]:
            if named:
                found = [definition_store.get_definition(connection, caller.project_id, each) for each in named]
            else:
                found = definition_store.active_definitions(connection, caller.project_id)
            # A definition may be named twice, by its name and by its id.
            places = {(definition.created_at, definition.id): definition for definition in found}
            return [_type(connection, places[place]) for place in sorted(places) if place > after]

        return request.page(await self._database.read(work), filters, lambda last: last.place, more=False)

    async def json_schema(self, caller: Caller, name_or_id: str, revision: int) -> dict[str, Any]:
        """Return a revision, 0 for the latest, as JSON Schema. Raise DefinitionNotFound and RevisionNotFound."""

        def work(connection: Connection) -> dict[str, Any]:
            found = definition_store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
            schema = revision_store.get_schema(connection, found, revision)
            return json_schema(found.name, found.description, schema)

        return await self._database.read(work)

    async def identify(
        self, project_pk: int, revisions: Collection[tuple[str, int]]
    ) -> dict[tuple[str, int], RevisionKey | InvalidName | DefinitionNotFound | RevisionNotFound]:
        """Return the keys of revisions given by event name and number, or the error of each that does not exist."""
        snapshot = await self._catalog.load(project_pk)
        found = {each: _identified(snapshot, *each) for each in revisions}
        if any(isinstance(each, Exception) for each in found.values()):
            # Another server may have made them just now.
            snapshot = await self._catalog.current(snapshot)
            found = {each: _identified(snapshot, *each) for each in revisions}
        return found

    async def revisions(self, keys: Collection[RevisionKey]) -> dict[RevisionKey, tuple[Schema, MessageLayout]]:
        """Read the schemas and layouts of revisions."""

        def work(connection: Connection) -> dict[RevisionKey, tuple[Schema, MessageLayout]]:
            return {
                key: (
                    revision_store.get_revision(connection, key.definition_id, key.number).schema,
                    revision_store.get_layout(connection, key.definition_id, key.number),
                )
                for key in keys
            }

        return await self._database.read(work)


def _identified(
    snapshot: CatalogSnapshot, name: str, number: int
) -> RevisionKey | InvalidName | DefinitionNotFound | RevisionNotFound:
    definition = snapshot.definition(name)
    if definition is None:
        try:
            check_event_name(name)
        except InvalidName as error:
            return error
        return DefinitionNotFound(name)
    if not 1 <= number <= definition.revision:
        return RevisionNotFound(definition.id, number, "typed_properties.revision")
    return RevisionKey(definition.id, number, definition.name)


def _type(connection: Connection, definition: EventDefinition) -> GeneratedType:
    layout = revision_store.get_layout(connection, definition.id, definition.revision)
    place = (definition.created_at, definition.id)
    return GeneratedType(place, definition.name, definition.description, definition.schema, layout)
