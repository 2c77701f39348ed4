"""The databases that are tortured: an SQLite file, and a PostgreSQL server that can be killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tests.support.postgres import USER, children_of, find_binaries, running_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from tests.support.postgres import Cluster

START_SECONDS: Final = 60.0


class TorturedDatabase(Protocol):
    """A database under torture; `nodes` servers work on it."""

    name: str
    nodes: int

    @property
    def url(self) -> str:
        """The URL that a server is given which starts now."""
        ...

    @property
    def crashes(self) -> Mapping[str, Callable[[], None]]:
        """The ways to kill the database's own server, by name; each blocks until it serves again. A file has none."""
        ...

    async def check(self) -> None:
        """Raise AssertionError if the database reports an inconsistency."""
        ...


class SqliteFile:
    """An SQLite file, on which one server works."""

    name = "sqlite"
    nodes = 1
    crashes: Final[Mapping[str, Callable[[], None]]] = {}

    def __init__(self, folder: Path) -> None:
        self.path = folder / "signalbox.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    async def check(self) -> None:
        """Run SQLite's checks of pages, indexes and references."""
        with closing(sqlite3.connect(self.path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


class PostgresServer:
    """A PostgreSQL server with a synchronous standby; two servers of ours work on it."""

    name = "postgresql"
    nodes = 2

    def __init__(self, primary: Cluster, standby: Cluster | None) -> None:
        self._primary, self._standby = primary, standby
        hosts = ",".join(each.address for each in (primary, standby) if each)
        self.url = f"postgresql://{USER}@{hosts}/postgres"

    @property
    def crashes(self) -> Mapping[str, Callable[[], None]]:
        """Kill the server, its postmaster alone or one backend, and let it recover; or, once, promote the standby."""
        ways = {"immediate": self._end, "postmaster": self._kill_postmaster, "backend": self._kill_backend}
        return ways | {"failover": self._fail_over} if self._standby else ways

    async def check(self) -> None:
        """Compare every index with its table, where amcheck is installed."""
        await asyncio.to_thread(self._check)

    def _end(self) -> None:
        self._primary.crash()
        self._primary.start()

    def _fail_over(self) -> None:
        assert self._standby is not None
        self._primary.crash()
        self._standby.promote()
        self._primary, self._standby = self._standby, None

    def _kill_postmaster(self) -> None:
        """Kill the postmaster; the processes that it leaves notice and end, and only then may another one start."""
        postmaster = int((self._primary.socket / "data" / "postmaster.pid").read_text().splitlines()[0])
        children = children_of(postmaster)
        os.kill(postmaster, signal.SIGKILL)
        until = time.monotonic() + START_SECONDS
        while any(map(_runs, children)):
            assert time.monotonic() < until, "processes of PostgreSQL outlived their postmaster"
            time.sleep(0.02)
        self._primary.crash()
        self._primary.start()

    def _kill_backend(self) -> None:
        """Kill the process of one of our connections: the postmaster ends all others, and recovers."""
        query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'signalbox%' ORDER BY random() LIMIT 1"
        found = self._primary.execute(query)
        with suppress(ProcessLookupError):
            os.kill(int(found or self._primary.execute("SELECT pg_backend_pid()")), signal.SIGKILL)
        self._await_recovery()

    def _await_recovery(self) -> None:
        until = time.monotonic() + START_SECONDS
        while True:
            time.sleep(0.05)
            try:
                self._primary.await_true("SELECT NOT pg_is_in_recovery()")
            except RuntimeError:
                assert time.monotonic() < until, "PostgreSQL did not recover"
            else:
                return

    def _check(self) -> None:
        try:
            self._primary.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        except RuntimeError:
            return
        self._primary.execute(
            """
            SELECT bt_index_check(pg_index.indexrelid, heapallindexed => true)
            FROM pg_index JOIN pg_class ON pg_class.oid = pg_index.indexrelid
            JOIN pg_am ON pg_am.oid = pg_class.relam
            WHERE pg_am.amname = 'btree' AND pg_class.relkind = 'i' AND pg_index.indisvalid
            """
        )


def _runs(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


@asynccontextmanager
async def fresh_database(kind: str, folder: Path) -> AsyncIterator[TorturedDatabase]:
    """Make an empty database of a kind; an SQLite file lies in the folder."""
    if kind == "sqlite":
        yield SqliteFile(folder)
        return
    binaries = find_binaries()
    if binaries is None:
        raise RuntimeError("PostgreSQL is not installed: neither initdb on the PATH nor /usr/lib/postgresql/*/bin")
    with ExitStack() as stack:
        primary = await asyncio.to_thread(stack.enter_context, running_cluster(binaries))
        standby = await asyncio.to_thread(stack.enter_context, primary.standby(synchronous=True))
        yield PostgresServer(primary, standby)
