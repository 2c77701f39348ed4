"""Backups, their restoration, and compaction; events exported and sent again."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from server.cli.errors import Failure
from server.cli.main import run
from server.cli.startup_errors import clear_start_failures
from server.storage.backup_files import BackupError
from server.storage.migrations import names
from server.storage.sqlite.backups import back_up_sqlite, restore_sqlite
from tests.support.command_line import Server, command, serving
from tests.support.messages import orders
from tests.support.postgres import find_binaries
from tests.support.service import serving as served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.stores import Backend, Store

DEMO = ("--project", "demo")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def new_backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the backup of a new database, to be copied."""
    folder = tmp_path_factory.mktemp("backup")
    with serving(folder) as running:
        assert running("backup", f"{folder}/backup.db").code == 0
    return folder / "backup.db"


@pytest.fixture
def backup(new_backup: Path, tmp_path: Path) -> Path:
    """Return a backup of a new database, to be spoiled."""
    return Path(shutil.copy(new_backup, tmp_path))


def positions(file: Path) -> list[int]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT position FROM event ORDER BY position")]


def send(server: Server, count: int) -> None:
    line = json.dumps({"name": "order_completed", "email": "ada@example.com", "properties": {"order_total": 1}})
    assert server("event", "send", "--from", "-", *DEMO, stdin=f"{line}\n" * count).code == 0


# SQLite


def test_a_backup_beside_a_busy_server_has_everything_acknowledged_before_and_no_gap(
    server: Server, tmp_path: Path
) -> None:
    send(server, 300)
    sending = threading.Thread(target=send, args=(server, 3_000))
    sending.start()
    done = server("backup", f"{tmp_path}/backup.db", "--json")
    sending.join()
    assert (done.code, done.err) == (0, "")
    file = tmp_path / "backup.db"
    assert done.json == {"database": server.database, "file": str(file), "bytes": file.stat().st_size}
    found = positions(file)
    assert len(found) >= 300
    assert found == list(range(1, len(found) + 1))
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.db"]


def test_a_server_serves_what_was_restored(server: Server, tmp_path: Path) -> None:
    send(server, 5)
    assert server("backup", f"{tmp_path}/backup.db").code == 0
    recorded = server("event", "list", "--json", *DEMO).json
    database = f"sqlite:///{tmp_path}/signalbox.db"
    done = command("restore", f"{tmp_path}/backup.db", "--database", database)
    assert (done.code, done.out) == (0, f"{database} is restored from {tmp_path}/backup.db\n")
    shutil.copy(server.folder / "signalbox.db.admin-key", tmp_path)
    with serving(tmp_path) as restored:
        assert restored("event", "list", "--json", *DEMO).json == recorded
        send(restored, 1)


