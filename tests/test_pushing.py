"""Subscriptions that push: what a receiver gets, and what its responses do to the matches."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from grpc import StatusCode
from standardwebhooks import Webhook

from server.delivery.push import retry_policy
from server.delivery.push.outcomes import retry_after_seconds
from server.delivery.push.retry_policy import RetryPolicy
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.automations import automate
from tests.support.consumers import WAIT, Engine, get, parked, pull, record, seconds, subscribe
from tests.support.messages import ANYTHING, event
from tests.support.pushes import paused, settled
from tests.support.receiver import (
    LOOPBACK,
    OTHER_SECRET,
    SECRET,
    Received,
    Receiver,
    answer,
    body_of,
    change_push,
    push_to,
    receiving,
)
from tests.support.refusals import refusal
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting

# What a request holds, and what becomes of its connection, has nothing to do with the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

AT_ONCE = pb.Backoff(initial_delay=seconds(0))


@pytest_asyncio.fixture(scope="module")
async def pushing_service(lasting_store: Store) -> AsyncIterator[Service]:
    """A server that may push to the loopback interface."""
    async with serving(lasting_store.url, push_networks=LOOPBACK) as running:
        yield running


@pytest_asyncio.fixture
async def till(pushing_service: Service) -> AsyncIterator[Client]:
    """A shop with an automation on orders; its subscriptions push no more beside the tests that follow."""
    shop = await pushing_service.shop()
    await automate(shop)
    yield shop
    for subscription in (await shop.matches.ListSubscriptions(pb.ListSubscriptionsRequest())).subscriptions:
        await shop.matches.DeleteSubscription(pb.DeleteSubscriptionRequest(subscription=subscription.name))


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


# What a receiver gets


async def test_a_match_is_pushed_signed_and_acknowledged_by_2xx(till: Client, receiver: Receiver) -> None:
    await push_to(till, receiver.url)
    await record(till, 1)
    (request,) = await receiver.received(1)
    assert request.line == "POST /hook HTTP/1.1"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("Signalbox/")
    assert request.attempt == 1
    match = request.match
    assert match.id == request.headers["webhook-id"]
    assert (match.position, match.automation_name, match.event.name) == (1, "Welcome", "order_completed")
    assert body_of(request)["event"]["properties"] == {"order_total": 0.0}
    assert (await settled(till, 1)).retrying_count == 0
    assert await pull_after_pause(till) == []


async def pull_after_pause(till: Client) -> list[pb.Delivery]:
    await change_push(till, paused=True)
    return await pull(till)


@on_sqlite
async def test_every_match_is_pushed_over_connections_that_are_used_again(till: Client, receiver: Receiver) -> None:
    await push_to(till, receiver.url, push={"max_in_flight": 4})
    await record(till, 60)
    await receiver.received(60)
    assert sorted(receiver.positions) == list(range(1, 61))
    assert receiver.connections <= 4
    await settled(till, 60)


@on_sqlite
async def test_no_more_requests_are_in_progress_than_the_subscription_allows(till: Client, receiver: Receiver) -> None:
    now, most = 0, 0

    async def slowly(_: Received) -> bytes:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return answer()

    receiver.answering = slowly
    await push_to(till, receiver.url, push={"max_in_flight": 3})
    await record(till, 30)
    await settled(till, 30)
    assert most == 3


async def test_matches_of_a_contact_are_pushed_one_after_another_in_that_order(
    till: Client, receiver: Receiver
) -> None:
    receiver.always(answer(500), answer())
    await push_to(till, receiver.url, order=pb.DELIVERY_ORDER_CONTACT, backoff=AT_ONCE)
    await record(till, 5)
    await settled(till, 5)
    assert receiver.positions == [1, 1, 2, 3, 4, 5]


@on_sqlite
async def test_two_secrets_sign_until_the_older_one_is_left_out(till: Client, receiver: Receiver) -> None:
    created = await push_to(till, receiver.url)
    assert (created.push.secret_count, list(created.push.secrets)) == (1, [])
    rotated = await change_push(till, rotate_secret=True)
    (new_secret,) = rotated.push.secrets
    assert rotated.push.secret_count == 2
    await record(till, 1)
    (both,) = await receiver.received(1)
    Webhook(new_secret).verify(both.body, both.headers)
    receiver.secret = new_secret
    await change_push(till, secrets=[new_secret])
    await record(till, 1)
    newer = (await receiver.received(2))[1]
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(SECRET).verify(newer.body, newer.headers)


async def test_a_secret_is_made_and_shown_once(till: Client, receiver: Receiver) -> None:
    created = await push_to(till, receiver.url, push={"secrets": []})
    (receiver.secret,) = created.push.secrets
    assert receiver.secret.startswith("whsec_")
    await record(till, 1)
    await receiver.received(1)
    assert list((await get(till)).subscription.push.secrets) == []
    listed = await till.matches.ListSubscriptions(pb.ListSubscriptionsRequest())
    assert [list(each.push.secrets) for each in listed.subscriptions] == [[]]


@on_sqlite
async def test_further_headers_are_sent_and_their_values_never_returned(till: Client, receiver: Receiver) -> None:
    headers = {"Authorization": "Bearer of-the-receiver", "X-Team": "crm"}
    created = await push_to(till, receiver.url, push={"headers": headers})
    assert list(created.push.header_names) == ["Authorization", "X-Team"]
    await record(till, 1)
    (request,) = await receiver.received(1)
    assert (request.headers["authorization"], request.headers["x-team"]) == ("Bearer of-the-receiver", "crm")
    assert "of-the-receiver" not in str(await get(till))


@on_sqlite
async def test_a_large_match_is_pushed_whole(till: Client, receiver: Receiver) -> None:
    await till.redefine(ANYTHING)
    await push_to(till, receiver.url)
    sent = {f"property {number}": "ü" * 40 for number in range(2_000)}
    await till.send(event(sent))
    (request,) = await receiver.received(1)
    assert body_of(request)["event"]["properties"] == sent
    await settled(till, 1)


# What responses do


@on_sqlite
@pytest.mark.parametrize(
    ("response", "failure"),
    [
        (answer(500), "the receiver answered 500 Internal Server Error"),
        (answer(404), "the receiver answered 404 Not Found"),
        (answer(302, location="http://127.0.0.1:1/"), "302 Found; redirects are not followed"),
        (answer(299), ""),
        (answer(204), ""),
        (answer(799), "the receiver answered 799"),
        (b"HTTP/1.1 000 Text\r\ncontent-length: 0\r\n\r\n", "the response is not valid HTTP: it has the status 000"),
        (b"HTTP/1.1 099 Text\r\ncontent-length: 0\r\n\r\n", "the response is not valid HTTP: it has the status 099"),
        (None, "the receiver closed the connection without a response"),
        (b"nonsense\r\n\r\n", "the response is not valid HTTP"),
    ],
)
async def test_everything_but_2xx_is_a_failed_attempt(
    till: Client, receiver: Receiver, response: bytes | None, failure: str
) -> None:
    receiver.always(response, answer())
    await push_to(till, receiver.url, backoff=AT_ONCE)
    await record(till, 1)
    requests = await receiver.received(2 if failure else 1)
    await settled(till, 1)
    assert [request.attempt for request in requests] == [1, 2][: 2 if failure else 1]
    attempts = (await get(till)).push_attempts
    assert failure in attempts[-1].failure
    assert attempts[-1].acknowledged is (not failure)


async def test_a_new_subscription_has_no_requests_of_a_deleted_one(till: Client, receiver: Receiver) -> None:
    await push_to(till, receiver.url)
    await record(till, 1)
    await settled(till, 1)
    await till.matches.DeleteSubscription(pb.DeleteSubscriptionRequest(subscription="engine"))
    await push_to(till, receiver.url)
    assert list((await get(till)).push_attempts) == []


async def test_a_match_whose_last_attempt_fails_is_parked_with_the_reason(till: Client, receiver: Receiver) -> None:
    receiver.always(answer(503))
    await push_to(till, receiver.url, backoff=AT_ONCE, max_attempts=2)
    await record(till, 1)
    await settled(till, 1)
    (put_aside,) = await parked(till)
    assert (put_aside.attempt_count, put_aside.consumer_id) == (2, "push")
    assert put_aside.last_failure == "the receiver answered 503 Service Unavailable"


async def test_a_receiver_that_is_gone_pauses_the_subscription_until_it_is_resumed(
    till: Client, receiver: Receiver
) -> None:
    receiver.always(answer(410))
    await push_to(till, receiver.url, backoff=AT_ONCE, push={"max_in_flight": 1})
    await record(till, 3)
    push = await paused(till)
    assert push.pause_reason == "the receiver answered 410 Gone"
    assert push.HasField("paused_at")
    assert len(receiver.requests) == 1
    assert (await get(till)).push_attempts[0].status == 410
    receiver.always(answer())
    resumed = await change_push(till, paused=False)
    assert (resumed.push.paused, resumed.push.pause_reason) == (False, "")
    await settled(till, 3)


@on_sqlite
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("dated", [False, True])
async def test_nothing_is_sent_before_retry_after(till: Client, receiver: Receiver, status: int, dated: bool) -> None:
    retry_after = formatdate(time.time() + 2, usegmt=True) if dated else "1"
    receiver.always(answer(status, retry_after=retry_after), answer())
    await push_to(till, receiver.url, backoff=AT_ONCE, push={"max_in_flight": 1})
    began = time.monotonic()
    await record(till, 3)
    await receiver.received(2)
    assert time.monotonic() - began > 0.9
    await settled(till, 3)
    assert [request.attempt for request in receiver.requests if request.position > 1] == [1, 1]


@on_sqlite
async def test_a_pause_that_ends_while_it_is_checked_is_over(
    till: Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_paused, paused = RetryPolicy.is_paused, False

    def a_little_longer(policy: RetryPolicy) -> bool:
        """Return True once more when a pause has ended: timers of the event loop fire up to a millisecond early."""
        nonlocal paused
        paused, before = is_paused(policy), paused
        return paused or before

    monkeypatch.setattr(RetryPolicy, "is_paused", a_little_longer)
    receiver.always(answer(503, retry_after="1"), answer())
    await push_to(till, receiver.url, backoff=AT_ONCE, push={"max_in_flight": 1})
    await record(till, 2)
    await settled(till, 2)


@on_sqlite
async def test_nothing_is_parked_because_a_receiver_takes_fewer_requests_at_a_time(
    till: Client, receiver: Receiver
) -> None:
    now = 0

    async def narrow(request: Received) -> bytes:
        nonlocal now
        if now == 4:
            return answer(429 if request.position % 2 else 503)
        now += 1
        await asyncio.sleep(0.01)
        now -= 1
        return answer()

    receiver.answering = narrow
    backoff = pb.Backoff(initial_delay=seconds(0.01), max_delay=seconds(0.05))
    await push_to(till, receiver.url, backoff=backoff, push={"max_in_flight": 64})
    await record(till, 100)
    await settled(till, 100)
    assert await parked(till) == []


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("9" * 30, 3_600),
        ("-1", 0),
        ("1.5", 0),
        ("\udcff", 0),
        ("Fri, 28 Nov 2025 10:00:30 GMT", 30),
        ("Friday, 28-Nov-25 10:00:30 GMT", 30),
        ("Fri Nov 28 10:00:30 2025", 30),
        ("Fri, 28 Nov 2025 10:00:30 -0000", 30),
        ("Fri, 28 Nov 2025 12:00:30 +0200", 30),
        ("Fri, 28 Nov 2025 09:00:30 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3_600),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0),
        ("Fri, 32 Nov 2025 10:00:30 GMT", 0),
        ("soon", 0),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "EST5"])
def test_retry_after_is_seconds_or_a_date_in_utc(
    monkeypatch: pytest.MonkeyPatch, zone: str, text: str, waits: int
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after_seconds(text, 1_764_324_000) == waits
    finally:
        monkeypatch.undo()
        time.tzset()


@on_sqlite
async def test_a_receiver_that_does_not_answer_in_time_has_failed(till: Client, receiver: Receiver) -> None:
    async def never(request: Received) -> bytes:
        if request.attempt == 1:
            await asyncio.sleep(60)
        return answer()

    receiver.answering = never
    await push_to(till, receiver.url, backoff=AT_ONCE, push={"timeout": seconds(1)})
    await record(till, 1)
    await settled(till, 1)
    attempts = (await get(till)).push_attempts
    assert [each.failure for each in attempts] == ["", "no response within 1 s"]
    assert 0.9 < attempts[1].duration.ToTimedelta().total_seconds() < 5


async def test_leases_last_as_long_as_the_request(till: Client, receiver: Receiver) -> None:
    answered = asyncio.Event()

    async def slowly(_: Received) -> bytes:
        await asyncio.sleep(1.3)
        answered.set()
        return answer()

    receiver.answering = slowly
    await push_to(till, receiver.url, ack_deadline=seconds(1))
    await record(till, 1)
    await answered.wait()
    await settled(till, 1)
    assert [request.attempt for request in receiver.requests] == [1]


@on_sqlite
@pytest.mark.parametrize("length", ["content-length: 1000000000", "transfer-encoding: chunked"])
async def test_a_long_body_is_cut_and_its_connection_dropped(till: Client, receiver: Receiver, length: str) -> None:
    receiver.always(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n10000\r\n".encode() + 100_000 * b"x", answer())
    await push_to(till, receiver.url, push={"max_in_flight": 1})
    await record(till, 2)
    await settled(till, 2)
    assert [request.connection for request in receiver.requests] == [1, 2]


@on_sqlite
async def test_a_backlog_spends_no_attempts_while_its_receiver_is_down(
    till: Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the first sixteen would, at the same time."""
    monkeypatch.setattr(retry_policy, "PROBE_SECONDS", 0.1)
    await receiver.stop()
    await push_to(till, receiver.url, backoff=AT_ONCE, max_attempts=5, push={"max_in_flight": 16})
    await record(till, 100)
    async with asyncio.timeout(WAIT):
        while len(attempts := (await get(till)).push_attempts) < 3:  # noqa: ASYNC110 - it must be asked
            await asyncio.sleep(0.05)
    assert {each.failure for each in attempts} == {"the connection failed: Connection refused"}
    await receiver.start()
    await settled(till, 100)
    assert 3 <= sum(each.attempt - 1 for each in receiver.requests) < 8
    assert await parked(till) == []


