"""Servers that are replaced one by one under a load balancer."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest

from signalbox.v1 import projects_pb2
from signalbox.v1.event_ingest_pb2_grpc import EventIngestStub
from tests.support.process import server_process
from tests.support.service import Client, http_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.process import Process
    from tests.support.service import Service

PAUSE_SECONDS = 0.02
"""With this pause, eight senders always have a call in progress, and still leave the processor to the servers."""

SEND = "/v1/events/send"
BODY = {"eventName": "order_completed", "email": "ada@example.com", "eventProperties": {"order_total": 1}}

RETRIES = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s",
    "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""

on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


async def rest_headers(service: Service, shop: Client) -> dict[str, str]:
    secret = await service.secret(shop.project, projects_pb2.DIALECT_AUTOSEND)
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.long
@on_postgresql
@pytest.mark.timeout(600)  # four starts of a server
async def test_a_rolling_restart_behind_a_balancer_fails_no_call(
    database_url: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if shutil.which("haproxy") is None:
        reason = "haproxy is not installed"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    nodes = [Node(database_url, tmp_path_factory.mktemp(name)) for name in ("a", "b")]
    async with AsyncExitStack() as stack:
        for node in nodes:
            stack.push_async_callback(node.stop)
            await node.start()
        balancer = await stack.enter_async_context(haproxy(tmp_path, nodes))
        service = nodes[0].process.service
        shop = await service.shop()
        load = Load(balancer, shop, await rest_headers(service, shop))
        loading = asyncio.create_task(load.run())
        await load.grown_by(50)
        for node in nodes:
            node.process.terminate()
            assert await node.process.exit_code() == 0
            await node.stop()
            await load.grown_by(50)
            await node.start()
            await balancer.all_up()
            await load.grown_by(50)
        load.over = True
        await loading
    assert load.failures == []


class Node:
    """A server that keeps its ports when it starts again."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.grpc, self.http = free_port(), free_port()
        self._database_url, self._folder = database_url, folder
        self._stack = AsyncExitStack()
        self.process: Process

    async def start(self) -> None:
        ports = ("--grpc", f"127.0.0.1:{self.grpc}", "--http", f"127.0.0.1:{self.http}", "--drain", "1.5")
        self.process = await self._stack.enter_async_context(server_process(self._database_url, self._folder, *ports))

    async def stop(self) -> None:
        await self._stack.aclose()


class Load:
    """Sends over gRPC and REST until it is over, and notes each call that failed for good."""

    def __init__(self, balancer: Balancer, shop: Client, headers: dict[str, str]) -> None:
        self._balancer, self._shop, self._headers = balancer, shop, headers
        self._numbers = count()
        self._done = 0
        self._grown = asyncio.Condition()
        self.over = False
        self.failures: list[str] = []

    async def run(self) -> None:
        await asyncio.gather(*(sender() for sender in (self._grpc, self._rest) for _ in range(4)))

    async def grown_by(self, calls: int) -> None:
        goal = self._done + calls
        async with self._grown:
            await self._grown.wait_for(lambda: self._done >= goal or self.failures)

    async def _note(self, failure: str = "") -> None:
        if failure:
            self.failures.append(failure)
        async with self._grown:
            self._done += 1
            self._grown.notify_all()

    async def _grpc(self) -> None:
        options = (("grpc.service_config", RETRIES), ("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._balancer.grpc}", options=options) as channel:
            client = Client(channel, self._shop.secret, self._shop.project)
            assert isinstance(client.ingest, EventIngestStub)
            while not self.over:
                await asyncio.sleep(PAUSE_SECONDS)
                try:
                    await client.send()
                except grpc.aio.AioRpcError as error:
                    await self._note(f"{error.code()}: {error.details()}")
                else:
                    await self._note()

    async def _rest(self) -> None:
        async with http_client(f"127.0.0.1:{self._balancer.http}") as http:
            while not self.over:
                await asyncio.sleep(PAUSE_SECONDS)
                try:
                    answer = await http.post(SEND, json=BODY, headers=self._headers, timeout=60)
                except httpx.HTTPError as error:
                    await self._note(repr(error))
                else:
                    await self._note("" if answer.is_success else f"{answer.status_code}: {answer.text}")


CONFIG = """
defaults
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout check 5s
    option redispatch
    option httpchk GET /readyz
frontend grpc
    mode tcp
    bind fd@{grpc}
    default_backend grpc
backend grpc
    mode tcp
    server a 127.0.0.1:{a.grpc} check port {a.http} inter 100ms fall 2 rise 1
    server b 127.0.0.1:{b.grpc} check port {b.http} inter 100ms fall 2 rise 1
frontend http
    mode http
    bind fd@{http}
    stats enable
    stats uri /balancer
    default_backend http
backend http
    mode http
    server a 127.0.0.1:{a.http} check inter 100ms fall 2 rise 1
    server b 127.0.0.1:{b.http} check inter 100ms fall 2 rise 1
"""


class Balancer:
    """haproxy before two nodes; the ports on which it listens."""

    def __init__(self, grpc_port: int, http_port: int) -> None:
        self.grpc, self.http = grpc_port, http_port

    async def all_up(self) -> None:
        """Wait until the balancer counts both nodes as ready."""
        async with http_client(f"127.0.0.1:{self.http}") as http:
            while (await http.get("/balancer;csv")).text.count(",UP,") < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@asynccontextmanager
async def haproxy(folder: Path, nodes: list[Node]) -> AsyncIterator[Balancer]:
    with listening() as grpc_socket, listening() as http_socket:
        config = folder / "haproxy.cfg"
        descriptors = (grpc_socket.fileno(), http_socket.fileno())
        config.write_text(CONFIG.format(grpc=descriptors[0], http=descriptors[1], a=nodes[0], b=nodes[1]))
        with (folder / "haproxy.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                "haproxy", "-db", "-f", config, pass_fds=descriptors, stdout=log, stderr=log
            )
        try:
            balancer = Balancer(grpc_socket.getsockname()[1], http_socket.getsockname()[1])
            await balancer.all_up()
            yield balancer
        finally:
            process.terminate()
            await process.wait()


def listening() -> socket.socket:
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    opened.listen(128)
    return opened


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port
