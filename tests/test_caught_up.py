"""Watchers that have caught up: they get from memory what the tables have, and are woken in portions."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from server.delivery.wake_ups import PORTION, WakeUps
from server.rpc.messages import watches
from server.rpc.messages.matches import encoded_match
from signalbox.v1 import projects_pb2
from tests.support.automations import RESUMED, STARTED, automate, await_event, change, get_run, matches_of
from tests.support.messages import ADA, ANYTHING, BOB, event, schema
from tests.support.watches import EARLIEST, PAID, after, all_of, answer_of, positions, read_to_end, watching

if TYPE_CHECKING:
    from collections.abc import Sequence

    from signalbox.v1 import match_stream_pb2 as pb
    from signalbox.v1.match_pb2 import Match as MatchMessage
    from tests.support.service import Client, Service
    from tests.support.watches import Watch

pytestmark = pytest.mark.lasting

TYPED = "typed"
SCHEMA = schema(number="number", flag="boolean", text="string")
SCHEMA.unknown_properties = ANYTHING.unknown_properties

PAYLOADS: Sequence[dict[str, Any]] = (
    {},
    {"number": "12.50", "flag": "true", "text": 7},
    {"number": -0.0},
    {"number": 1e300, "text": "é𝄞\u0000\x1f"},
    {"number": 2**53, "other": [1, 2.5, None, True, {"deep": [[], {}]}]},
    {"number": 123456789012345678, "é": {"a.b": "x", "": 1}},
)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the ids of the matches that are encoded from now on."""
    ids: list[str] = []

    def counting(match: Any, *arguments: Any) -> str:
        ids.append(match.id)
        return encoded_match(match, *arguments)

    monkeypatch.setattr(watches, "encoded_match", counting)
    return ids


async def until(call: Watch, position: int) -> list[pb.WatchMatchesResponse]:
    """Read the responses up to one that has reached a position."""
    responses = [await answer_of(call)]
    while responses[-1].position < position:
        responses.append(await answer_of(call))
    return responses


async def forget_recent(client: Client) -> None:
    """Change the catalog, so that whoever reads next reads the tables."""
    await automate(client, "unused", active=False, name="Unused")


async def from_tables(client: Client, **selected: Any) -> list[MatchMessage]:
    await forget_recent(client)
    return all_of(await read_to_end(client, EARLIEST, **selected))


# The same as in the tables


async def test_recent_matches_are_those_of_the_tables(shop: Client) -> None:
    await shop.define(TYPED, SCHEMA)
    await shop.define(PAID, ANYTHING)
    for name in (TYPED, PAID):
        await automate(shop, name, name=f"On {name}", labels={"team": name})
    await automate(shop, TYPED, name="Another", labels={"team": "growth", "tier": "1"})
    await shop.upsert(BOB)
    async with watching(shop) as call:
        await answer_of(call)
        for number, payload in enumerate(PAYLOADS):
            sent = event(payload, name=TYPED, email=(ADA, BOB)[number % 2])
            await shop.send_all([sent, event(payload, name=PAID, email=BOB)])
        (first, *_) = await matches_of(shop, event(name=TYPED))
        await await_event(shop, await get_run(shop, first.run_id), PAID)
        repeated = event(name=PAID)
        repeated.idempotency_key = "once"
        for _ in range(2):
            await shop.send_all([repeated, event(name=TYPED), repeated])
        ends = (await read_to_end(shop, EARLIEST))[-1].head_position
        recent = all_of(await until(call, ends))
    assert recent == await from_tables(shop)
    assert {match.kind for match in recent} == {STARTED, RESUMED}


