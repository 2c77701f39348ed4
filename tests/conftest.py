"""Fixtures that every test may use.

What takes `backend`, `store`, `database`, `service` or `shop` runs once over SQLite and once over PostgreSQL.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import structlog
import uvloop
from hypothesis import settings

from server.auth import lookup
from server.background import key_use
from server.process.runtime import collect_garbage_rarely
from server.storage import health
from server.storage.opening import open_database
from tests.support.command_line import forker
from tests.support.laws import examples
from tests.support.neighbour import Neighbourhood
from tests.support.postgres import Cluster, find_binaries, running_cluster, share_template
from tests.support.service import serving
from tests.support.stores import PostgresBackend, SqliteBackend, migrated
from tests.support.warm_connections import WarmConnections

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from server.storage.database import Database
    from tests.support.service import Client, Service
    from tests.support.stores import Backend, Store

pytest.register_assert_rewrite("tests.support.bridge")

# How long an example takes says more about the machine than about the code.
settings.register_profile("signalbox", deadline=None, max_examples=examples(100))
settings.load_profile("signalbox")


MEMORY = "/dev/shm"  # noqa: S108 - each test makes a folder of its own in it
ROOM_BYTES = 2 << 30
IDLE_WAITS = 3
IDLE_SECONDS = 0.002
IDLE_COMPUTING = 0.000_7
"""What the thread of an idle event loop computes at most while it waits IDLE_WAITS times for IDLE_SECONDS."""
BUSY_SECONDS = 5.0
"""An event loop that has not been idle for so long is busy for ever."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep the files of the tests in memory, and collect no garbage while thousands of tests are collected.

    The tests use the event loop of `signalbox serve`, which takes less time than asyncio's own.
    """
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if "TMPDIR" not in os.environ and has_room(MEMORY):
        # Processes that tests start inherit it. On a disk, tests wait for fsync half of the time.
        os.environ["TMPDIR"] = MEMORY
        tempfile.tempdir = None
    # Before the workers are started: they inherit it.
    share_template()
    if config.getoption("numprocesses", None):
        forker.share()
        config.option.tx = [forker.worker()] * len(config.option.tx)
    gc.disable()
    gc.freeze()


def has_room(folder: str) -> bool:
    """Return whether a folder can hold the files of a run, and what tests compile can be loaded from it."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    programs = not found.f_flag & os.ST_NOEXEC
    return programs and os.access(folder, os.W_OK) and found.f_bavail * found.f_frsize >= ROOM_BYTES


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from tests.support.bridge import without_repetitions  # not before its assertions can be rewritten

    kept = without_repetitions(items)
    config.hook.pytest_deselected(items=list(set(items).difference(kept)))
    items[:] = long_ones_first(kept, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def long_ones_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Let each worker begin with its share of the long tests: it gets so many items in a row.

    Otherwise one of them begins when the others end, and all cores but one have nothing to do.
    """
    long = [item for item in items if item.get_closest_marker("long")]
    short = [item for item in items if not item.get_closest_marker("long")]
    size = len(items) // workers
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        ordered += long[worker::workers]
        room = max(0, size * (worker + 1) - len(ordered))
        ordered += short[:room]
        short = short[room:]
    return ordered + short


def pytest_collection_finish() -> None:
    # The items live as long as the process: nobody looks for garbage among them.
    gc.freeze()
    gc.enable()
    collect_garbage_rarely()


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> None:
    """Log without pictures of the stack: drawing one holds the event loop for seconds."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])


@pytest.fixture(scope="module", autouse=True)
def patient_storage(request: pytest.FixtureRequest) -> Iterator[None]:
    """Allow commits more time: beside other tests a disk may take seconds. Modules about that are `late_commits`."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("late_commits") is None:
            patch.setattr(health, "LATE_SECONDS", 20.0)
            patch.setattr(lookup, "LATE_SECONDS", 20.0)
            patch.setattr(health, "DOUBT_SECONDS", 30.0)
        yield


@pytest_asyncio.fixture(scope="module", autouse=True)
async def sleeping_loop() -> AsyncIterator[None]:
    """Check that the event loop sleeps after each module: what is left busy in it slows down all later tests."""
    yield
    until = time.monotonic() + BUSY_SECONDS
    while await computed_while_waiting() > IDLE_COMPUTING:
        if time.monotonic() > until:
            pytest.fail(f"the event loop is kept busy by {await functions_called()}")


async def computed_while_waiting() -> float:
    """Return the time that this thread computes while the test waits."""
    before = time.thread_time()
    for _ in range(IDLE_WAITS):
        await asyncio.sleep(IDLE_SECONDS)
    return time.thread_time() - before


async def functions_called() -> list[str]:
    """Return the functions that the event loop calls most."""
    called: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, _: called.update([frame.f_code.co_qualname] if event == "call" else []))
    try:
        await asyncio.sleep(IDLE_SECONDS)
    finally:
        sys.setprofile(None)
    return [name for name, _ in called.most_common(5)]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    binaries = find_binaries()
    if binaries is None:
        reason = "PostgreSQL is not installed: neither initdb on the PATH nor /usr/lib/postgresql/*/bin"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    with running_cluster(binaries) as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="session", params=["sqlite", "postgresql"])
async def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    if request.param == "sqlite":
        template = tmp_path_factory.mktemp("sqlite") / "template.db"
        await migrated(f"sqlite:///{template}")
        yield SqliteBackend(template)
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    warm = WarmConnections(str(cluster.socket))
    async with warm.keeping(), aclosing(PostgresBackend(cluster, warm)) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def neighbourhood(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Neighbourhood:
    return Neighbourhood(backend, tmp_path_factory.mktemp("neighbourhood"))


@pytest_asyncio.fixture
async def store(
    request: pytest.FixtureRequest, backend: Backend, neighbourhood: Neighbourhood, tmp_path: Path
) -> AsyncIterator[Store]:
    has_neighbour = {"neighbour", "service"} <= set(request.fixturenames)
    async with neighbourhood.fresh(tmp_path) if has_neighbour else backend.fresh(tmp_path) as fresh:
        yield fresh


@pytest.fixture
def database_url(store: Store) -> str:
    return store.url


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await open_database(database_url)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def own_service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest.fixture
def service(request: pytest.FixtureRequest, backend: Backend) -> Service:
    """Run a server for the test; in modules marked `lasting`, tests that do not name their database share one."""
    found: Service = request.getfixturevalue("lasting_service" if shares_server(request) else "own_service")
    return found


@pytest.fixture
def served_store(request: pytest.FixtureRequest, backend: Backend) -> Store:
    """Return the database of `service`."""
    found: Store = request.getfixturevalue("lasting_store" if shares_server(request) else "store")
    return found


def shares_server(request: pytest.FixtureRequest) -> bool:
    own = {"store", "database", "database_url", "monkeypatch"}
    return request.node.get_closest_marker("lasting") is not None and own.isdisjoint(request.fixturenames)


@pytest_asyncio.fixture(scope="module")
async def lasting_store(
    request: pytest.FixtureRequest,
    backend: Backend,
    neighbourhood: Neighbourhood,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Store]:
    has_neighbour = any("neighbour" in mark.args for mark in request.node.iter_markers("usefixtures"))
    folder = tmp_path_factory.mktemp("lasting")
    async with neighbourhood.fresh(folder) if has_neighbour else backend.fresh(folder) as fresh:
        yield fresh


@pytest_asyncio.fixture(scope="module")
async def lasting_service(lasting_store: Store) -> AsyncIterator[Service]:
    """One server for all tests of a module that keep to projects of their own."""
    with pytest.MonkeyPatch.context() as patch:
        # It would store meanwhile when the key of the neighbour was used, whose rows are to stay as they are.
        patch.setattr(key_use, "STORE_SECONDS", 3_600.0)
        async with serving(lasting_store.url) as running:
            yield running


@pytest_asyncio.fixture
async def watched_neighbour(service: Service, served_store: Store, neighbourhood: Neighbourhood) -> AsyncIterator[None]:
    await neighbourhood.call(service)
    yield
    await neighbourhood.check(served_store)


@pytest.fixture
def neighbour(request: pytest.FixtureRequest) -> None:
    """Put a second project beside that of a test of `service`; the test must leave all its rows as they are."""
    if "service" in request.fixturenames:
        request.getfixturevalue("watched_neighbour")


@pytest_asyncio.fixture
async def shop(service: Service) -> Client:
    return await service.shop()