@on_sqlite
async def test_a_connection_that_was_closed_while_idle_is_no_failed_attempt(till: Client, receiver: Receiver) -> None:
    await push_to(till, receiver.url, push={"max_in_flight": 1})
    await record(till, 1)
    await settled(till, 1)
    await receiver.stop()
    await receiver.start()
    await record(till, 1)
    await settled(till, 2)
    assert [request.attempt for request in receiver.requests] == [1, 1]


# Changes


async def test_consumers_cannot_connect_while_the_server_pushes(till: Client, receiver: Receiver) -> None:
    await push_to(till, receiver.url)
    for call in (pull(till), Engine.open(till)):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "SUBSCRIPTION_PUSHES")
    await change_push(till, paused=True)
    await record(till, 1)
    assert [each.match.position for each in await pull(till)] == [1]


async def test_connected_consumers_end_when_a_subscription_begins_to_push(till: Client, receiver: Receiver) -> None:
    await subscribe(till)
    engine = await Engine.open(till)
    await record(till, 1)
    await engine.deliveries()
    await change_push(till, url=receiver.url, secrets=[SECRET])
    refused = await refusal(engine.ended())
    assert refused.reason == "SUBSCRIPTION_PUSHES"
    await record(till, 1)
    await receiver.received(1)


async def test_a_new_url_is_used_for_every_further_request(till: Client, receiver: Receiver) -> None:
    await push_to(till, receiver.url, push={"max_in_flight": 1})
    await record(till, 1)
    await receiver.received(1)
    async with receiving() as other:
        await change_push(till, url=other.url)
        count = 1
        async with asyncio.timeout(WAIT):
            # It takes effect soon, not at once.
            while not other.requests:
                await record(till, 1)
                count += 1
                await settled(till, count)
        before = receiver.positions
        await record(till, 20)
        await settled(till, count + 20)
        assert receiver.positions == before
        assert sorted(before + other.positions) == list(range(1, count + 21))


