"""The limits of conditions and matches of one event, of one batch, and of one transaction."""

from __future__ import annotations

import asyncio
from itertools import count
from time import process_time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from grpc import StatusCode
from grpc.aio import AioRpcError
from hypothesis import given
from hypothesis import strategies as st

from automation import automation_store, matcher, matching
from automation.automations import Automation, AutomationState, EntryRule, NewAutomation
from automation.conditions.compiling import UNLIMITED, OutOfRoom
from automation.conditions.condition import Condition
from automation.conditions.errors import ConditionInvalid
from automation.conditions.subject import Subject
from automation.matcher import Decision, KnownOutcomes, Matcher, MatchingLimit, OutcomeRecorder
from server.errors import AutomationsChanging
from server.ingest import commit, pre_evaluation
from server.ingest.catalog import Catalog, CatalogSnapshot
from server.services.automations import Automations
from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import event_definitions_pb2, event_ingest_pb2, projects_pb2
from tests.support.automations import automate, change, delete
from tests.support.conditions import conditions as written_conditions
from tests.support.conditions import contacts, payloads
from tests.support.ingest_pipeline import GatedDatabase, drafts, ingest_pipeline_over
from tests.support.messages import ANYTHING, MATCHES, ORDER_SCHEMA, event
from tests.support.refusals import refusal, verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from server.storage.database import Database
    from tests.support.ingest_pipeline import IngestPipeline
    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting
# Conditions are evaluated outside of the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

ITEMS = [float(number) for number in range(9_990)]
NONE_OF_MANY = "properties.items.exists(item, item < 0.0)"  # 29,970 steps on ITEMS
NONE_OF_MANY_EACH = [f"properties.items.exists(item, item < -{number}.0)" for number in range(8)]
ALL_OR_NOTHING = event_ingest_pb2.BATCH_MODE_ALL_OR_NOTHING
INDEPENDENT = event_ingest_pb2.BATCH_MODE_INDEPENDENT


def automation(key: int, condition: str) -> Automation:
    return Automation(
        key,
        1,
        f"id-{key}",
        f"a-{key}",
        "e",
        condition,
        AutomationState.ACTIVE,
        EntryRule.EVERY_TIME,
        {},
        {},
        0,
        1,
        0,
        0,
    )


def matcher_of(conditions: Sequence[str], before: Matcher | None = None) -> Matcher:
    return Matcher([automation(key, text) for key, text in enumerate(conditions, 1)], Condition, before)


def keys(decision: Decision) -> list[int]:
    return [each.key for each in decision.matching]


def test_no_automation_is_considered_once_the_steps_of_an_event_are_used_up() -> None:
    decision = matcher_of([NONE_OF_MANY] * 10 + [""]).decide(Subject({"items": ITEMS}))
    assert (keys(decision), decision.limit, decision.beyond) == ([], MatchingLimit.COST, 4)
    assert [decision.limit_of(key) for key in (7, 8, 11)] == [None, MatchingLimit.COST, MatchingLimit.COST]
    assert matcher.EVENT_COST <= decision.cost < matcher.EVENT_COST + 30_000


def test_an_event_has_a_thousand_matches_at_most() -> None:
    decision = matcher_of([""] * 1_200).decide(Subject({}))
    assert keys(decision) == list(range(1, 1_001))
    assert (decision.limit, decision.beyond, decision.limit_of(1_001)) == (
        MatchingLimit.MATCHES,
        200,
        MatchingLimit.MATCHES,
    )


def test_late_conditions_have_a_small_limit_for_each_and_for_all() -> None:
    subject = Subject({"items": ITEMS}, received_at=1)
    late = f'{NONE_OF_MANY} || event.received_at > timestamp("1970-01-01T00:00:00Z")'
    few = 'properties.items.exists(i, i > 2900.0) && event.received_at > timestamp("1970-01-01T00:00:00Z")'
    decision = matcher_of([late, few, few, few, "true"]).decide(subject)
    assert (keys(decision), [*decision.late]) == ([1, 5], [2, 3, 4])
    condition = Condition(f'{NONE_OF_MANY} || event.id == "e1"')
    failure, (whole, *_) = condition.failure(subject), condition.trace(subject)
    assert failure is not None
    assert "more than 10,000 steps" in failure.message
    assert (whole.verdict, whole.message) == (failure.verdict, failure.message)


