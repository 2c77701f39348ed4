from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from signalbox.v1 import event_ingest_pb2 as pb
from signalbox.v1 import event_pb2, projects_pb2
from tests.support.messages import (
    ADA,
    ALL_OR_NOTHING,
    BOB,
    COERCED,
    INDEPENDENT,
    ORDER,
    RECEIPT,
    event,
    orders,
    schema,
)
from tests.support.refusals import refusal, verdict
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.support.service import Client, Service

pytestmark = [pytest.mark.lasting, pytest.mark.usefixtures("neighbour")]
# Answered without the database, or alike whatever it returns.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

PAYLOAD_REJECTED = (StatusCode.INVALID_ARGUMENT, "PAYLOAD_REJECTED")
DEFINITION_NOT_FOUND = (StatusCode.NOT_FOUND, "DEFINITION_NOT_FOUND")
CONTACT_NOT_FOUND = (StatusCode.NOT_FOUND, "CONTACT_NOT_FOUND")
KEY_REUSED = (StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED")
NAME_IS_NUMBER = schema(order_total="number", currency="number")


async def stream(client: Client, *messages: pb.StreamEventsRequest) -> list[pb.StreamEventsResponse]:
    return [answer async for answer in client.ingest.StreamEvents(iter(messages))]


async def page(client: Client, **request: Any) -> tuple[list[int], str]:
    answer = await client.ingest.ListEvents(pb.ListEventsRequest(**request))
    return [each.position for each in answer.events], answer.next_page_token


def positions(events: Iterable[event_pb2.Event]) -> list[int]:
    return [each.position for each in events]


def totals(events: Iterable[event_pb2.Event]) -> list[float]:
    return [each.properties.fields["order_total"].number_value for each in events]


def received_in_order(log: list[event_pb2.Event]) -> bool:
    times = [each.received_at.ToMicroseconds() for each in log]
    return times == sorted(times)


# One event


async def test_an_order_is_coerced_stored_and_read_back(shop: Client) -> None:
    sent = {"order_total": "129.99", "currency": "USD", "is_first_purchase": "true"}
    receipt = await shop.send(event(sent, email=" Ada@Example.com "))
    recorded = receipt.event
    assert MessageToDict(recorded.properties) == {"order_total": 129.99, "currency": "USD", "is_first_purchase": True}
    assert sorted((MessageToDict(each) for each in recorded.coercions), key=lambda each: each["path"]) == [
        {"path": "properties.is_first_purchase", "kind": "KIND_CONVERTED", "from": "true", "to": True},
        {"path": "properties.order_total", "kind": "KIND_CONVERTED", "from": "129.99", "to": 129.99},
    ]
    assert (receipt.coercion_count, receipt.match_count, receipt.duplicate) == (2, 0, False)
    assert (recorded.name, recorded.email, recorded.revision, recorded.position) == (ORDER, ADA, 1, 1)
    assert UUID(recorded.id).version == UUID(recorded.contact_id).version == UUID(recorded.definition_id).version == 7
    assert recorded.occurred_at == recorded.received_at
    assert await shop.get(recorded.id) == recorded
    assert await shop.log() == [recorded]


async def test_an_event_about_a_contact_id_reads_back_as_it_was_answered(shop: Client) -> None:
    ada = await shop.upsert()
    answered = (await shop.send(event(contact_id=ada.id))).event
    assert answered.contact_id == ada.id
    assert await shop.get(answered.id) == answered


async def test_an_event_has_the_time_at_which_it_occurred(shop: Client) -> None:
    recorded = (await shop.send(event(occurred_at=1_000_000_000))).event
    assert recorded.occurred_at == Timestamp(seconds=1_000_000_000)
    assert recorded.received_at.seconds > 1_000_000_000
    assert await shop.get(recorded.id) == recorded


async def test_an_event_without_properties_is_an_event(shop: Client) -> None:
    recorded = (await shop.send(event())).event
    assert recorded.HasField("properties")
    assert await shop.get(recorded.id) == recorded


async def test_an_event_keeps_the_revision_that_validated_it(shop: Client) -> None:
    first = (await shop.send(event({"currency": "1"}))).event
    await shop.redefine(NAME_IS_NUMBER)
    second = (await shop.send(event({"currency": "1"}))).event
    assert (first.revision, second.revision) == (1, 2)
    assert second.properties.fields["currency"].number_value == 1
    assert await shop.log() == [first, second]


@on_sqlite
async def test_the_receipt_view_names_the_event_and_no_more(shop: Client) -> None:
    receipt = await shop.send(event({"order_total": "1"}), RECEIPT)
    whole = await shop.get(receipt.event.id)
    assert receipt.coercion_count == 1
    assert receipt.event == event_pb2.Event(
        id=whole.id,
        position=whole.position,
        revision=whole.revision,
        contact_id=whole.contact_id,
        received_at=whole.received_at,
    )


async def test_what_is_refused_is_not_stored(shop: Client) -> None:
    assert await verdict(shop.send(event(name="nothing"))) == DEFINITION_NOT_FOUND
    assert await verdict(shop.send(event(email="nobody@example.com"))) == CONTACT_NOT_FOUND
    assert await verdict(shop.send(event(contact_id="0"))) == CONTACT_NOT_FOUND
    assert await verdict(shop.send(event({"order_total": "abc"}))) == PAYLOAD_REJECTED
    assert await shop.log() == []
    assert (await shop.send()).event.position == 1


@on_sqlite
async def test_every_violation_of_a_payload_is_returned_with_its_path(shop: Client) -> None:
    refused = await refusal(shop.send(event({"order_total": "abc", "colour": "red"})))
    assert sorted(refused.violations) == [
        ("properties.colour", "UNKNOWN_PROPERTY"),
        ("properties.order_total", "INVALID_PROPERTY_VALUE"),
    ]


async def test_a_deleted_definition_takes_no_more_events_and_keeps_the_old(shop: Client) -> None:
    kept = (await shop.send()).event
    await shop.undefine()
    assert await verdict(shop.send()) == DEFINITION_NOT_FOUND
    assert await shop.log() == [kept]


@on_sqlite
async def test_an_address_is_no_contact_id(shop: Client) -> None:
    await shop.send()
    assert await verdict(shop.send(event(contact_id=ADA))) == CONTACT_NOT_FOUND


async def test_another_projects_things_are_not_found(service: Service) -> None:
    theirs, mine = await service.shop(), await service.shop()
    recorded = (await theirs.send()).event
    missing = mine.ingest.GetEvent(pb.GetEventRequest(id=recorded.id))
    assert await verdict(missing) == (StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
    assert await verdict(mine.send(event(contact_id=recorded.contact_id))) == CONTACT_NOT_FOUND
    assert await mine.log(contact_id=recorded.contact_id) == []
    assert await mine.log() == []
    assert (await mine.send()).event.position == 1


# Rules of the project


async def test_an_undefined_event_is_recorded_unchecked_where_the_project_accepts_it(service: Service) -> None:
    shop = await service.shop(undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT)
    recorded = (await shop.send(event({"any": ["thing", None]}, name="page_viewed"))).event
    assert (recorded.name, recorded.definition_id, recorded.revision) == ("page_viewed", "", 0)
    assert MessageToDict(recorded.properties) == {"any": ["thing", None]}
    assert await shop.get(recorded.id) == recorded
    assert await verdict(shop.send(event({"order_total": "abc"}))) == PAYLOAD_REJECTED
    assert await verdict(shop.send(event(name="signalbox:x"))) == (StatusCode.INVALID_ARGUMENT, "INVALID_NAME")


async def test_an_unknown_address_becomes_a_contact_where_the_project_creates_it(service: Service) -> None:
    shop = await service.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE)
    results = await shop.send_all([event(email=BOB), event(email=ADA), event(email=BOB)])
    first, ada, second = (result.receipt.event.contact_id for result in results)
    assert first == second != ada
    assert (await shop.upsert(BOB)).id == first
    assert (await shop.send(event(email=BOB))).event.contact_id == first
    assert await verdict(shop.send(event(contact_id="0"))) == CONTACT_NOT_FOUND


async def test_many_events_about_one_unknown_address_create_one_contact(service: Service) -> None:
    shop = await service.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE)
    receipts = await asyncio.gather(*(shop.send(event(email=BOB)) for _ in range(20)))
    assert len({receipt.event.contact_id for receipt in receipts}) == 1


