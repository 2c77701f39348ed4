"""Refused events in quarantine: what is kept, found, counted, sent again and discarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from signalbox.v1 import contacts_pb2, event_ingest_pb2
from signalbox.v1 import refusals_pb2 as pb
from tests.support.bridge import calling
from tests.support.messages import ADA, ALL_OR_NOTHING, INDEPENDENT, ORDER, event, schema
from tests.support.quarantine import ALL, DROP, KEEP, counts, kept, only, refused_events, reingest, set_rule
from tests.support.refusals import refusal, verdict
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting
# The database has no part in it.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

BAD: dict[str, Any] = {"order_total": "a lot"}
PATH = "properties.order_total"
WIDER = schema(order_total="any", currency="string", is_first_purchase="boolean")


async def send_refused(client: Client, properties: dict[str, Any] | None = None, **fields: Any) -> None:
    await refusal(client.send(event(BAD if properties is None else properties, **fields)))


async def test_by_default_a_refused_event_is_not_kept(service: Service) -> None:
    shop = await service.shop()
    await send_refused(shop)
    assert (await refused_events(shop), await kept(shop)) == ([], (0, 0))


async def test_a_refused_event_is_kept_whole(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    keyed = await service.key(shop.project, "events:write")
    request = event_ingest_pb2.SendEventRequest(event=event(BAD, occurred_at=1_700_000_000, key="k1"))
    call = keyed.channel.unary_unary(
        "/signalbox.v1.EventIngest/SendEvent",
        event_ingest_pb2.SendEventRequest.SerializeToString,
        event_ingest_pb2.SendEventResponse.FromString,
    )
    refused = await refusal(call(request, metadata=[*keyed.metadata, ("x-request-id", "r-1")]))
    found = await only(shop)
    assert (found.name, found.email, dict(found.properties), found.idempotency_key) == (ORDER, ADA, BAD, "k1")
    assert (found.occurred_at.seconds, found.door, found.request_id) == (1_700_000_000, "grpc", "r-1")
    assert (found.error.code, found.error.reason, found.error.message) == (3, refused.reason, refused.message)
    assert [(each.path, each.reason) for each in found.error.violations] == list(refused.violations)
    assert found.key_id
    assert found.received_at.seconds
    assert await kept(shop) == (1, found.byte_count)
    assert await shop.log() == []


UNREAD: dict[str, tuple[event_ingest_pb2.EventInput, str]] = {
    "invalid address": (event(email="not an address"), "INVALID_ARGUMENT"),
    "no contact": (event_ingest_pb2.EventInput(name=ORDER, contact_id=""), "CONTACT_REQUIRED"),
    "nothing at all": (event_ingest_pb2.EventInput(), "CONTACT_REQUIRED"),
    "not a number": (event({"order_total": float("nan")}), "INVALID_ARGUMENT"),
    "invalid key": (event(key="é"), "INVALID_ARGUMENT"),
}
READ: dict[str, tuple[event_ingest_pb2.EventInput, str]] = {
    "undefined": (event(name="unheard_of"), "DEFINITION_NOT_FOUND"),
    "invalid name": (event(name="signalbox:x"), "INVALID_NAME"),
    "unknown address": (event(email="nobody@example.com"), "CONTACT_NOT_FOUND"),
    "unknown id": (event(contact_id="0190b0a8-0000-7000-8000-000000000000"), "CONTACT_NOT_FOUND"),
    "violations": (event(BAD), "PAYLOAD_REJECTED"),
}


@pytest.mark.parametrize("mode", [None, INDEPENDENT, ALL_OR_NOTHING])
async def test_everything_that_is_refused_for_its_content_is_kept(
    service: Service, mode: event_ingest_pb2.BatchMode.ValueType | None
) -> None:
    shop = await service.shop(refused_events=KEEP)
    for sent, reason in (UNREAD | READ).values():
        if mode is None:
            assert (await refusal(shop.send(sent))).reason == reason
        elif mode is INDEPENDENT:
            result, other = await shop.send_all([sent, event()], mode)
            assert (result.error.reason, other.HasField("receipt")) == (reason, True)
        else:
            assert (await refusal(shop.send_all([event(), sent], mode))).reason == "BATCH_REJECTED"
    found = await refused_events(shop)
    assert [each.error.reason for each in reversed(found)] == [reason for _, reason in (UNREAD | READ).values()]
    for (sent, _), refused in zip((UNREAD | READ).values(), reversed(found), strict=True):
        assert (refused.name, refused.email, refused.contact_id) == (sent.name, sent.email, sent.contact_id)
        assert refused.idempotency_key == sent.idempotency_key
    request = pb.GetRefusedEventRequest(id=found[-1].id)
    raw = (await shop.quarantine.GetRefusedEvent(request)).refused_event.request
    assert event_ingest_pb2.EventInput.FromString(raw) == UNREAD["invalid address"][0]


async def test_a_stream_keeps_what_it_refuses(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)

    async def batches() -> AsyncIterator[event_ingest_pb2.StreamEventsRequest]:
        yield event_ingest_pb2.StreamEventsRequest(events=[event(), event(BAD)], mode=INDEPENDENT)
        yield event_ingest_pb2.StreamEventsRequest(events=[event(BAD, key="k")])

    responses = [response async for response in shop.ingest.StreamEvents(batches())]
    assert [len(responses), len(await refused_events(shop)), len(await shop.log())] == [2, 2, 1]


@on_sqlite
async def test_what_is_refused_for_scopes_or_as_a_whole_is_not_kept(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    reader = await service.key(shop.project, "events:read")
    assert (await verdict(reader.send(event(BAD))))[1] == "SCOPE_MISSING"
    assert (await verdict(shop.send_all([])))[1] == "INVALID_ARGUMENT"
    assert await refused_events(shop) == []


async def test_refused_events_are_listed_by_filters(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    await send_refused(shop)
    await send_refused(shop, name="unheard_of")
    await send_refused(shop, {"order_total": 1, "is_first_purchase": "perhaps", "lines": []})
    assert [len(await refused_events(shop, **each)) for each in FILTERS] == list(FILTERS_FIND)
    assert await counts(shop) == {
        (ORDER, "INVALID_PROPERTY_VALUE", PATH): 1,
        (ORDER, "INVALID_PROPERTY_VALUE", "properties.is_first_purchase"): 1,
        (ORDER, "UNKNOWN_PROPERTY", "properties.lines"): 1,
        ("unheard_of", "DEFINITION_NOT_FOUND", ""): 1,
    }
    middle = (await refused_events(shop))[1].received_at
    assert len(await refused_events(shop, received_from=middle)) == 2
    assert len(await refused_events(shop, received_until=middle)) == 1


FILTERS: tuple[dict[str, str], ...] = (
    {"name": ORDER},
    {"name": "unheard_of"},
    {"reason": "PAYLOAD_REJECTED"},
    {"reason": "UNKNOWN_PROPERTY"},
    {"reason": "PAYLOAD"},
    {"path": PATH},
    {"path": "properties.order"},
    {"door": "grpc"},
    {"door": "arsel"},
    {"name": ORDER, "path": "properties.lines"},
)
FILTERS_FIND = (2, 1, 2, 1, 0, 1, 0, 3, 0, 1)


async def test_after_a_schema_is_repaired_events_are_sent_again(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    await send_refused(shop, occurred_at=1_700_000_000, key="k1")
    await send_refused(shop)
    await send_refused(shop, name="unheard_of")
    first = (await refused_events(shop))[1].received_at
    before = await reingest(shop, dry_run=True)
    assert (before.recorded_count, before.refused_count) == (0, 3)
    assert [each.error.reason for each in before.still_refused] == ["PAYLOAD_REJECTED"] * 2 + ["DEFINITION_NOT_FOUND"]
    await shop.redefine(WIDER)
    dry = await reingest(shop, dry_run=True)
    assert (dry.recorded_count, dry.duplicate_count, dry.refused_count) == (2, 0, 1)
    assert (await shop.log(), len(await refused_events(shop))) == ([], 3)
    done = await reingest(shop)
    assert (done.recorded_count, done.refused_count, done.continue_after) == (2, 1, "")
    keyed, other = await shop.log()
    assert (keyed.occurred_at.seconds, dict(keyed.properties)) == (1_700_000_000, BAD)
    assert other.occurred_at == first
    assert [each.name for each in await refused_events(shop)] == ["unheard_of"]
    again = await shop.send(event(BAD, occurred_at=1_700_000_000, key="k1"))
    assert (again.duplicate, again.event.id) == (True, keyed.id)


async def test_a_retry_of_the_sender_makes_the_kept_event_a_duplicate(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    await send_refused(shop, key="k1")
    await send_refused(shop, {"order_total": "much"}, key="k1")
    await shop.redefine(WIDER)
    await shop.send(event(BAD, key="k1"))
    dry, done = await reingest(shop, dry_run=True), await reingest(shop)
    for result in (dry, done):
        assert (result.recorded_count, result.duplicate_count, result.refused_count) == (0, 1, 1)
        assert [each.error.reason for each in result.still_refused] == ["IDEMPOTENCY_KEY_REUSED"]
    assert (len(await shop.log()), len(await refused_events(shop))) == (1, 1)


async def test_events_are_selected_by_id_and_sent_again_once(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    for _ in range(3):
        await send_refused(shop)
    ids = [each.id for each in await refused_events(shop)]
    await shop.redefine(WIDER)
    request = pb.ReingestRefusedEventsRequest(ids=pb.RefusedEventIds(ids=ids[1:]))
    assert (await shop.quarantine.ReingestRefusedEvents(request)).recorded_count == 2
    assert await verdict(shop.quarantine.ReingestRefusedEvents(request)) == (
        grpc.StatusCode.NOT_FOUND,
        "REFUSAL_NOT_FOUND",
    )
    assert [each.id for each in await refused_events(shop)] == ids[:1]


@on_sqlite
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ids": pb.RefusedEventIds()},
        {"ids": pb.RefusedEventIds(ids=["x"]), "continue_after": "x"},
        {"ids": pb.RefusedEventIds(ids=[str(number) for number in range(1_001)])},
    ],
)
async def test_a_selection_must_be_complete(service: Service, fields: dict[str, Any]) -> None:
    shop = await service.shop()
    calls: tuple[tuple[Any, Any], ...] = (
        (shop.quarantine.ReingestRefusedEvents, pb.ReingestRefusedEventsRequest(**fields)),
        (shop.quarantine.DiscardRefusedEvents, pb.DiscardRefusedEventsRequest(**fields)),
    )
    for call, request in calls:
        assert (await verdict(call(request)))[1] == "INVALID_ARGUMENT"


async def test_what_is_still_refused_is_not_kept_twice(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    for sent, _ in (UNREAD | READ).values():
        await refusal(shop.send(sent))
    before = await refused_events(shop)
    result = await reingest(shop)
    assert (result.recorded_count, result.refused_count) == (0, len(before))
    assert sorted(each.error.reason for each in result.still_refused) == sorted(each.error.reason for each in before)
    assert await refused_events(shop) == before


async def test_refused_events_are_discarded(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    await send_refused(shop)
    await send_refused(shop, name="unheard_of")
    request = pb.DiscardRefusedEventsRequest(filter=pb.RefusedEventFilter(name=ORDER), validate_only=True)
    assert (await shop.quarantine.DiscardRefusedEvents(request)).event_count == 1
    assert len(await refused_events(shop)) == 2
    request.validate_only = False
    assert (await shop.quarantine.DiscardRefusedEvents(request)).event_count == 1
    (left,) = await refused_events(shop)
    assert await kept(shop) == (1, left.byte_count)
    await shop.quarantine.DiscardRefusedEvents(pb.DiscardRefusedEventsRequest(filter=ALL))
    assert await kept(shop) == (0, 0)


async def test_another_project_sees_nothing(service: Service) -> None:
    shop, other = await service.shop(refused_events=KEEP), await service.shop(refused_events=KEEP)
    await send_refused(shop)
    (found,) = await refused_events(shop)
    assert await refused_events(other) == []
    request = pb.GetRefusedEventRequest(id=found.id)
    assert (await verdict(other.quarantine.GetRefusedEvent(request)))[1] == "REFUSAL_NOT_FOUND"
    discard = pb.DiscardRefusedEventsRequest(ids=pb.RefusedEventIds(ids=[found.id]))
    assert (await verdict(other.quarantine.DiscardRefusedEvents(discard)))[1] == "REFUSAL_NOT_FOUND"
    assert (await reingest(other)).refused_count == 0
    assert len(await refused_events(shop)) == 1


async def test_the_rule_can_be_changed(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    await send_refused(shop)
    await set_rule(service, shop, DROP)
    await send_refused(shop)
    assert len(await refused_events(shop)) == 1


async def test_lists_continue_where_a_page_ended(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    for number in range(5):
        await send_refused(shop, name=f"unheard_of_{number}")
    names, request = [], pb.ListRefusedEventsRequest(page_size=2)
    while True:
        page = await shop.quarantine.ListRefusedEvents(request)
        names += [each.name for each in page.refused_events]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert names == [f"unheard_of_{number}" for number in reversed(range(5))]


async def test_beyond_the_limits_the_first_events_stay(database_url: str) -> None:
    async with serving(database_url, quarantine_events=3) as service:
        shop, other = await service.shop(refused_events=KEEP), await service.shop(refused_events=KEEP)
        results = await shop.send_all([event(name=f"unheard_of_{number}") for number in range(5)], INDEPENDENT)
        assert {each.error.reason for each in results} == {"DEFINITION_NOT_FOUND"}
        await send_refused(other)
        assert [each.name for each in await refused_events(shop)] == [f"unheard_of_{number}" for number in (2, 1, 0)]
        assert len(await refused_events(other)) == 1
    async with serving(database_url, quarantine_bytes=1_024) as service:
        again = service.client(shop.secret)
        await send_refused(again)
        assert len(await refused_events(again)) == 3
        await again.quarantine.DiscardRefusedEvents(pb.DiscardRefusedEventsRequest(filter=ALL))
        for _ in range(5):
            await send_refused(again, {"order_total": "a lot" * 50})
        assert 1 <= len(await refused_events(again)) <= 2


SENDS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "autosend": (
        "POST /v1/events/send",
        {"eventName": ORDER, "email": ADA, "eventProperties": BAD},
        {"eventName": ORDER, "eventProperties": BAD},
        "CONTACT_REQUIRED",
    ),
    "opensend": (
        "POST /events/send",
        {"event": ORDER, "email": ADA, "payload": BAD},
        {"event": ORDER, "email": "not an address", "payload": BAD},
        "INVALID_BODY",
    ),
    "emailsendx": (
        "POST /api/v1/contacts/{contact}/events",
        {"name": ORDER, "data": BAD},
        {"name": ORDER, "data": []},
        "INVALID_BODY",
    ),
    "arsel": (
        "POST /v1/events/send",
        {"event": ORDER, "email": ADA, "data": BAD},
        {"event": ORDER, "email": ADA, "data": BAD, "timestamp": "yesterday"},
        "INVALID_BODY",
    ),
    "resend": (
        "POST /events/send",
        {"event": ORDER, "email": ADA, "payload": BAD},
        {"event": "resend:x", "email": ADA, "payload": BAD},
        "VALIDATION_ERROR",
    ),
}


@on_sqlite
@pytest.mark.parametrize("dialect", SENDS)
async def test_what_a_dialect_refuses_is_sent_again_by_its_rules(service: Service, dialect: str) -> None:
    path, rejected, unreadable, reason = SENDS[dialect]
    shop = await service.project(refused_events=KEEP)
    await shop.define()
    contact = await shop.upsert()
    call = path.format(contact=contact.id)
    async with calling(service, shop, dialect) as caller:
        assert (await caller.call(call, rejected, {"idempotency-key": "k1"})).status_code >= 400
        assert (await caller.call(call, unreadable, {"idempotency-key": "k2"})).status_code >= 400
        assert (await caller.call(call, b"{", {})).status_code >= 400
        unread, read = await refused_events(shop)
        assert (read.error.reason, read.door, read.idempotency_key) == ("PAYLOAD_REJECTED", dialect, "k1")
        assert (unread.error.reason, unread.door, unread.idempotency_key) == (reason, dialect, "k2")
        assert unread.name in {ORDER, "resend:x"}
        await shop.redefine(WIDER)
        result = await reingest(shop)
        assert (result.recorded_count, [each.error.reason for each in result.still_refused]) == (1, [reason])
        (recorded,) = await shop.log()
        assert (recorded.contact_id, dict(recorded.properties)) == (contact.id, BAD)
        repeated = await caller.call(call, rejected, {"idempotency-key": "k1"})
    assert (repeated.status_code < 300, len(await shop.log())) == (True, 1)


async def test_a_person_is_erased_from_the_quarantine(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    ada = await shop.upsert()
    await shop.upsert("bob@example.com")
    await send_refused(shop)
    await send_refused(shop, contact_id=ada.id)
    await send_refused(shop, {"order_total": "for Ada@Example.com"}, email="bob@example.com")
    await refusal(shop.send(event(email=f"<{ADA}> and others")))
    await send_refused(shop, email="bob@example.com")
    call = shop.contacts.ExportContact(contacts_pb2.ExportContactRequest(email=ADA))
    exported = [record async for record in call]
    assert [record.WhichOneof("record") for record in exported[1:]] == [*["refused_event"] * 4, "end"]
    assert exported[-1].end.refused_event_count == 4
    for only_counted in (True, False):
        request = contacts_pb2.EraseContactRequest(email=ADA, validate_only=only_counted)
        assert (await shop.contacts.EraseContact(request)).refused_event_count == 4
    (left,) = await refused_events(shop)
    assert (left.email, await kept(shop)) == ("bob@example.com", (1, left.byte_count))


@on_sqlite
async def test_a_place_to_continue_at_that_no_response_had_is_refused(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    for call in (
        shop.quarantine.CountRefusedEvents(pb.CountRefusedEventsRequest(continue_after="zzz")),
        shop.quarantine.ReingestRefusedEvents(pb.ReingestRefusedEventsRequest(filter=ALL, continue_after="zzz")),
        shop.quarantine.DiscardRefusedEvents(pb.DiscardRefusedEventsRequest(filter=ALL, continue_after="zzz")),
    ):
        assert (await refusal(call)).violations == (("continue_after", "INVALID_ARGUMENT"),)
