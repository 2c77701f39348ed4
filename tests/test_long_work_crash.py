"""Long work whose process is killed continues after a restart, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from server.services import erasures
from server.storage.sqlite.backups import compact_sqlite
from signalbox.v1 import contacts_pb2, projects_pb2
from tests.support.automations import automate
from tests.support.command_line import ENVIRONMENT, PROGRAM
from tests.support.consumers import EARLIEST, pull, subscribe
from tests.support.messages import ADA, event
from tests.support.process import server_process
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.support.service import Client
    from tests.support.stores import Store

EVENTS = 2_000
KEPT = {"alembic_version", "audit_entry", "schema_migration", "server_secret", "server_setting", "used_key"}
"""The tables that have rows without any project."""
FREE_MEGABYTES = 40


async def filled(store: Store) -> Client:
    """Make a project with EVENTS events about Ada that start runs, of which a few are being delivered."""
    async with serving(store.url) as service:
        shop = await service.shop()
        await automate(shop)
        await subscribe(shop, start=EARLIEST)
        for _ in range(EVENTS // 500):
            await shop.send_all([event({"order_total": number}) for number in range(500)])
        assert await pull(shop, 100)
        return shop


async def count(store: Store) -> int:
    """Return the number of events."""
    ((found,),) = await store.rows("(SELECT count(*) FROM event) AS counted")
    return int(found)


async def position(store: Store) -> int | None:
    """Return where the erasure is; None if there is none."""
    pending = await store.rows("contact_erasure")
    return pending[0][6] if pending else None


def kill_compacting(url: str, log: Path) -> None:
    """Compact a database, and kill the command when it has begun to write the database anew."""
    compacting = subprocess.Popen([*PROGRAM, "compact", "--database", url], env=ENVIRONMENT)
    while not log.exists() or log.stat().st_size < 1_000_000:
        assert compacting.poll() is None
        time.sleep(0.001)
    compacting.kill()
    assert compacting.wait() < 0


async def ending(call: Awaitable[object]) -> None:
    """Wait for a call whose server may be killed."""
    with suppress(grpc.aio.AioRpcError):
        await call


async def test_the_deletion_of_a_project_goes_on_after_a_kill(store: Store, tmp_path: Path) -> None:
    shop = await filled(store)
    async with server_process(store.url, tmp_path) as server:
        found = await server.service.admin.projects.GetProject(projects_pb2.GetProjectRequest(project=shop.project))
        named = projects_pb2.DeleteProjectRequest(project=shop.project, confirm_name=found.project.name)
        await server.service.admin.projects.DeleteProject(named)
        while await count(store) == EVENTS:  # noqa: ASYNC110 - it must be asked
            await asyncio.sleep(0.002)
        server.kill()
        await server.exit_code()
        left = await count(store)
    assert 0 < left < EVENTS
    async with serving(store.url), asyncio.timeout(30):
        while await store.rows("project"):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    assert {table for table, _ in await store.all_rows()} <= KEPT


# On SQLite, `test_cli_erasure.py` does the same by commands.
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_an_erasure_goes_on_after_a_kill(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By then, another server may not take it for one that is in progress.
    monkeypatch.setattr(erasures, "LOOK_SECONDS", 0.2)
    shop = await filled(store)
    async with server_process(store.url, tmp_path) as server:
        client = server.service.client(shop.secret)
        erasing = asyncio.create_task(ending(client.contacts.EraseContact(contacts_pb2.EraseContactRequest(email=ADA))))
        while await position(store) in (None, 0):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.002)
        server.kill()
        await erasing
        await server.exit_code()
    assert 0 < (await position(store) or 0) < EVENTS
    async with serving(store.url) as service, asyncio.timeout(30):
        while await position(store) is not None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
        log = await service.client(shop.secret).log()
        assert len(log) == EVENTS
        assert all(each.HasField("erased_at") and not each.properties for each in log)
        assert await pull(service.client(shop.secret)) == []
    assert not [row for table, row in await store.all_rows() if ADA in str(row)]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_compaction_that_is_killed_loses_nothing_and_can_be_repeated(store: Store) -> None:
    file = Path(store.url.removeprefix("sqlite:///"))
    await filled(store)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE filler (number INTEGER, content BLOB)")
        rows = ((number, bytes([number]) * 1_000_000) for number in range(2 * FREE_MEGABYTES))
        connection.executemany("INSERT INTO filler VALUES (?, ?)", rows)
        connection.execute("DELETE FROM filler WHERE number % 2 = 0")
    before = await store.all_rows()
    kill_compacting(store.url, Path(f"{file}-wal"))
    assert await store.all_rows() == before
    sizes = compact_sqlite(file)
    assert sizes.before - sizes.after > FREE_MEGABYTES * 900_000
    assert await store.all_rows() == before
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM filler").fetchone() == (FREE_MEGABYTES,)