async def test_a_refused_event_creates_no_contact(service: Service) -> None:
    shop = await service.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE)
    await verdict(shop.send(event({"order_total": "abc"}, email=BOB)))
    await verdict(shop.send_all([event(email=BOB), event(name="nothing")], ALL_OR_NOTHING))
    await shop.send_all([event(), event(name="nothing", email=BOB)], INDEPENDENT)
    assert await shop.log(email=BOB) == []
    found = await verdict(shop.forget(BOB))
    assert found == CONTACT_NOT_FOUND


async def test_an_event_that_matches_nothing_is_recorded_without_a_contact_where_only_matches_create_one(
    service: Service,
) -> None:
    shop = await service.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH)
    recorded = (await shop.send(event(email=BOB))).event
    assert (recorded.contact_id, recorded.email) == ("", BOB)
    assert await shop.get(recorded.id) == recorded
    assert await shop.log(email=BOB) == [recorded]
    assert (await shop.send()).event.contact_id != ""
    assert await verdict(shop.forget(BOB)) == CONTACT_NOT_FOUND


async def test_the_address_of_a_deleted_contact_is_erased_from_events_recorded_without_it(service: Service) -> None:
    shop = await service.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH)
    recorded = (await shop.send(event(email=BOB))).event
    await shop.upsert(BOB)
    await shop.forget(BOB)
    assert (await shop.get(recorded.id)).email == ""