def test_an_automation_that_is_added_later_changes_nothing_for_the_others() -> None:
    subject = Subject({"items": ITEMS})
    conditions = ["true", NONE_OF_MANY, "true"] * 6
    before, after = (
        matcher_of(conditions).decide(subject),
        matcher_of([*conditions, "true", NONE_OF_MANY]).decide(subject),
    )
    assert keys(after)[: len(keys(before))] == keys(before)


CONDITIONS = st.lists(
    st.sampled_from(
        [
            "",
            "true",
            "properties.n > 2.0",
            "properties.n < 1.0",
            'properties.plan == "pro"',
            "properties.missing == 1.0",
            'properties.n > 1.0 && properties.plan == "pro"',
            "properties.items.exists(i, i == properties.n)",
            "properties.items.all(i, properties.items.exists(j, j + i > 3.0))",
            'contact.properties.plan == "pro"',
            'event.id == "e1"',
            'properties.items.exists(i, event.id == "e1")',
        ]
    ),
    min_size=1,
    max_size=12,
)
SUBJECTS = st.builds(
    lambda number, plan, items, contact: Subject(
        {"n": number, "plan": plan, "items": items}, id="e1", email="a@b.c", contact_properties={"plan": contact}
    ),
    st.sampled_from([0.0, 1.5, 3.0]),
    st.sampled_from(["pro", "team"]),
    st.lists(st.sampled_from([0.0, 1.5, 3.0]), max_size=40),
    st.sampled_from(["pro", "team"]),
)


@given(CONDITIONS, CONDITIONS, SUBJECTS)
def test_a_changed_matcher_decides_as_a_new_one(first: list[str], second: list[str], subject: Subject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matcher, "CHANGED", 1_000)
        kept = [automation(key, text) for key, text in enumerate(first * 3, 1)]
        before = Matcher(kept, Condition)
        now = [*kept[::2], *(automation(100 + key, text) for key, text in enumerate(second))]
        changed, fresh = Matcher(now, Condition, before), Matcher(now, Condition)
        assert keys(changed.decide(subject)) == keys(fresh.decide(subject))


@given(CONDITIONS, SUBJECTS, st.booleans(), st.integers(0, 4_000), st.integers(50, 3_000), st.integers(1, 12))
def test_known_outcomes_change_no_decision(
    conditions: list[str], subject: Subject, made: bool, room: int, cost: int, matches: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matcher, "EVENT_COST", cost)
        patch.setattr(matcher, "EVENT_MATCHES", matches)
        decides = matcher_of(conditions)
        expected = decides.decide(subject)
        recorder = OutcomeRecorder(subject, lambda: None)
        evaluated = decides.decide(subject, recorder)
        known = KnownOutcomes(
            recorder.outcomes if evaluated.by_late or not made else recorder.costly,
            matcher=decides if made else None,
            decision=evaluated,
        )
        try:
            decision = decides.decide(subject, known, room)
        except OutOfRoom:
            assert expected.by_late
        else:
            assert (keys(decision), decision.limit, decision.last_key, decision.late) == (
                keys(expected),
                expected.limit,
                expected.last_key,
                expected.late,
            )
            assert decision.spent <= room


async def large(service: Service, conditions: Sequence[str]) -> Client:
    """Make a project with automations for events of any content."""
    client = await service.project()
    await client.upsert()
    await client.define("large", ANYTHING)
    for condition in conditions:
        await automate(client, "large", condition=condition)
    return client


@on_sqlite
async def test_costly_conditions_hold_up_nobody_else(service: Service, shop: Client) -> None:
    costly = await large(service, NONE_OF_MANY_EACH)
    sent = event({"items": ITEMS}, name="large")
    batch = asyncio.create_task(refusal(costly.send_all([sent] * 30, ALL_OR_NOTHING)))
    for _ in range(3):
        await shop.send()
    assert not batch.done()
    refused = await batch
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "BATCH_TOO_COSTLY")
    assert "send fewer events" in refused.message
    assert await costly.positions() == []


