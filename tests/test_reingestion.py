"""Refused events that are sent again: what the audit log says, what a dry run counts, and how far a call comes."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis.strategies import integers, lists, sets

from server.background import quarantine_retention
from server.ingest.ingest import Ingest
from server.ingest.quotas import Bucket
from server.services import quarantine
from signalbox.v1 import audit_pb2, contacts_pb2, projects_pb2
from signalbox.v1 import refusals_pb2 as pb
from tests.support.messages import ADA, ANYTHING, INDEPENDENT, event
from tests.support.quarantine import ALL, KEEP, kept, refused_events, reingest
from tests.support.refusals import refusal
from tests.support.service import serving

if TYPE_CHECKING:
    from server.ingest.draft import Batch
    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


async def refused_shop(service: Service, count: int, *, keys: int = 0) -> Client:
    """Make a shop with refused events about Ada, with `keys` idempotency keys in turn."""
    shop = await service.shop(refused_events=KEEP)
    names = [f"k{number % keys}" if keys else "" for number in range(count)]
    await shop.send_all([event(name="late", key=key) for key in names], INDEPENDENT)
    return shop


async def set_rate(service: Service, client: Client, events_per_second: int) -> None:
    """Change how many events a project may send per second, 0 for any number."""
    request = projects_pb2.UpdateProjectRequest(project=client.project, events_per_second=events_per_second)
    await service.admin.projects.UpdateProject(request)


async def reingest_all(client: Client, request: pb.ReingestRefusedEventsRequest) -> list[tuple[int, int, int]]:
    """Call until everything was sent; return how many were recorded, repeated and refused by each call."""
    calls: list[tuple[int, int, int]] = []
    while not calls or request.continue_after:
        response = await client.quarantine.ReingestRefusedEvents(request)
        calls.append((response.recorded_count, response.duplicate_count, response.refused_count))
        request.continue_after = response.continue_after
    return calls


@on_sqlite
async def test_the_audit_log_says_who_sent_what_again_and_how_many(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "PORTION_EVENTS", 2)
    shop = await refused_shop(service, 5)
    await shop.define("late", ANYTHING)
    oldest = (await refused_events(shop))[-1]
    by_id = pb.ReingestRefusedEventsRequest(ids=pb.RefusedEventIds(ids=[oldest.id] * 2))
    await shop.quarantine.ReingestRefusedEvents(by_id)
    await reingest(shop, name="late", dry_run=True)
    assert (await reingest(shop, name="late", door="grpc")).recorded_count == 4
    assert (await reingest(shop)).recorded_count == 0
    request = audit_pb2.ListAuditEntriesRequest(filter=audit_pb2.AuditFilter(action="ReingestRefusedEvents"))
    newest, first = (await shop.audit.ListAuditEntries(request)).entries
    assert first.resource_id == oldest.id
    assert MessageToDict(first.after) == {"refusedEventCount": 1.0, "idCount": 1.0}
    assert MessageToDict(newest.after) == {"refusedEventCount": 4.0, "filter": {"name": "late", "door": "grpc"}}
    assert (newest.resource_type, newest.key_id == first.key_id != "") == ("refused_events", True)


@pytest.mark.parametrize("calls", [1, 3])
async def test_a_dry_run_counts_a_key_once_however_many_pages_it_is_on(
    service: Service, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    monkeypatch.setattr(quarantine, "PORTION_EVENTS", 4)
    monkeypatch.setattr(quarantine, "CALL_EVENTS", 12 // calls)
    shop = await refused_shop(service, 9, keys=2)
    await shop.send_all([event({"other": 1}, name="late", key=f"k{number}") for number in (0, 0, 5)], INDEPENDENT)
    await shop.define("late", ANYTHING)
    dry = await reingest_all(shop, pb.ReingestRefusedEventsRequest(filter=ALL, validate_only=True))
    done = await reingest_all(shop, pb.ReingestRefusedEventsRequest(filter=ALL))
    assert [tuple(map(sum, zip(*each, strict=True))) for each in (dry, done)] == [(3, 7, 2), (3, 7, 2)]
    assert len(dry) == len(done) == calls


@on_sqlite
async def test_events_that_are_named_are_sent_at_the_rate_and_the_rest_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await refused_shop(service, 6)
    await shop.define("late", ANYTHING)
    await set_rate(service, shop, 8)
    monkeypatch.setattr(quarantine, "REINGEST_SECONDS", 0.0)
    ids = [each.id for each in await refused_events(shop)]
    request = pb.ReingestRefusedEventsRequest(ids=pb.RefusedEventIds(ids=ids[:5]))
    first = await shop.quarantine.ReingestRefusedEvents(request)
    assert (first.recorded_count, first.continue_after) == (2, ids[3])
    monkeypatch.setattr(quarantine, "FIRST_WAIT_SECONDS", 0.0)
    request.continue_after = first.continue_after
    refused = await refusal(shop.quarantine.ReingestRefusedEvents(request))
    assert (refused.reason, 0 < (refused.retry_after or 0) <= 1) == ("PROJECT_RATE_EXCEEDED", True)
    await set_rate(service, shop, 0)
    monkeypatch.setattr(quarantine, "REINGEST_SECONDS", 60.0)
    assert await reingest_all(shop, request) == [(3, 0, 0)]
    assert [each.id for each in await refused_events(shop)] == [ids[5]]


@on_sqlite
async def test_a_sender_below_half_of_the_rate_is_never_refused_beside_a_reingestion(service: Service) -> None:
    shop = await refused_shop(service, 45)
    await shop.define("late", ANYTHING)
    await set_rate(service, shop, 40)
    began = monotonic()
    again = asyncio.ensure_future(reingest(shop))
    while not again.done():
        await shop.send()
        await asyncio.sleep(0.055)
    assert (await again).recorded_count == 45
    assert monotonic() - began >= 45 / 20


@given(
    rate=integers(1, 200),
    burst=integers(1, 200),
    portions=lists(integers(1, 100), min_size=1, max_size=20),
    cancelled=sets(integers(0, 19)),
)
def test_half_of_the_rate_is_left_to_senders_and_the_whole_is_never_exceeded(
    rate: int, burst: int, portions: list[int], cancelled: set[int]
) -> None:
    bucket, now, again, sent = Bucket(rate, burst, 0.0), 0.0, 0, 0
    for number, count in enumerate(portions):
        end = now + bucket.reserved_wait(count, now)
        bucket.reserve(count)
        while (sent + 1) * 2.001 / rate < end:
            sent += 1
            now = sent * 2.001 / rate
            assert bucket.wait(1, now) == 0
            bucket.take(1)
        now = end
        if number in cancelled:
            bucket.release(count, now)
        else:
            again += count
        assert again <= now * rate / 2 + 1e-6
        assert again + sent + bucket.tokens <= burst + now * rate + 1e-6


async def test_calls_with_a_filter_do_not_send_what_another_one_recorded(service: Service) -> None:
    shop = await refused_shop(service, 12)
    await shop.define("late", ANYTHING)
    await set_rate(service, shop, 16)
    began = monotonic()
    results = await asyncio.gather(*(reingest(shop) for _ in range(3)))
    assert sum(result.recorded_count for result in results) == 12
    assert [(result.refused_count, result.continue_after) for result in results] == [(0, "")] * 3
    # The events take 1.5 seconds, and those of the other calls nothing.
    assert monotonic() - began < 3


async def test_calls_that_meet_in_one_transaction_record_an_event_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await refused_shop(service, 12)
    await shop.define("late", ANYTHING)
    together, store = asyncio.Barrier(4), Ingest._store

    async def store_together(ingest: Ingest, batch: Batch) -> None:
        await together.wait()
        await store(ingest, batch)

    monkeypatch.setattr(Ingest, "_store", store_together)
    results = await asyncio.gather(*(reingest(shop) for _ in range(4)))
    assert sum(result.recorded_count for result in results) == 12
    assert [(result.refused_count, len(result.still_refused)) for result in results] == [(0, 0)] * 4
    assert len(await shop.log(name="late")) == 12


@on_sqlite
async def test_a_call_does_not_wait_long_for_another_one(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = await refused_shop(service, 2)
    await shop.define("late", ANYTHING)
    await set_rate(service, shop, 200)
    entered, leave, store = asyncio.Event(), asyncio.Event(), Ingest._store

    async def store_later(ingest: Ingest, batch: Batch) -> None:
        entered.set()
        await leave.wait()
        await store(ingest, batch)

    monkeypatch.setattr(Ingest, "_store", store_later)
    first = asyncio.ensure_future(reingest(shop))
    await entered.wait()
    monkeypatch.setattr(quarantine, "FIRST_WAIT_SECONDS", 0.05)
    refused = await refusal(reingest(shop))
    assert (refused.reason, 0 < (refused.retry_after or 0) <= 1) == ("PROJECT_RATE_EXCEEDED", True)
    leave.set()
    assert (await first).recorded_count == 2


async def test_an_empty_id_is_answered_as_an_unknown_one(service: Service) -> None:
    shop = await refused_shop(service, 1)
    (late,) = await refused_events(shop)
    for ids in ([""], [late.id, ""]):
        selected = pb.RefusedEventIds(ids=ids)
        for call in (
            shop.quarantine.ReingestRefusedEvents(pb.ReingestRefusedEventsRequest(ids=selected)),
            shop.quarantine.DiscardRefusedEvents(pb.DiscardRefusedEventsRequest(ids=selected)),
        ):
            assert (await refusal(call)).reason == "REFUSAL_NOT_FOUND"
    assert await refused_events(shop) == [late]


DAMAGES = {
    "content: no JSON": ("content", "{"),
    "content: no object": ("content", "[1]"),
    "content: no text": ("content", ""),
    "content: too deep": ("content", '{"name":"late","properties":' + '{"n":' * 40 + "1" + "}" * 41),
    "content: half a pair": ("content", r'{"properties":{"n":"\ud800"}}'),
    "content: of a request": ("content", '{"name":"late"}'),
    "error: no JSON": ("error", "{"),
    "error: no reason": ("error", "{}"),
}


async def test_a_damaged_event_is_shown_as_such_beside_the_others(service: Service, served_store: Store) -> None:
    shop = await refused_shop(service, len(DAMAGES) + 1)
    ids = [each.id for each in await refused_events(shop)]
    for refused_id, (column, text) in zip(ids, DAMAGES.values(), strict=False):
        await served_store.execute(f"UPDATE refused_event SET {column} = '{text}' WHERE id = '{refused_id}'")  # noqa: S608 - of this test
    found = await refused_events(shop)
    assert [each.id for each in found] == ids
    # A request that is missing reads as an empty event, which is refused when it is sent again.
    readable = [False] * 5 + [True] + [False] * 2 + [True]
    assert [not each.unreadable_reason for each in found] == readable
    assert {each.name for each in found} == {"late"}
    for each in found:
        assert each.error.reason == "DEFINITION_NOT_FOUND"
        got = await shop.quarantine.GetRefusedEvent(pb.GetRefusedEventRequest(id=each.id))
        assert got.refused_event.unreadable_reason == each.unreadable_reason
    await shop.define("late", ANYTHING)
    exported = shop.contacts.ExportContact(contacts_pb2.ExportContactRequest(email=ADA))
    assert len([record async for record in exported if record.HasField("refused_event")]) == len(ids)
    for dry_run in (True, False):
        result = await reingest(shop, dry_run=dry_run)
        assert (result.recorded_count, result.refused_count) == (1, len(DAMAGES))
        reasons = [each.error.reason for each in result.still_refused]
        assert sorted(reasons) == ["CONTACT_REQUIRED"] + ["ROW_UNREADABLE"] * (len(DAMAGES) - 1)
    await shop.quarantine.DiscardRefusedEvents(pb.DiscardRefusedEventsRequest(filter=ALL))
    assert await kept(shop) == (0, 0)


async def test_a_damaged_request_is_still_refused(service: Service, served_store: Store) -> None:
    shop = await service.shop(refused_events=KEEP)
    await shop.send_all([event(email="not an address")], INDEPENDENT)
    damaged = "x'ff'" if served_store.url.startswith("sqlite") else r"'\xff'"
    await served_store.execute(f"UPDATE refused_event SET request = {damaged}")  # noqa: S608 - of this test
    result = await reingest(shop)
    assert [each.error.reason for each in result.still_refused] == ["ROW_UNREADABLE"]


async def test_refused_events_are_deleted_after_their_retention(
    database_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine_retention, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(quarantine_retention, "PORTION_EVENTS", 2)
    async with serving(database_url, quarantine_retention_seconds=3_600) as service:
        shop, other = await refused_shop(service, 4), await refused_shop(service, 1)
        newest, *_ = await refused_events(shop)
        (own,) = await refused_events(other)
        kept_ids = f"('{newest.id}', '{own.id}')"
        damaged = ", byte_count = 'abc', faults = CAST(x'ff' AS TEXT)" if "sqlite" in database_url else ""
        # An ID begins with the time of the refusal.
        moved = f"UPDATE refused_event SET id = '00000001' || substr(id, 9){damaged} WHERE id NOT IN {kept_ids}"  # noqa: S608 - of this test
        await store.execute(moved)
        async with asyncio.timeout(30):
            while (await kept(shop))[0] > 1:  # noqa: ASYNC110 - a deletion wakes nobody
                await asyncio.sleep(0.02)
        assert await refused_events(shop) == [newest]
        assert (await kept(shop), await kept(other)) == ((1, newest.byte_count), (1, own.byte_count))