async def test_names_are_case_sensitive_unless_the_project_ignores_case(service: Service) -> None:
    exact = await service.shop()
    assert await verdict(exact.send(event(name="Order_Completed"))) == DEFINITION_NOT_FOUND
    folding = await service.shop(name_case=projects_pb2.NAME_CASE_INSENSITIVE)
    await folding.define("ORDER_completed")
    assert (await folding.send(event(name="ORDER_completed"))).event.name == "ORDER_completed"
    assert (await folding.send(event(name=ORDER))).event.name == ORDER
    # Of names that differ in case only, the definition made first answers to every other spelling.
    assert (await folding.send(event(name="Order_Completed"))).event.name == ORDER


async def test_a_deleted_contact_takes_no_more_events(shop: Client) -> None:
    recorded = (await shop.send()).event
    await shop.forget()
    assert await verdict(shop.send()) == CONTACT_NOT_FOUND
    assert await verdict(shop.send(event(contact_id=recorded.contact_id))) == CONTACT_NOT_FOUND
    again = await shop.upsert()
    assert (await shop.send()).event.contact_id == again.id != recorded.contact_id


# Batches


async def test_a_batch_is_answered_in_the_order_of_its_events(shop: Client) -> None:
    results = await shop.send_all(orders(700), view=COERCED)
    events = [result.receipt.event for result in results]
    assert totals(events) == list(range(700))
    assert positions(events) == list(range(1, 701))
    assert await shop.log() == events


@on_sqlite
async def test_a_batch_is_answered_with_receipts_unless_it_asks_for_more(shop: Client) -> None:
    (result,) = await shop.send_all([event({"order_total": "1"})])
    assert (result.receipt.event.position, result.receipt.coercion_count) == (1, 1)
    assert not result.receipt.event.HasField("properties")


async def test_a_refused_event_refuses_its_batch_and_is_named(shop: Client) -> None:
    batch = [*orders(3), event({"order_total": "abc"}), event(name="nothing"), event(email=" ")]
    refused = await refusal(shop.send_all(batch))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "BATCH_REJECTED")
    assert refused.violations == (
        ("events[3].properties.order_total", "INVALID_PROPERTY_VALUE"),
        ("events[4]", "DEFINITION_NOT_FOUND"),
        ("events[5].email", "INVALID_EMAIL"),
    )
    assert await shop.log() == []


async def test_what_only_the_database_knows_refuses_a_batch_too(shop: Client) -> None:
    refused = await refusal(shop.send_all([event(), event(contact_id="0")]))
    assert refused.violations == (("events[1]", "CONTACT_NOT_FOUND"),)
    assert await shop.log() == []
    assert (await shop.send()).event.position == 1