@on_sqlite
@pytest.mark.parametrize("mode", [ALL_OR_NOTHING, INDEPENDENT])
async def test_a_batch_within_the_limits_is_stored_with_what_is_not_considered(
    service: Service, mode: event_ingest_pb2.BatchMode.ValueType
) -> None:
    costly = await large(service, ["", *[NONE_OF_MANY] * 8, ""])
    sent = event({"items": ITEMS}, name="large")
    results = await costly.send_all([sent] * 4, mode, MATCHES)
    assert [len(result.receipt.matches) for result in results] == [1] * 4
    assert len(await costly.positions()) == 4


async def test_a_costly_event_sees_the_contact_and_the_automations_as_they_are(service: Service) -> None:
    """Outcomes that were found before the transaction are used only while they hold."""
    costly = await large(service, [f'{NONE_OF_MANY} || contact.properties.plan == "pro"'] * 4)
    sent = event({"items": ITEMS}, name="large")
    receipts = [await costly.send(sent, MATCHES)]
    await costly.upsert(properties={"plan": "pro"})
    receipts.append(await costly.send(sent, MATCHES))
    made = await automate(costly, "large", condition=f"{NONE_OF_MANY} || event.received_at > event.occurred_at || true")
    receipts.append(await costly.send(sent, MATCHES))
    await change(costly, made, condition="false")
    receipts.append(await costly.send(sent, MATCHES))
    assert [len(receipt.matches) for receipt in receipts] == [0, 4, 5, 4]


