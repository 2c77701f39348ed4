"""Refused events are sent again exactly once, whenever the server is killed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support.messages import ADA, INDEPENDENT, event, schema
from tests.support.process import server_process
from tests.support.quarantine import KEEP, kept, reingest
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Client

EVENTS = 800
KILLS = 2


async def send_all_again(client: Client) -> None:
    """Send refused events again until none is left, or the server is gone."""
    while (await kept(client))[0]:
        await reingest(client)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_killed_server_sends_no_refused_event_twice_and_loses_none(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url) as service:
        shop = await service.shop(refused_events=KEEP)
        sent = [event({"number": number}, name="unheard_of", email=ADA) for number in range(EVENTS)]
        await shop.send_all(sent, INDEPENDENT)
        assert (await kept(shop))[0] == EVENTS
        await shop.define("unheard_of", schema(number="number"))
    for number in range(KILLS):
        async with server_process(database_url, tmp_path) as server:
            client = server.service.client(shop.secret)
            sending = asyncio.create_task(send_all_again(client))
            while len(await client.positions()) < (number + 1) * EVENTS // (KILLS + 2):
                pass
            server.kill()
            with suppress(grpc.aio.AioRpcError):
                await sending
    async with serving(database_url) as service:
        client = service.client(shop.secret)
        recorded = len(await client.log())
        assert recorded + (await kept(client))[0] == EVENTS
        await send_all_again(client)
        log = await client.log()
        assert len(log) == EVENTS
        assert {found.properties["number"] for found in log} == set(range(EVENTS))
        assert await kept(client) == (0, 0)