async def test_events_of_an_independent_batch_stand_for_themselves(shop: Client) -> None:
    batch = [
        event({"order_total": 0}),
        event({"order_total": "abc", "colour": "red"}),
        event(name="nothing"),
        event(contact_id="0"),
        event(email=""),
        event({"order_total": 5}),
    ]
    results = await shop.send_all(batch, INDEPENDENT)
    assert [result.WhichOneof("outcome") for result in results] == ["receipt", *["error"] * 4, "receipt"]
    assert [(result.error.code, result.error.reason) for result in results[1:5]] == [
        (StatusCode.INVALID_ARGUMENT.value[0], "PAYLOAD_REJECTED"),
        (StatusCode.NOT_FOUND.value[0], "DEFINITION_NOT_FOUND"),
        (StatusCode.NOT_FOUND.value[0], "CONTACT_NOT_FOUND"),
        (StatusCode.INVALID_ARGUMENT.value[0], "INVALID_ARGUMENT"),
    ]
    assert sorted((each.path, each.reason) for each in results[1].error.violations) == [
        ("properties.colour", "UNKNOWN_PROPERTY"),
        ("properties.order_total", "INVALID_PROPERTY_VALUE"),
    ]
    assert totals(await shop.log()) == [0, 5]
    assert await shop.positions() == [1, 2]


# Streams


async def test_a_stream_is_answered_in_the_order_of_its_messages(shop: Client) -> None:
    messages = [pb.StreamEventsRequest(sequence=100 - n, events=orders(n % 3 + 1)) for n in range(50)]
    answers = await stream(shop, *messages)
    assert [answer.sequence for answer in answers] == [message.sequence for message in messages]
    assert [len(answer.results) for answer in answers] == [len(message.events) for message in messages]
    found = [result.receipt.event.position for answer in answers for result in answer.results]
    assert found == list(range(1, len(found) + 1))
    assert await shop.positions() == found


@on_sqlite
async def test_a_refused_message_is_answered_in_its_turn_and_ends_nothing(shop: Client) -> None:
    answers = await stream(
        shop,
        pb.StreamEventsRequest(sequence=1, events=orders(2)),
        pb.StreamEventsRequest(sequence=2, events=[event(), event(name="nothing")]),
        pb.StreamEventsRequest(sequence=3),
        pb.StreamEventsRequest(sequence=4, events=[event(), event(contact_id="0")]),
        pb.StreamEventsRequest(sequence=5, events=[event(name="nothing"), event()], mode=INDEPENDENT),
        pb.StreamEventsRequest(sequence=6, events=orders(1), view=COERCED),
    )
    assert [answer.sequence for answer in answers] == [1, 2, 3, 4, 5, 6]
    reasons = [answer.error.reason for answer in answers]
    assert reasons == ["", "BATCH_REJECTED", "INVALID_ARGUMENT", "BATCH_REJECTED", "", ""]
    assert [each.path for each in answers[1].error.violations] == ["events[1]"]
    assert [result.WhichOneof("outcome") for result in answers[4].results] == ["error", "receipt"]
    assert answers[5].results[0].receipt.event.name == ORDER
    assert await shop.positions() == [1, 2, 3, 4]


@on_sqlite
async def test_each_message_of_a_stream_is_answered_without_waiting_for_the_next(shop: Client) -> None:
    call = shop.ingest.StreamEvents()
    for number in range(3):
        await call.write(pb.StreamEventsRequest(sequence=number, events=orders(1)))
        answer = await call.read()
        assert isinstance(answer, pb.StreamEventsResponse)
        assert answer.sequence == number
    await call.done_writing()
    assert await call.code() is StatusCode.OK


@on_sqlite
async def test_an_empty_stream_ends_well(shop: Client) -> None:
    assert await stream(shop) == []


async def test_a_stream_that_breaks_off_leaves_whole_messages(shop: Client) -> None:
    call = shop.ingest.StreamEvents()
    for number in range(20):
        await call.write(pb.StreamEventsRequest(sequence=number, events=orders(10)))
    await call.read()
    call.cancel()
    await asyncio.sleep(0.2)
    log = await shop.log()
    assert positions(log) == list(range(1, len(log) + 1))
    assert len(log) % 10 == 0


# Positions


async def test_positions_are_gapless_and_time_never_falls_with_many_senders(service: Service) -> None:
    projects = [await service.shop() for _ in range(3)]

    async def send(shop: Client) -> None:
        for number in range(8):
            await shop.send(event({"order_total": number}))
            await verdict(shop.send(event({"order_total": "abc"})))

    async def send_batches(shop: Client) -> None:
        for number in range(8):
            await shop.send_all([*orders(number), event(name="nothing")], INDEPENDENT)
            await verdict(shop.send_all([*orders(3), event(name="nothing")], ALL_OR_NOTHING))

    async def send_stream(shop: Client) -> None:
        await stream(shop, *(pb.StreamEventsRequest(events=orders(number + 1)) for number in range(8)))

    senders = (send, send_batches, send_stream)
    await asyncio.gather(*(sender(shop) for shop in projects for sender in senders))
    for shop in projects:
        log = await shop.log()
        assert positions(log) == list(range(1, 8 + 28 + 36 + 1))
        assert received_in_order(log)
        assert len({each.id for each in log}) == len(log)


