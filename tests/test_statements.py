"""Statements are compiled once for all engines of a kind, and no connection looks up types."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from server.storage.statements import OPTIONS
from signalbox.v1 import projects_pb2
from tests.support.automations import automate
from tests.support.messages import MATCHES, event
from tests.support.service import serving
from tests.support.stores import PostgresBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.postgres import Cluster
    from tests.support.service import Service

NUMBER = sa.literal_column("1", sa.Integer).label("number_of_this_test")


def engine() -> sa.Engine:
    return sa.create_engine("sqlite://", poolclass=sa.NullPool, execution_options=OPTIONS)


def compiled(on: sa.Engine, statement: sa.Select[Any]) -> object:
    with on.connect() as connection:
        context: Any = connection.execute(statement).context
        return context.compiled


def test_engines_share_a_compiled_statement() -> None:
    one, other = engine(), engine()
    first = compiled(one, sa.select(NUMBER).where(NUMBER == 1))
    assert compiled(one, sa.select(NUMBER).where(NUMBER == 2)) is first
    assert compiled(other, sa.select(NUMBER).where(NUMBER == 3)) is first
    assert compiled(other, sa.select(NUMBER).where(NUMBER != 3)) is not first


def dialect(kind: Callable[[], sa.Dialect], *version: int) -> sa.Dialect:
    made = kind()
    made.server_version_info = version
    return made


def test_databases_of_another_kind_or_version_have_statements_of_their_own() -> None:
    statements = OPTIONS["compiled_cache"]
    statements[dialect(sqlite.dialect, 3, 45), "statement"] = "compiled"
    assert statements.get((dialect(sqlite.dialect, 3, 45), "statement")) == "compiled"
    assert statements.get((dialect(sqlite.dialect, 3, 46), "statement")) is None
    assert statements.get((dialect(postgresql.dialect, 3, 45), "statement")) is None
    del statements[next(key for key in statements if key[-1] == "statement")]


async def test_contacts_of_a_batch_are_stored_by_a_statement_that_is_compiled_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await service.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE)
    await shop.send_all([event(email=f"{number}@first.example") for number in range(2)])
    compiled_again: list[object] = []
    compiling = SQLCompiler.__init__

    def note(self: SQLCompiler, dialect: sa.Dialect, statement: Any, *rest: Any, **options: Any) -> None:
        compiled_again.append(statement)
        compiling(self, dialect, statement, *rest, **options)

    monkeypatch.setattr(SQLCompiler, "__init__", note)
    results = await shop.send_all([event(email=f"{number}@second.example") for number in range(3)])
    assert len({result.receipt.event.contact_id for result in results}) == 3
    assert [statement for statement in compiled_again if isinstance(statement, sa.Insert)] == []


async def test_no_connection_looks_up_types(postgres: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with aclosing(PostgresBackend(postgres)) as backend, backend.fresh(tmp_path) as store:
        for looks_up in ("_introspect_type", "_introspect_types"):
            monkeypatch.setattr(asyncpg.Connection, looks_up, lambda *_: pytest.fail("a type is looked up"))
        async with serving(store.url) as service:
            shop = await service.shop()
            await automate(shop)
            results = await shop.send_all([event()] * 3, view=MATCHES)
            assert [len(result.receipt.matches) for result in results] == [1, 1, 1]
            monkeypatch.undo()
