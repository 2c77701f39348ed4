"""Explanations of events: the answer of their time, recomputed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import contacts_pb2, event_ingest_pb2, projects_pb2
from tests.support.automations import activate, automate, change, complete, delete, get_run, list_runs, pause
from tests.support.laws import examples
from tests.support.messages import ADA, ANYTHING, BOB, MATCHES, ORDER, event
from tests.support.refusals import verdict

if TYPE_CHECKING:
    from tests.support.service import Client, Service

pytestmark = [pytest.mark.lasting, pytest.mark.usefixtures("neighbour")]
# What is explained is computed without the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

Kind = pb.OutsideReason
ONCE, ALONE = pb.ENTRY_RULE_ONCE_PER_CONTACT, pb.ENTRY_RULE_ONCE_WHILE_RUNNING
FIRST = "properties.is_first_purchase"


async def explain(client: Client, **request: Any) -> list[pb.AutomationExplanation]:
    """Explain an event, all pages."""
    asked = pb.ExplainEventRequest(**request)
    found: list[pb.AutomationExplanation] = []
    while True:
        answer = await client.automations.ExplainEvent(asked)
        found += answer.explanations
        asked.page_token = answer.next_page_token
        if not answer.next_page_token:
            return found


def kinds(each: pb.AutomationExplanation) -> list[int]:
    return [reason.kind for reason in each.outside_reasons]


async def test_a_match_is_explained_with_its_trace_and_its_run(shop: Client) -> None:
    made = await automate(shop, condition=f"{FIRST} && properties.order_total > 100.0")
    receipt = await shop.send(event({"is_first_purchase": True, "order_total": 120}), MATCHES)
    (each,) = await explain(shop, event_id=receipt.event.id)
    (match,) = receipt.matches
    assert (each.automation_id, each.automation_name, each.event_name) == (made.id, "Welcome", ORDER)
    assert (each.matched, each.verdict, each.match_id, each.run_id) == (True, pb.VERDICT_TRUE, match.id, match.run_id)
    assert [(clause.depth, clause.expression, clause.verdict) for clause in each.trace] == [
        (0, made.condition, pb.VERDICT_TRUE),
        (1, FIRST, pb.VERDICT_TRUE),
        (1, "properties.order_total > 100.0", pb.VERDICT_TRUE),
    ]
    assert (each.trace[2].actual.number_value, each.trace[2].operand.number_value) == (120, 100)


async def test_a_condition_that_did_not_hold_is_explained(shop: Client) -> None:
    await automate(shop, condition=FIRST)
    sent = (await shop.send(event({}))).event
    (each,) = await explain(shop, event_id=sent.id)
    assert (each.matched, each.verdict, each.match_id, kinds(each)) == (False, pb.VERDICT_MISSING, "", [])
    assert each.trace[0].message


async def test_what_stands_outside_the_condition_is_named(shop: Client) -> None:
    paused = await pause(shop, await automate(shop, name="Paused"))
    await automate(shop, name="Draft", active=False)
    later = await automate(shop, name="Later", active=False)
    await automate(shop, ORDER.upper(), name="Other case")
    sent = (await shop.send()).event
    await activate(shop, later)
    found = {each.automation_name: each for each in await explain(shop, event_id=sent.id)}
    assert {name: kinds(each) for name, each in found.items()} == {
        "Paused": [Kind.KIND_PAUSED],
        "Draft": [Kind.KIND_DRAFT],
        "Later": [Kind.KIND_ACTIVATED_LATER],
        "Other case": [Kind.KIND_OTHER_CASE],
    }
    assert all(each.verdict == pb.VERDICT_TRUE and not each.matched for each in found.values())
    await delete(shop, paused)
    assert "Paused" not in {each.automation_name for each in await explain(shop, event_id=sent.id)}


async def test_a_later_change_or_deletion_does_not_change_the_answer(shop: Client) -> None:
    made = await automate(shop, condition=FIRST)
    sent = (await shop.send(event({"is_first_purchase": True}))).event
    before = await explain(shop, event_id=sent.id)
    made = await change(shop, made, condition="false", event_name="other", entry_rule=ONCE)
    made = await pause(shop, made)
    assert await explain(shop, event_id=sent.id) == before
    await delete(shop, made)
    assert await explain(shop, event_id=sent.id) == before


async def test_an_undefined_event_without_a_contact_is_explained(service: Service) -> None:
    client = await service.project(
        undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT,
        unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH,
    )
    await automate(client, "seen", condition="event.revision == 0 && properties.n > 1", entry_rule=ONCE)
    below, above = event({"n": 1}, name="seen"), event({"n": 2}, name="seen")
    answer = await client.automations.ExplainEvent(pb.ExplainEventRequest(event=above))
    assert (answer.event.revision, answer.event.definition_id, answer.explanations[0].matched) == (0, "", True)
    sent = (await client.send(below)).event
    assert sent.contact_id == ""
    await client.send(above)
    (each,) = await explain(client, event_id=sent.id)
    assert (each.matched, each.verdict, kinds(each)) == (False, pb.VERDICT_FALSE, [])


@pytest.mark.parametrize("rule", [ONCE, ALONE])
async def test_the_run_that_stood_in_the_way_is_named(shop: Client, rule: pb.EntryRule.ValueType) -> None:
    """Within one batch as across two, and also after the run has ended."""
    await automate(shop, entry_rule=rule)
    first, second = [result.receipt.event.id for result in await shop.send_all([event(), event()])]
    third = (await shop.send()).event.id
    (run,) = await list_runs(shop)
    await complete(shop, run)
    fourth = (await shop.send()).event.id
    (entered,) = await explain(shop, event_id=first)
    assert (entered.matched, entered.run_id) == (True, run.id)
    kind = Kind.KIND_ONCE_PER_CONTACT if rule == ONCE else Kind.KIND_ONCE_WHILE_RUNNING
    for kept_out in (second, third):
        (each,) = await explain(shop, event_id=kept_out)
        assert (each.matched, each.verdict, each.match_id) == (False, pb.VERDICT_TRUE, "")
        assert [(reason.kind, reason.run_id) for reason in each.outside_reasons] == [(kind, run.id)]
    (last,) = await explain(shop, event_id=fourth)
    assert last.matched is (rule == ALONE)


async def test_a_given_event_is_explained_as_if_it_were_sent_now(shop: Client) -> None:
    made = await automate(shop, condition=FIRST, entry_rule=ONCE)
    given_event = event({"is_first_purchase": "true"})
    answer = await shop.automations.ExplainEvent(pb.ExplainEventRequest(event=given_event))
    (each,) = answer.explanations
    assert (each.matched, answer.event.id, answer.event.position) == (True, "", 0)
    assert answer.event.properties["is_first_purchase"] is True
    await shop.send(given_event)
    (each,) = await explain(shop, event=given_event)
    assert kinds(each) == [Kind.KIND_ONCE_PER_CONTACT]
    await pause(shop, made)
    (each,) = await explain(shop, event=given_event)
    assert kinds(each) == [Kind.KIND_PAUSED, Kind.KIND_ONCE_PER_CONTACT]
    assert len(await shop.log()) == 1


@on_sqlite
@pytest.mark.parametrize(
    ("refused", "path", "reason"),
    [
        (event({"colour": 1}), "properties.colour", "UNKNOWN_PROPERTY"),
        (event(name="nothing"), "event", "DEFINITION_NOT_FOUND"),
        (event(email=BOB), "event", "CONTACT_NOT_FOUND"),
    ],
)
async def test_an_event_that_would_be_refused_is_not_explained(
    shop: Client, refused: event_ingest_pb2.EventInput, path: str, reason: str
) -> None:
    await automate(shop)
    answer = await shop.automations.ExplainEvent(pb.ExplainEventRequest(event=refused))
    assert [(each.path, each.reason) for each in answer.violations] == [(path, reason)]
    assert not answer.explanations
    assert not answer.HasField("event")


async def test_explanations_come_in_pages_newest_first(shop: Client) -> None:
    made = [await automate(shop, name=str(number)) for number in range(5)]
    sent = (await shop.send()).event
    found = await explain(shop, event_id=sent.id, page_size=2)
    assert [each.automation_id for each in found] == [each.id for each in reversed(made)]
    (one,) = await explain(shop, event_id=sent.id, automation_id=made[3].id)
    assert one.automation_id == made[3].id


@on_sqlite
async def test_a_page_ends_early_at_a_megabyte(shop: Client) -> None:
    await shop.define("big", ANYTHING)
    long = " || ".join(['properties.a == "x"'] * 300)
    for _ in range(4):
        await automate(shop, "big", condition=long)
    sent = (await shop.send(event({"a": "y" * 1000}, name="big"))).event
    answer = await shop.automations.ExplainEvent(pb.ExplainEventRequest(event_id=sent.id))
    assert len(answer.explanations) == 2
    assert len(await explain(shop, event_id=sent.id)) == 4


async def test_what_is_not_there_is_not_explained(shop: Client) -> None:
    missing = "01900000-0000-7000-8000-000000000000"
    assert await verdict(explain(shop, event_id=missing)) == (StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
    assert await verdict(explain(shop)) == (StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    sent = (await shop.send()).event
    asked = explain(shop, event_id=sent.id, automation_id=missing)
    assert await verdict(asked) == (StatusCode.NOT_FOUND, "AUTOMATION_NOT_FOUND")


# The law

CONDITIONS = ["", FIRST, "properties.order_total > 1.0", "!(properties.order_total > 1.0)", "contact.email == 'x'"]
NAMES = [ORDER, ORDER.upper(), "other"]
RULES = [pb.ENTRY_RULE_EVERY_TIME, ONCE, ALONE]
EVENTS = st.lists(
    st.builds(
        lambda name, email, first, total: event(
            {"is_first_purchase": first, **({} if total is None else {"order_total": total})}, name=name, email=email
        ),
        st.sampled_from(NAMES),
        st.sampled_from([ADA, BOB]),
        st.booleans(),
        st.sampled_from([None, 1, 2]),
    ),
    min_size=1,
    max_size=4,
)
WHICH = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("create"),
            st.sampled_from(NAMES),
            st.sampled_from(CONDITIONS),
            st.sampled_from(RULES),
            st.booleans(),
        ),
        st.tuples(
            st.just("change"), WHICH, st.sampled_from(NAMES), st.sampled_from(CONDITIONS), st.sampled_from(RULES)
        ),
        st.tuples(st.sampled_from(["activate", "pause", "delete", "complete"]), WHICH),
        st.tuples(st.just("send"), EVENTS),
    ),
    min_size=5,
    max_size=14,
)


async def take(client: Client, automations: list[pb.Automation], step: tuple[Any, ...]) -> None:
    """Do one step of a history; one that does not apply does nothing."""
    kind, *stated = step
    if kind == "create":
        name, condition, rule, active = stated
        automations.append(await automate(client, name, condition=condition, entry_rule=rule, active=active))
    elif kind == "send":
        await client.send_all(stated[0])
    elif kind == "complete":
        runs = await list_runs(client)
        if len(runs) > stated[0]:
            await verdict_or_none(complete(client, await get_run(client, runs[stated[0]].id)))
    elif len(automations) > stated[0]:
        each = automations[stated[0]]
        if kind == "change":
            _, name, condition, rule = stated
            await verdict_or_none(change(client, each, event_name=name, condition=condition, entry_rule=rule))
        else:
            await verdict_or_none({"activate": activate, "pause": pause, "delete": delete}[kind](client, each))


async def verdict_or_none(call: Any) -> None:
    """Let a step be refused."""
    try:
        await call
    except AioRpcError as error:
        if error.code() not in {StatusCode.NOT_FOUND, StatusCode.FAILED_PRECONDITION}:
            raise


@settings(max_examples=examples(8), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS, ignore_case=st.booleans())
async def test_an_explanation_recomputes_the_answer_of_its_time(
    service: Service, steps: list[tuple[Any, ...]], ignore_case: bool
) -> None:
    case = projects_pb2.NAME_CASE_INSENSITIVE if ignore_case else projects_pb2.NAME_CASE_SENSITIVE
    client = await service.project(name_case=case, undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT)
    await client.upsert(ADA)
    await client.upsert(BOB)
    automations: list[pb.Automation] = []
    for step in steps:
        await take(client, automations, step)
    runs = {run.match_id: run for run in await list_runs(client, page_size=1000)}
    started: dict[str, set[str]] = {}
    for run in runs.values():
        started.setdefault(run.event_id, set()).add(run.automation_id)
    for recorded in await client.log():
        found = await explain(client, event_id=recorded.id)
        matched = {each.automation_id for each in found if each.matched}
        assert matched == {each.automation_id for each in found if each.match_id} == started.get(recorded.id, set())


# The event of an explanation


async def given_event(client: Client, **fields: Any) -> Any:
    """Return the event that an explanation of a given event is about."""
    answer = await client.automations.ExplainEvent(pb.ExplainEventRequest(event=event({"n": 1}, **fields)))
    return answer.event


async def test_a_given_event_has_what_it_would_be_recorded_with(service: Service) -> None:
    client = await service.project(
        name_case=projects_pb2.NAME_CASE_INSENSITIVE,
        undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT,
        unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE,
    )
    definition = await client.define("Paid", ANYTHING)
    ada = await client.upsert(ADA, {"plan": "pro"})
    defined = await given_event(client, name="PAID", email=ADA.upper(), occurred_at=1_000)
    assert (defined.name, defined.definition_id, defined.revision) == ("Paid", definition.id, 1)
    assert (defined.id, defined.position, defined.contact_id, defined.email) == ("", 0, ada.id, ADA)
    assert defined.occurred_at.seconds == 1_000
    assert defined.received_at.seconds > 1_700_000_000
    undefined = await given_event(client, name="other", email=BOB)
    assert (undefined.name, undefined.definition_id, undefined.revision) == ("other", "", 0)
    assert (len(undefined.contact_id), undefined.email) == (36, BOB)
    assert undefined.occurred_at == undefined.received_at
    assert await client.log() == []
    contacts = (await client.contacts.ListContacts(contacts_pb2.ListContactsRequest())).contacts
    assert [each.email for each in contacts] == [ADA]


async def test_the_contact_of_an_explanation_is_the_one_that_a_commit_would_give(service: Service) -> None:
    accept = projects_pb2.UNDEFINED_EVENTS_ACCEPT
    for rule, expected in (
        (projects_pb2.UNKNOWN_CONTACTS_CREATE, {"seen": 36, "other": 36}),
        (projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH, {"seen": 36, "other": 0}),
    ):
        client = await service.project(undefined_events=accept, unknown_contacts=rule)
        await automate(client, "seen", condition="contact.email == 'bob@example.com'")
        found = {name: await given_event(client, name=name, email=BOB) for name in expected}
        assert {name: len(each.contact_id) for name, each in found.items()} == expected
        assert {each.email for each in found.values()} == {BOB}


@on_sqlite
async def test_conditions_are_tested_with_the_contact_that_is_given_or_named(shop: Client) -> None:
    await shop.upsert(ADA, {"plan": "pro"})
    condition = "contact.properties.plan == 'pro'"
    given_contact = contacts_pb2.Contact(email=BOB)
    given_contact.properties["plan"] = "free"
    anybody = event_ingest_pb2.EventInput(name=ORDER)
    for sent, contact, verdict_found in (
        (event(), None, pb.VERDICT_TRUE),
        (event(), given_contact, pb.VERDICT_FALSE),
        (event(email=BOB), None, pb.VERDICT_MISSING),
        (anybody, None, pb.VERDICT_MISSING),
        (anybody, given_contact, pb.VERDICT_FALSE),
    ):
        request = pb.TestConditionRequest(condition=condition, event=sent, contact=contact)
        assert (await shop.automations.TestCondition(request)).verdict == verdict_found
    unknown = pb.TestConditionRequest(condition=condition, event=event(contact_id="nobody"))
    assert await verdict(shop.automations.TestCondition(unknown)) == (StatusCode.NOT_FOUND, "CONTACT_NOT_FOUND")


@on_sqlite
async def test_the_faults_of_a_condition_and_of_an_event_are_reported_together(shop: Client) -> None:
    request = pb.TestConditionRequest(condition="properties.colour == 'red'", event=event({"order_total": "abc"}))
    answer = await shop.automations.TestCondition(request)
    assert (answer.verdict, len(answer.trace)) == (pb.VERDICT_NOT_EVALUATED, 0)
    assert answer.errors
    assert [each.path for each in answer.violations] == ["properties.order_total"]
    fine = pb.TestConditionRequest(condition="properties.order_total > 1.0", event=event({"order_total": "5"}))
    answer = await shop.automations.TestCondition(fine)
    assert (answer.verdict, [each.path for each in answer.coercions]) == (
        pb.VERDICT_TRUE,
        ["properties.order_total"],
    )
    empty = await shop.automations.TestCondition(pb.TestConditionRequest(event=event()))
    assert (empty.verdict, len(empty.trace)) == (pb.VERDICT_TRUE, 0)


async def test_automations_are_explained_in_chunks(shop: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.services.match_reasons._CHUNK", 2)
    made = [await automate(shop, name=str(number)) for number in range(5)]
    sent = (await shop.send()).event
    for size in (0, 1, 2, 3):
        found = await explain(shop, event_id=sent.id, page_size=size)
        assert [each.automation_id for each in found] == [each.id for each in reversed(made)]