@on_sqlite
async def test_matches_of_a_transaction_are_limited(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (matcher, matching, pre_evaluation):
        monkeypatch.setattr(module, "EVENT_MATCHES", 4)
    monkeypatch.setattr("server.ingest.commit.BATCH_MATCHES", 10)
    monkeypatch.setattr(pre_evaluation, "BATCH_MATCHES", 10)
    many = await large(service, ["properties.n > 0.0"] * 3 + [""] * 2)
    few = [event({"n": 1}, name="large")] * 2
    assert [len(each.receipt.matches) for each in await many.send_all(few, ALL_OR_NOTHING, MATCHES)] == [4, 4]
    assert await verdict(many.send_all(few * 2, ALL_OR_NOTHING)) == (StatusCode.INVALID_ARGUMENT, "BATCH_TOO_COSTLY")
    results = await many.send_all(few * 10, INDEPENDENT, MATCHES)
    assert [len(each.receipt.matches) for each in results] == [4] * 20
    assert await many.positions() == list(range(1, 23))


async def explained(client: Client, event_id: str) -> list[tuple[bool, list[Any]]]:
    """Explain an event by all automations, oldest first."""
    answer = await client.automations.ExplainEvent(pb.ExplainEventRequest(event_id=event_id, page_size=100))
    found = [(each.matched, [reason.kind for reason in each.outside_reasons]) for each in answer.explanations]
    return found[::-1]


@on_sqlite
async def test_what_was_not_considered_is_explained_with_the_limit(service: Service) -> None:
    costly = await large(service, ["", *[NONE_OF_MANY] * 7, ""])
    sent = await costly.send(event({"items": ITEMS}, name="large"), MATCHES)
    expected = [(True, []), *[(False, [])] * 7, (False, [pb.OutsideReason.KIND_STEP_LIMIT])]
    assert await explained(costly, sent.event.id) == expected
    # The automations of its time decide, also after they have changed.
    listed = (await costly.automations.ListAutomations(pb.ListAutomationsRequest(page_size=100))).automations
    for automation in listed:
        await change(costly, automation, condition="false")
    assert await explained(costly, sent.event.id) == expected
    again = await costly.send(event({"items": ITEMS}, name="large"), MATCHES)
    assert await explained(costly, again.event.id) == [(False, [])] * 9


@on_sqlite
async def test_matches_beyond_the_limit_are_explained(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (matcher, matching, pre_evaluation):
        monkeypatch.setattr(module, "EVENT_MATCHES", 2)
    many = await large(service, ["true", "", "false", "properties.n > 0.0"])
    sent = await many.send(event({"n": 1}, name="large"), MATCHES)
    assert len(sent.matches) == 2
    limit = (False, [pb.OutsideReason.KIND_MATCH_LIMIT])
    assert await explained(many, sent.event.id) == [(True, []), (True, []), (False, []), limit]


async def test_a_project_has_a_limit_of_automations(shop: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automation_store, "MAX_AUTOMATIONS", 2)
    first = await automate(shop, active=False)
    await automate(shop)
    refused = await refusal(automate(shop))
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "TOO_MANY_AUTOMATIONS")
    assert "already has 2 automations" in refused.message
    await delete(shop, first)
    await automate(shop)


async def longest_share(test: Awaitable[pb.TestConditionResponse]) -> float:
    """Return the part of a test's time for which the loop was held at once, in time of the processor."""
    testing = asyncio.ensure_future(test)
    began = before = process_time()
    longest = 0.0
    while not testing.done():
        await asyncio.sleep(0.001)
        longest, before = max(longest, process_time() - before), process_time()
    assert not (await testing).errors
    return longest / (before - began)


@on_sqlite
async def test_a_condition_of_many_patterns_does_not_hold_up_the_event_loop(service: Service) -> None:
    free = await large(service, [])
    shares = []
    for first in (0, 200, 400):
        patterns = [f'properties.coupon.matches("(a|b|{first + each}){{1,40}}[a-z]{{1,40}}")' for each in range(130)]
        request = pb.TestConditionRequest(condition=" || ".join(patterns), event=event({"coupon": "a"}, name="large"))
        shares.append(await longest_share(free.automations.TestCondition(request)))
    # A collection of garbage may come in between, but not each time.
    assert min(shares) < 0.4, shares


ACTIVE = AutomationState.ACTIVE


@pytest_asyncio.fixture
async def pipeline(database: Database) -> AsyncIterator[IngestPipeline]:
    async with ingest_pipeline_over(GatedDatabase(database), limit=100) as made:
        await made.send(drafts())
        yield made
        made.gate.set()


COSTLY = "contact.properties.items.all(a, contact.properties.items.all(b, a + b > -1.0))"
"""Takes 50,000 steps on a contact with a hundred items, which the size of a request does not tell."""


@on_sqlite
async def test_a_batch_that_needs_more_room_than_it_has_is_deferred_and_stored_in_its_order(service: Service) -> None:
    """What conditions cost on properties of contacts is known only in the transaction."""
    client = await service.project()
    await client.upsert(properties={"items": ITEMS[:100]})
    await client.define("large", ANYTHING)
    for number in range(3):
        await automate(client, "large", condition=f"{COSTLY} && properties.n > -{number}.0")
    batches = [[event({"n": 1, "batch": f"{batch}-{n}"}, name="large") for n in range(2)] for batch in range(4)]
    requests = [
        event_ingest_pb2.StreamEventsRequest(sequence=number, events=batch, view=MATCHES)
        for number, batch in enumerate(batches, 1)
    ]
    responses = [each async for each in client.ingest.StreamEvents(iter(requests))]
    assert [[len(result.receipt.matches) for result in each.results] for each in responses] == [[3, 3]] * 4
    stored = [str(each.properties["batch"]) for each in await client.log()]
    assert stored == [f"{batch}-{n}" for batch in range(4) for n in (0, 1)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what changes it has no event
            await asyncio.sleep(0.001)


async def test_a_large_catalog_is_loaded_outside_of_the_transaction(
    pipeline: IngestPipeline, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "QUICK_AUTOMATIONS", 1)
    neighbour = await pipeline.neighbour("beside")
    await neighbour.send(drafts())
    pipeline.gate.clear()
    writes = pipeline.writes
    here, beside = pipeline.begin(drafts(2)), neighbour.begin(drafts())
    await until(lambda: pipeline.writes > writes)
    elsewhere = Automations(database, Catalog(database))
    for number in range(3):
        await elsewhere.create(pipeline.project_pk, NewAutomation(f"a{number}", "page_viewed", state=ACTIVE))
    pipeline.gate.set()
    await asyncio.gather(here, beside)
    sent = drafts(2)
    await pipeline.send(sent)
    assert [len(draft.matches) for draft in sent] == [3, 3]
    assert len(await pipeline.stored()) == 5


async def test_a_batch_is_refused_when_its_automations_change_all_the_time(
    pipeline: IngestPipeline, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "QUICK_AUTOMATIONS", -1)
    elsewhere = Automations(database, Catalog(database))
    changes = count()

    async def load(catalog: Catalog, snapshot: CatalogSnapshot) -> CatalogSnapshot:
        await elsewhere.create(pipeline.project_pk, NewAutomation(f"a{next(changes)}", "page_viewed", state=ACTIVE))
        return snapshot

    monkeypatch.setattr(Catalog, "current", load)
    await elsewhere.create(pipeline.project_pk, NewAutomation("first", "page_viewed", state=ACTIVE))
    with pytest.raises(AutomationsChanging):
        await pipeline.send(drafts())
    assert len(await pipeline.stored()) == 1


@on_sqlite
async def test_a_pre_evaluation_ends_with_the_call(service: Service) -> None:
    conditions = [f"properties.items.exists(a, properties.items.exists(b, a + b < -{n}.0))" for n in range(2)]
    costly = await large(service, conditions)
    request = event_ingest_pb2.SendEventsRequest(events=[event({"items": ITEMS}, name="large")] * 9)
    with pytest.raises(AioRpcError) as ended:
        await costly.ingest.SendEvents(request, timeout=0.05)
    assert ended.value.code() is StatusCode.DEADLINE_EXCEEDED
    await costly.send(event({"items": []}, name="large"))
    assert await costly.positions() == [1]


@given(written_conditions(), payloads, contacts)
def test_a_plain_condition_spends_no_steps(
    text: str, properties: dict[str, Any], contact: dict[str, Any] | None
) -> None:
    try:
        condition = Condition(text)
    except ConditionInvalid:
        return
    subject = Subject(properties, "abc", "e", 3, 1, 1, "c", "ada@example.com", contact)
    outcome, cost = condition.spend(subject, UNLIMITED)
    assert cost >= condition.cost
    if condition.plain is not None:
        assert (condition.plain(subject), condition.cost) == (outcome, cost)


@pytest.mark.parametrize("few", [0, 50])
async def test_a_schema_that_breaks_conditions_is_refused_however_many_there_are(
    shop: Client, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("server.services.definitions._FEW_CONDITIONS", few)
    for number in range(3):
        await automate(shop, condition=f"properties.order_total > {number}.0")
    narrowed = event_definitions_pb2.Schema(properties=ORDER_SCHEMA.properties[1:])
    assert narrowed.properties[0].name != ORDER_SCHEMA.properties[0].name == "order_total"
    refused = await refusal(shop.redefine(narrowed))
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "CONDITIONS_BROKEN")
    widened = event_definitions_pb2.Schema(properties=ORDER_SCHEMA.properties)
    widened.properties.add(name="added", type=event_definitions_pb2.PROPERTY_TYPE_STRING)
    assert (await shop.redefine(widened)).revision == 2


async def test_a_costly_event_of_an_unknown_contact_creates_it_if_it_matches(service: Service) -> None:
    client = await service.project(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH)
    await client.define("large", ANYTHING)
    for number in range(4):
        condition = f"({NONE_OF_MANY_EACH[number]} || properties.n == {number}.0) && has(contact.email)"
        await automate(client, "large", condition=condition)
    for sent, matches in ((1, 1), (9, 0)):
        receipt = await client.send(
            event({"items": ITEMS, "n": sent}, name="large", email=f"{sent}@example.com"), MATCHES
        )
        assert (len(receipt.matches), receipt.event.contact_id != "") == (matches, matches == 1)
