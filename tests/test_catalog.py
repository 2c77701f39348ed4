"""The cached catalog of each project, and its invalidation by each change."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from automation.automations import AutomationState, NewAutomation
from registry.definitions.event_definitions import NewDefinition
from registry.definitions.schema import Schema
from server.auth.caller import Caller
from server.errors import KeyInvalid
from server.ingest.catalog import Catalog
from server.model import NameCase, Rules, UndefinedEvents, UnknownContacts
from server.services.automations import Automations
from server.services.definitions import Definitions
from server.storage.projects.heads import catalog_versions
from server.storage.projects.projects import insert_project
from tests.support.plans import plans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Connection

    from server.model import Project
    from server.storage.database import Database
    from tests.support.stores import Store

# ruff: noqa: S608 - the statements are our own
RULES = Rules(UndefinedEvents.ACCEPT, UnknownContacts.CREATE)
ANY_CASE = Rules(UndefinedEvents.ACCEPT, UnknownContacts.CREATE, NameCase.INSENSITIVE)


class Node:
    """A server's catalog, and what changes it there."""

    def __init__(self, database: Database) -> None:
        self.catalog = Catalog(database)
        self._definitions = Definitions(database, self.catalog)
        self._automations = Automations(database, self.catalog)

    async def define(self, project: Project, name: str) -> None:
        caller = Caller(project.pk, project.id, frozenset())
        await self._definitions.create(caller, NewDefinition(name, Schema()))

    async def automate(self, project: Project, condition: str) -> None:
        await self._automations.create(project.pk, NewAutomation(condition, "paid", condition, AutomationState.ACTIVE))


@pytest_asyncio.fixture
async def projects(database: Database) -> list[Project]:
    def make(connection: Connection) -> list[Project]:
        return [insert_project(connection, f"id-{number}", f"{number}", RULES, 1) for number in range(2)]

    return await database.write(make)


@asynccontextmanager
async def reading_nothing() -> AsyncIterator[None]:
    with plans() as noted:
        yield
    assert noted.statements == []


async def test_concurrent_callers_share_one_read_of_a_snapshot(database: Database, projects: list[Project]) -> None:
    catalog = Catalog(database)
    assert catalog.cached(projects[0].pk) is None
    with plans() as noted:
        first, again = await asyncio.gather(catalog.load(projects[0].pk), catalog.load(projects[0].pk))
    assert again is first
    assert len([statement for statement in noted.statements if "FROM event_definition" in statement]) == 1
    async with reading_nothing():
        assert await catalog.load(projects[0].pk) is first
    assert catalog.cached(projects[0].pk) is first
    assert (first.project_pk, first.project_id) == (projects[0].pk, projects[0].id)


async def test_a_changed_catalog_is_read_again_where_it_was_changed(
    database: Database, projects: list[Project]
) -> None:
    here = Node(database)
    before, beside = [await here.catalog.load(project.pk) for project in projects]
    await here.define(projects[0], "paid")
    now = await here.catalog.load(projects[0].pk)
    assert now.version > before.version
    assert (before.definition("paid"), now.definition("paid") is None) == (None, False)
    assert await here.catalog.load(projects[1].pk) is beside
    assert beside.definition("paid") is None


async def test_another_nodes_change_is_noticed_by_refreshing_or_asking(
    database: Database, projects: list[Project]
) -> None:
    here, elsewhere = Node(database), Node(database)
    first, beside = [await here.catalog.load(project.pk) for project in projects]
    assert await here.catalog.current(first) is first
    assert await here.catalog.refresh() == {projects[0].pk: first.version, projects[1].pk: beside.version}
    assert here.catalog.cached(projects[0].pk) is first
    await elsewhere.define(projects[0], "paid")
    second = await here.catalog.current(first)
    assert second.definition("paid") is not None
    await elsewhere.define(projects[0], "seen")
    versions = await here.catalog.refresh()
    assert here.catalog.cached(projects[0].pk) is None
    assert here.catalog.cached(projects[1].pk) is beside
    third = await here.catalog.load(projects[0].pk)
    assert third.definition("seen") is not None
    assert versions == {projects[0].pk: third.version, projects[1].pk: beside.version}


