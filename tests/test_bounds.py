"""The bounds and defaults of requests are those that the protos document, up to the last number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from automation.matches import MatchFilter
from automation.subscriptions.values import Ack, Backoff, DeliveryOrder, Extend, Nack, NackAction
from server.delivery.start_points import AfterPosition, Cursor, LogEnd, Since
from server.errors import FieldError, InvalidArgument, InvalidConsumer
from server.rpc.messages.backtests import read_scope
from server.rpc.messages.deliveries import read_consumer_id, read_opening, read_settlement, read_settlements
from server.rpc.messages.subscriptions import read_changes, read_new_subscription, read_selection
from server.rpc.messages.times import read_duration, read_timestamp
from server.rpc.messages.watches import read_start, read_watch
from server.rpc.servicers.match_stream import _read_wait_seconds
from server.services.runs import _check_reason, _check_timeout
from signalbox.v1 import automations_pb2, event_definitions_pb2
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.proto_comments import proto_comments

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND: Final = 1_000_000
HOUR: Final = 3_600 * SECOND
DAY: Final = 24 * HOUR


def lasting(micros: int) -> Duration:
    """Make a duration."""
    made = Duration()
    made.FromMicroseconds(micros)
    return made


def opening(**fields: Any) -> Any:
    return read_opening(pb.ConsumeMatchesRequest(open=pb.OpenConsumer(subscription="engine", **fields)))


def watch(**fields: Any) -> Any:
    return read_watch(pb.WatchMatchesRequest(**fields))


def settlement(**fields: Any) -> Any:
    return read_settlement(pb.ConsumeMatchesRequest(**fields))


def acknowledge(**fields: Any) -> Any:
    return read_settlements(pb.AcknowledgeMatchesRequest(**fields))


def names(count: int, prefix: str = "x") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def nacks_of(count: int) -> list[pb.NackDeliveries]:
    """Nack a number of deliveries, up to a thousand in each message."""
    ids = names(count)
    return [pb.NackDeliveries(delivery_ids=ids[start : start + 1_000]) for start in range(0, count, 1_000)]


def selection(**fields: Any) -> Any:
    return read_selection(pb.ParkedSelection(**fields))


def scope(**fields: Any) -> Any:
    return read_scope(event_definitions_pb2.BacktestSchemaRequest(**fields))


def labels(count: int) -> dict[str, str]:
    return dict.fromkeys(names(count), "")


@dataclass(frozen=True)
class Bound:
    """A documented bound: `read` takes a size; `path` is where a violation is reported."""

    field: str
    words: str
    read: Callable[[int], object]
    within: tuple[int, ...]
    beyond: tuple[int, ...]
    path: str

    def __str__(self) -> str:
        return f"{self.field}: {self.words}"


BOUNDS = (
    Bound(
        "OpenConsumer.max_outstanding",
        "1 to 10,000",
        lambda size: opening(max_outstanding=size),
        (1, 10_000),
        (-1, 0, 10_001),
        "max_outstanding",
    ),
    Bound(
        "OpenConsumer.held_delivery_ids",
        "At most 10,000",
        lambda size: opening(held_delivery_ids=names(size)),
        (0, 10_000),
        (10_001,),
        "held_delivery_ids",
    ),
    Bound(
        "OpenConsumer.consumer_id",
        "1 to 255 printable ASCII characters",
        lambda size: opening(consumer_id="x" * size),
        (1, 255),
        (256,),
        "consumer_id",
    ),
    Bound(
        "OpenConsumer.heartbeat_interval",
        "1 to 60 seconds",
        lambda size: opening(heartbeat_interval=lasting(size)),
        (SECOND, 60 * SECOND),
        (0, SECOND - 1, 60 * SECOND + 1),
        "heartbeat_interval",
    ),
    Bound(
        "WatchMatchesRequest.heartbeat_interval",
        "1 to 60 seconds",
        lambda size: watch(heartbeat_interval=lasting(size)),
        (SECOND, 60 * SECOND),
        (0, SECOND - 1, 60 * SECOND + 1),
        "heartbeat_interval",
    ),
    Bound(
        "WatchMatchesRequest.max_matches",
        "1 to 1,000",
        lambda size: watch(max_matches=size),
        (1, 1_000),
        (-1, 1_001),
        "max_matches",
    ),
    Bound(
        "PullMatchesRequest.wait",
        "0 to 60 seconds",
        lambda size: _read_wait_seconds(pb.PullMatchesRequest(wait=lasting(size))),
        (0, 60 * SECOND),
        (-1, 60 * SECOND + 1),
        "wait",
    ),
    Bound(
        "AckDeliveries.delivery_ids",
        "1 to 1,000",
        lambda size: settlement(ack=pb.AckDeliveries(delivery_ids=names(size))),
        (1, 1_000),
        (0, 1_001),
        "ack.delivery_ids",
    ),
    Bound(
        "NackDeliveries.delivery_ids",
        "1 to 1,000",
        lambda size: settlement(nack=pb.NackDeliveries(delivery_ids=names(size))),
        (1, 1_000),
        (0, 1_001),
        "nack.delivery_ids",
    ),
    Bound(
        "NackDeliveries.delay",
        "0 to 24 hours",
        lambda size: settlement(nack=pb.NackDeliveries(delivery_ids=["x"], delay=lasting(size))),
        (0, DAY),
        (-1, DAY + 1),
        "nack.delay",
    ),
    Bound(
        "NackDeliveries.reason",
        "At most 1,000 characters",
        lambda size: settlement(nack=pb.NackDeliveries(delivery_ids=["x"], reason="é" * size)),
        (0, 1_000),
        (1_001,),
        "nack.reason",
    ),
    Bound(
        "ExtendLeases.delivery_ids",
        "1 to 1,000",
        lambda size: settlement(extend=pb.ExtendLeases(delivery_ids=names(size))),
        (1, 1_000),
        (0, 1_001),
        "extend.delivery_ids",
    ),
    Bound(
        "ExtendLeases.lease_duration",
        "1 second to 1 hour",
        lambda size: settlement(extend=pb.ExtendLeases(delivery_ids=["x"], lease_duration=lasting(size))),
        (SECOND, HOUR),
        (0, SECOND - 1, HOUR + 1),
        "extend.lease_duration",
    ),
    Bound(
        "AcknowledgeMatchesRequest.nacks",
        "At most 100",
        lambda size: acknowledge(nacks=[pb.NackDeliveries(delivery_ids=[name]) for name in names(size)]),
        (1, 100),
        (101,),
        "nacks",
    ),
    Bound(
        "AcknowledgeMatchesRequest",
        "at most 10,000 deliveries",
        lambda size: acknowledge(ack=pb.AckDeliveries(delivery_ids=["a"]), nacks=nacks_of(size - 1)),
        (2, 10_000),
        (10_001,),
        "delivery_ids",
    ),
    Bound(
        "ParkedSelection.match_ids",
        "At most 1,000",
        lambda size: selection(match_ids=names(size)),
        (1, 1_000),
        (1_001,),
        "selection.match_ids",
    ),
    Bound(
        "MatchFilter.automation_ids",
        "At most 100",
        lambda size: watch(filter=pb.MatchFilter(automation_ids=names(size))),
        (0, 100),
        (101,),
        "filter.automation_ids",
    ),
    Bound(
        "MatchFilter.labels",
        "At most 32",
        lambda size: watch(filter=pb.MatchFilter(labels=labels(size))),
        (0, 32),
        (33,),
        "filter.labels",
    ),
    Bound(
        "MatchFilter.event_names",
        "At most 100",
        lambda size: watch(filter=pb.MatchFilter(event_names=names(size))),
        (0, 100),
        (101,),
        "filter.event_names",
    ),
    Bound(
        "StartPoint.after_position",
        "After this position. 0 starts at the beginning of the log",
        lambda size: watch(start=pb.StartPoint(after_position=size)),
        (0, 2**63 - 1),
        (-1,),
        "start.after_position",
    ),
    Bound(
        "BacktestSchemaRequest.max_samples",
        "at most 100",
        lambda size: scope(max_samples=size),
        (1, 100),
        (-1, 101),
        "max_samples",
    ),
    Bound(
        "BacktestSchemaRequest.max_events",
        "Maximum number of events",
        lambda size: scope(max_events=size),
        (1, 2**63 - 1),
        (-1,),
        "max_events",
    ),
    Bound(
        "BacktestSchemaRequest.revision",
        "Number of the revision",
        lambda size: scope(revision=size),
        (1, 2**31 - 1),
        (-1,),
        "revision",
    ),
    Bound("AwaitEventRequest.timeout", "1 second to 366 days", _check_timeout, (SECOND, 366 * DAY), (), "timeout"),
    Bound(
        "CompleteRunRequest.reason",
        "At most 1,000 characters",
        lambda size: _check_reason("é" * size),
        (0, 1_000),
        (1_001,),
        "reason",
    ),
)


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_a_bound_is_where_the_protos_say(bound: Bound) -> None:
    assert bound.words in proto_comments()[bound.field]
    for size in bound.within:
        bound.read(size)
    for size in bound.beyond:
        with pytest.raises(FieldError) as refused:
            bound.read(size)
        assert [each.path for each in refused.value.violations] == [bound.path]


@pytest.mark.parametrize("timeout", [0, SECOND - 1, 366 * DAY + 1])
def test_a_timeout_beyond_its_bounds_is_refused(timeout: int) -> None:
    with pytest.raises(
        InvalidArgument, match=f"timeout is {re.escape(f'{timeout / SECOND:g}')} s; it must be 1 second to 366 days"
    ):
        _check_timeout(timeout)


def made(**fields: Any) -> Any:
    return read_new_subscription(pb.Subscription(name="engine", **fields))


@pytest.mark.parametrize(
    ("field", "words", "value", "default"),
    [
        ("OpenConsumer.max_outstanding", "Defaults to 100", lambda: opening().max_outstanding, 100),
        ("OpenConsumer.heartbeat_interval", "Defaults to 10 seconds", lambda: opening().heartbeat_seconds, 10),
        ("WatchMatchesRequest.heartbeat_interval", "Defaults to 10 seconds", lambda: watch().heartbeat_seconds, 10),
        ("WatchMatchesRequest.max_matches", "Defaults to 100", lambda: watch().max_matches, 100),
        ("WatchMatchesRequest.start", "Defaults to LOG_END_LATEST", lambda: watch().start, LogEnd.LATEST),
        ("WatchMatchesRequest.filter", "Defaults to all", lambda: watch().filter, MatchFilter()),
        ("PullMatchesRequest.wait", "Defaults to 0", lambda: _read_wait_seconds(pb.PullMatchesRequest()), 0),
        ("BacktestSchemaRequest.max_samples", "Defaults to 10", lambda: scope().max_samples, 10),
        ("BacktestSchemaRequest.max_events", "Defaults to all", lambda: scope().max_events, 0),
        ("Subscription.ack_deadline", "Defaults to 30 seconds", lambda: made().ack_deadline, 30 * SECOND),
        ("Subscription.max_attempts", "Defaults to 10", lambda: made().max_attempts, 10),
        ("Subscription.order", "Order of delivery", lambda: made().order, DeliveryOrder.POSITION),
        ("Backoff.initial_delay", "Defaults to 1 second", lambda: made().backoff.initial_delay, SECOND),
        ("Backoff.max_delay", "Defaults to 10 minutes", lambda: made().backoff.max_delay, 600 * SECOND),
        ("Backoff.multiplier", "Defaults to 2", lambda: made().backoff.multiplier, 2),
        (
            "Backoff.max_delay",
            "or to `initial_delay` if that is longer",
            lambda: made(backoff=pb.Backoff(initial_delay=lasting(HOUR))).backoff.max_delay,
            HOUR,
        ),
        (
            "NackDeliveries.action",
            "Defaults to NACK_ACTION_RETRY",
            lambda: settlement(nack=pb.NackDeliveries(delivery_ids=["x"])),
            Nack(["x"], NackAction.RETRY, None, ""),
        ),
        (
            "ExtendLeases.lease_duration",
            "Defaults to the `ack_deadline`",
            lambda: settlement(extend=pb.ExtendLeases(delivery_ids=["x"])),
            Extend(["x"], None),
        ),
    ],
)
def test_a_default_is_the_one_that_the_protos_state(
    field: str, words: str, value: Callable[[], object], default: object
) -> None:
    assert words in proto_comments()[field]
    assert value() == default


def test_a_new_subscription_begins_with_its_first_version_and_nothing_read() -> None:
    new = made()
    assert (new.version, new.etag) == (1, "1")
    unfilled = (new.key, new.project_pk, new.id, new.created_at, new.updated_at)
    assert unfilled == (0, 0, "", 0, 0)
    assert (new.read_position, new.floor_position, new.last_serial, new.seek_serial) == (0, 0, 0, 0)


def test_settings_of_zero_are_read_as_zero_where_the_field_tells_it_from_unset() -> None:
    assert made(ack_deadline=lasting(0)).ack_deadline == 0
    backoff = pb.Backoff(initial_delay=lasting(0), max_delay=lasting(0), multiplier=0)
    assert made(backoff=backoff).backoff == Backoff(0, 0, 0)
    changes = read_changes(
        pb.UpdateSubscriptionRequest(name="", ack_deadline=lasting(0), max_attempts=0, backoff=backoff)
    )
    assert (changes.name, changes.ack_deadline, changes.max_attempts) == ("", 0, 0)
    assert changes.backoff == Backoff(0, 0, 0)


def test_a_start_point_is_read_as_it_is_given() -> None:
    for message, start in (
        (pb.StartPoint(after_position=5), AfterPosition(5)),
        (pb.StartPoint(after_position=0), AfterPosition(0)),
        (pb.StartPoint(time=Timestamp(seconds=7, nanos=5_999)), Since(7 * SECOND + 5)),
        (pb.StartPoint(time=Timestamp()), Since(0)),
        (pb.StartPoint(cursor="c"), Cursor("c")),
        (pb.StartPoint(log_end=pb.LOG_END_EARLIEST), LogEnd.EARLIEST),
        (pb.StartPoint(), LogEnd.LATEST),
    ):
        assert read_start(message) == start
    with pytest.raises(InvalidArgument) as refused:
        read_start(pb.StartPoint(time=Timestamp(seconds=-62_135_596_801)))
    assert [each.path for each in refused.value.violations] == ["start.time"]


# What a consumer says


def test_the_first_message_of_a_consumer_opens_it() -> None:
    for request in (None, pb.ConsumeMatchesRequest(), pb.ConsumeMatchesRequest(stop=pb.StopDeliveries())):
        with pytest.raises(InvalidArgument, match="The first message of the stream must be `open`"):
            read_opening(request)
    opened = opening(
        consumer_id="worker", held_delivery_ids=["a"], max_outstanding=7, heartbeat_interval=lasting(HOUR // 90)
    )
    assert (opened.subscription, opened.consumer_id, opened.max_outstanding) == ("engine", "worker", 7)
    assert (opened.held_delivery_ids, opened.heartbeat_seconds) == (["a"], 40)


def test_a_consumer_without_an_id_gets_one_of_its_own() -> None:
    first, second = opening().consumer_id, opening().consumer_id
    assert len(first) == 36
    assert first != second


@pytest.mark.parametrize("text", ["\x1f", "a\x7f", "é", "a\nb", "x" * 256])
def test_the_id_of_a_consumer_is_printable_ascii(text: str) -> None:
    assert [read_consumer_id(fine) for fine in ("", " ", "~", "x" * 255)] == ["", " ", "~", "x" * 255]
    with pytest.raises(InvalidConsumer) as refused:
        read_consumer_id(text)
    assert [each.reason for each in refused.value.violations] == ["INVALID_CONSUMER_ID"]


def test_the_id_of_a_delivery_has_at_most_255_bytes() -> None:
    for fine in ("x" * 255, "é" * 127):
        assert settlement(ack=pb.AckDeliveries(delivery_ids=[fine])) == Ack([fine])
    for beyond in ("x" * 256, "é" * 128):
        with pytest.raises(InvalidArgument, match="has an ID of more than 255 bytes"):
            settlement(ack=pb.AckDeliveries(delivery_ids=["x", beyond]))


def test_settlements_are_read_in_the_order_of_ack_nacks_and_extend() -> None:
    read = acknowledge(
        extend=pb.ExtendLeases(delivery_ids=["e"], lease_duration=lasting(5 * SECOND)),
        nacks=[
            pb.NackDeliveries(delivery_ids=["n1"], action=pb.NACK_ACTION_PARK, reason="bad"),
            pb.NackDeliveries(delivery_ids=["n2"], delay=lasting(0)),
        ],
        ack=pb.AckDeliveries(delivery_ids=["a", "b"]),
    )
    assert read == [
        Ack(["a", "b"]),
        Nack(["n1"], NackAction.PARK, None, "bad"),
        Nack(["n2"], NackAction.RETRY, 0, ""),
        Extend(["e"], 5 * SECOND),
    ]


def test_a_request_that_settles_nothing_or_a_delivery_twice_is_refused() -> None:
    with pytest.raises(InvalidArgument) as nothing:
        acknowledge(subscription="engine")
    assert [(each.path, each.reason) for each in nothing.value.violations] == [("ack", "REQUIRED")]
    twice = {"ack": pb.AckDeliveries(delivery_ids=["a", "b"]), "extend": pb.ExtendLeases(delivery_ids=["c", "a"])}
    with pytest.raises(InvalidArgument, match='The delivery "a" is named twice'):
        acknowledge(**twice)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, "neither a filter nor all"),
        ({"all": True, "match_ids": ["x"]}, "both filters and all"),
        ({"all": True, "automation_id": "x"}, "both filters and all"),
        ({"all": True, "parked_until": Timestamp()}, "both filters and all"),
    ],
)
def test_a_selection_has_either_filters_or_all(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidArgument, match=f"selection sets {fault}; set either filters or all"):
        selection(**fields)


def test_each_filter_alone_is_a_selection() -> None:
    assert selection(all=True).all
    for fields in ({"match_ids": ["x"]}, {"automation_id": "x"}, {"parked_until": Timestamp()}):
        assert not selection(**fields).all
    assert selection(parked_until=Timestamp(nanos=7_000)).parked_until == 7


# Times


@pytest.mark.parametrize(
    ("seconds", "nanos", "micros"),
    [
        (-62_135_596_800, 0, -62_135_596_800_000_000),
        (253_402_300_799, 999_999_999, 253_402_300_799_999_999),
        (1, 999, 1_000_000),
        (-1, 1_000, -999_999),
        (0, 0, 0),
    ],
)
def test_a_time_is_read_in_whole_microseconds(seconds: int, nanos: int, micros: int) -> None:
    assert read_timestamp(moment(seconds, nanos), "received_from") == micros
    assert read_timestamp(event_definitions_pb2.BacktestSchemaRequest(), "received_from") is None


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(-62_135_596_801, 0), (253_402_300_800, 0), (0, -1), (0, 1_000_000_000)]
)
def test_a_time_outside_the_years_1_to_9999_is_refused_at_its_path(seconds: int, nanos: int) -> None:
    for path, reported in (("", "received_from"), ("scope.received_from", "scope.received_from")):
        with pytest.raises(InvalidArgument, match=f"{seconds} s and {nanos} ns") as refused:
            read_timestamp(moment(seconds, nanos), "received_from", path)
        assert [(each.path, each.reason) for each in refused.value.violations] == [(reported, "INVALID_TIMESTAMP")]


def moment(seconds: int, nanos: int) -> event_definitions_pb2.BacktestSchemaRequest:
    return event_definitions_pb2.BacktestSchemaRequest(received_from=Timestamp(seconds=seconds, nanos=nanos))


@pytest.mark.parametrize(
    ("seconds", "nanos", "micros"),
    [
        (1, 999_999_999, 1_999_999),
        (-1, -999_999_999, -1_999_999),
        (0, -1_000, -1),
        (0, 1_999, 1),
        (0, -1_999, -1),
        (5, 0, 5 * SECOND),
        (-5, 0, -5 * SECOND),
    ],
)
def test_a_duration_is_read_in_whole_microseconds_towards_zero(seconds: int, nanos: int, micros: int) -> None:
    assert read_duration(waiting(seconds, nanos), "timeout") == micros
    assert read_duration(automations_pb2.AwaitEventRequest(), "timeout") is None


@pytest.mark.parametrize(("seconds", "nanos"), [(0, 1_000_000_000), (0, -1_000_000_000), (1, -1), (-1, 1)])
def test_a_duration_of_two_signs_or_a_second_of_nanoseconds_is_refused(seconds: int, nanos: int) -> None:
    with pytest.raises(InvalidArgument, match="different signs, and nanoseconds must be from") as refused:
        read_duration(waiting(seconds, nanos), "timeout")
    assert [(each.path, each.reason) for each in refused.value.violations] == [("timeout", "INVALID_DURATION")]


def waiting(seconds: int, nanos: int) -> automations_pb2.AwaitEventRequest:
    return automations_pb2.AwaitEventRequest(timeout=Duration(seconds=seconds, nanos=nanos))