async def test_filters_and_sizes_select_the_same_in_memory(shop: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.define(PAID, ANYTHING)
    first = await automate(shop, labels={"team": "growth", "tier": "1"})
    await automate(shop, name="Second", labels={"team": "core"})
    await automate(shop, PAID, name="Third", labels={"team": "growth"})
    filters: Sequence[dict[str, Any]] = (
        {},
        {"event_names": [PAID]},
        {"event_names": [PAID.upper()]},
        {"automation_ids": [first.id, "unknown"]},
        {"labels": {"team": "growth"}},
        {"labels": {"team": "growth", "tier": "1"}},
        {"labels": {"team": ""}},
        {"labels": {"team": "growth"}, "event_names": [PAID]},
    )
    selected: list[dict[str, Any]] = [
        {"filter": each, "max_matches": most, "seconds": 1} for each in filters for most in (1, 100)
    ]
    encoded = counted(monkeypatch)
    async with AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(watching(shop, **each)) for each in selected]
        for call in calls:
            await answer_of(call)
        for number in range(6):
            await shop.send(event(name=PAID) if number % 3 == 2 else event({"order_total": number}))
        recent = [all_of(await until(call, 10)) for call in calls]
        assert len(encoded) < 2 * len(set(encoded))
    for each, one_by_one, at_once in zip(filters, recent[::2], recent[1::2], strict=True):
        assert one_by_one == at_once == await from_tables(shop, filter=each, max_matches=1), each


async def test_large_events_are_cut_into_the_same_responses(shop: Client) -> None:
    await shop.define(PAID, ANYTHING)
    await automate(shop, PAID)
    async with watching(shop) as call:
        await answer_of(call)
        await shop.send_all([event({"text": "x" * 240_000}, name=PAID) for _ in range(5)])
        recent = await until(call, 5)
    await forget_recent(shop)
    stored = await read_to_end(shop, EARLIEST)
    assert [positions([each]) for each in recent if each.matches] == [positions([each]) for each in stored]
    assert [each.cursor for each in recent if each.matches] == [each.cursor for each in stored]


async def test_addresses_that_are_no_contacts_are_the_same_in_memory(service: Service) -> None:
    shop = await service.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH)
    await automate(shop)
    async with watching(shop) as call:
        await answer_of(call)
        await shop.send_all([event(email=f"{number}@example.com") for number in range(3)])
        recent = all_of(await until(call, 3))
    assert recent == await from_tables(shop)


# Changes


async def test_a_deleted_contact_is_deleted_in_memory_too(shop: Client) -> None:
    await automate(shop)
    async with watching(shop) as call:
        await answer_of(call)
        await shop.send()
        await until(call, 1)
        await shop.forget()
        (match,) = all_of(await read_to_end(shop, after(0)))
    assert (match.contact_deleted, match.event.email) == (True, "")


async def test_a_changed_automation_is_changed_in_memory_too(shop: Client) -> None:
    automation = await automate(shop, labels={"team": "growth"})
    async with watching(shop) as call:
        await answer_of(call)
        await shop.send()
        await until(call, 1)
        await change(shop, automation, name="Renamed", labels={"team": "core"})
        (match,) = all_of(await read_to_end(shop, after(0)))
    assert (match.automation_name, dict(match.labels)) == ("Renamed", {"team": "core"})


# Turns


async def test_watchers_are_woken_in_portions_in_their_order_and_others_are_served_between() -> None:
    loop = asyncio.get_running_loop()
    wake_ups, woken, served = WakeUps(), [], []
    turns = [loop.create_future() for _ in range(3 * PORTION)]

    async def watcher(number: int) -> None:
        await turns[number]
        woken.append(number)

    async def other() -> None:
        while len(woken) < len(turns):
            served.append(len(woken))
            await asyncio.sleep(0)

    watchers = [asyncio.create_task(watcher(number)) for number in range(len(turns))]
    await asyncio.sleep(0)
    turns[1].cancel()
    watchers[1].cancel()
    wake_ups.add(turns)
    woken.append(1)
    await asyncio.gather(other(), *watchers, return_exceptions=True)
    assert sorted(woken) == list(range(len(turns)))
    assert [number for number in woken if number != 1] == [number for number in range(len(turns)) if number != 1]
    assert {PORTION + 1, 2 * PORTION + 1} <= set(served)
