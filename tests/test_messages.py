"""Messages that the API writes: every field has its value, and what does not fit is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct, Value

from automation.automations import Automation, AutomationState, EntryRule
from automation.conditions.errors import ConditionProblem
from automation.conditions.tracing import Clause, Shown
from automation.conditions.values import Verdict
from automation.matches import Match, MatchFilter, MatchKind
from automation.runs import Run, RunStatus, Wait
from automation.subscriptions.push import Push, PushAttempt
from automation.subscriptions.values import (
    Backoff,
    Delivery,
    DeliveryOrder,
    ParkedMatch,
    ParkingCause,
    SettleOutcome,
    SettleResult,
    Subscription,
    SubscriptionStats,
)
from registry.coercion import Coercion, CoercionKind
from registry.compatibility import Direction, Incompatibility, IncompatibilityKind
from registry.definitions import EventDefinition, Revision
from registry.errors import Violation
from registry.schema import CoercionMode, Compatibility, Property, PropertyType, Schema, UnknownProperties
from server.delivery.consumer_session import DeliveryBatch, Drain, Heartbeat, Opened, Opening, SettleResults
from server.delivery.loading import LoadedDelivery
from server.delivery.match_reader import UnreadableMatch, WatchUpdate
from server.delivery.recent_matches import LoadedMatch
from server.delivery.start_points import Place
from server.delivery.subscription_status import ConsumerStatus, SubscriptionStatus
from server.errors import InvalidArgument, QueueFull
from server.ingest.draft import Draft
from server.model import (
    ApiKey,
    Contact,
    Dialect,
    Erasure,
    Event,
    NameCase,
    Project,
    Quota,
    Rules,
    Scope,
    UndefinedEvents,
    UnknownContacts,
)
from server.paging import Page
from server.rpc.messages import deliveries as delivery_messages
from server.rpc.messages import receipts, response_size
from server.rpc.messages.automations import write_automation, write_run
from server.rpc.messages.backtests import write_backtest
from server.rpc.messages.contacts import write_contact
from server.rpc.messages.definitions import (
    write_definition,
    write_dependent,
    write_revision,
    write_schema,
    write_verdict,
)
from server.rpc.messages.deliveries import write_consumer_response, write_deliveries, write_result
from server.rpc.messages.enums import View
from server.rpc.messages.events import event_message, write_coercion, write_error
from server.rpc.messages.explanations import _write_clause, write_condition_test, write_event_explanation
from server.rpc.messages.matches import write_loaded, write_log_entry, write_match
from server.rpc.messages.projects import write_key, write_project
from server.rpc.messages.pushes import write_attempt
from server.rpc.messages.response_size import MAX_DETAIL_BYTES, size_of, write_details, write_page
from server.rpc.messages.structs import depth_of
from server.rpc.messages.subscriptions import write_consumer, write_parked, write_subscription
from server.rpc.messages.watches import write_update
from server.services.backtests import Outcome, Progress, Report, Sample
from server.services.definitions import CompatibilityVerdict
from server.services.dependents import ReadingAutomation
from server.services.explanations import ConditionTest, EventExplanation
from server.services.match_reasons import BlockingKind, BlockingReason, Explanation
from server.services.runs import RunView
from server.storage.clock import database_now
from server.storage.events.history import Traffic
from signalbox.v1 import automations_pb2, event_ingest_pb2, event_pb2, match_pb2, match_stream_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

SECOND: Final = 1_000_000

COERCIONS = (
    Coercion("properties.n", CoercionKind.CONVERTED, "5", 5),
    Coercion("properties.x", CoercionKind.UNKNOWN_DROPPED, "y", None),
)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EVENT = Event(
    "e1",
    21,
    "paid",
    "d1",
    2,
    "c1",
    "ada@example.com",
    {"n": 5},
    COERCIONS,
    1_000_000,
    2_000_001,
    1,
    unreadable="why",
    traceparent=TRACEPARENT,
)
MATCH = Match(31, "m1", MatchKind.STARTED, 4, 31, "r1", 21, "paid", 9, 3_000_002)
AUTOMATION = Automation(
    key=4,
    project_pk=1,
    id="a1",
    name="Welcome",
    event_name="paid",
    condition="properties.n > 1",
    state=AutomationState.ACTIVE,
    entry_rule=EntryRule.ONCE_PER_CONTACT,
    labels={"team": "growth"},
    attributes={"step": 1},
    activated_position=20,
    version=3,
    created_at=1_000_000,
    updated_at=2_000_000,
    unreadable="why",
)
RUN = Run(
    number=31,
    id="r1",
    automation_key=4,
    contact_key=9,
    event_position=21,
    status=RunStatus.WAITING,
    match_position=31,
    wait=Wait("returned", "true", 22, 9_000_000),
    reason="because",
    attributes={"step": 2},
    version=2,
    created_at=1_000_000,
    updated_at=2_000_000,
    finished_at=3_000_000,
    finished_position=23,
    unreadable="why",
)
SUBSCRIPTION = Subscription(
    key=1,
    project_pk=1,
    id="s1",
    name="engine",
    filter=MatchFilter(("a1",), {"team": "growth"}, ("paid",)),
    order=DeliveryOrder.CONTACT,
    ack_deadline=5_500_000,
    max_attempts=3,
    backoff=Backoff(1_000_000, 60_000_000, 1.5),
    read_position=12,
    floor_position=11,
    last_serial=7,
    seek_serial=1,
    version=6,
    created_at=1_000_000,
    updated_at=2_000_000,
)
SCHEMA = Schema(
    (
        Property("n", PropertyType.NUMBER, required=True, description="A number"),
        Property("tags", PropertyType.ARRAY, item_type=PropertyType.STRING),
        Property("who", PropertyType.OBJECT, properties=(Property("name", PropertyType.STRING),)),
        Property("kind", PropertyType.STRING, suggested_values=("new", "old")),
    ),
    UnknownProperties.DROP,
    CoercionMode.STRICT,
)


def plain(message: Message) -> dict[str, Any]:
    """Return a message as JSON values, with the names of the protos."""
    return MessageToDict(message, preserving_proto_field_name=True)


def unset(message: Message) -> set[str]:
    """Return the names of the fields that have no value."""
    return {field.name for field in message.DESCRIPTOR.fields} - {field.name for field, _ in message.ListFields()}


# Events and matches


def test_an_event_is_written_whole() -> None:
    message = event_message(EVENT)
    assert unset(message) == {"omitted_coercion_count", "erased_at"}
    assert plain(message) == {
        "id": "e1",
        "position": "21",
        "name": "paid",
        "definition_id": "d1",
        "revision": 2,
        "contact_id": "c1",
        "email": "ada@example.com",
        "properties": {"n": 5},
        "coercions": [
            {"path": "properties.n", "kind": "KIND_CONVERTED", "from": "5", "to": 5},
            {"path": "properties.x", "kind": "KIND_UNKNOWN_DROPPED", "from": "y"},
        ],
        "occurred_at": "1970-01-01T00:00:01Z",
        "received_at": "1970-01-01T00:00:02.000001Z",
        "unreadable_reason": "why",
        "traceparent": TRACEPARENT,
    }


def test_an_erased_event_has_the_number_of_its_coercions() -> None:
    message = event_message(msgspec.structs.replace(EVENT, coercions=(), omitted_coercions=2, erased_at=3_000_000))
    assert (message.omitted_coercion_count, message.erased_at.seconds) == (2, 3)


def test_a_value_that_was_dropped_has_no_value_after_it() -> None:
    for after, has in ((None, False), (False, True), (0, True), ("", True)):
        message = event_pb2.Coercion()
        write_coercion(Coercion("properties.x", CoercionKind.CONVERTED, None, after), message)
        assert message.HasField("to") is has
        assert message.HasField("from")


MATCH_AS_JSON = {
    "id": "m1",
    "position": "31",
    "kind": "KIND_STARTED",
    "automation_id": "a1",
    "automation_name": "Welcome",
    "labels": {"team": "growth"},
    "run_id": "r1",
    "contact_id": "c1",
    "event": plain(event_message(EVENT)),
    "matched_at": "1970-01-01T00:00:03.000002Z",
    "traceparent": TRACEPARENT,
}


def nested(depth: int) -> dict[str, Any]:
    """Return properties of a number of levels."""
    made: dict[str, Any] = {"n": 1}
    for _ in range(depth - 1):
        made = {"inner": made}
    assert depth_of(made) == depth
    return made


def with_properties(properties: dict[str, Any]) -> Event:
    return Event("e1", 21, "paid", "d1", 2, "c1", "", properties, COERCIONS, 1, 2, 1)


def test_a_match_is_written_with_its_automation_and_its_event() -> None:
    message = match_pb2.Match()
    write_match(MATCH, AUTOMATION, EVENT, message)
    assert plain(message) == MATCH_AS_JSON
    deleted = Event("e1", 21, "paid", "d1", 2, "c1", "", {}, (), 1, 2, 1, contact_deleted=True)
    message = match_pb2.Match()
    write_match(MATCH, AUTOMATION, deleted, message)
    assert message.contact_deleted


def test_a_match_of_the_log_alone_names_its_event_and_its_run() -> None:
    message = match_pb2.Match()
    write_log_entry(MATCH, message)
    assert plain(message) == {
        "id": "m1",
        "position": "31",
        "kind": "KIND_STARTED",
        "run_id": "r1",
        "event": {"position": "21", "name": "paid"},
        "matched_at": "1970-01-01T00:00:03.000002Z",
    }


@pytest.mark.parametrize(("depth", "whole"), [(31, True), (32, False)])
def test_properties_that_reach_the_limit_of_nesting_are_left_out_of_a_match(depth: int, whole: bool) -> None:
    message = match_pb2.Match()
    write_loaded(LoadedMatch(MATCH, AUTOMATION, with_properties(nested(depth))), message)
    assert bool(message.event.properties.fields) is whole
    assert bool(message.event.coercions) is whole
    assert message.event.id == "e1"


@pytest.mark.parametrize(
    ("value", "depth"),
    [(1, 0), ({}, 0), ([], 0), ({"a": 1}, 1), ([1], 1), ({"a": []}, 1), ({"a": [1]}, 2), ([[], {"b": {"c": 1}}], 3)],
)
def test_the_depth_of_a_value_counts_the_levels_that_hold_something(value: Any, depth: int) -> None:
    assert depth_of(value) == depth


# Automations, runs, definitions, contacts and projects


def test_an_automation_is_written_whole() -> None:
    message = write_automation(AUTOMATION)
    assert unset(message) == set()
    assert plain(message) == {
        "id": "a1",
        "name": "Welcome",
        "event_name": "paid",
        "condition": "properties.n > 1",
        "state": "AUTOMATION_STATE_ACTIVE",
        "entry_rule": "ENTRY_RULE_ONCE_PER_CONTACT",
        "labels": {"team": "growth"},
        "attributes": {"step": 1},
        "activated_position": "20",
        "created_at": "1970-01-01T00:00:01Z",
        "updated_at": "1970-01-01T00:00:02Z",
        "etag": "3",
        "unreadable_reason": "why",
    }


def test_a_run_is_written_whole() -> None:
    message = write_run(RunView(RUN, "a1", "c1", "e1", "m1", MatchKind.STARTED))
    assert unset(message) == set()
    assert plain(message) == {
        "id": "r1",
        "automation_id": "a1",
        "contact_id": "c1",
        "event_id": "e1",
        "status": "RUN_STATUS_WAITING",
        "match_id": "m1",
        "wait": {
            "event_name": "returned",
            "condition": "true",
            "from_position": "22",
            "timeout_at": "1970-01-01T00:00:09Z",
        },
        "reason": "because",
        "attributes": {"step": 2},
        "created_at": "1970-01-01T00:00:01Z",
        "updated_at": "1970-01-01T00:00:02Z",
        "finished_at": "1970-01-01T00:00:03Z",
        "etag": "2",
        "unreadable_reason": "why",
    }


def run_like(**changes: Any) -> automations_pb2.Run:
    values = {name: getattr(RUN, name) for name in Run.__slots__ if name != "__weakref__"} | changes
    return write_run(RunView(Run(**values), "a1", "", "e1", "", None))


def test_a_run_that_is_open_has_no_end_and_one_that_does_not_wait_no_wait() -> None:
    open_run = run_like(finished_at=0, wait=None)
    assert not open_run.HasField("finished_at")
    assert not open_run.HasField("wait")
    forever = run_like(wait=Wait("returned", "", 22, 0))
    assert forever.HasField("wait")
    assert not forever.wait.HasField("timeout_at")


def test_a_schema_is_written_whole() -> None:
    assert plain(write_schema(SCHEMA)) == {
        "properties": [
            {"name": "n", "type": "PROPERTY_TYPE_NUMBER", "required": True, "description": "A number"},
            {"name": "tags", "type": "PROPERTY_TYPE_ARRAY", "item_type": "PROPERTY_TYPE_STRING"},
            {
                "name": "who",
                "type": "PROPERTY_TYPE_OBJECT",
                "properties": [{"name": "name", "type": "PROPERTY_TYPE_STRING"}],
            },
            {"name": "kind", "type": "PROPERTY_TYPE_STRING", "suggested_values": ["new", "old"]},
        ],
        "unknown_properties": "UNKNOWN_PROPERTIES_DROP",
        "coercion": "COERCION_MODE_STRICT",
    }


def test_a_definition_and_a_revision_are_written_whole() -> None:
    definition = EventDefinition(
        "d1", "p1", "paid", "Paid", SCHEMA, Compatibility.FULL, 2, 5, SECOND, 2 * SECOND, 3, 7 * SECOND
    )
    message = write_definition(definition)
    assert unset(message) == set()
    assert plain(message) == {
        "id": "d1",
        "name": "paid",
        "description": "Paid",
        "schema": plain(write_schema(SCHEMA)),
        "compatibility": "COMPATIBILITY_FULL",
        "revision": 2,
        "etag": "5",
        "created_at": "1970-01-01T00:00:01Z",
        "updated_at": "1970-01-01T00:00:02Z",
        "deleted_at": "1970-01-01T00:00:00.000003Z",
        "event_retention": {"max_age": "7s"},
    }
    live = EventDefinition("d1", "p1", "paid", "Paid", SCHEMA, Compatibility.FULL, 2, 5, SECOND, 2 * SECOND, None)
    assert unset(write_definition(live)) == {"deleted_at", "event_retention"}
    assert plain(write_revision(Revision("d1", 2, SCHEMA, SECOND))) == {
        "definition_id": "d1",
        "number": 2,
        "schema": plain(write_schema(SCHEMA)),
        "created_at": "1970-01-01T00:00:01Z",
    }


def test_a_verdict_names_each_incompatibility() -> None:
    one = Incompatibility(IncompatibilityKind.TYPE_CHANGED, "properties.n", "number", "string", Direction.FORWARD, 2)
    message = write_verdict(CompatibilityVerdict(Compatibility.FORWARD, (one,), True))
    assert plain(message) == {
        "compatibility": "COMPATIBILITY_FORWARD",
        "changed": True,
        "incompatibilities": [
            {
                "kind": "TYPE_CHANGED",
                "path": "properties.n",
                "old": "number",
                "new": "string",
                "direction": "DIRECTION_FORWARD",
                "revision": 2,
            }
        ],
    }
    assert write_verdict(CompatibilityVerdict(Compatibility.FORWARD, (), False)).compatible


def test_a_dependent_is_an_automation_or_traffic() -> None:
    reading = write_dependent(ReadingAutomation(AUTOMATION, ("properties.n",)))
    assert plain(reading) == {"automation": {"id": "a1", "name": "Welcome", "paths": ["properties.n"]}}
    traffic = write_dependent(Traffic(2, 7, SECOND))
    assert plain(traffic) == {"traffic": {"revision": 2, "event_count": "7", "last_seen_at": "1970-01-01T00:00:01Z"}}


def test_a_contact_is_written_whole() -> None:
    message = write_contact(Contact(1, "c1", "ada@example.com", {"plan": "pro"}, 4, SECOND, 2 * SECOND, "why"))
    assert unset(message) == set()
    assert plain(message) == {
        "id": "c1",
        "email": "ada@example.com",
        "properties": {"plan": "pro"},
        "created_at": "1970-01-01T00:00:01Z",
        "updated_at": "1970-01-01T00:00:02Z",
        "etag": "4",
        "unreadable_reason": "why",
    }
    assert write_contact(Contact(1, "c1", "", {}, 4, SECOND, SECOND)).HasField("properties")


def test_a_project_and_a_key_are_written_whole() -> None:
    rules = Rules(
        UndefinedEvents.ACCEPT,
        UnknownContacts.CREATE,
        NameCase.INSENSITIVE,
        erasure=Erasure.KEEP_NOT_PERSONAL,
    )
    project = write_project(
        Project(1, "p1", "shop", rules, 3, 21, SECOND, 2 * SECOND, 86_400 * SECOND, quota=Quota(1, 2, 3))
    )
    assert unset(project) == set()
    assert plain(project) == {
        "id": "p1",
        "name": "shop",
        "undefined_events": "UNDEFINED_EVENTS_ACCEPT",
        "unknown_contacts": "UNKNOWN_CONTACTS_CREATE",
        "name_case": "NAME_CASE_INSENSITIVE",
        "erasure": "ERASURE_KEEP_NOT_PERSONAL",
        "refused_events": "REFUSED_EVENTS_DROP",
        "head_position": "21",
        "created_at": "1970-01-01T00:00:01Z",
        "updated_at": "1970-01-01T00:00:02Z",
        "etag": "3",
        "event_retention": "86400s",
        "events_per_second": "1",
        "event_burst": "2",
        "events_per_day": "3",
    }
    scopes = frozenset({Scope.MATCHES_READ, Scope.EVENTS_READ})
    fields = ("k1", 1, "p1", Dialect.ARSEL, scopes, "Key", "ar_…1234", False, SECOND)
    revoked = write_key(ApiKey(*fields, 2 * SECOND, "key", 3 * SECOND, 4 * SECOND, 5 * SECOND))
    assert unset(revoked) == set()
    assert plain(revoked) == {
        "id": "k1",
        "project_id": "p1",
        "description": "Key",
        "dialect": "DIALECT_ARSEL",
        "scopes": ["events:read", "matches:read"],
        "hint": "ar_…1234",
        "created_at": "1970-01-01T00:00:01Z",
        "revoked_at": "1970-01-01T00:00:02Z",
        "name": "key",
        "expires_at": "1970-01-01T00:00:03Z",
        "last_used_at": "1970-01-01T00:00:04Z",
        "previous_secret_expires_at": "1970-01-01T00:00:05Z",
    }
    valid = write_key(ApiKey(*fields, None))
    assert unset(valid) == {"revoked_at", "name", "expires_at", "last_used_at", "previous_secret_expires_at"}


# Subscriptions and deliveries


def status(oldest: int = 0) -> SubscriptionStatus:
    return SubscriptionStatus(SUBSCRIPTION, SubscriptionStats(15, 1, 2, 3, oldest), 4)


def test_a_subscription_is_written_whole() -> None:
    message = write_subscription(status())
    assert unset(message) == {"push"}
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
    into = match_stream_pb2.PullMatchesResponse()
    late, first = delivery(2, lease_expires_at=3 * SECOND), delivery(3, replayed=False, last_failure="")
    write_deliveries(DeliveryBatch([loaded(delivery()), loaded(late), loaded(first)], 5), into)
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
    into = match_stream_pb2.DeliveryBatch()
    write_deliveries(batch, into)
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
    assert opened is not None
    assert plain(opened.opened) == {
        "subscription": plain(write_subscription(status())),
        "consumer_id": "worker",
        "max_outstanding": 7,
        "held_delivery_ids": ["1f-1-x"],
        "heartbeat_interval": "2.500s",
    }
    results = write_consumer_response(SettleResults(3, [SettleResult("1f-1-x", SettleOutcome.STALE)]))
    assert results is not None
    assert plain(results) == {
        "results": {
            "sequence": "3",
            "results": [{"delivery_id": "1f-1-x", "outcome": "DELIVERY_OUTCOME_STALE"}],
        }
    }
    heartbeat = write_consumer_response(Heartbeat(1, 3, 2))
    assert heartbeat is not None
    assert plain(heartbeat) == {"heartbeat": {"floor_position": "1", "head_position": "3", "outstanding_count": 2}}
    drain = write_consumer_response(Drain(4.5))
    assert drain is not None
    assert plain(drain) == {"drain": {"grace_period": "4.500s"}}


def test_a_batch_is_sent_unless_nothing_of_it_can_be_written() -> None:
    sent = write_consumer_response(DeliveryBatch([loaded(delivery(1), UNWRITABLE), loaded(delivery(2))], 5))
    assert sent is not None
    assert [each.delivery_id for each in sent.deliveries.deliveries] == ["1f-2-x"]
    assert write_consumer_response(DeliveryBatch([loaded(delivery(1), UNWRITABLE)], 5)) is None


def test_a_watch_skips_a_match_that_cannot_be_written() -> None:
    matches = [LoadedMatch(MATCH, AUTOMATION, each) for each in (UNWRITABLE, EVENT, UNWRITABLE)]
    encoded = write_update(WatchUpdate(matches, Place(31, "0123456789ab"), 40), "p1")
    message = match_stream_pb2.WatchMatchesResponse.FromString(encoded)
    assert (message.position, message.head_position, len(message.cursor)) == (31, 40, 28)
    assert [plain(each) for each in message.matches] == [MATCH_AS_JSON]


# Explanations


def clause(actual: Shown | None = None, operand: Shown | None = None) -> Clause:
    return Clause(1, "properties.n > 1", 2, 3, Verdict.FALSE, ">", "properties.n", actual, operand, "It is 1")


def written(actual: Shown | None = None, operand: Shown | None = None) -> automations_pb2.Clause:
    into = automations_pb2.Clause()
    _write_clause(clause(actual, operand), into)
    return into


def test_a_clause_is_written_whole() -> None:
    assert plain(written(Shown(1), Shown(2))) == {
        "depth": 1,
        "expression": "properties.n > 1",
        "line": 2,
        "column": 3,
        "verdict": "VERDICT_FALSE",
        "operator": ">",
        "path": "properties.n",
        "actual": 1,
        "operand": 2,
        "message": "It is 1",
    }
    absent = written()
    assert (absent.HasField("actual"), absent.HasField("operand")) == (False, False)


def test_a_truncated_value_is_marked_on_its_own_side() -> None:
    for actual, operand in ((True, False), (False, True), (False, False), (True, True)):
        message = written(Shown("x", actual), Shown("y", operand))
        assert (message.actual_truncated, message.operand_truncated) == (actual, operand)
        assert (message.actual.string_value, message.operand.string_value) == ("x", "y")


def test_a_value_that_is_nested_too_deep_for_a_clause_is_shown_as_text() -> None:
    for depth, whole in ((29, True), (30, False)):
        message = written(Shown(nested(depth)))
        assert message.actual.HasField("struct_value") is whole
        assert message.actual_truncated is not whole
        if not whole:
            assert message.actual.string_value.startswith('{"inner":{"inner":')
    wide: dict[str, Any] = {"wide": "x" * 2_000, "deep": nested(30)}
    shown = written(Shown(wide)).actual.string_value
    assert (len(shown), shown[:12]) == (1_024, '{"wide":"xxx')


def test_the_test_of_a_condition_is_written_with_all_that_it_found() -> None:
    message = write_condition_test(
        ConditionTest(
            Verdict.FALSE,
            [clause()],
            [ConditionProblem(1, 2, "UNKNOWN_PROPERTY", "It is unknown")],
            [Violation("properties.n", "INVALID_PROPERTY_VALUE", "It is none")],
            COERCIONS,
        )
    )
    assert unset(message) == {"omitted_clause_count", "omitted_coercion_count"}
    assert plain(message.errors[0]) == {
        "line": 1,
        "column": 2,
        "reason": "UNKNOWN_PROPERTY",
        "message": "It is unknown",
    }
    assert [plain(each)["path"] for each in message.coercions] == ["properties.n", "properties.x"]
    assert [plain(each)["path"] for each in message.violations] == ["properties.n"]
    assert (message.verdict, len(message.trace)) == (automations_pb2.VERDICT_FALSE, 1)


def explanation(match: Match | None = MATCH) -> Explanation:
    reasons = [BlockingReason(BlockingKind.ONCE_PER_CONTACT, "It had entered", "r0")]
    return Explanation(AUTOMATION, "paid", "properties.n > 1", Verdict.TRUE, [clause()], reasons, match)


def test_an_explanation_is_written_whole() -> None:
    page = Page([explanation(), explanation(None)], "rest", lambda _: "after")
    message = write_event_explanation(EventExplanation(EVENT, page=page))
    assert message.next_page_token == "rest"
    assert message.event == event_message(EVENT)
    first, second = message.explanations
    assert plain(first) == {
        "automation_id": "a1",
        "automation_name": "Welcome",
        "event_name": "paid",
        "condition": "properties.n > 1",
        "verdict": "VERDICT_TRUE",
        "trace": [plain(written())],
        "outside_reasons": [{"kind": "KIND_ONCE_PER_CONTACT", "message": "It had entered", "run_id": "r0"}],
        "match_id": "m1",
        "run_id": "r1",
    }
    assert unset(second) - unset(first) == {"match_id", "run_id"}
    refused = write_event_explanation(EventExplanation(None, [Violation("event", "QUEUE_FULL", "It is full")]))
    assert plain(refused) == {"violations": [{"path": "event", "reason": "QUEUE_FULL", "message": "It is full"}]}


# Backtests


async def test_the_progress_and_the_report_of_a_backtest_are_written() -> None:
    progress = await write_backtest(Progress(3, 9))
    assert plain(progress) == {"progress": {"judged_count": "3", "event_count": "9"}}
    assert plain(await write_backtest(report([sample(1), sample(2)]))) == {
        "report": {
            "revision": 2,
            "event_count": "10",
            "unchanged_count": "4",
            "newly_rejected_count": "3",
            "newly_accepted_count": "2",
            "differently_coerced_count": "1",
            "reasons": [{"path": "properties.n", "reason": "INVALID_PROPERTY_VALUE", "event_count": "3"}],
            "samples": [
                {
                    "outcome": "OUTCOME_NEWLY_REJECTED",
                    "event_id": "e1",
                    "position": str(position),
                    "revision": 1,
                    "sent": {"n": "x"},
                    "before": {},
                    "violations": [{"path": "properties.n", "reason": "R", "message": "It is none"}],
                }
                for position in (1, 2)
            ],
            "head_position": "11",
            "unreadable_count": "1",
        }
    }


def sample(position: int, text: str = "x") -> Sample:
    violations = (Violation("properties.n", "R", "It is none"),)
    return Sample(Outcome.NEWLY_REJECTED, "e1", position, 1, {"n": text}, {}, None, violations)


def report(samples: list[Sample]) -> Report:
    outcomes = Counter({Outcome.NEWLY_REJECTED: 3, Outcome.NEWLY_ACCEPTED: 2, Outcome.DIFFERENTLY_COERCED: 1})
    return Report(2, 10, outcomes, [(("properties.n", "INVALID_PROPERTY_VALUE"), 3)], samples, 11, 1)


async def test_samples_are_written_while_they_fit_into_three_mebibytes() -> None:
    async def kept(length: int) -> list[int]:
        """Return which samples are written of one that fills most of the room, one of a length, and a small one."""
        samples = [sample(1, "x" * 3_000_000), sample(2, "y" * length), sample(3)]
        return [each.position for each in (await write_backtest(report(samples))).report.samples]

    empty = await write_backtest(report([]))
    used = await sample_size(sample(1, "x" * 3_000_000)) + await sample_size(sample(2, "y" * 100_000))
    room = 3 * 1024 * 1024 - empty.report.ByteSize() - used + 100_000
    assert await kept(room) == [1, 2]
    assert await kept(room + 1) == [1, 3]


async def sample_size(each: Sample) -> int:
    return (await write_backtest(report([each]))).report.samples[0].ByteSize()


# Rooms


def values(*sizes: int) -> list[Value]:
    """Make values of these sizes as items: texts of up to 127 bytes have six bytes of framing and two of their own."""
    made = [Value(string_value="x" * (size - 8)) for size in sizes]
    assert [size_of(each) for each in made] == list(sizes)
    return made


def page_of(count: int) -> Page[Value]:
    return Page(values(*[50] * count), "rest", lambda _: "after")


@pytest.mark.parametrize(
    ("room", "kept", "token"),
    [(150, 3, "rest"), (149, 2, "after"), (100, 2, "after"), (99, 1, "after"), (50, 1, "after"), (1, 1, "after")],
)
def test_a_page_ends_with_the_last_item_that_fits_and_has_at_least_one(room: int, kept: int, token: str) -> None:
    into = event_pb2.Event().properties.fields["list"].list_value.values
    assert write_page(page_of(3), lambda item: item, into, room) == token
    assert len(into) == kept


def test_a_page_has_the_room_of_a_response_unless_it_is_given_less() -> None:
    quarter = values(100)[0]
    quarter.string_value = "x" * (1_000_000 - 12)
    assert size_of(quarter) == 1_000_000 - 12 + 4 + 6
    into = event_pb2.Event().properties.fields["list"].list_value.values
    assert write_page(Page([quarter] * 5, "", lambda _: "after"), lambda item: item, into) == "after"
    assert len(into) == 4


@pytest.mark.parametrize(("more", "omitted"), [(0, 0), (1, 1)])
def test_details_are_written_up_to_a_mebibyte_and_the_rest_counted(more: int, omitted: int) -> None:
    sizes = [100] * 20
    large = MAX_DETAIL_BYTES - sum(sizes) + more
    details: list[Any] = values(*sizes)
    big = Value(string_value="x" * (large - 10))
    assert size_of(big) == large
    into = event_pb2.Event().properties.fields["list"].list_value.values
    assert write_details([*details, big], lambda detail, message: message.CopyFrom(detail), into) == omitted
    assert len(into) == 21 - omitted


def test_up_to_sixteen_details_are_written_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_size, "MAX_DETAIL_BYTES", 210)
    for count, omitted in ((16, 0), (17, 13)):
        into = event_pb2.Event().properties.fields["list"].list_value.values
        found = write_details(values(*[50] * count), lambda detail, message: message.CopyFrom(detail), into)
        assert (found, len(into)) == (omitted, count - omitted)


# Receipts


def draft(number: int = 1, *, error: Exception | None = None, matches: int = 0, duplicate: bool = False) -> Draft:
    properties = {"text": "x" * 100}
    event = Event(f"e{number}", number, "paid", "d1", 2, "c1", "ada@example.com", properties, COERCIONS, 1, 2, matches)
    made = Draft("paid", "c1", "", properties, error=error, duplicate=duplicate)
    made.event = None if error else event
    made.matches = tuple(
        (Match(at, f"m{at}", MatchKind.STARTED, 4, at, f"r{at}", number, "paid", 9, 3), AUTOMATION)
        for at in range(1, matches + 1)
    )
    return made


def receipt(made: Draft, view: View, room: int = 1_000_000) -> event_ingest_pb2.EventReceipt:
    into = event_ingest_pb2.EventReceipt()
    receipts.write_receipt(made, view, into, room)
    return into


def test_a_receipt_holds_what_its_view_names() -> None:
    brief = receipt(draft(matches=2), View.RECEIPT)
    assert plain(brief) == {
        "event": {
            "id": "e1",
            "position": "1",
            "revision": 2,
            "contact_id": "c1",
            "received_at": "1970-01-01T00:00:00.000002Z",
        },
        "coercion_count": 2,
        "match_count": 2,
    }
    coerced = receipt(draft(matches=2), View.COERCED)
    assert coerced.event.email == "ada@example.com"
    assert (coerced.coercion_count, coerced.match_count, len(coerced.matches)) == (2, 2, 0)
    whole = receipt(draft(matches=2), View.MATCHES)
    assert ([each.id for each in whole.matches], whole.truncated) == (["m1", "m2"], False)
    assert receipt(draft(duplicate=True), View.RECEIPT).duplicate
    assert not brief.duplicate


def test_a_receipt_counts_the_runs_that_were_started() -> None:
    made = draft(matches=2)
    (first, automation), second = made.matches
    resumed = Match(9, "m9", MatchKind.RESUMED, 4, 1, "r1", 1, "paid", 9, 3)
    made.matches = ((resumed, automation), (first, automation), second)
    assert receipt(made, View.MATCHES).match_count == 2


def test_a_receipt_reports_that_matches_do_not_fit() -> None:
    whole = receipt(draft(matches=2), View.MATCHES)
    room = size_of(whole.event) + sum(map(size_of, whole.matches))
    assert receipt(draft(matches=2), View.MATCHES, room) == whole
    cut = receipt(draft(matches=2), View.MATCHES, room - 1)
    assert ([each.id for each in cut.matches], cut.truncated, cut.match_count) == (["m1"], True, 2)


def test_matches_of_the_deepest_properties_leave_them_to_the_event() -> None:
    for depth, whole in ((31, True), (32, False)):
        made = draft(matches=1)
        made.event = with_properties(nested(depth))
        written_receipt = receipt(made, View.MATCHES)
        assert bool(written_receipt.matches[0].event.properties.fields) is whole
        assert bool(written_receipt.matches[0].event.coercions) is whole
        assert written_receipt.event.properties.fields


def results(drafts: list[Draft], view: View) -> list[event_ingest_pb2.EventResult]:
    response = event_ingest_pb2.SendEventsResponse()
    receipts.write_results(drafts, view, response.results)
    return list(response.results)


def test_results_are_whole_while_there_is_room_and_brief_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, brief = receipt(draft(), View.COERCED), receipt(draft(), View.RECEIPT)
    brief.truncated = True
    for spare, expected in ((0, [whole, brief, brief]), (-1, [brief] * 3), (size_of(whole), [whole, whole, brief])):
        room = 3 * receipts.BRIEF_BYTES + size_of(whole) + spare
        monkeypatch.setattr(receipts, "MAX_RESPONSE_BYTES", room)
        assert [each.receipt for each in results([draft()] * 3, View.COERCED)] == expected


def test_the_brief_results_of_a_batch_are_those_of_its_events_alone() -> None:
    """One message is copied for all of them: nothing of one event may stay for the next."""
    drafts = [draft(matches=2), draft(), draft(duplicate=True), draft(error=REFUSED), draft(matches=1), draft()]
    for number, made in enumerate(drafts):
        if made.event is not None and number % 2:
            made.event = msgspec.structs.replace(
                made.event,
                id=f"e{number}",
                position=number,
                revision=0,
                contact_id="",
                coercions=(),
                received_at=number * 1_000_001,
            )
        elif made.event is not None:
            made.event = msgspec.structs.replace(made.event, omitted_coercions=number)
    for order in (drafts, drafts[::-1]):
        for made, result in zip(order, results(order, View.RECEIPT), strict=True):
            assert result.WhichOneof("outcome") == ("receipt" if made.error is None else "error")
            if made.error is None:
                assert result.receipt == receipt(made, View.RECEIPT)


def test_receipts_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MAX_RESPONSE_BYTES", 1)
    assert [each.receipt for each in results([draft()] * 2, View.RECEIPT)] == [receipt(draft(), View.RECEIPT)] * 2


REFUSED = InvalidArgument("x" * 200, violations=[Violation("name", "TOO_LARGE", "It is too large")])


def refused_results(count: int) -> Mapping[int, bool]:
    """Return by index whether the result of a refused event has its violations and its whole message."""
    found = results([draft(error=REFUSED) for _ in range(count)], View.RECEIPT)
    for each in found:
        detailed = bool(each.error.violations)
        assert each.error.reason == "INVALID_ARGUMENT"
        assert each.error.message == ("x" * 200 if detailed else "x" * 117 + "…")
    return {index: bool(each.error.violations) for index, each in enumerate(found)}


def test_the_violations_of_a_hundred_refused_events_are_reported() -> None:
    found = refused_results(102)
    assert [index for index, detailed in found.items() if not detailed] == [100, 101]


def test_violations_are_reported_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    size = size_of(write_error(REFUSED))
    for spare, detailed in ((0, [True, False, False]), (-1, [False] * 3), (size, [True, True, False])):
        monkeypatch.setattr(receipts, "MAX_RESPONSE_BYTES", 3 * receipts.BRIEF_BYTES + size + spare)
        assert list(refused_results(3).values()) == detailed


def test_accepted_events_after_refused_ones_share_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    error_size, whole = size_of(write_error(REFUSED)), receipt(draft(), View.COERCED)
    drafts = [draft(error=REFUSED), draft()]
    for spare, fits in ((0, True), (-1, False)):
        room = 2 * receipts.BRIEF_BYTES + error_size + size_of(whole) + spare
        monkeypatch.setattr(receipts, "MAX_RESPONSE_BYTES", room)
        first, second = results(drafts, View.COERCED)
        assert first.error.violations
        assert (second.receipt == whole, second.receipt.truncated) == (fits, not fits)


def test_an_error_is_written_with_its_code_and_violations() -> None:
    message = write_error(InvalidArgument.at("a.b", "TOO_LARGE", "a.b is too large"))
    assert plain(message) == {
        "code": 3,
        "reason": "INVALID_ARGUMENT",
        "message": "a.b is too large",
        "violations": [{"path": "a.b", "reason": "TOO_LARGE", "message": "a.b is too large"}],
    }
    assert (write_error(QueueFull()).code, list(write_error(QueueFull()).violations)) == (8, [])
    assert write_error(ValueError("secret")).message == "Internal error"


def test_an_empty_struct_is_set_all_the_same() -> None:
    message = event_message(with_properties({}))
    assert message.HasField("properties")
    assert message.properties == Struct()
