"""How many messages of a project are received at a time, and how much of the others the server takes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from server.auth.access import Access
from server.errors import KeyExpired, TooManyLargeMessages
from server.metrics import Metrics
from server.rpc import call_limits, calls, receive_limits
from server.rpc.call_limits import MAX_MESSAGE_BYTES, CallLimits
from server.rpc.open_calls import OpenCalls
from server.rpc.receive_limits import LEAST_AT_A_TIME, MOST_AT_A_TIME, WINDOW_BYTES, ReceiveLimits
from server.sharing.loop_time import LoopTime
from tests.support.raw_http2 import INITIAL_WINDOW_SIZE, message_head, raw_connection
from tests.support.refusals import refusal

if TYPE_CHECKING:
    import grpc

    from server.auth.caller import Caller
    from tests.support.raw_http2 import RawConnection
    from tests.support.service import Client, Service

SEND_EVENTS = "/signalbox.v1.EventIngest/SendEvents"
NEW_PROJECT = WINDOW_BYTES // receive_limits.FIRST_BYTES
LARGE = 15 << 20

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@given(st.lists(st.integers(0, MAX_MESSAGE_BYTES)))
def test_messages_as_large_as_the_latest_ones_fit_into_the_window(sizes: list[int]) -> None:
    found = ReceiveLimits()
    for size in sizes:
        found.received("kind", size)
        share = found.share_of("kind")
        assert LEAST_AT_A_TIME <= share <= MOST_AT_A_TIME
        assert share == LEAST_AT_A_TIME or share * size <= WINDOW_BYTES


def test_a_project_is_not_limited_once_it_has_sent_small_messages() -> None:
    found = ReceiveLimits()
    found.received("kind", MAX_MESSAGE_BYTES)
    assert found.share_of("kind") == LEAST_AT_A_TIME
    for _ in range(40):
        found.received("kind", 100)
    assert not found.limited("kind")
    assert found.limited("another kind")


async def test_a_place_is_given_back_once() -> None:
    found, task = ReceiveLimits(), asyncio.create_task(asyncio.sleep(0))
    await found.enter(task, "kind")
    for _ in range(2):
        found.leave(task)
        assert found.held_by("kind") == 0
    await task


@on_sqlite
async def test_few_messages_of_a_new_project_are_received_at_a_time(
    service: Service, shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have the window of a message that nobody reads."""
    monkeypatch.setattr(call_limits, "SLOW_SECONDS", 60.0)
    neighbour = await service.shop()
    async with raw_connection(service.address) as connection, asyncio.timeout(10):
        for _ in range(20):
            stream = await connection.open(SEND_EVENTS, ("authorization", f"Bearer {shop.secret}"))
            await connection.send(stream, message_head(LARGE))
        await _windows_opened(connection, NEW_PROJECT)
        await neighbour.send()
        assert _opened(connection) == NEW_PROJECT


@on_sqlite
async def test_a_message_that_is_slow_makes_room_for_the_next_one(service: Service, shop: Client) -> None:
    async with raw_connection(service.address) as connection, asyncio.timeout(10):
        for _ in range(NEW_PROJECT + 1):
            stream = await connection.open(SEND_EVENTS, ("authorization", f"Bearer {shop.secret}"))
            await connection.send(stream, message_head(LARGE))
        await _windows_opened(connection, NEW_PROJECT + 1)


@on_sqlite
async def test_what_an_unread_call_may_send_does_not_grow(service: Service, shop: Client) -> None:
    authorization = "authorization", f"Bearer {shop.secret}"
    async with raw_connection(service.address) as connection, asyncio.timeout(30):
        for _ in range(3):
            stream = await connection.open(SEND_EVENTS, authorization)
            await connection.send(stream, message_head(LARGE) + bytes(LARGE))
            await connection.ending(stream)
        assert connection.settings.get(INITIAL_WINDOW_SIZE, 65_535) <= 65_536


@on_sqlite
async def test_a_message_whose_caller_has_none_any_more_is_no_longer_in_work(
    service: Service, shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "RECHECK_SECONDS", 0.0)
    await shop.send()
    with monkeypatch.context() as revoked:
        revoked.setattr(Access, "authenticate", _refuse)
        for _ in range(10):
            assert await _code_of_a_large_message(service, shop) is StatusCode.UNAUTHENTICATED
    assert await _code_of_a_large_message(service, shop) is StatusCode.INVALID_ARGUMENT


async def test_messages_of_streams_wait_for_their_work_within_a_bound() -> None:
    limits = CallLimits(OpenCalls(), Metrics(), LoopTime())
    waiting: list[asyncio.Task[None]] = []
    assert limits.working.take(1, limits.working.total)
    while not (waiting and waiting[-1].done()):
        waiting.append(asyncio.create_task(limits.enter_work(2, MAX_MESSAGE_BYTES)))
        await asyncio.sleep(0)
    refused = waiting.pop()
    assert isinstance(refused.exception(), TooManyLargeMessages)
    assert len(waiting) >= 2
    limits.working.give(1, limits.working.total)
    for each in waiting:
        await each
        limits.working.give(2, MAX_MESSAGE_BYTES)


def _opened(connection: RawConnection) -> int:
    """Count the calls whose messages are being received: their windows are a MiB."""
    return sum(room > 1 << 19 for stream, room in connection.windows.items() if stream)


async def _windows_opened(connection: RawConnection, count: int) -> None:
    while _opened(connection) < count:
        await connection.next_frame()


async def _refuse(*_: object) -> Caller:
    raise KeyExpired


async def _code_of_a_large_message(service: Service, client: Client) -> StatusCode:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = service.channel.unary_unary(SEND_EVENTS)
    return (await refusal(call(bytes(LARGE), metadata=client.metadata, timeout=10))).code
