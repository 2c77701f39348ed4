"""Connections to the gRPC server that are too many, or do nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from server.api import server as grpc_server
from tests.support.raw_http2 import raw_connection
from tests.support.service import serving

if TYPE_CHECKING:
    from tests.support.stores import Store

CHECK = "/grpc.health.v1.Health/Check"
MAX_CONCURRENT_STREAMS = 3

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


async def test_connections_beyond_the_limit_are_closed_until_one_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "MAX_CONNECTIONS", 3)
    async with asyncio.timeout(20), serving(store.url) as service:
        address = service.address
        # The channel of `service` connects with its first call.
        async with raw_connection(address) as one, raw_connection(address) as two:
            async with raw_connection(address) as three:
                for each in (one, two, three):
                    await each.greeted.wait()
                async with raw_connection(address) as beyond:
                    await beyond.closed.wait()
                    assert not beyond.greeted.is_set()
            while True:
                async with raw_connection(address) as again:
                    await asyncio.wait(
                        [asyncio.ensure_future(again.greeted.wait()), asyncio.ensure_future(again.closed.wait())],
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if again.greeted.is_set():
                        return


async def test_a_connection_that_says_nothing_is_closed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "HANDSHAKE_SECONDS", 1)
    async with asyncio.timeout(20), serving(store.url) as service:
        host, _, port = service.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        while await reader.read(1_000):
            pass
        writer.close()


async def test_a_client_that_is_gone_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "KEEPALIVE_SECONDS", 1)
    monkeypatch.setattr(grpc_server, "KEEPALIVE_TIMEOUT_SECONDS", 1)
    async with (
        asyncio.timeout(20),
        serving(store.url) as service,
        raw_connection(service.address) as gone,
        raw_connection(service.address) as there,
    ):
        gone.answers_pings = False
        await gone.closed.wait()
        assert not there.closed.is_set()


async def test_a_connection_without_calls_is_closed_after_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "IDLE_SECONDS", 1)
    async with asyncio.timeout(20), serving(store.url) as service, raw_connection(service.address) as idle:
        await idle.goaway.wait()


async def test_the_calls_of_one_connection_are_bounded(store: Store) -> None:
    async with asyncio.timeout(20), serving(store.url) as service, raw_connection(service.address) as connection:
        await connection.greeted.wait()
        assert connection.settings[MAX_CONCURRENT_STREAMS] == grpc_server.MAX_CONNECTION_STREAMS


async def test_headers_of_a_call_are_bounded(store: Store) -> None:
    async with asyncio.timeout(20), serving(store.url) as service, raw_connection(service.address) as connection:
        await connection.ending(await connection.open(CHECK, ("x", "y" * 100_000)))
