"""Erased persons: nothing of them is delivered or read any more, and everybody else notices nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode

from registry.definitions.schema import Property, PropertyType
from registry.personal.masking import keep_not_personal
from server.services import erasures
from server.storage import paced_writes
from server.storage.erasures.sealing import seal_fingerprint, seal_key
from signalbox.v1 import automations_pb2, contacts_pb2, event_definitions_pb2, match_stream_pb2, projects_pb2
from tests.support.automations import automate, await_event, complete, get_run, matches_of, started
from tests.support.consumers import (
    ACKNOWLEDGED,
    EARLIEST,
    PARK,
    RETRY,
    STALE,
    Engine,
    acknowledge,
    ids,
    parked,
    pull,
    stats,
    subscribe,
)
from tests.support.messages import ADA, ANYTHING, BOB, ORDER, event, schema, struct
from tests.support.quarantine import refused_events
from tests.support.refusals import verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signalbox.v1 import match_pb2
    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting
# Requests are refused before the database has a part in it.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

CONTACT_NOT_FOUND = (StatusCode.NOT_FOUND, "CONTACT_NOT_FOUND")
KEEP = projects_pb2.ERASURE_KEEP_NOT_PERSONAL
ON_MATCH, CREATE = projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH, projects_pb2.UNKNOWN_CONTACTS_CREATE
TOTAL = {"order_total": "5"}


async def erase(client: Client, email: str = ADA, **fields: Any) -> contacts_pb2.EraseContactResponse:
    """Erase a person by address, unless an id is given."""
    named = fields if "id" in fields else {"email": email, **fields}
    return await client.contacts.EraseContact(contacts_pb2.EraseContactRequest(**named))


async def exported(client: Client, **named: str) -> list[contacts_pb2.ExportContactResponse]:
    """Export a person, Ada unless somebody else is named."""
    request = contacts_pb2.ExportContactRequest(**(named or {"email": ADA}))
    return [record async for record in client.contacts.ExportContact(request)]


def kinds(records: list[contacts_pb2.ExportContactResponse]) -> list[str]:
    return [record.WhichOneof("record") or "" for record in records]


# Events


async def test_erased_events_keep_their_positions_and_say_so(shop: Client) -> None:
    await shop.upsert(BOB)
    mine = (await shop.send(event(TOTAL))).event
    bobs = (await shop.send(event(TOTAL, email=BOB))).event
    assert list(mine.coercions)
    assert mine.email == ADA
    done = await erase(shop)
    assert (done.contact_id, done.event_count) == (mine.contact_id, 1)
    erased, kept = await shop.log()
    assert (erased.position, erased.id, erased.name) == (mine.position, mine.id, ORDER)
    assert (erased.email, dict(erased.properties), list(erased.coercions)) == ("", {}, [])
    assert erased.omitted_coercion_count == len(mine.coercions)
    assert erased.HasField("erased_at")
    assert (await shop.get(mine.id)) == erased
    assert (kept, kept.HasField("erased_at")) == (bobs, False)
    assert await verdict(shop.contacts.GetContact(contacts_pb2.GetContactRequest(email=ADA))) == CONTACT_NOT_FOUND


async def test_events_of_an_address_that_is_no_contact_are_erased(service: Service) -> None:
    client = await service.shop(unknown_contacts=ON_MATCH)
    await client.send(event(TOTAL, email=BOB))
    done = await erase(client, "Bob@Example.com")
    assert (done.contact_id, done.event_count) == ("", 1)
    (erased,) = await client.log()
    assert (erased.email, dict(erased.properties), erased.HasField("erased_at")) == ("", {}, True)
    assert await client.log(email=BOB) == []
    again = await erase(client, BOB)
    assert again == contacts_pb2.EraseContactResponse()


async def test_events_sent_before_the_contact_existed_are_erased_with_it(service: Service) -> None:
    client = await service.shop(unknown_contacts=ON_MATCH)
    await client.send(event(TOTAL, email=BOB))
    bob = await client.upsert(BOB)
    await client.send(event(TOTAL, email=BOB))
    assert (await erase(client, id=bob.id)).event_count == 2
    assert [each.HasField("erased_at") for each in await client.log()] == [True, True]


async def test_a_deleted_contact_can_still_be_erased_by_its_id(shop: Client) -> None:
    mine = (await shop.send(event(TOTAL))).event
    await shop.forget()
    assert dict((await shop.get(mine.id)).properties) == dict(mine.properties)
    assert (await erase(shop, id=mine.contact_id)).event_count == 1
    assert dict((await shop.get(mine.id)).properties) == {}
    assert (await erase(shop, id=mine.contact_id)).event_count == 0


async def test_events_sent_after_an_erasure_are_about_a_new_person(service: Service) -> None:
    client = await service.shop(unknown_contacts=CREATE)
    first = (await client.send(event(TOTAL))).event
    await erase(client)
    second = (await client.send(event(TOTAL))).event
    assert (second.contact_id != first.contact_id, second.email) == (True, ADA)
    assert [each.HasField("erased_at") for each in await client.log()] == [True, False]


async def test_a_repeated_send_of_an_erased_event_is_harmless(service: Service) -> None:
    client = await service.shop(unknown_contacts=CREATE)
    first = await client.send(event(TOTAL, key=f"order 1 of {ADA}"))
    await erase(client)
    again = await client.send(event(TOTAL, key=f"order 1 of {ADA}"))
    assert (again.duplicate, again.event.id, dict(again.event.properties)) == (True, first.event.id, {})
    other = client.send(event({"order_total": 6}, key=f"order 1 of {ADA}"))
    assert await verdict(other) == (StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED")
    assert not (await client.send(event(TOTAL, key="another"))).duplicate
    assert len(await client.log()) == 2


def test_a_sealed_key_is_sealed_once_and_is_no_key_that_can_be_sent() -> None:
    sealed = seal_key("project", "key")
    assert seal_key("project", sealed) == sealed != seal_key("another", "key")
    assert not sealed.isascii()
    assert seal_fingerprint("key", "digest") not in ("digest", seal_fingerprint("another key", "digest"))


async def test_the_numbers_of_an_erasure_are_told_without_erasing(shop: Client) -> None:
    await automate(shop)
    runs = [await started(shop) for _ in range(3)]
    await complete(shop, runs[0])
    await subscribe(shop, start=EARLIEST)
    await pull(shop, 2)
    before = await shop.log()
    told = await erase(shop, validate_only=True)
    assert await shop.log() == before
    numbers = (told.event_count, told.run_count, told.cancelled_run_count, told.dropped_delivery_count)
    assert numbers == (3, 3, 2, 2)
    assert await erase(shop) == told


@on_sqlite
@pytest.mark.parametrize(
    ("request_", "refused"),
    [
        (contacts_pb2.EraseContactRequest(), (StatusCode.INVALID_ARGUMENT, "CONTACT_REQUIRED")),
        (contacts_pb2.EraseContactRequest(id="unknown"), CONTACT_NOT_FOUND),
        (contacts_pb2.EraseContactRequest(id="unknown", validate_only=True), CONTACT_NOT_FOUND),
    ],
)
async def test_nobody_is_erased_by_a_wrong_name(
    shop: Client, request_: contacts_pb2.EraseContactRequest, refused: tuple[StatusCode, str]
) -> None:
    assert await verdict(shop.contacts.EraseContact(request_)) == refused


# What a project keeps


PERSONAL = [
    Property("total", PropertyType.NUMBER),
    Property("name", PropertyType.STRING, personal=True),
    Property("note", PropertyType.STRING),
    Property(
        "lines",
        PropertyType.ARRAY,
        item_type=PropertyType.OBJECT,
        properties=(Property("sku", PropertyType.STRING), Property("engraving", PropertyType.STRING, personal=True)),
    ),
    Property("free", PropertyType.OBJECT),
]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"total": 5, "name": "Ada"}, {"total": 5}),
        ({"total": 5, "undeclared": 1}, {"total": 5}),
        ({"note": "for ADA@example.com!"}, {}),
        ({"note": "for Bob"}, {"note": "for Bob"}),
        ({"lines": [{"sku": "a", "engraving": "Ada", "more": 1}, 5]}, {"lines": [{"sku": "a"}, 5]}),
        ({"free": {"by": {"Ada@Example.com": 1}}}, {}),
        ({"free": {"by": 1}}, {"free": {"by": 1}}),
    ],
)
def test_only_declared_properties_that_are_not_personal_are_kept(
    sent: Mapping[str, Any], kept: Mapping[str, Any]
) -> None:
    assert keep_not_personal(sent, PERSONAL, ADA) == kept


async def test_a_project_may_keep_what_is_not_personal(service: Service) -> None:
    client = await service.project(erasure=KEEP, undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT)
    declared = schema(order_total="number", name="string", note="string")
    declared.properties[1].personal = True
    assert (await client.define(schema=declared)).schema.properties[1].personal
    await client.upsert()
    await client.send(event({"order_total": 5, "name": "Ada", "note": f"mail {ADA.upper()}"}))
    await client.send(event({"name": "Ada"}, name="undefined"))
    await erase(client)
    assert [dict(each.properties) for each in await client.log()] == [{"order_total": 5.0}, {}]


async def test_what_is_personal_is_decided_by_the_latest_revision(service: Service) -> None:
    client = await service.shop(erasure=KEEP)
    await client.send(event({"order_total": 5, "currency": "EUR"}))
    declared = schema(order_total="number", currency="string")
    declared.properties[1].personal = True
    await client.redefine(declared)
    await erase(client)
    assert [dict(each.properties) for each in await client.log()] == [{"order_total": 5.0}]


# Runs


async def test_the_runs_of_an_erased_contact_hold_nothing_of_it(shop: Client) -> None:
    await automate(shop)
    waiting, ended = await started(shop), await started(shop)
    await await_event(shop, waiting, condition=f'properties.order_total > 1.0 || contact.email == "{ADA}"')
    ended = await complete(shop, ended, attributes=struct({"to": ADA}), reason=f"sent to {ADA}")
    done = await erase(shop)
    assert (done.run_count, done.cancelled_run_count) == (2, 1)
    after = await get_run(shop, waiting.id)
    assert (after.status, after.reason) == (automations_pb2.RUN_STATUS_CANCELLED, "The contact was erased")
    assert (after.HasField("wait"), after.HasField("finished_at")) == (False, True)
    after = await get_run(shop, ended.id)
    assert (after.status, after.reason, dict(after.attributes)) == (ended.status, "", {})
    assert after.finished_at == ended.finished_at


# Deliveries


async def test_matches_that_are_not_delivered_yet_are_not_delivered(shop: Client) -> None:
    await shop.upsert(BOB)
    await automate(shop)
    await subscribe(shop, "never pulled", EARLIEST)
    for name in ("leased", "waiting", "aside"):
        await subscribe(shop, name, EARLIEST)
    await matches_of(shop)
    (bobs,) = await matches_of(shop, event(email=BOB))
    (leased, _) = await pull(shop, name="leased")
    (waiting, _) = await pull(shop, name="waiting")
    (aside, _) = await pull(shop, name="aside")
    await acknowledge(shop, "waiting", nacks=[nack(waiting, RETRY, f"no such mailbox: {ADA}")])
    await acknowledge(shop, "aside", nacks=[nack(aside, PARK, f"no such mailbox: {ADA}")])
    assert (await erase(shop)).dropped_delivery_count == 3
    assert await parked(shop, "aside") == []
    (only,) = await pull(shop, name="never pulled")
    assert only.match.id == bobs.id
    assert await pull(shop, name="waiting") == []
    (result,) = await acknowledge(shop, "leased", nacks=[nack(leased, RETRY, f"no such mailbox: {ADA}")])
    assert result.outcome == STALE
    (result,) = await acknowledge(shop, "leased", ack=match_stream_pb2.AckDeliveries(delivery_ids=ids([leased])))
    assert result.outcome == ACKNOWLEDGED
    assert [each.id for each in await watched(shop, 1)] == [bobs.id]


def nack(
    delivery: match_stream_pb2.Delivery, action: match_stream_pb2.NackAction.ValueType, reason: str
) -> match_stream_pb2.NackDeliveries:
    return match_stream_pb2.NackDeliveries(delivery_ids=ids([delivery]), action=action, reason=reason)


async def watched(client: Client, count: int) -> list[match_pb2.Match]:
    call = client.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest(start=EARLIEST))
    found: list[match_pb2.Match] = []
    async for answer in call:
        found += answer.matches
        if len(found) >= count:
            break
    call.cancel()
    return found


async def test_a_stream_is_not_sent_what_was_erased_while_it_waited(shop: Client) -> None:
    await shop.upsert(BOB)
    await automate(shop)
    await subscribe(shop, start=EARLIEST)
    engine = await Engine.open(shop, max_outstanding=1)
    await matches_of(shop)
    (mine,) = await engine.deliveries()
    await matches_of(shop)
    (bobs,) = await matches_of(shop, event(email=BOB))
    await erase(shop)
    (result,) = await engine.ack([mine])
    assert result.outcome == ACKNOWLEDGED
    (only,) = await engine.deliveries()
    assert only.match.id == bobs.id
    await engine.ack([only])
    await engine.close()
    assert (await stats(shop)).floor_position == bobs.position


# Readers


async def test_an_erased_event_is_explained_without_its_properties(shop: Client) -> None:
    await automate(shop, condition="properties.order_total > 1.0")
    mine = (await shop.send(event({"order_total": 5}))).event
    await erase(shop)
    explained = await shop.automations.ExplainEvent(automations_pb2.ExplainEventRequest(event_id=mine.id))
    assert explained.event.HasField("erased_at")
    (clause,) = explained.explanations[0].trace
    assert (clause.verdict, clause.HasField("actual")) == (automations_pb2.VERDICT_MISSING, False)


async def test_a_backtest_skips_erased_events_and_counts_them(shop: Client) -> None:
    await shop.upsert(BOB)
    await shop.send(event({"order_total": 5}))
    await shop.send(event({"order_total": 5}, email=BOB))
    await erase(shop)
    declared = schema(order_total="number")
    declared.properties[0].required = True
    request = event_definitions_pb2.BacktestSchemaRequest(event_definition=ORDER, schema=declared)
    report = [response async for response in shop.definitions.BacktestSchema(request)][-1].report
    assert (report.event_count, report.erased_count, report.newly_rejected_count) == (1, 1, 0)


# Exports


async def test_an_export_has_everything_in_the_order_of_positions(shop: Client) -> None:
    await shop.upsert(BOB)
    await automate(shop)
    first, _, second = await started(shop), await started(shop, event(email=BOB)), await started(shop)
    await complete(shop, first, attributes=struct({"to": ADA}))
    records = await exported(shop)
    assert kinds(records) == ["contact", "event", "match", "event", "match", "run", "run", "end"]
    assert [record.event.position for record in records if record.HasField("event")] == [1, 3]
    assert [record.match.run_id for record in records if record.HasField("match")] == [first.id, second.id]
    assert (records[0].contact.email, records[1].event.email) == (ADA, ADA)
    assert (records[5].run.status, dict(records[5].run.attributes)) == ("completed", {"to": ADA})
    end = records[-1].end
    assert (end.head_position, end.event_count, end.match_count, end.run_count) == (3, 2, 2, 2)


async def test_an_export_is_read_in_portions(shop: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.services.contact_exports.READ_EVENTS", 3)
    monkeypatch.setattr("server.services.contact_exports.LOADED_ROWS", 2)
    await automate(shop)
    await shop.send_all([event({"order_total": number}) for number in range(8)])
    records = await exported(shop)
    assert [record.event.position for record in records if record.HasField("event")] == [*range(1, 9)]
    assert records[-1].end.run_count == 8


async def test_an_address_without_a_contact_can_be_exported(service: Service) -> None:
    client = await service.shop(unknown_contacts=ON_MATCH)
    await client.send(event(TOTAL, email=BOB))
    assert kinds(await exported(client, email=BOB)) == ["event", "end"]
    assert await verdict(exported(client, email="nobody@example.com")) == CONTACT_NOT_FOUND
    assert await verdict(exported(client, id="nobody")) == CONTACT_NOT_FOUND


async def test_an_export_of_an_erased_contact_has_only_what_is_left(shop: Client) -> None:
    await automate(shop)
    mine = (await shop.send(event(TOTAL))).event
    await erase(shop)
    records = await exported(shop, id=mine.contact_id)
    assert kinds(records) == ["event", "match", "run", "end"]
    assert records[0].event.HasField("erased_at")
    assert not records[0].event.email


# Progress


async def test_an_erasure_in_many_steps_erases_all(shop: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures, "PORTION_ROWS", 3)
    await automate(shop)
    await shop.define("anything", ANYTHING)
    await shop.send_all([event({"order_total": number}) for number in range(10)])
    await shop.send_all([event({"by": ADA}, name="anything") for _ in range(10)])
    done = await erase(shop)
    assert (done.event_count, done.run_count, done.cancelled_run_count) == (20, 10, 10)
    assert all(each.HasField("erased_at") and not each.properties for each in await shop.log())


async def test_an_erasure_that_begins_when_another_one_ends_is_answered_when_it_is_done(
    store: Store, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await service.shop()
    await shop.upsert(BOB)
    await shop.send_all([event(email=email) for email in (ADA, BOB, BOB)])
    # Long enough to begin another erasure in the pause after the last step of the first one.
    monkeypatch.setattr(paced_writes, "REST_FACTOR", 30)
    first = asyncio.create_task(erase(shop, ADA))
    async with asyncio.timeout(20):
        for begun in (True, False):
            while bool(await store.rows("contact_erasure")) is not begun:  # noqa: ASYNC110 - only the table shows it
                await asyncio.sleep(0.001)
    assert (await erase(shop, BOB)).event_count == 2
    assert (await first).event_count == 1


async def test_refused_events_are_erased_of_a_person_of_whom_nothing_is_recorded(service: Service) -> None:
    shop = await service.shop(refused_events=projects_pb2.REFUSED_EVENTS_QUARANTINE)
    # Of an address that no contact has, and of a contact that was erased before.
    mine = (await shop.send(event())).event
    await erase(shop)
    of_nobody: tuple[tuple[Any, Any], ...] = (
        ({"email": BOB}, {"email": BOB}),
        ({"email": "", "contact_id": mine.contact_id}, {"id": mine.contact_id}),
    )
    for named, ref in of_nobody:
        for _ in range(2):
            await verdict(shop.send(event(**named)))
        planned = await erase(shop, validate_only=True, **ref)
        done = await erase(shop, **ref)
        assert (planned.refused_event_count, done.refused_event_count, done.event_count) == (2, 2, 0)
        assert await refused_events(shop) == []
        assert (await erase(shop, **ref)).refused_event_count == 0
