"""Messages about subscriptions and deliveries: every field has its value."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from automation.subscriptions.push import Push, PushAttempt
from automation.subscriptions.values import (
    Delivery,
    ParkedMatch,
    ParkingCause,
    SettleOutcome,
    SettleResult,
    SubscriptionStats,
)
from server.delivery.consumer_session import DeliveryBatch, Drain, Heartbeat, Opened, Opening, SettleResults
from server.delivery.loading import LoadedDelivery
from server.delivery.match_reader import UnreadableMatch, WatchUpdate
from server.delivery.recent_matches import LoadedMatch
from server.delivery.start_points import Place
from server.delivery.subscription_status import ConsumerStatus, SubscriptionStatus
from server.rpc.messages import deliveries as delivery_messages
from server.rpc.messages.deliveries import encode_pulled, write_consumer_response, write_result
from server.rpc.messages.matches import write_log_entry
from server.rpc.messages.pushes import write_attempt
from server.rpc.messages.subscriptions import write_consumer, write_parked, write_subscription
from server.rpc.messages.watches import write_update
from server.storage.clock import database_now
from signalbox.v1 import match_pb2, match_stream_pb2
from tests.support.message_values import (
    AUTOMATION,
    EVENT,
    MATCH,
    MATCH_AS_JSON,
    SECOND,
    SUBSCRIPTION,
    plain,
    unset,
    with_properties,
)

if TYPE_CHECKING:
    from server.model import Event


def status(oldest: int = 0) -> SubscriptionStatus:
    return SubscriptionStatus(SUBSCRIPTION, SubscriptionStats(15, 1, 2, 3, oldest), 4)


def test_a_subscription_is_written_whole() -> None:
    message = write_subscription(status())
    assert unset(message) == {"push", "unreadable_reason"}
    assert plain(message) == {
        "id": "s1",
        "name": "engine",
        "filter": {"automation_ids": ["a1"], "labels": {"team": "growth"}, "event_names": ["paid"]},
        "order": "DELIVERY_ORDER_CONTACT",
        "ack_deadline": "5.500s",
        "max_attempts": 3,
        "backoff": {"initial_delay": "1s", "max_delay": "60s", "multiplier": 1.5},
        "stats": {
            "floor_position": "11",
            "read_position": "12",
            "head_position": "15",
            "outstanding_count": "1",
            "retrying_count": "2",
            "parked_count": "3",
            "consumer_count": 4,
        },
        "created_at": "1970-01-01T00:00:01Z",
        "updated_at": "1970-01-01T00:00:02Z",
        "etag": "6",
    }


def test_how_a_subscription_pushes_is_written_without_what_is_secret() -> None:
    push = Push(
        "https://example.com/", ("whsec_1", "whsec_2"), {"B": "secret", "A": "secret"}, SECOND, 3, 2 * SECOND, "gone", 7
    )
    written = write_subscription(replace(status(), push=push)).push
    assert unset(written) == {"secrets", "headers"}
    assert plain(written) == {
        "url": "https://example.com/",
        "timeout": "1s",
        "max_in_flight": 3,
        "paused": True,
        "header_names": ["A", "B"],
        "secret_count": 2,
        "pause_reason": "gone",
        "paused_at": "1970-01-01T00:00:02Z",
    }
    assert list(write_subscription(replace(status(), push=push, made_secret="whsec_1")).push.secrets) == ["whsec_1"]
    assert "secret" not in repr(push)
    assert "whsec_" not in repr(push)


def test_a_request_that_pushed_is_written_with_its_outcome() -> None:
    assert plain(write_attempt(PushAttempt("m1", 2, SECOND, 1_500_000, 500, "bad"))) == {
        "webhook_id": "m1",
        "attempt": 2,
        "sent_at": "1970-01-01T00:00:01Z",
        "duration": "1.500s",
        "status": 500,
        "failure": "bad",
    }
    assert write_attempt(PushAttempt("m1", 1, SECOND, 0, 200, "")).acknowledged


def test_the_age_of_the_oldest_match_is_never_negative() -> None:
    now = database_now()
    for oldest, least, most in ((now - 60 * SECOND, 60, 3_600), (now + 3_600 * SECOND, 0, 0)):
        stats = write_subscription(status(oldest)).stats
        assert stats.HasField("oldest_unacked_age")
        assert least <= stats.oldest_unacked_age.ToMicroseconds() / SECOND <= most


def test_a_consumer_is_connected_since_a_time_or_not_at_all() -> None:
    assert plain(write_consumer(ConsumerStatus("worker", 2, 100, 1))) == {
        "consumer_id": "worker",
        "connected": True,
        "outstanding_count": 2,
        "max_outstanding": 100,
        "connected_at": "1970-01-01T00:00:00.000001Z",
    }
    assert plain(write_consumer(ConsumerStatus("puller", 2))) == {"consumer_id": "puller", "outstanding_count": 2}


PARKED = ParkedMatch(MATCH, ParkingCause.NACKED, 2, "bad", "worker", 4_000_000)


def test_a_parked_match_is_written_with_its_last_attempt() -> None:
    message = write_parked((PARKED, LoadedMatch(MATCH, AUTOMATION, EVENT)))
    assert unset(message) == set()
    assert plain(message) == {
        "match": MATCH_AS_JSON,
        "cause": "CAUSE_NACKED",
        "attempt_count": 2,
        "last_failure": "bad",
        "consumer_id": "worker",
        "parked_at": "1970-01-01T00:00:04Z",
    }


UNWRITABLE = with_properties({"n": object()})
"""An event that was read and cannot be written: an object is neither a number nor a list."""


def test_a_parked_match_that_cannot_be_read_or_written_is_shown_from_the_log_alone() -> None:
    entry = match_pb2.Match()
    write_log_entry(MATCH, entry)
    for loaded in (UnreadableMatch(MATCH, "why"), LoadedMatch(MATCH, AUTOMATION, UNWRITABLE)):
        message = write_parked((PARKED, loaded))
        assert (message.match, message.last_failure) == (entry, "bad")


def delivery(serial: int = 1, **changes: Any) -> Delivery:
    values: dict[str, Any] = {
        "id": f"1f-{serial}-x",
        "consumer_id": "worker",
        "attempt": 2,
        "match": MATCH,
        "lease_expires_at": 10 * SECOND,
        "replayed": True,
        "last_failure": "lease expired",
    }
    return Delivery(**values | changes)


def loaded(made: Delivery, event: Event = EVENT) -> LoadedDelivery:
    return LoadedDelivery(made, LoadedMatch(MATCH, AUTOMATION, event))


def test_a_delivery_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_messages, "database_now", lambda: 4 * SECOND)
    late, first = delivery(2, lease_expires_at=3 * SECOND), delivery(3, replayed=False, last_failure="")
    encoded = encode_pulled(DeliveryBatch([loaded(delivery()), loaded(late), loaded(first)], 5))
    into = match_stream_pb2.PullMatchesResponse.FromString(encoded)
    assert unset(into.deliveries[0]) == set()
    assert plain(into.deliveries[0]) == {
        "delivery_id": "1f-1-x",
        "attempt": 2,
        "max_attempts": 5,
        "match": MATCH_AS_JSON,
        "lease_duration": "6s",
        "lease_expires_at": "1970-01-01T00:00:10Z",
        "replayed": True,
        "last_failure": "lease expired",
    }
    assert into.deliveries[1].HasField("lease_duration")
    assert into.deliveries[1].lease_duration.ToMicroseconds() == 0
    assert (into.deliveries[2].replayed, into.deliveries[2].last_failure) == (False, "")


def test_a_delivery_that_cannot_be_written_is_left_out_and_given_back() -> None:
    broken, fine = delivery(1), delivery(2)
    batch = DeliveryBatch([loaded(broken, UNWRITABLE), loaded(fine), loaded(broken, UNWRITABLE)], 5)
    into = match_stream_pb2.PullMatchesResponse.FromString(encode_pulled(batch))
    assert [each.delivery_id for each in into.deliveries] == [fine.id]
    assert [each for each, _ in batch.unwritable] == [broken, broken]
    assert all(reason.startswith("It cannot be written: ") for _, reason in batch.unwritable)


@pytest.mark.parametrize("outcome", SettleOutcome)
def test_a_result_has_the_time_that_its_outcome_is_about(outcome: SettleOutcome) -> None:
    message = match_stream_pb2.DeliveryResult()
    write_result(SettleResult("1f-1-x", outcome, 5 * SECOND), message)
    expected = {"delivery_id": "1f-1-x", "outcome": f"DELIVERY_OUTCOME_{outcome.name}"}
    times = {SettleOutcome.RETRYING: "retry_at", SettleOutcome.EXTENDED: "lease_expires_at"}
    if outcome in times:
        expected[times[outcome]] = "1970-01-01T00:00:05Z"
    assert plain(message) == expected


def test_every_response_of_a_consumers_stream_is_written() -> None:
    opening = Opening("engine", "worker", 7, ["1f-1-x"], 2.5)
    opened = write_consumer_response(Opened(opening, status(), ["1f-1-x"]))
    assert isinstance(opened, match_stream_pb2.ConsumeMatchesResponse)
    assert plain(opened.opened) == {
        "subscription": plain(write_subscription(status())),
        "consumer_id": "worker",
        "max_outstanding": 7,
        "held_delivery_ids": ["1f-1-x"],
        "heartbeat_interval": "2.500s",
    }
    results = write_consumer_response(SettleResults(3, [SettleResult("1f-1-x", SettleOutcome.STALE)]))
    assert isinstance(results, match_stream_pb2.ConsumeMatchesResponse)
    assert plain(results) == {
        "results": {
            "sequence": "3",
            "results": [{"delivery_id": "1f-1-x", "outcome": "DELIVERY_OUTCOME_STALE"}],
        }
    }
    heartbeat = write_consumer_response(Heartbeat(1, 3, 2))
    assert isinstance(heartbeat, match_stream_pb2.ConsumeMatchesResponse)
    assert plain(heartbeat) == {"heartbeat": {"floor_position": "1", "head_position": "3", "outstanding_count": 2}}
    drain = write_consumer_response(Drain(4.5))
    assert isinstance(drain, match_stream_pb2.ConsumeMatchesResponse)
    assert plain(drain) == {"drain": {"grace_period": "4.500s"}}


def test_a_batch_is_sent_unless_nothing_of_it_can_be_written() -> None:
    sent = write_consumer_response(DeliveryBatch([loaded(delivery(1), UNWRITABLE), loaded(delivery(2))], 5))
    assert isinstance(sent, bytes)
    received = match_stream_pb2.ConsumeMatchesResponse.FromString(sent)
    assert [each.delivery_id for each in received.deliveries.deliveries] == ["1f-2-x"]
    assert write_consumer_response(DeliveryBatch([loaded(delivery(1), UNWRITABLE)], 5)) is None


def test_a_watch_skips_a_match_that_cannot_be_written() -> None:
    matches = [LoadedMatch(MATCH, AUTOMATION, each) for each in (UNWRITABLE, EVENT, UNWRITABLE)]
    encoded = write_update(WatchUpdate(matches, Place(31, "0123456789ab"), 40), "p1")
    message = match_stream_pb2.WatchMatchesResponse.FromString(encoded)
    assert (message.position, message.head_position, len(message.cursor)) == (31, 40, 28)
    assert [plain(each) for each in message.matches] == [MATCH_AS_JSON]
