"""Whether an event can be stored: in virtual time, then with databases that fail, are locked, or freeze."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from grpc import StatusCode
from structlog.testing import capture_logs

from server.errors import (
    InternalError,
    StorageBusy,
    StorageError,
    StorageFailed,
    StorageFull,
    StorageLate,
    StorageUnavailable,
)
from server.logs import outages
from server.logs.outages import Outages
from server.storage.health import (
    DOUBT_SECONDS,
    LATE_SECONDS,
    PROBE_SECONDS,
    REPAIR_SECONDS,
    TICK_SECONDS,
    StorageHealth,
)
from signalbox.v1.automations_pb2 import AwaitEventRequest, PauseAutomationRequest
from signalbox.v1.contacts_pb2 import UpsertContactRequest
from signalbox.v1.match_stream_pb2 import AcknowledgeMatchesRequest
from signalbox.v1.projects_pb2 import DIALECT_RESEND
from tests.support.clusters import created, health, states_of, url_of
from tests.support.messages import event
from tests.support.postgres import find_binaries, running_cluster
from tests.support.refusals import refusal
from tests.support.service import serving
from tests.support.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.late_commits

NEVER = 1_000.0


class Probed:
    """A database whose checks take the given seconds, and end with the given error."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.error: StorageError | None = None
        self.checks: list[float] = []

    async def check(self) -> None:
        self.checks.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error


class Watched:
    """A health in virtual time, and what it calls."""

    def __init__(self) -> None:
        self.database = Probed()
        database: Any = self.database
        loop = asyncio.get_running_loop()
        self.health = StorageHealth(database, Outages())
        self.late: list[float] = []
        self.doubt: list[float] = []
        self.ready: list[tuple[float, bool]] = []
        self.health.on_late(lambda: self.late.append(loop.time()), lambda: self.doubt.append(loop.time()))
        self.health.on_change(self._report)
        self.health.start()

    async def _report(self, *, ready: bool) -> None:
        self.ready.append((asyncio.get_running_loop().time(), ready))

    async def until(self, seconds: float) -> None:
        await asyncio.sleep(seconds - asyncio.get_running_loop().time())


def in_virtual_time(work: Callable[[Watched], Coroutine[Any, Any, None]]) -> Watched:
    async def watched() -> Watched:
        made = Watched()
        await work(made)
        await made.health.close()
        return made

    loop = VirtualTimeLoop()
    try:
        with patch.object(outages, "monotonic", loop.time):
            return loop.run_until_complete(watched())
    finally:
        loop.close()


def test_a_probe_writes_once_a_second_while_nothing_is_committed_and_not_beside_a_commit() -> None:
    async def idle_then_busy(watched: Watched) -> None:
        await watched.until(10)
        assert 9 <= len(watched.database.checks) <= 10
        for _ in range(100):
            watched.health.commit_began(0)
            await asyncio.sleep(0.1)
            watched.health.commit_ended()
        assert len(watched.database.checks) <= 11

    watched = in_virtual_time(idle_then_busy)
    assert (watched.ready, watched.late) == ([], [])


def test_a_commit_that_does_not_end_refuses_sends_within_a_second_and_answers_its_own_within_three() -> None:
    async def stuck(watched: Watched) -> None:
        watched.health.commit_began(0.01)
        await watched.until(0.9)
        watched.health.check_open()
        await watched.until(LATE_SECONDS + TICK_SECONDS)
        with pytest.raises(StorageLate):
            watched.health.check_open()
        with pytest.raises(StorageLate):
            await watched.health.check()
        await watched.until(20)
        watched.health.commit_ended()
        watched.health.check_open()
        await watched.health.check()
        await watched.until(21)

    watched = in_virtual_time(stuck)
    assert watched.late[0] <= LATE_SECONDS + TICK_SECONDS
    assert LATE_SECONDS < watched.doubt[0] <= DOUBT_SECONDS + TICK_SECONDS
    assert [ready for _, ready in watched.ready] == [False, True]


def test_a_large_commit_has_the_time_that_it_needs() -> None:
    async def large(watched: Watched) -> None:
        watched.health.commit_began(2)
        await asyncio.sleep(6)
        watched.health.commit_ended()
        await asyncio.sleep(1)

    assert not in_virtual_time(large).late


def test_after_a_failure_that_came_late_sends_are_refused_until_a_probe_succeeds() -> None:
    async def frozen(watched: Watched) -> None:
        watched.database.error, watched.database.seconds = StorageUnavailable(), 2.0
        watched.health.commit_began(0)
        await watched.until(10)
        watched.health.commit_ended(StorageUnavailable())
        for _ in range(50):
            await asyncio.sleep(0.2)
            assert watched.health.blocked
        watched.database.error, watched.database.seconds = None, 0.0
        await asyncio.sleep(2 + 2 * PROBE_SECONDS)
        watched.health.check_open()
        await watched.health.check()

    in_virtual_time(frozen)


def test_while_commits_fail_quickly_each_send_gets_its_own_reason() -> None:
    async def failing(watched: Watched) -> None:
        watched.health.commit_began(0)
        watched.health.commit_ended(StorageBusy())
        watched.health.check_open()
        with pytest.raises(StorageBusy):
            await watched.health.check()
        watched.health.commit_began(0)
        watched.health.commit_ended(InternalError())
        await watched.health.check()

    in_virtual_time(failing)


@pytest.mark.parametrize("error", [StorageFull(), StorageFailed()])
def test_a_probe_that_succeeds_does_not_end_what_has_to_be_repaired_at_once(error: StorageError) -> None:
    async def failed(watched: Watched) -> None:
        watched.health.commit_began(0)
        watched.health.commit_ended(error)
        await watched.until(REPAIR_SECONDS - 1)
        assert watched.health.problem is error
        await watched.until(REPAIR_SECONDS + 2)
        assert watched.health.problem is None

    in_virtual_time(failed)