async def test_a_reader_that_follows_the_log_sees_every_event_once_and_in_order(shop: Client) -> None:
    seen: list[int] = []

    async def follow() -> None:
        while len(seen) < 200:
            found, _ = await page(shop, after_position=seen[-1] if seen else 0, page_size=1_000)
            seen.extend(found)
            await asyncio.sleep(0)

    async def send() -> None:
        for _ in range(5):
            await asyncio.gather(*(shop.send_all(orders(4)) for _ in range(10)))

    await asyncio.gather(follow(), send())
    assert seen == list(range(1, 201))


# Idempotency


async def test_a_repeated_send_gives_the_first_result_again(shop: Client) -> None:
    sent = event({"order_total": "1", "currency": "USD"}, key="order-1", occurred_at=1_000_000_000)
    first = await shop.send(sent)
    again = await shop.send(sent)
    assert (first.duplicate, again.duplicate) == (False, True)
    assert (again.event, again.coercion_count) == (first.event, 1)
    other_order = event({"currency": "USD", "order_total": "1"}, key="order-1", occurred_at=1_000_000_000)
    assert (await shop.send(other_order)).event == first.event
    assert await shop.positions() == [1]


@pytest.mark.parametrize(
    "other",
    [
        event({"order_total": "2"}, key="k"),
        event({"order_total": 1}, key="k"),
        event({"order_total": "1"}, key="k", email=BOB),
        event({"order_total": "1"}, key="k", name="refunded"),
        event({"order_total": "1"}, key="k", occurred_at=1),
    ],
)
async def test_a_key_used_with_other_content_is_refused(shop: Client, other: pb.EventInput) -> None:
    await shop.upsert(BOB)
    await shop.define("refunded")
    await shop.send(event({"order_total": "1"}, key="k"))
    refused = await refusal(shop.send(other))
    assert (refused.code, refused.reason, refused.metadata) == (*KEY_REUSED, {"idempotency_key": "k"})
    assert await shop.positions() == [1]


async def test_the_first_result_outlives_the_definition_and_the_contact(shop: Client) -> None:
    sent = event({"order_total": "1", "currency": "USD"}, key="k")
    first = await shop.send(sent)
    await shop.redefine(NAME_IS_NUMBER)
    assert (await shop.send(sent)).event == first.event
    await shop.undefine()
    assert (await shop.send(sent)).event == first.event
    assert await verdict(shop.send(event({"order_total": "2"}, key="k"))) == KEY_REUSED
    await shop.forget()
    again = await shop.send(sent)
    assert (again.duplicate, again.event.id, again.event.email) == (True, first.event.id, "")


async def test_a_refused_event_leaves_its_key_free(shop: Client) -> None:
    assert await verdict(shop.send(event({"order_total": "abc"}, key="k"))) == PAYLOAD_REJECTED
    assert not (await shop.send(event({"order_total": "1"}, key="k"))).duplicate


async def test_keys_of_projects_have_nothing_to_do_with_each_other(service: Service) -> None:
    one, other = await service.shop(), await service.shop()
    assert not (await one.send(event(key="k"))).duplicate
    assert not (await other.send(event({"order_total": 1}, key="k"))).duplicate


async def test_a_key_counts_within_one_batch(shop: Client) -> None:
    batch = [event(key="a"), event({"order_total": 1}, key="b"), event(key="a"), event(key="b")]
    results = await shop.send_all(batch, INDEPENDENT)
    assert [result.receipt.duplicate for result in results] == [False, False, True, False]
    assert results[2].receipt.event == results[0].receipt.event
    assert results[3].error.reason == "IDEMPOTENCY_KEY_REUSED"
    assert await shop.positions() == [1, 2]