def test_a_backup_replaces_no_file(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    file.write_text("kept")
    refused = server("backup", str(file))
    assert (refused.code, refused.err) == (
        1,
        f"error: {server.database}: {file} exists: name another file, or remove it first\n",
    )
    assert file.read_text() == "kept"


def test_a_backup_that_another_command_writes_is_left_alone(server: Server, tmp_path: Path) -> None:
    partial = tmp_path / "backup.db.partial"
    partial.write_text("written")
    assert f"{partial} exists" in server("backup", f"{tmp_path}/backup.db").err
    assert partial.read_text() == "written"


@pytest.mark.parametrize("name", ["missing.db", "folder"])
def test_a_database_that_does_not_exist_is_not_backed_up(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BackupError, match=f"{name} does not exist"):
        back_up_sqlite(tmp_path / name, tmp_path / "backup.db", names())
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("words", [["backup", "copy.db"], ["compact"]])
def test_what_sqlite_cannot_do_is_a_failure_that_names_the_database(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "other.db").write_text("no database")
    files = [str(tmp_path / word) for word in words[1:]]
    failed = command(words[0], *files, "--database", f"sqlite:///{tmp_path}/other.db")
    assert failed.code == 1
    assert re.search(r"/other\.db could not be .*: file is not a database\n$", failed.err)
    assert not list(tmp_path.glob("copy*"))


def test_a_damaged_database_is_named_and_not_its_copy(backup: Path, tmp_path: Path) -> None:
    _overwrite(backup)
    with pytest.raises(BackupError, match=r"/backup\.db (is damaged|could not be copied)"):
        back_up_sqlite(backup, tmp_path / "copy.db", names())
    assert not list(tmp_path.glob("copy*"))


def test_a_copy_to_a_full_disk_names_both_files() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "backup.db", None, "signalbox.db.partial")
    with (
        pytest.raises(Failure, match=r"^backup\.db to signalbox\.db\.partial: No space left on device$"),
        clear_start_failures(""),
    ):
        raise full


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_a_backup_is_not_restored_over_a_database(backup: Path, tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "restored"
    folder.mkdir()
    (folder / f"signalbox.db{suffix}").write_text("there")
    with pytest.raises(BackupError, match=f"signalbox.db{suffix} exists: stop the server and move it away first"):
        restore_sqlite(backup, folder / "signalbox.db", names())
    assert (folder / f"signalbox.db{suffix}").read_text() == "there"


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_database_with_changes_in_another_file_is_not_restored(backup: Path, tmp_path: Path, suffix: str) -> None:
    beside = backup.with_name(backup.name + suffix)
    beside.write_bytes(b"")
    restore_sqlite(backup, tmp_path / "whole.db", names())
    beside.write_bytes(b"changes")
    with pytest.raises(BackupError, match=f"backup.db{suffix} has changes that .*backup.db lacks"):
        restore_sqlite(backup, tmp_path / "restored.db", names())
    assert not (tmp_path / "restored.db").exists()


def _cut(file: Path) -> str:
    os.truncate(file, file.stat().st_size - 4_096)
    return "is damaged|malformed"


def _overwrite(file: Path) -> str:
    with file.open("r+b") as opened:
        opened.seek(3 * 4_096)
        opened.write(b"\xff" * 40_960)
    return "is damaged|malformed"


def _replace(file: Path) -> str:
    file.write_text("no database")
    return "is not a backup of an SQLite database: it is none"


def _dump(file: Path) -> str:
    file.write_bytes(b"PGDMP\x01\x0e")
    return "it is one of PostgreSQL"


def _empty(file: Path) -> str:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE other (name TEXT)")
    return "is not a database of Signalbox: no such table: alembic_version"


def _newer(file: Path) -> str:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_later'")
    return "is of a newer version of Signalbox: it has the migration 9999_later"


@pytest.mark.parametrize("spoil", [_cut, _overwrite, _replace, _dump, _empty, _newer])
def test_a_file_that_is_no_sound_backup_is_refused(backup: Path, tmp_path: Path, spoil: object) -> None:
    expected = spoil(backup)  # type: ignore[operator]
    restored = tmp_path / "restored.db"
    with pytest.raises(BackupError, match=expected):
        restore_sqlite(backup, restored, names())
    assert not restored.exists()
    assert not (tmp_path / "restored.db.partial").exists()


def test_a_database_is_compacted_while_no_server_uses_it(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        send(running, 3_000)
        refused = running("compact")
        assert (refused.code, "holds" in refused.err) == (1, True)
        running.stop()
        with closing(sqlite3.connect(tmp_path / "signalbox.db", isolation_level=None)) as connection:
            connection.execute("DELETE FROM event WHERE position < 2900")
        sizes = command("compact", "--database", running.database, "--json").json
        assert sizes["bytes_after"] < sizes["bytes_before"] / 2
        assert sizes["bytes_after"] == (tmp_path / "signalbox.db").stat().st_size
        assert positions(tmp_path / "signalbox.db") == list(range(2_900, 3_001))


@pytest.mark.parametrize("name", ["backup", "restore", "compact"])
def test_a_url_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    file = () if name == "compact" else (str(tmp_path / "file"),)
    assert run((name, *file, "--database", "mysql://root@localhost/x")) == 1
    assert capsys.readouterr().err.startswith('error: "mysql://root@localhost/x" is not a database URL')


# PostgreSQL


@pytest_asyncio.fixture
async def shop_url(store: Store) -> str:
    async with served(store.url) as service:
        shop = await service.shop()
        await shop.send_all(orders(3))
    return store.url


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_postgresql_database_is_restored_from_its_dump(
    shop_url: str,
    store: Store,
    backend: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", f"{find_binaries()}:{os.environ['PATH']}")
    file = tmp_path / "backup.dump"
    assert await in_thread("backup", str(file), "--database", shop_url) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    async with backend.empty(tmp_path) as other:
        assert await in_thread("restore", str(file), "--database", other.url) == 0
        assert await other.all_rows() == await store.all_rows()
        assert await in_thread("restore", str(file), "--database", other.url) == 1
        async with served(other.url) as service:
            assert (await service.shop()).project
        await other.execute("DROP TABLE alembic_version")
        assert await in_thread("backup", str(tmp_path / "other.dump"), "--database", other.url) == 0
    async with backend.empty(tmp_path) as other:
        assert await in_thread("restore", str(tmp_path / "other.dump"), "--database", other.url) == 1
        assert "is not a backup of Signalbox: it has no table alembic_version" in capsys.readouterr().err
        assert await other.rows("pg_tables WHERE schemaname = 'public'") == []
    assert await in_thread("compact", "--database", shop_url) == 0


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_missing_program_of_postgresql_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await in_thread("backup", f"{tmp_path}/backup.dump", "--database", store.url) == 1
    assert "pg_dump is not installed: it is part of the client programs of PostgreSQL" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - an empty folder


async def in_thread(*arguments: str) -> int:
    return await asyncio.to_thread(run, arguments)


# Events as lines


def test_exported_events_are_sent_to_another_project_once(server: Server, tmp_path: Path) -> None:
    send(server, 7)
    file = tmp_path / "events.jsonl"
    done = server("event", "export", "--event", "order_completed", "-o", str(file), *DEMO)
    count = len(file.read_text().splitlines())
    assert (done.code, done.out, done.err) == (0, "", f"exported {count:,} events\n")
    with serving(tmp_path) as other:
        for again in (f"{count:,} accepted, 0 rejected", f"({count:,} of them duplicates), 0 rejected"):
            assert again in other("event", "send", "--from", str(file), *DEMO).out
        exported = other("event", "export", *DEMO).json_lines
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines + exported:
        del line["idempotency_key"]
    assert exported == lines


def test_an_export_without_events_is_an_empty_file(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("of yesterday")
    assert server("event", "export", "--event", "nothing", "-o", str(file), *DEMO).code == 0
    assert file.read_text() == ""


def test_an_export_begins_at_a_position(server: Server) -> None:
    send(server, 3)
    ids = [recorded["id"] for recorded in server("event", "list", "--limit", "2", "--json", *DEMO).json]
    position = server("event", "show", ids[1], "--json", *DEMO).json["position"]
    lines = server("event", "export", "--from-position", str(position), *DEMO).json_lines
    assert [line["idempotency_key"] for line in lines] == ids[::-1]
