"""Copies of the tests' first project have what the server's functions write, and keys and IDs of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support import projects
from tests.support.projects import make_project
from tests.support.stores import TABLES

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.service import Client, Service

OF_ANY = {
    ("api_key", "digest"),
    ("api_key", "created_at"),
    ("api_key", "hint"),
    ("api_key", "id"),
    ("api_key", "project_key"),
    ("project", "created_at"),
    ("project", "id"),
    ("project", "key"),
    ("project", "name"),
    ("project", "updated_at"),
    ("project_head", "catalog_version"),
    ("project_head", "project_key"),
}
OF_SHOP = {
    ("contact", "created_at"),
    ("contact", "id"),
    ("contact", "key"),
    ("contact", "project_key"),
    ("contact", "updated_at"),
    ("event_definition", "created_at"),
    ("event_definition", "id"),
    ("event_definition", "project_id"),
    ("event_definition", "updated_at"),
    ("event_definition_revision", "created_at"),
    ("event_definition_revision", "definition_id"),
}


def all_rows(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    found = {table: connection.exec_driver_sql(f"SELECT * FROM {table}").mappings() for table in TABLES}  # noqa: S608
    return {table: [dict(row) for row in rows] for table, rows in found.items()}


@pytest.mark.parametrize("shop", [False, True])
async def test_a_copy_differs_from_its_original_in_what_no_two_projects_share(
    database: Database, monkeypatch: pytest.MonkeyPatch, *, shop: bool
) -> None:
    monkeypatch.setattr(projects, "_copies", {})
    await make_project(database, "original", shop=shop)
    made = await database.read(all_rows)
    await make_project(database, "copy", shop=shop)
    differing: set[tuple[str, str]] = set()
    for table, rows in (await database.read(all_rows)).items():
        new = [row for row in rows if row not in made[table]]
        assert len(new) == (0 if table == "used_key" else len(made[table])), table
        for one, other in zip(made[table], new, strict=False):
            differing |= {(table, column) for column in one if one[column] != other[column]}
    assert differing == OF_ANY | (OF_SHOP if shop else set())


async def test_a_copied_shop_takes_events(service: Service) -> None:
    clients: list[Client] = [await service.shop() for _ in range(2)]
    assert [(await client.send()).event.position for client in clients] == [1, 1]
    assert len({client.secret for client in clients}) == 2