async def test_a_repeated_batch_is_stored_once(shop: Client) -> None:
    batch = [event({"order_total": number}, key=f"k{number}") for number in range(5)]
    first = await shop.send_all(batch)
    again = await shop.send_all([*batch, event()])
    assert [result.receipt.duplicate for result in again] == [True] * 5 + [False]
    assert [result.receipt.event for result in again[:5]] == [result.receipt.event for result in first]
    assert await shop.positions() == [1, 2, 3, 4, 5, 6]


async def test_a_batch_that_was_refused_is_no_first_result(shop: Client) -> None:
    await verdict(shop.send_all([event(key="k"), event(name="nothing")]))
    assert not (await shop.send(event(key="k"))).duplicate


async def test_a_key_sent_many_times_at_once_is_stored_once(shop: Client) -> None:
    receipts = await asyncio.gather(*(shop.send(event(key="k")) for _ in range(20)))
    assert [receipt.duplicate for receipt in receipts].count(False) == 1
    assert {receipt.event.id for receipt in receipts} == {receipts[0].event.id}
    assert await shop.positions() == [1]


async def test_what_is_recorded_outlives_the_server(database_url: str) -> None:
    async with serving(database_url) as service:
        shop = await service.shop()
        first = await shop.send(event({"order_total": "1"}, key="k"))
    async with serving(database_url) as service:
        again = service.client(shop.secret)
        assert await again.log() == [first.event]
        repeated = await again.send(event({"order_total": "1"}, key="k"))
        assert (repeated.duplicate, repeated.event) == (True, first.event)
        assert (await again.send()).event.position == 2


# Lists


async def test_events_are_listed_newest_first_page_by_page(shop: Client) -> None:
    await shop.send_all(orders(5))
    first, token = await page(shop, page_size=2)
    await shop.send()
    second, token = await page(shop, page_size=2, page_token=token)
    third, token = await page(shop, page_size=2, page_token=token)
    assert (first, second, third, token) == ([5, 4], [3, 2], [1], "")


async def test_events_are_listed_onwards_from_a_position_page_by_page(shop: Client) -> None:
    await shop.send_all(orders(5))
    first, token = await page(shop, after_position=1, page_size=2)
    second, token = await page(shop, after_position=1, page_size=2, page_token=token)
    assert (first, second, token) == ([2, 3], [4, 5], "")
    assert await page(shop, after_position=5) == ([], "")
    assert await page(shop, after_position=2**63 - 1) == ([], "")
    assert await page(shop, after_position=0) == ([1, 2, 3, 4, 5], "")
    assert (await refusal(page(shop, after_position=-1))).violations == (("after_position", "OUT_OF_RANGE"),)


@on_sqlite
async def test_a_page_has_fifty_events_by_default_and_a_thousand_at_most(shop: Client) -> None:
    await shop.send_all(orders(1_001))
    assert len((await page(shop))[0]) == 50
    assert len((await page(shop, page_size=2_000))[0]) == 1_000
    refused = await refusal(page(shop, page_size=-1))
    assert (refused.code, refused.violations) == (StatusCode.INVALID_ARGUMENT, (("page_size", "OUT_OF_RANGE"),))


async def test_filters_narrow_together(shop: Client) -> None:
    bob = await shop.upsert(BOB)
    await shop.define("refunded")
    await shop.send_all(
        [
            event(occurred_at=100),
            event(occurred_at=200, email=BOB),
            event(occurred_at=300, name="refunded", email=BOB),
            event(occurred_at=400, name="refunded"),
        ]
    )
    for filters, expected in (
        ({"name": "refunded"}, [3, 4]),
        ({"name": "REFUNDED"}, []),
        ({"email": " BOB@example.com"}, [2, 3]),
        ({"contact_id": bob.id}, [2, 3]),
        ({"contact_id": "0"}, []),
        ({"email": "nobody@example.com"}, []),
        ({"name": "refunded", "email": BOB}, [3]),
        ({"occurred_from": Timestamp(seconds=200)}, [2, 3, 4]),
        ({"occurred_until": Timestamp(seconds=200)}, [1]),
        ({"occurred_from": Timestamp(seconds=200), "occurred_until": Timestamp(seconds=400), "email": BOB}, [2, 3]),
    ):
        assert positions(await shop.log(**filters)) == expected, filters
        assert (await page(shop, **filters))[0] == expected[::-1], filters


