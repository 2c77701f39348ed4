"""Shutdown: the server is unready first, then ends, and calls in progress are answered."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.errors import Stopping
from server.process.shutdown import until
from signalbox.v1 import projects_pb2
from tests.support.command_line import ENVIRONMENT, forker
from tests.support.process import server_process
from tests.support.refusals import refusal
from tests.support.service import Client, http_client, serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Service
    from tests.support.stores import Store

SEND = "/v1/events/send"
BODY = {"eventName": "order_completed", "email": "ada@example.com", "eventProperties": {"order_total": 1}}
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


async def rest_headers(service: Service, shop: Client) -> dict[str, str]:
    secret = await service.secret(shop.project, projects_pb2.DIALECT_AUTOSEND)
    return {"authorization": f"Bearer {secret}"}


async def test_a_call_that_cannot_finish_in_time_is_unavailable_and_not_cancelled(
    database_url: str, store: Store
) -> None:
    async with AsyncExitStack() as server:
        service = await server.enter_async_context(serving(database_url, grace_seconds=0.2))
        shop = await service.shop()
        headers = await rest_headers(service, shop)
        async with http_client(service.http_address) as http:
            # The first request loads modules, which holds the loop while the server would accept the calls.
            await http.get("/healthz")
            async with store.held():
                sending = asyncio.create_task(refusal(shop.send()))
                posting = asyncio.create_task(http.post(SEND, json=BODY, headers=headers))
                await asyncio.sleep(0.3)
                stopping = asyncio.create_task(server.aclose())
                refused, answer = await sending, await posting
        await stopping
    assert (refused.code, refused.reason) == (StatusCode.UNAVAILABLE, "SERVER_STOPPING")
    assert "same idempotency key" in refused.message
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["connection"]) == (503, "1", "close")


@on_sqlite
async def test_a_stopping_server_is_unready_and_keeps_serving_until_a_second_signal(
    database_url: str, tmp_path: Path
) -> None:
    async with server_process(database_url, tmp_path, "--drain", "100") as server:
        service = server.service
        shop = await service.shop()
        headers = await rest_headers(service, shop)
        async with http_client(service.http_address) as http:
            kept_open = await http.post(SEND, json=BODY, headers=headers)
            server.terminate()
            health: Any = health_pb2_grpc.HealthStub(service.channel)
            while (await health.Check(health_pb2.HealthCheckRequest())).status != NOT_SERVING:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert (await http.get("/readyz")).json() == {"status": "stopping"}
            closing = await http.post(SEND, json=BODY, headers=headers)
            assert (await shop.send()).event.position == 3
        assert (kept_open.headers.get("connection"), closing.headers.get("connection")) == (None, "close")
        server.terminate()
        assert await server.exit_code() == 130


def test_a_signal_ends_a_start_that_waits_for_the_database(tmp_path: Path) -> None:
    file = tmp_path / "server.log"
    with socket.create_server(("127.0.0.1", 0)) as silent, file.open("wb") as log, open(os.devnull) as nothing:
        silent.settimeout(20)
        database = f"postgresql://ada@127.0.0.1:{silent.getsockname()[1]}/shop"
        words = ("serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--database", database)
        files = (nothing.fileno(), log.fileno(), log.fileno())
        process = forker.start(words, ENVIRONMENT, tmp_path, files, "")
        with silent.accept()[0]:
            process.terminate()
            assert process.wait(timeout=5) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["event"], line.get("signal")) for line in lines] == [("stopping", "SIGTERM"), ("stopped", None)]


async def test_work_that_ends_before_the_event_is_answered() -> None:
    async def work() -> str:
        return "done"

    event = asyncio.Event()
    assert await until(event, work()) == "done"
    event.set()
    finished = asyncio.ensure_future(work())
    await finished
    assert await until(event, finished) == "done"


async def test_work_is_cancelled_and_cleaned_up_before_the_caller_goes_on() -> None:
    steps = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    with pytest.raises(Stopping):
        await until(event, work())
    caller = asyncio.create_task(until(asyncio.Event(), work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert steps == ["cleaned up", "cleaned up"]


async def test_a_server_that_cannot_start_leaves_nothing_running(database_url: str) -> None:
    before = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        async with serving(database_url, http=f"127.0.0.1:{taken.getsockname()[1]}"):
            pass
    assert [task.get_coro() for task in asyncio.all_tasks() - before if not task.done()] == []