async def test_a_snapshot_read_before_a_change_is_not_kept_after_it(
    database: Database, projects: list[Project]
) -> None:
    catalog = Catalog(database)
    snapshot = await catalog.load(projects[0].pk)
    invalidations = catalog.invalidations
    catalog.invalidate(projects[0].pk)
    catalog.keep(snapshot, invalidations)
    assert catalog.cached(projects[0].pk) is None
    catalog.keep(snapshot, catalog.invalidations)
    assert catalog.cached(projects[0].pk) is snapshot


async def test_automations_are_compiled_when_they_change_and_else_kept(
    database: Database, projects: list[Project]
) -> None:
    here = Node(database)
    await here.automate(projects[0], "properties.a == 1")
    first = await here.catalog.load(projects[0].pk)
    (kept,) = first.automations.conditions.values()
    await here.define(projects[0], "seen")
    second = await here.catalog.load(projects[0].pk)
    assert second is not first
    assert second.automations is first.automations
    await here.automate(projects[0], "properties.a == 2")
    third = await here.catalog.load(projects[0].pk)
    assert third.automations.conditions["properties.a == 1"] is kept
    assert len(third.automations.conditions) == 2


async def test_nothing_is_kept_of_a_project_that_was_lost(
    database: Database, store: Store, projects: list[Project]
) -> None:
    node = Node(database)
    await node.automate(projects[0], "properties.a == 1")
    before, beside = [await node.catalog.load(project.pk) for project in projects]
    lost = projects[0].pk
    for statement in (
        f"DELETE FROM automation WHERE project_key = {lost}",
        f"DELETE FROM project_head WHERE project_key = {lost}",
        f"DELETE FROM project WHERE key = {lost}",
    ):
        await store.execute(statement)
    assert await node.catalog.refresh() == {projects[1].pk: beside.version}
    assert node.catalog.cached(lost) is None
    with pytest.raises(KeyInvalid):
        await node.catalog.load(lost)
    # Its key and its version of the automations come up again.
    rules = "undefined_events, unknown_contacts, name_case, version, created_at, updated_at"
    await store.execute(
        f"INSERT INTO project (key, id, name, {rules}) SELECT {lost}, 'new', 'new', {rules} FROM project"
    )
    await store.execute(
        "INSERT INTO project_head (project_key, catalog_version, position, received_at, automations_version)"
        f" VALUES ({lost}, 1, 0, 0, {before.automations.version})"
    )
    assert not (await node.catalog.load(lost)).automations


async def test_a_project_that_is_created_during_a_refresh_is_not_forgotten(
    database: Database, projects: list[Project]
) -> None:
    async def read(work: Any, **options: Any) -> Any:
        found = await database.read(work, **options)
        if work is catalog_versions:
            created = await database.write(lambda connection: insert_project(connection, "new", "new", RULES, 1))
            await catalog.load(created.pk)
        return found

    reading: Any = SimpleNamespace(read=read)
    forgotten: list[str] = []
    catalog = Catalog(reading)
    catalog.on_forget.append(lambda project_id, _: forgotten.append(project_id))
    assert (await catalog.refresh()).keys() == {project.pk for project in projects}
    assert forgotten == []
    assert len(await database.read(catalog_versions)) == 3


async def test_among_names_that_differ_in_case_the_oldest_serves_other_spellings(
    database: Database, projects: list[Project]
) -> None:
    node = Node(database)
    for name in ("Paid", "paid"):
        await node.define(projects[0], name)
    snapshot = await node.catalog.load(projects[0].pk)
    answers = {name: snapshot.definition(name, ANY_CASE) for name in ("Paid", "paid", "PAID", "seen")}
    assert {name: found and found.name for name, found in answers.items()} == {
        "Paid": "Paid",
        "paid": "paid",
        "PAID": "Paid",
        "seen": None,
    }
    assert snapshot.definition("PAID") is None