async def test_a_request_that_a_change_cuts_off_is_one_of_the_last_requests(till: Client, receiver: Receiver) -> None:
    async def never(request: Received) -> bytes:
        if request.attempt == 1:
            await asyncio.sleep(60)
        return answer()

    receiver.answering = never
    await push_to(till, receiver.url)
    await record(till, 1)
    await receiver.received(1)
    await change_push(till, timeout=seconds(5))
    await settled(till, 1)
    last, cut = (await get(till)).push_attempts
    assert (last.attempt, last.status, last.acknowledged) == (2, 200, True)
    assert (cut.attempt, cut.status, cut.acknowledged) == (1, 0, False)
    assert cut.failure == "the server did not wait for the response, because it stopped or the push was changed"
    assert cut.duration.ToMilliseconds() > 900


async def test_a_subscription_that_is_cleared_is_consumed_again(till: Client, receiver: Receiver) -> None:
    await push_to(till, receiver.url)
    request = pb.UpdateSubscriptionRequest(subscription="engine", clear_push=True)
    cleared = (await till.matches.UpdateSubscription(request)).subscription
    assert not cleared.HasField("push")
    await record(till, 1)
    assert [each.match.position for each in await pull(till, wait=5)] == [1]
    assert receiver.requests == []


async def test_a_deleted_subscription_pushes_no_more(till: Client, receiver: Receiver) -> None:
    release = asyncio.Event()

    async def wait(_: Received) -> bytes:
        await release.wait()
        return answer(500)

    receiver.answering = wait
    await push_to(till, receiver.url, backoff=AT_ONCE)
    await record(till, 1)
    await receiver.received(1)
    await till.matches.DeleteSubscription(pb.DeleteSubscriptionRequest(subscription="engine"))
    release.set()
    await push_to(till, receiver.url)
    receiver.always(answer())
    await record(till, 1)
    await receiver.received(2)
    assert receiver.positions == [1, 2]