def test_an_outage_is_a_line_at_its_start_one_a_minute_and_one_at_its_end() -> None:
    async def outage(watched: Watched) -> None:
        watched.database.error = StorageUnavailable()
        for _ in range(1_500):
            watched.health.commit_began(0)
            watched.health.commit_ended(StorageUnavailable())
            watched.health.outages.report("timeouts", StorageUnavailable())
            await asyncio.sleep(0.1)
        watched.database.error = None
        watched.health.outages.succeeded("timeouts")
        await asyncio.sleep(10)

    with capture_logs() as logs:
        in_virtual_time(outage)
    assert [each["event"] for each in logs] == [
        "storage_outage",
        *["storage_outage_lasts"] * 2,
        "storage_outage_over",
    ]
    assert logs[-1]["failures"]["commit"] == logs[-1]["failures"]["timeouts"] == 1_500
    assert 149 <= logs[-1]["seconds"] <= 152


# With real databases


async def ready(service: Service) -> tuple[str, bool]:
    return await states_of(service)


@asynccontextmanager
async def reached(service: Service, status: str, seconds: float) -> AsyncIterator[None]:
    """Wait, after what is done in the context, until a server reports a status, for some seconds at most."""
    yield
    async with asyncio.timeout(seconds):
        while await ready(service) != (status, status == "ready"):  # noqa: ASYNC110 - a page has no event
            await asyncio.sleep(0.05)


async def test_a_held_lock_is_reported_within_two_seconds_and_its_end_at_once(service: Service, store: Store) -> None:
    shop = await service.shop()
    await shop.send()
    assert await ready(service) == ("ready", True)
    with capture_logs() as logs:
        async with store.held():
            under_way = asyncio.create_task(refusal(shop.send(event(key="k"))))
            async with asyncio.timeout(2 * LATE_SECONDS + 4):
                while not (late := await refused_late(shop)):  # noqa: ASYNC110 - a refusal has no event
                    await asyncio.sleep(0.05)
            assert late <= 0.5
            page, serving_now = await ready(service)
            assert page != "ready"
            assert not serving_now
            told = await under_way
            assert told.code is StatusCode.UNAVAILABLE
            assert told.retry_after
            assert "stored" in told.message
        async with reached(service, "ready", 10):
            pass
        for key in ("k", "other"):
            await shop.send(event(key=key))
    assert len(await shop.positions()) == 3
    assert [each["event"] for each in logs if each["event"].startswith("storage_outage")][:1] == ["storage_outage"]
    assert sum(each["log_level"] == "error" for each in logs) <= 2


async def refused_late(shop: Client) -> float:
    """Send. Return how long the refusal took, if it was because of late commits."""
    begun = time.monotonic()
    refused = await refusal(shop.send(event(key="other")))
    assert refused.code is StatusCode.UNAVAILABLE
    return time.monotonic() - begun if refused.reason == "STORAGE_LATE" else 0.0


async def test_an_idle_server_notices_that_nothing_can_be_written(service: Service, store: Store) -> None:
    async with store.held():
        async with asyncio.timeout(10):
            while (await ready(service))[0] == "ready":  # noqa: ASYNC110 - a page has no event
                await asyncio.sleep(0.05)
    async with reached(service, "ready", 10):
        pass


async def test_a_frozen_postgresql_is_reported_within_seconds(tmp_path: Any) -> None:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    with running_cluster(binaries) as cluster:
        async with serving(url_of(cluster, database=await created(cluster))) as service:
            shop = await service.shop()
            secret = await service.secret(shop.project, DIALECT_RESEND)
            await shop.send()
            await service.http.get("/contacts", headers={"authorization": f"Bearer {secret}"})
            cluster.freeze()
            try:
                begun = time.monotonic()
                first, late = await asyncio.gather(refusal(shop.send(event(key="k"))), heard(shop))
                assert time.monotonic() - begun < DOUBT_SECONDS + 3
                assert (first.reason, late.reason) == ("STORAGE_UNAVAILABLE", "STORAGE_LATE")
                assert "may have stored" in first.message
                assert "Nothing of this request was stored" in late.message
                assert (await service.http.get("/readyz")).json() == {"status": "database not responding"}
                assert not await health(service, "signalbox.v1.EventIngest")
                await check_writes_are_refused_at_once(service, shop, secret)
            finally:
                cluster.thaw()
            async with reached(service, "ready", 20):
                pass
            await shop.send(event(key="k"))
            assert len(await shop.positions()) == 2


async def check_writes_are_refused_at_once(service: Service, shop: Client, secret: str) -> None:
    begun = time.monotonic()
    calls: list[Any] = [
        shop.contacts.UpsertContact(UpsertContactRequest(email="a@example.com")),
        shop.automations.PauseAutomation(PauseAutomationRequest(id="x")),
        shop.automations.AwaitEvent(AwaitEventRequest(run_id="x")),
        shop.matches.AcknowledgeMatches(AcknowledgeMatchesRequest(subscription="x")),
    ]
    assert [(await refusal(call)).reason for call in calls] == ["STORAGE_LATE"] * len(calls)
    rest = await service.http.post("/contacts", json={}, headers={"authorization": f"Bearer {secret}"})
    assert (rest.status_code, rest.headers["retry-after"]) == (503, "1")
    assert time.monotonic() - begun < 1.0


async def heard(shop: Client) -> Any:
    """Send once the first send is under way, and return how it is refused."""
    await asyncio.sleep(0.2)
    return await refusal(shop.send())
