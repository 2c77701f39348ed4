"""The files of an SQLite database may be deleted or replaced under a running server, which then stores nothing more."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from server.errors import StorageBusy, StorageReplaced
from server.storage.opening import open_database
from server.storage.sqlite import database as sqlite
from tests.support.bridge import http_client
from tests.support.process import server_process
from tests.support.refusals import refusal
from tests.support.service import serving
from tests.support.stores import migrated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.service import Service

WAIT = 10
WITHIN = 2 * sqlite.CHECK_SECONDS


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    copy.replace(path)


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def put_another(path: Path) -> bytes:
    for name in ("x.db", "x.db-wal", "x.db-shm"):
        path.with_name(name).unlink()
    path.write_bytes(b"another file")
    return b"another file"


LOSSES = [(file, lose) for file in ("x.db", "x.db-wal", "x.db-shm") for lose in (delete, replace)] + [
    ("x.db", move_folder)
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "x.db"


@pytest_asyncio.fixture(scope="module")
async def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty database to copy: to make its tables takes longer than most of these tests."""
    file = tmp_path_factory.mktemp("template") / "x.db"
    await migrated(f"sqlite:///{file}")
    return file


@pytest_asyncio.fixture
async def running(path: Path, template: Path) -> AsyncIterator[Service]:
    shutil.copy(template, path)
    async with serving(f"sqlite:///{path}") as service:
        yield service


async def readiness(service: Service) -> tuple[int, str]:
    async with http_client(service) as http:
        response = await http.get("/readyz")
        return response.status_code, response.json()["status"]


@pytest.mark.parametrize(("file", "lose"), LOSSES)
async def test_nothing_is_acknowledged_once_a_file_is_gone(
    running: Service, path: Path, file: str, lose: Callable[[Path], None]
) -> None:
    shop = await running.shop()
    await shop.send()
    # What is open stays readable; a connection that is opened later finds no file.
    assert len(await shop.log()) == 1
    with capture_logs() as logs:
        lose(path.with_name(file))
        refused = await refusal(shop.send())
        again = await refusal(shop.send())
        assert (await readiness(running))[0] == 503
        await refusal(shop.upsert("b@example.com"))
    assert (refused.code, refused.reason, refused.retry_after) == (
        grpc.StatusCode.UNAVAILABLE,
        "STORAGE_REPLACED",
        5.0,
    )
    assert again == refused
    assert f"The file {file} of the database was" in refused.message
    lines = [entry for entry in logs if entry["event"] == "database_file_lost"]
    assert [entry["path"] for entry in lines] == [str(path.with_name(file))]
    # What was stored before can still be read.
    assert len(await shop.log()) == 1


@pytest.mark.parametrize(("file", "lose"), LOSSES)
async def test_an_idle_server_notices_within_a_second(path: Path, file: str, lose: Callable[[Path], None]) -> None:
    database = await sqlite.SqliteDatabase.open(str(path))
    try:
        with capture_logs() as logs:
            lose(path.with_name(file))
            async with asyncio.timeout(WAIT):
                while not logs:  # noqa: ASYNC110 - a log does not tell
                    await asyncio.sleep(WITHIN / 10)
            with pytest.raises(StorageReplaced):
                await database.check()
    finally:
        await database.close()


async def test_a_link_that_points_to_another_file_counts_as_a_replacement(path: Path) -> None:
    link, other = path.with_name("link.db"), path.with_name("other.db")
    link.symlink_to(path)
    other.touch()
    database = await open_database(f"sqlite:///{link}")
    try:
        await database.check()
        link.unlink()
        link.symlink_to(other)
        with pytest.raises(StorageReplaced):
            await database.check()
    finally:
        await database.close()


async def test_a_replaced_file_is_left_alone_when_the_server_stops(path: Path) -> None:
    async with serving(f"sqlite:///{path}") as service:
        shop = await service.shop()
        await shop.send()
        other = put_another(path)
        await refusal(shop.send())
    assert await asyncio.to_thread(path.read_bytes) == other


async def test_a_second_server_does_not_start_beside_one_whose_lock_file_was_deleted(
    path: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{path}"
    async with server_process(url, tmp_path) as first:
        shop = await first.service.shop()
        path.with_name("x.db.lock").unlink()
        with pytest.raises(AssertionError, match="another server or process holds"):
            async with server_process(url, tmp_path):
                pass
        await shop.send()
        assert (await readiness(first.service))[0] == 200


async def test_a_deleted_lock_file_is_locked_again(path: Path) -> None:
    database = await open_database(f"sqlite:///{path}")
    lock = path.with_name("x.db.lock")
    try:
        lock.unlink()
        async with asyncio.timeout(WAIT):
            while not lock.exists():  # noqa: ASYNC110 - a file does not tell
                await asyncio.sleep(0.01)
        await database.check()
        with pytest.raises(StorageBusy):
            await open_database(f"sqlite:///{path}")
    finally:
        await database.close()
