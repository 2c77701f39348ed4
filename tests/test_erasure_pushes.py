"""What an erasure keeps from being pushed, and from being delivered by another server of the same database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from server.delivery.push import budget
from signalbox.v1 import contacts_pb2, projects_pb2
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.automations import automate, await_event, list_runs, started
from tests.support.consumers import EARLIEST, Engine, get, pull, seconds, subscribe
from tests.support.messages import ADA, ANYTHING, BOB, event
from tests.support.pushes import settled
from tests.support.receiver import LOOPBACK, Received, answer, push_to, receiving
from tests.support.service import serving

if TYPE_CHECKING:
    from tests.support.stores import Store


async def test_no_match_of_an_erased_person_is_pushed_that_waited_or_was_in_flight(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One request is in flight, and the next match waits for it, with its body written.
    monkeypatch.setattr(budget, "ALL_IN_FLIGHT", 4)
    erased = asyncio.Event()

    async def fail_the_first(request: Received) -> bytes:
        await erased.wait()
        return answer(500 if request.position == 1 else 200)

    async with receiving() as receiver, serving(store.url, push_networks=LOOPBACK) as service:
        receiver.answering = fail_the_first
        shop = await service.shop()
        await shop.upsert(BOB)
        await automate(shop)
        await push_to(shop, receiver.url, backoff=pb.Backoff(initial_delay=seconds(0)))
        await shop.send_all([*(event({"order_total": number}) for number in range(3)), event(email=BOB)])
        await receiver.received(1)
        await shop.contacts.EraseContact(contacts_pb2.EraseContactRequest(email=ADA))
        erased.set()
        await settled(shop, 4)
        assert [(request.position, request.attempt) for request in receiver.requests] == [(1, 1), (4, 1)]
        assert {attempt.attempt for attempt in (await get(shop)).push_attempts} == {1}
        assert ADA not in str(await store.rows("subscription_push"))


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_another_server_delivers_and_knows_nothing_of_an_erased_person(store: Store) -> None:
    async with serving(store.url) as first, serving(store.url) as second:
        erasing = await first.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE)
        other = second.client(erasing.secret)
        await other.upsert(BOB)
        await other.define("paid", ANYTHING)
        await automate(other)
        for name in ("engine", "idle"):
            await subscribe(other, name, EARLIEST)
        engine = await Engine.open(other, max_outstanding=1)
        waiting = await started(other, event(key="order 1"))
        await await_event(other, waiting)
        (held,) = await engine.deliveries()
        before = (await other.send_all([event(), event(), event(email=BOB)]))[0].receipt.event
        done = await erasing.contacts.EraseContact(contacts_pb2.EraseContactRequest(email=ADA))
        assert (done.event_count, done.run_count, done.cancelled_run_count) == (3, 3, 3)
        await engine.ack([held])
        (bobs,) = await engine.deliveries()
        assert bobs.match.event.email == BOB
        assert [delivery.match.id for delivery in await pull(other, name="idle")] == [bobs.match.id]
        updates = other.matches.WatchMatches(pb.WatchMatchesRequest(start=EARLIEST))
        assert [match.id for match in (await anext(aiter(updates))).matches] == [bobs.match.id]
        updates.cancel()
        assert ADA not in str([await other.log(), await list_runs(other)])
        assert (await other.send(event(key="order 1"))).duplicate
        paid = await other.send(event(name="paid"))
        assert (paid.match_count, paid.event.contact_id == before.contact_id) == (0, False)
        await engine.close()
