"""No key is given to two rows, even after the first one is deleted: servers remember much by keys."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import BigInteger, func, select

from automation.automation_store import create_automation
from automation.automations import NewAutomation
from automation.subscriptions.store import create_subscription
from automation.tables import metadata as automation_metadata
from registry.storage.tables import metadata as registry_metadata
from server.model import Rules
from server.storage.contacts import insert_contact, insert_contacts
from server.storage.erasures.steps import begin_erasure
from server.storage.projects.projects import insert_project
from server.storage.tables import metadata as server_metadata
from tests.support.delivery_model import SUBSCRIPTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Table

    from server.storage.database import Database

NUMBERED = [
    table
    for metadata in (registry_metadata, automation_metadata, server_metadata)
    for table in metadata.sorted_tables
    for column in table.primary_key.columns
    if column.autoincrement is True and isinstance(column.type, BigInteger)
]
"""The tables whose rows the database numbers."""

_numbers = count(1)


def new_id() -> str:
    return f"00000000-0000-7000-8000-{next(_numbers):012}"


def add_project(connection: Connection, project_pk: int = 0) -> int:
    return insert_project(connection, new_id(), new_id(), Rules(), now=1).pk


def add_contact(connection: Connection, project_pk: int) -> None:
    insert_contact(connection, project_pk, new_id(), f"{new_id()}@example.com", {}, now=1)


def add_contacts(connection: Connection, project_pk: int) -> None:
    new = [(new_id(), f"{new_id()}@example.com") for _ in range(3)]
    made = insert_contacts(connection, project_pk, new, now=1)
    keys = [made[email].key for _, email in new]
    assert keys == list(range(keys[0], keys[0] + 3))


def add_automation(connection: Connection, project_pk: int) -> None:
    create_automation(connection, project_pk, new_id(), NewAutomation("greet", "order"), head=0, now=1)


def add_subscription(connection: Connection, project_pk: int) -> None:
    create_subscription(connection, replace(SUBSCRIPTION, project_pk=project_pk, id=new_id(), name=new_id()))


def add_erasure(connection: Connection, project_pk: int) -> None:
    email = f"{new_id()}@example.com"
    insert_contact(connection, project_pk, new_id(), email, {}, now=1)
    _, pending = begin_erasure(connection, project_pk, "", email, now=1)
    assert pending is not None


ADD: dict[str, list[Callable[[Connection, int], object]]] = {
    "automation": [add_automation],
    "contact": [add_contact, add_contacts],
    "contact_erasure": [add_erasure],
    "project": [add_project],
    "subscription": [add_subscription],
}


def test_every_table_with_numbered_rows_is_checked() -> None:
    assert {table.name for table in NUMBERED} == ADD.keys()


@pytest.mark.parametrize("table", NUMBERED, ids=lambda table: table.name)
async def test_the_key_of_a_deleted_row_is_not_given_to_another(database: Database, table: Table) -> None:
    def added_and_deleted(connection: Connection) -> list[tuple[int, int]]:
        """Return the first and the last key of each addition, all of whose rows are deleted before the next one."""
        project_pk, spans = add_project(connection), []
        connection.execute(server_metadata.tables["contact"].delete())
        for _ in range(2):
            for add in ADD[table.name]:
                own = table.c.key != (project_pk if table.name == "project" else 0)
                add(connection, project_pk)
                first, last = connection.execute(select(func.min(table.c.key), func.max(table.c.key)).where(own)).one()
                connection.execute(table.delete().where(own))
                spans.append((first, last))
        return spans

    spans = await database.write(added_and_deleted)
    keys = [key for first, last in spans for key in range(first, last + 1)]
    assert keys == sorted(set(keys))


@pytest.mark.parametrize("table", NUMBERED, ids=lambda table: table.name)
async def test_a_key_that_is_not_the_newest_leaves_the_numbering_as_it_is(database: Database, table: Table) -> None:
    def added(connection: Connection) -> list[int]:
        project_pk = add_project(connection)
        add = ADD[table.name][0]
        keys = []
        for _ in range(3):
            add(connection, project_pk)
            keys.append(int(connection.scalar(select(func.max(table.c.key))) or 0))
        connection.execute(table.delete().where(table.c.key == keys[1]))
        add(connection, project_pk)
        return [*keys, int(connection.scalar(select(func.max(table.c.key))) or 0)]

    first, *others = await database.write(added)
    assert others == [first + 1, first + 2, first + 3]
