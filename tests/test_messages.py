"""Messages that the API writes: every field has its value, and what does not fit is reported."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from automation.conditions.errors import ConditionProblem
from automation.conditions.tracing import Clause, Shown
from automation.conditions.values import Verdict
from automation.matches import Match, MatchKind
from automation.runs import Run, Wait
from registry.coercion.report import Coercion, CoercionKind
from registry.compatibility.comparison import Direction, Incompatibility, IncompatibilityKind
from registry.definitions.event_definitions import EventDefinition, Revision
from registry.definitions.schema import Compatibility
from registry.errors import Violation
from server.delivery.recent_matches import LoadedMatch
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
from server.rpc.messages.events import event_message, write_coercion
from server.rpc.messages.explanations import _write_clause, write_condition_test, write_event_explanation
from server.rpc.messages.matches import write_loaded, write_log_entry, write_match
from server.rpc.messages.projects import write_key, write_project
from server.rpc.messages.structs import depth_of
from server.services.backtests import Outcome, Progress, Report, Sample
from server.services.definitions import CompatibilityVerdict
from server.services.dependents import ReadingAutomation
from server.services.explanations import ConditionTest, EventExplanation
from server.services.match_reasons import BlockingKind, BlockingReason, Explanation
from server.services.runs import RunView
from server.storage.events.history import Traffic
from signalbox.v1 import automations_pb2, event_pb2, match_pb2
from tests.support.message_values import (
    AUTOMATION,
    COERCIONS,
    EVENT,
    MATCH,
    MATCH_AS_JSON,
    RUN,
    SCHEMA,
    SECOND,
    TRACEPARENT,
    nested,
    plain,
    unset,
    with_properties,
)

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