async def test_a_range_of_received_times_begins_with_its_start_and_ends_before_its_end(shop: Client) -> None:
    log = [(await shop.send()).event for _ in range(6)]
    second, fourth = log[1].received_at, log[3].received_at
    within = [each.position for each in log if second.ToMicroseconds() <= each.received_at.ToMicroseconds()]
    assert positions(await shop.log(received_from=second)) == within
    before = [each.position for each in log if each.received_at.ToMicroseconds() < fourth.ToMicroseconds()]
    assert positions(await shop.log(received_until=fourth)) == before
    both = [position for position in within if position in before]
    assert positions(await shop.log(received_from=second, received_until=fourth)) == both
    assert (await page(shop, received_from=second, received_until=fourth))[0] == both[::-1]
    assert await shop.log(received_until=Timestamp(seconds=0)) == []
    assert await shop.log(received_from=Timestamp(seconds=253_402_300_799)) == []


@on_sqlite
async def test_a_page_token_serves_no_other_filters(shop: Client) -> None:
    await shop.send_all(orders(3))
    _, token = await page(shop, page_size=1)
    invalid = (StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
    others: list[dict[str, Any]] = [{"name": ORDER}, {"email": ADA}, {"after_position": 0}]
    for filters in others:
        assert await verdict(page(shop, page_token=token, **filters)) == invalid
    assert await page(shop, page_token=token, page_size=5) == ([2, 1], "")


# Two servers on one database


on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest_asyncio.fixture
async def two_servers(database_url: str) -> AsyncIterator[tuple[Client, Client]]:
    """Clients of one shop on two servers, both of which have its catalog in memory."""
    async with serving(database_url) as one, serving(database_url) as other:
        here = await one.shop()
        there = other.client(here.secret, here.project)
        await here.send()
        await there.send()
        yield here, there


@on_postgresql
async def test_a_changed_schema_validates_the_very_next_event_on_every_server(
    two_servers: tuple[Client, Client],
) -> None:
    here, there = two_servers
    for number in range(5):
        await here.redefine(schema(**{f"p{number}": "number"}))
        recorded = (await there.send(event({f"p{number}": "1"}))).event
        assert (recorded.revision, recorded.properties.fields[f"p{number}"].number_value) == (number + 2, 1)


@on_postgresql
async def test_a_new_definition_takes_the_very_next_event_everywhere(two_servers: tuple[Client, Client]) -> None:
    here, there = two_servers
    await here.define("refunded")
    assert (await there.send(event(name="refunded"))).event.revision == 1


@on_postgresql
async def test_a_deleted_definition_refuses_the_very_next_event_everywhere(two_servers: tuple[Client, Client]) -> None:
    here, there = two_servers
    await here.undefine()
    assert await verdict(there.send()) == DEFINITION_NOT_FOUND


@on_postgresql
async def test_a_deleted_contact_refuses_the_very_next_event_everywhere(two_servers: tuple[Client, Client]) -> None:
    here, there = two_servers
    await here.forget()
    assert await verdict(there.send()) == CONTACT_NOT_FOUND


@on_postgresql
async def test_a_revoked_key_ends_everywhere_within_two_seconds(
    two_servers: tuple[Client, Client], database_url: str
) -> None:
    here, there = two_servers
    async with serving(database_url) as third:
        projects = third.admin.projects
        (key,) = (await projects.ListApiKeys(projects_pb2.ListApiKeysRequest(project=here.project))).api_keys
        await projects.RevokeApiKey(projects_pb2.RevokeApiKeyRequest(id=key.id))
    await asyncio.sleep(2)
    for client in (here, there):
        assert await verdict(client.send()) == (StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")


@on_postgresql
async def test_positions_stay_gapless_with_both_servers_sending(two_servers: tuple[Client, Client]) -> None:
    async def send(shop: Client) -> None:
        for number in range(10):
            await asyncio.gather(shop.send(), shop.send_all(orders(number + 1)), shop.send(event(key=str(number))))

    await asyncio.gather(*(send(client) for client in two_servers))
    log = await two_servers[0].log()
    assert positions(log) == list(range(1, 2 + 2 * (10 + 55) + 10 + 1))
    assert received_in_order(log)


async def test_a_definition_created_while_the_catalog_is_first_read_is_not_missed(service: Service) -> None:
    for _ in range(10):
        shop = await service.project()
        await shop.upsert()
        await asyncio.gather(shop.send(), shop.define(), return_exceptions=True)
        assert (await shop.send()).event.revision == 1