async def test_nothing_is_written_where_nothing_differs(till: Client, receiver: Receiver) -> None:
    created = await push_to(till, receiver.url)
    assert (await change_push(till, url=receiver.url, secrets=[SECRET], paused=False)).etag == created.etag


# Pings


@on_sqlite
async def test_a_ping_is_signed_and_its_outcome_returned(till: Client, receiver: Receiver) -> None:
    await push_to(till, receiver.url, push={"paused": True})
    receiver.always(answer(), answer(500))
    request = pb.PingSubscriptionRequest(subscription="engine")
    attempt = (await till.matches.PingSubscription(request)).attempt
    assert (attempt.status, attempt.acknowledged, attempt.failure) == (200, True, "")
    (ping,) = receiver.requests
    assert attempt.webhook_id == ping.headers["webhook-id"]
    assert body_of(ping)["ping"]["subscription"] == "engine"
    attempt = (await till.matches.PingSubscription(request)).attempt
    assert (attempt.status, attempt.acknowledged) == (500, False)
    assert attempt.failure == "the receiver answered 500 Internal Server Error"


@on_sqlite
async def test_only_a_subscription_that_pushes_can_be_pinged(till: Client) -> None:
    await subscribe(till)
    refused = await refusal(till.matches.PingSubscription(pb.PingSubscriptionRequest(subscription="engine")))
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "SUBSCRIPTION_DOES_NOT_PUSH")


@on_sqlite
async def test_the_last_requests_are_kept_newest_first(till: Client, receiver: Receiver) -> None:
    await push_to(till, receiver.url, push={"max_in_flight": 1})
    await record(till, 25)
    await settled(till, 25)
    attempts = (await get(till)).push_attempts
    assert [each.webhook_id for each in attempts] == [request.match.id for request in reversed(receiver.requests[-20:])]
    assert {each.status for each in attempts} == {200}
    assert OTHER_SECRET not in str(attempts)
