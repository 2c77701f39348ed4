"""Subscriptions and the operations on them outside of streams, over real channels and both databases."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from automation.errors import InvalidSubscription
from automation.matches import MatchFilter
from automation.subscriptions.store import check_subscription
from automation.subscriptions.values import Backoff, DeliveryOrder, Subscription, delivery_id, parse_delivery_ids
from registry.times.timestamps import now_micros
from server.rpc.messages.times import timestamp
from server.services.subscriptions import MAX_CONSUMERS
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.automations import automate
from tests.support.consumers import (
    ACKNOWLEDGED,
    EARLIEST,
    EXTENDED,
    PARK,
    PARKED,
    RETRYING,
    SKIP,
    SKIPPED,
    Engine,
    acknowledge,
    get,
    ids,
    parked,
    positions,
    pull,
    record,
    seconds,
    seek,
    stats,
    subscribe,
)
from tests.support.proto_comments import proto_comments
from tests.support.refusals import refusal, verdict
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.support.service import Client, Service

pytestmark = [pytest.mark.lasting, pytest.mark.usefixtures("neighbour")]
# Requests are refused before the database has a part in it.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

INVALID = StatusCode.INVALID_ARGUMENT
NOT_FOUND = (StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND")
EXISTS = (StatusCode.ALREADY_EXISTS, "SUBSCRIPTION_ALREADY_EXISTS")
ALL = pb.ParkedSelection(all=True)


@pytest_asyncio.fixture
async def till(shop: Client) -> Client:
    """The shop, with an automation on orders."""
    await automate(shop)
    return shop


async def park(client: Client, count: int) -> list[pb.Delivery]:
    """Park the next matches."""
    taken = await pull(client, count)
    await acknowledge(client, nacks=[pb.NackDeliveries(delivery_ids=ids(taken), action=PARK, reason="bad")])
    return taken


# Keeping


async def test_a_subscription_has_rules_where_none_are_said(till: Client) -> None:
    made = await subscribe(till, name="engine")
    assert (made.name, made.order, made.max_attempts) == ("engine", pb.DELIVERY_ORDER_POSITION, 10)
    assert made.ack_deadline == seconds(30)
    assert made.backoff == pb.Backoff(initial_delay=seconds(1), max_delay=seconds(600), multiplier=2)
    assert not made.stats.HasField("oldest_unacked_age")
    answer = await get(till, made.id)
    assert (answer.subscription, list(answer.consumers)) == (made, [])
    assert (await get(till, "engine")).subscription == made


async def test_a_subscription_keeps_the_rules_it_was_given(till: Client) -> None:
    rules: dict[str, Any] = {
        "filter": pb.MatchFilter(automation_ids=["a"], labels={"team": "growth"}, event_names=["paid"]),
        "order": pb.DELIVERY_ORDER_CONTACT,
        "ack_deadline": seconds(5.5),
        "max_attempts": 3,
        "backoff": pb.Backoff(initial_delay=seconds(3_600), max_delay=seconds(7_200), multiplier=1.5),
    }
    made = await subscribe(till, **rules)
    assert {name: getattr(made, name) for name in rules} == rules
    assert (await get(till)).subscription == made


@pytest.mark.parametrize(
    ("start", "position"),
    [
        (None, 3),
        (EARLIEST, 0),
        (pb.StartPoint(log_end=pb.LOG_END_LATEST), 3),
        (pb.StartPoint(after_position=2), 2),
        (pb.StartPoint(time=timestamp(1)), 0),
    ],
)
async def test_a_subscription_begins_where_it_says(till: Client, start: pb.StartPoint | None, position: int) -> None:
    await record(till, 3)
    made = await subscribe(till, start=start)
    assert (made.stats.floor_position, made.stats.read_position, made.stats.head_position) == (position, position, 3)
    assert positions(await pull(till)) == list(range(position + 1, 4))


@on_sqlite
async def test_what_breaks_the_rules_of_a_subscription_is_refused(till: Client) -> None:
    for fields, path in (
        ({"name": " "}, "subscription.name"),
        ({"ack_deadline": seconds(0.5)}, "subscription.ack_deadline"),
        ({"ack_deadline": seconds(3_601)}, "subscription.ack_deadline"),
        ({"max_attempts": 1_001}, "subscription.max_attempts"),
        ({"backoff": pb.Backoff(multiplier=0.5)}, "subscription.backoff.multiplier"),
        ({"backoff": pb.Backoff(initial_delay=seconds(-1))}, "subscription.backoff.initial_delay"),
    ):
        refused = await refusal(subscribe(till, **fields))
        assert (refused.code, refused.reason) == (INVALID, "INVALID_SUBSCRIPTION")
        assert [each for each, _ in refused.violations] == [path]
    many = pb.MatchFilter(event_names=["x"] * 101)
    assert (await refusal(subscribe(till, filter=many))).violations == (
        ("subscription.filter.event_names", "TOO_LARGE"),
    )
    beyond = (StatusCode.OUT_OF_RANGE, "POSITION_BEYOND_HEAD")
    assert await verdict(subscribe(till, start=pb.StartPoint(after_position=1))) == beyond
    assert await verdict(subscribe(till, start=pb.StartPoint(cursor="x"))) == (INVALID, "CURSOR_INVALID")
    never = await refusal(subscribe(till, start=pb.StartPoint(time=Timestamp(seconds=1 << 62))))
    assert never.violations == (("start.time", "INVALID_TIMESTAMP"),)
    order: Any = 9
    assert (await refusal(subscribe(till, order=order))).violations == (("subscription.order", "INVALID_ENUM_VALUE"),)
    assert list((await till.matches.ListSubscriptions(pb.ListSubscriptionsRequest())).subscriptions) == []


HOUR = 3_600 * 1_000_000
PLAIN = Subscription(
    *(1, 1, "id", "engine", MatchFilter(), DeliveryOrder.POSITION, HOUR, 10, Backoff()), *(0, 0, 0, 0, 1, 0, 0)
)


@pytest.mark.parametrize(
    ("field", "within", "outside"),
    [
        ("ack_deadline", (1_000_000, HOUR), (999_999, HOUR + 1)),
        ("max_attempts", (1, 1_000), (0, 1_001)),
        ("backoff.initial_delay", (Backoff(0), Backoff(HOUR, HOUR)), (Backoff(-1), Backoff(HOUR + 1, HOUR + 1))),
        ("backoff.max_delay", (Backoff(5, 5), Backoff(5, 24 * HOUR)), (Backoff(5, 4), Backoff(5, 24 * HOUR + 1))),
        (
            "backoff.multiplier",
            (Backoff(multiplier=1), Backoff(multiplier=10)),
            (Backoff(multiplier=0.999), Backoff(multiplier=10.001)),
        ),
        ("filter.automation_ids", (MatchFilter(("x",) * 100),), (MatchFilter(("x",) * 101),)),
        ("filter.event_names", (MatchFilter((), {}, ("x",) * 100),), (MatchFilter((), {}, ("x",) * 101),)),
        (
            "filter.labels",
            (MatchFilter((), {str(number): "" for number in range(32)}),),
            (MatchFilter((), {str(number): "" for number in range(33)}),),
        ),
    ],
)
def test_the_settings_of_a_subscription_have_bounds(
    field: str, within: tuple[Any, ...], outside: tuple[Any, ...]
) -> None:
    (name, *_) = field.split(".")
    for value in within:
        check_subscription(replace(PLAIN, **{name: value}))
    for value in outside:
        with pytest.raises(InvalidSubscription) as refused:
            check_subscription(replace(PLAIN, **{name: value}))
        assert [each.path for each in refused.value.violations] == [f"subscription.{field}"]


def test_the_delay_grows_from_attempt_to_attempt_up_to_the_longest() -> None:
    delays = [Backoff(1_000, 60_000, 3).delay(attempt) for attempt in (1, 2, 3, 4, 5, 1_000)]
    assert delays == [1_000, 3_000, 9_000, 27_000, 60_000, 60_000]
    assert [Backoff(1_000, 60_000, 1).delay(attempt) for attempt in (1, 2, 1_000)] == [1_000] * 3
    assert Backoff(0, 60_000, 10).delay(1_000) == 0


def test_the_id_of_a_delivery_belongs_to_its_subscription_and_to_leases_that_were_granted() -> None:
    own = replace(PLAIN, id="0123-456789abcdef", last_serial=31)
    other = replace(own, id="0123-456789abcdee")
    written, first = delivery_id(own.tag, 43, 31), delivery_id(own.tag, 1, 1)
    assert written == "2b-1f-89abcdef"
    foreign = [delivery_id(own.tag, 43, 32), delivery_id(other.tag, 43, 31), written + "0", "x" + written, "2b-1f", ""]
    granted = {written: (43, 31), first: (1, 1)}
    assert parse_delivery_ids(own, [*granted, *foreign]) == granted | dict.fromkeys(foreign)


async def test_names_are_taken_once(service: Service, till: Client) -> None:
    await subscribe(till, name="one")
    await subscribe(till, name="two")
    assert await verdict(subscribe(till, name="one")) == EXISTS
    rename = pb.UpdateSubscriptionRequest(subscription="two", name="one")
    assert await verdict(till.matches.UpdateSubscription(rename)) == EXISTS
    await subscribe(await service.shop(), name="one")
    made = await asyncio.gather(*(subscribe(till, name="same") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(each, pb.Subscription) for each in made) == 1


async def test_subscriptions_are_listed_newest_first(till: Client) -> None:
    made = [await subscribe(till, name=f"s{number}") for number in range(3)]
    first = await till.matches.ListSubscriptions(pb.ListSubscriptionsRequest(page_size=2))
    rest = await till.matches.ListSubscriptions(pb.ListSubscriptionsRequest(page_token=first.next_page_token))
    assert [*first.subscriptions, *rest.subscriptions] == made[::-1]
    assert rest.next_page_token == ""
    foreign = pb.ListSubscriptionsRequest(page_token="x")
    assert await verdict(till.matches.ListSubscriptions(foreign)) == (INVALID, "INVALID_PAGE_TOKEN")


async def test_an_update_changes_what_it_names(till: Client) -> None:
    made = await subscribe(till)
    request = pb.UpdateSubscriptionRequest(subscription="engine", name="new", max_attempts=2, etag=made.etag)
    changed = (await till.matches.UpdateSubscription(request)).subscription
    assert (changed.name, changed.max_attempts, changed.ack_deadline) == ("new", 2, made.ack_deadline)
    assert changed.etag != made.etag
    request = pb.UpdateSubscriptionRequest(subscription=made.id, ack_deadline=seconds(7), etag=made.etag)
    assert await verdict(till.matches.UpdateSubscription(request)) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    wrong = pb.UpdateSubscriptionRequest(subscription=made.id, max_attempts=0)
    assert await verdict(till.matches.UpdateSubscription(wrong)) == (INVALID, "INVALID_SUBSCRIPTION")


async def test_a_deleted_subscription_is_gone_with_what_it_remembers(till: Client) -> None:
    made = await subscribe(till)
    await record(till, 2)
    await park(till, 1)
    outdated = pb.DeleteSubscriptionRequest(subscription="engine", etag="x")
    assert await verdict(till.matches.DeleteSubscription(outdated)) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    request = pb.DeleteSubscriptionRequest(subscription="engine", etag=made.etag)
    gone = (await till.matches.DeleteSubscription(request)).subscription
    assert (gone.id, gone.stats.parked_count) == (made.id, 1)
    assert await verdict(get(till)) == NOT_FOUND
    again = await subscribe(till, start=EARLIEST)
    assert again.stats.parked_count == 0
    assert positions(await pull(till)) == [1, 2]


async def test_every_method_says_which_subscription_is_missing(till: Client) -> None:
    name, ack = "nothing", pb.AckDeliveries(delivery_ids=["x"])
    calls: list[Awaitable[Any]] = [
        till.matches.GetSubscription(pb.GetSubscriptionRequest(subscription=name)),
        till.matches.UpdateSubscription(pb.UpdateSubscriptionRequest(subscription=name)),
        till.matches.DeleteSubscription(pb.DeleteSubscriptionRequest(subscription=name)),
        till.matches.SeekSubscription(pb.SeekSubscriptionRequest(subscription=name, start=EARLIEST)),
        till.matches.PullMatches(pb.PullMatchesRequest(subscription=name)),
        till.matches.AcknowledgeMatches(pb.AcknowledgeMatchesRequest(subscription=name, ack=ack)),
        till.matches.ListParkedMatches(pb.ListParkedMatchesRequest(subscription=name)),
        till.matches.ReplayParkedMatches(pb.ReplayParkedMatchesRequest(subscription=name, selection=ALL)),
        till.matches.DiscardParkedMatches(pb.DiscardParkedMatchesRequest(subscription=name, selection=ALL)),
    ]
    for call in calls:
        refused = await refusal(call)
        assert ((refused.code, refused.reason), refused.metadata) == (NOT_FOUND, {"subscription": name})


async def test_a_subscription_belongs_to_its_project(service: Service, till: Client) -> None:
    made = await subscribe(till)
    other = await service.shop()
    assert await verdict(get(other, made.id)) == NOT_FOUND
    reader = await service.key(till.project, "matches:read")
    assert (await get(reader)).subscription == made
    assert await verdict(subscribe(reader, name="x")) == (StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


async def test_a_cursor_is_of_its_project(service: Service, till: Client) -> None:
    made = await subscribe(till)
    call = (await service.shop()).matches.WatchMatches(pb.WatchMatchesRequest())
    answer = await call.read()
    call.cancel()
    assert isinstance(answer, pb.WatchMatchesResponse)
    foreign = pb.StartPoint(cursor=answer.cursor)
    request = pb.SeekSubscriptionRequest(subscription="engine", start=foreign)
    assert await verdict(till.matches.SeekSubscription(request)) == (INVALID, "CURSOR_INVALID")
    assert await verdict(subscribe(till, "other", foreign)) == (INVALID, "CURSOR_INVALID")
    assert (await get(till)).subscription == made


async def test_a_seek_goes_to_a_place_and_forgets_leases(till: Client) -> None:
    made = await subscribe(till)
    await record(till, 4)
    await park(till, 1)
    await pull(till, 2)
    moved = await seek(till, 2)
    assert moved.etag != made.etag
    assert (moved.stats.floor_position, moved.stats.outstanding_count, moved.stats.parked_count) == (2, 0, 1)
    taken = await pull(till)
    assert [(each.match.position, each.attempt) for each in taken] == [(3, 1), (4, 1)]
    nowhere = pb.SeekSubscriptionRequest(subscription="engine")
    assert (await refusal(till.matches.SeekSubscription(nowhere))).violations == (("start", "REQUIRED"),)
    assert await verdict(seek(till, 5)) == (StatusCode.OUT_OF_RANGE, "POSITION_BEYOND_HEAD")
    assert (await refusal(seek(till, -1))).violations == (("start.after_position", "OUT_OF_RANGE"),)


async def test_stats_say_how_far_a_subscription_is(till: Client) -> None:
    await subscribe(till)
    await record(till, 5)
    taken = await pull(till, 4, consumer_id="puller")
    await acknowledge(
        till,
        ack=pb.AckDeliveries(delivery_ids=ids(taken[:1])),
        nacks=[
            pb.NackDeliveries(delivery_ids=ids(taken[1:2])),
            pb.NackDeliveries(delivery_ids=ids(taken[2:3]), action=PARK),
        ],
    )
    now = await stats(till)
    assert (now.floor_position, now.read_position, now.head_position) == (1, 4, 5)
    assert (now.outstanding_count, now.retrying_count, now.parked_count, now.consumer_count) == (1, 1, 1, 0)
    assert 0 < now.oldest_unacked_age.ToTimedelta().total_seconds() < 10
    (consumer,) = (await get(till)).consumers
    assert (consumer.consumer_id, consumer.connected, consumer.outstanding_count) == ("puller", False, 1)
    assert not consumer.HasField("connected_at")


# Pulling


async def test_a_pull_waits_for_a_first_match(till: Client) -> None:
    await subscribe(till)
    begun = time.monotonic()
    assert await pull(till) == []
    pulling = asyncio.create_task(pull(till, wait=10))
    await asyncio.sleep(0.1)
    await record(till, 1)
    assert positions(await pulling) == [1]
    assert time.monotonic() - begun < 5
    begun = time.monotonic()
    assert await pull(till, wait=0.3) == []
    assert 0.25 < time.monotonic() - begun < 5


async def test_a_pull_takes_what_it_asks_for_and_no_leases_over(till: Client) -> None:
    await subscribe(till)
    await record(till, 5)
    assert positions(await pull(till, 2, consumer_id="x")) == [1, 2]
    assert positions(await pull(till, 2, consumer_id="x")) == [3, 4]
    assert positions(await pull(till, 0)) == [5]


@on_sqlite
async def test_a_pull_that_breaks_the_rules_is_refused(till: Client) -> None:
    await subscribe(till)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"count": 1_001}, "max_matches"),
        ({"count": -1}, "max_matches"),
        ({"wait": 61}, "wait"),
    ]
    for fields, path in cases:
        assert [each for each, _ in (await refusal(pull(till, **fields))).violations] == [path]
    assert await verdict(pull(till, consumer_id="é")) == (INVALID, "INVALID_CONSUMER")


async def test_a_pull_ends_with_the_server(database_url: str) -> None:
    async with serving(database_url) as service:
        till = await service.shop()
        await subscribe(till)
        pulling = asyncio.create_task(verdict(pull(till, wait=60)))
        await asyncio.sleep(0.1)
        begun = time.monotonic()
    assert await pulling == (StatusCode.UNAVAILABLE, "SERVER_STOPPING")
    assert time.monotonic() - begun < 10


async def test_a_pull_that_nobody_waits_for_any_more_leases_nothing(till: Client) -> None:
    await subscribe(till)
    pulling = asyncio.create_task(pull(till, wait=30))
    await asyncio.sleep(0.1)
    pulling.cancel()
    await asyncio.sleep(0.1)
    await record(till, 1)
    (taken,) = await pull(till, wait=5)
    assert taken.attempt == 1


# Acknowledging


async def test_an_acknowledgement_answers_in_the_order_of_the_request(till: Client) -> None:
    await subscribe(till)
    await record(till, 5)
    one, two, three, four, five = ids(await pull(till))
    results = await acknowledge(
        till,
        extend=pb.ExtendLeases(delivery_ids=[one]),
        nacks=[
            pb.NackDeliveries(delivery_ids=[two], action=SKIP),
            pb.NackDeliveries(delivery_ids=[three], action=PARK),
            pb.NackDeliveries(delivery_ids=[four]),
        ],
        ack=pb.AckDeliveries(delivery_ids=[five]),
    )
    assert [(each.delivery_id, each.outcome) for each in results] == [
        (five, ACKNOWLEDGED),
        (two, SKIPPED),
        (three, PARKED),
        (four, RETRYING),
        (one, EXTENDED),
    ]
    assert [each.HasField("retry_at") for each in results] == [False, False, False, True, False]
    assert [each.HasField("lease_expires_at") for each in results] == [False, False, False, False, True]


async def test_an_acknowledgement_that_breaks_the_rules_changes_nothing(till: Client) -> None:
    await subscribe(till)
    await record(till, 1)
    (one,) = ids(await pull(till))
    ack, nack = pb.AckDeliveries(delivery_ids=[one]), pb.NackDeliveries(delivery_ids=[one])
    for settlements, path in (
        ({}, "ack"),
        ({"ack": pb.AckDeliveries(delivery_ids=[one, one])}, "delivery_ids"),
        ({"ack": ack, "nacks": [nack]}, "delivery_ids"),
        ({"ack": ack, "nacks": [nack] * 101}, "nacks"),
        ({"ack": pb.AckDeliveries(delivery_ids=["x"] * 1_001)}, "ack.delivery_ids"),
        ({"nacks": [pb.NackDeliveries(delivery_ids=[one], delay=seconds(-1))]}, "nacks[0].delay"),
        ({"extend": pb.ExtendLeases(delivery_ids=[one], lease_duration=seconds(3_601))}, "extend.lease_duration"),
    ):
        assert [each for each, _ in (await refusal(acknowledge(till, **settlements))).violations] == [path]
    unstorable = pb.NackDeliveries(delivery_ids=[one], reason="a\0b")
    assert await verdict(acknowledge(till, nacks=[unstorable])) == (INVALID, "UNSTORABLE_TEXT")
    assert [each.outcome for each in await acknowledge(till, ack=ack)] == [ACKNOWLEDGED]


async def test_room_made_by_an_acknowledgement_reaches_a_stream(till: Client) -> None:
    await subscribe(till)
    await record(till, 2)
    engine = await Engine.open(till, max_outstanding=1)
    await acknowledge(till, ack=pb.AckDeliveries(delivery_ids=ids(await engine.deliveries())))
    assert positions(await engine.deliveries()) == [2]
    await engine.close()


# Parked matches


async def test_parked_matches_are_listed_those_parked_last_first(till: Client) -> None:
    await subscribe(till)
    await record(till, 3)
    for _ in range(3):
        await park(till, 1)
    found = await parked(till)
    assert [each.match.position for each in found] == [3, 2, 1]
    assert {(each.attempt_count, each.last_failure, each.consumer_id) for each in found} == {(1, "bad", "")}
    request = pb.ListParkedMatchesRequest(subscription="engine", page_size=2)
    first = await till.matches.ListParkedMatches(request)
    request.page_token = first.next_page_token
    rest = await till.matches.ListParkedMatches(request)
    assert ([*first.parked_matches, *rest.parked_matches], rest.next_page_token) == (found, "")
    assert await parked(till, automation_id="other") == []
    assert await parked(till, automation_id=found[0].match.automation_id) == found
    assert await parked(till, parked_until=found[1].parked_at) == found[2:]


async def test_parked_matches_are_replayed_as_if_new(till: Client) -> None:
    await subscribe(till)
    await record(till, 3)
    taken = await park(till, 3)
    floor = (await stats(till)).floor_position
    only = pb.ParkedSelection(match_ids=[taken[1].match.id, "unknown"])
    request = pb.ReplayParkedMatchesRequest(subscription="engine", selection=only, dry_run=True)
    assert (await till.matches.ReplayParkedMatches(request)).match_count == 1
    assert (len(await parked(till)), await pull(till)) == (3, [])
    request.dry_run = False
    assert (await till.matches.ReplayParkedMatches(request)).match_count == 1
    (again,) = await pull(till)
    assert (again.match, again.attempt, again.replayed, again.last_failure) == (taken[1].match, 1, True, "")
    assert (await stats(till)).floor_position == floor


async def test_parked_matches_are_discarded(till: Client) -> None:
    await subscribe(till)
    await record(till, 3)
    await park(till, 3)
    request = pb.DiscardParkedMatchesRequest(subscription="engine", selection=ALL, dry_run=True)
    assert (await till.matches.DiscardParkedMatches(request)).match_count == 3
    request.selection.CopyFrom(pb.ParkedSelection(parked_until=timestamp(now_micros() - 60_000_000)))
    request.dry_run = False
    assert (await till.matches.DiscardParkedMatches(request)).match_count == 0
    request.selection.CopyFrom(ALL)
    assert (await till.matches.DiscardParkedMatches(request)).match_count == 3
    assert (await parked(till), await pull(till)) == ([], [])


@on_sqlite
@pytest.mark.parametrize(
    ("selection", "path"),
    [
        (pb.ParkedSelection(), "selection"),
        (pb.ParkedSelection(all=True, automation_id="x"), "selection"),
        (pb.ParkedSelection(all=True, match_ids=["x"]), "selection"),
        (pb.ParkedSelection(match_ids=["x"] * 1_001), "selection.match_ids"),
    ],
)
async def test_a_selection_names_filters_or_all(till: Client, selection: pb.ParkedSelection, path: str) -> None:
    await subscribe(till)
    replay = pb.ReplayParkedMatchesRequest(subscription="engine", selection=selection)
    discard = pb.DiscardParkedMatchesRequest(subscription="engine", selection=selection)
    for call in (till.matches.ReplayParkedMatches(replay), till.matches.DiscardParkedMatches(discard)):
        refused = await refusal(call)
        assert (refused.code, [each for each, _ in refused.violations]) == (INVALID, [path])


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_consumers_are_listed_by_their_ids_with_those_that_are_connected(
    till: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await subscribe(till)
    await record(till, 3)
    engine = await Engine.open(till, consumer_id="b", max_outstanding=2)
    taken = await engine.deliveries(2)
    await pull(till, 1, consumer_id="a")
    idle = await Engine.open(till, consumer_id="c", max_outstanding=7)

    async def listed() -> list[tuple[str, bool, int, int, bool]]:
        return [
            (
                each.consumer_id,
                each.connected,
                each.outstanding_count,
                each.max_outstanding,
                each.HasField("connected_at"),
            )
            for each in (await get(till)).consumers
        ]

    expected = [("a", False, 1, 0, False), ("b", True, 2, 2, True), ("c", True, 0, 7, True)]
    assert await listed() == expected
    assert (await stats(till)).consumer_count == 2
    monkeypatch.setattr("server.services.subscriptions.MAX_CONSUMERS", 2)
    assert await listed() == expected[:2]
    request = pb.DeleteSubscriptionRequest(subscription="engine")
    refused = await refusal(till.matches.DeleteSubscription(request))
    assert (refused.reason, refused.metadata) == (
        "SUBSCRIPTION_IN_USE",
        {"subscription": "engine", "consumer_count": "2"},
    )
    await engine.ack(taken)
    await engine.close()
    await idle.close()
    request.force = True
    assert (await till.matches.DeleteSubscription(request)).subscription.name == "engine"


def test_a_subscription_lists_a_thousand_consumers() -> None:
    assert "At most the first 1,000" in proto_comments()["GetSubscriptionResponse.consumers"]
    assert MAX_CONSUMERS == 1_000
