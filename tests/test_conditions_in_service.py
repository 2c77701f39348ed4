"""Conditions in the service: saved, tried, failing, and with a schema that changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode

from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import contacts_pb2, event_definitions_pb2, event_ingest_pb2
from tests.support.automations import (
    activate,
    automate,
    await_event,
    change,
    complete,
    get_run,
    matches_of,
    pause,
    started,
)
from tests.support.messages import BOB, ORDER, event, schema, struct
from tests.support.refusals import refusal, verdict

if TYPE_CHECKING:
    from tests.support.service import Client

pytestmark = [pytest.mark.lasting, pytest.mark.usefixtures("neighbour")]
# Conditions are compiled and tried without the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

INVALID = StatusCode.INVALID_ARGUMENT
FIRST = "properties.is_first_purchase"
WITHOUT_FIRST = schema(order_total="number", currency="string")

BAD = [
    ("properties.order_total >", "SYNTAX_ERROR"),
    ("properties.order_totl > 1.0", "UNKNOWN_PROPERTY"),
    ('properties.order_total == "100"', "TYPE_MISMATCH"),
    ('"' + "x" * 100_000 + '" == properties.currency', "TOO_LONG"),
    ("(" * 100 + "true" + ")" * 100, "TOO_DEEP"),
    ('properties.currency.matches("(")', "INVALID_REGEX"),
]


async def trial(
    client: Client, condition: str, tried: event_ingest_pb2.EventInput | None = None, **stated: Any
) -> pb.TestConditionResponse:
    request = pb.TestConditionRequest(condition=condition, event=tried or event(), **stated)
    return await client.automations.TestCondition(request)


@on_sqlite
@pytest.mark.parametrize(("condition", "reason"), BAD, ids=[reason for _, reason in BAD])
async def test_a_bad_condition_is_refused_wherever_it_is_saved(shop: Client, condition: str, reason: str) -> None:
    made = await automate(shop)
    run = await started(shop)
    for call in (
        automate(shop, condition=condition),
        change(shop, made, condition=condition),
        await_event(shop, run, ORDER, condition=condition),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (INVALID, "CONDITION_INVALID")
        assert refused.violations == (("condition", reason),)
        assert "Line 1, column" in refused.message
        assert refused.metadata is not None
        assert (refused.metadata["line"], refused.metadata["column"].isdigit()) == ("1", True)
    left = await shop.automations.ListAutomations(pb.ListAutomationsRequest())
    assert (list(left.automations), await get_run(shop, run.id)) == ([made], run)
    answer = await trial(shop, condition)
    assert [(each.line, each.reason) for each in answer.errors] == [(1, reason)]
    assert (answer.verdict, list(answer.trace)) == (pb.VERDICT_NOT_EVALUATED, [])


@on_sqlite
async def test_a_pattern_that_backtracks_elsewhere_takes_no_time(shop: Client) -> None:
    text = event({"currency": "a" * 20_000 + "!"})
    answer = await trial(shop, 'properties.currency.matches("^(a+)+$")', text)
    assert answer.verdict == pb.VERDICT_FALSE


async def test_activation_checks_against_the_schema_of_now(shop: Client) -> None:
    draft = await automate(shop, condition=FIRST, active=False)
    await shop.redefine(WITHOUT_FIRST)
    assert await verdict(activate(shop, draft)) == (INVALID, "CONDITION_INVALID")


# TestCondition


@on_sqlite
async def test_a_trial_coerces_and_tells_every_clause(shop: Client) -> None:
    answer = await trial(shop, f"{FIRST} && properties.order_total > 100", event({"order_total": "120"}))
    assert [each.path for each in answer.coercions] == ["properties.order_total"]
    assert [each.verdict for each in answer.trace] == [pb.VERDICT_MISSING, pb.VERDICT_MISSING, pb.VERDICT_TRUE]
    assert answer.verdict == pb.VERDICT_MISSING
    assert await shop.log() == []


@on_sqlite
async def test_a_trial_reports_an_invalid_payload(shop: Client) -> None:
    answer = await trial(shop, "properties.order_total >", event({"order_total": "abc"}))
    assert [each.path for each in answer.violations] == ["properties.order_total"]
    assert [each.reason for each in answer.errors] == ["SYNTAX_ERROR"]


@on_sqlite
async def test_a_trial_takes_the_contact_of_the_event_or_the_given_one(shop: Client) -> None:
    await shop.upsert(properties={"tier": "gold"})
    gold = 'contact.properties.tier == "gold"'
    assert (await trial(shop, gold)).verdict == pb.VERDICT_TRUE
    given = contacts_pb2.Contact(email=BOB, properties=struct({"tier": "tin"}))
    assert (await trial(shop, gold, contact=given)).verdict == pb.VERDICT_FALSE
    assert (await trial(shop, f'contact.email == "{BOB}"', event(email=BOB))).verdict == pb.VERDICT_TRUE
    nobody = event_ingest_pb2.EventInput(name=ORDER)
    assert (await trial(shop, "has(contact.email)", nobody)).verdict == pb.VERDICT_FALSE


@on_sqlite
async def test_a_trial_without_a_definition_checks_no_names(shop: Client) -> None:
    answer = await trial(shop, "properties.any == 1.0", event({"any": 1}, name="undefined"))
    assert (answer.verdict, list(answer.errors)) == (pb.VERDICT_TRUE, [])


# A schema with conditions in use


def redefinition(new: event_definitions_pb2.Schema, *, force: bool = False) -> Any:
    return event_definitions_pb2.UpdateEventDefinitionRequest(event_definition=ORDER, schema=new, force=force)


async def test_a_schema_that_breaks_an_active_condition_is_refused_unless_forced(shop: Client) -> None:
    made = await automate(shop, condition=FIRST)
    await automate(shop, condition=FIRST, active=False)
    update = shop.definitions.UpdateEventDefinition
    refused = await refusal(update(redefinition(WITHOUT_FIRST)))
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "CONDITIONS_BROKEN")
    assert refused.violations == ((f'automations["{made.id}"]', "UNKNOWN_PROPERTY"),)
    assert refused.metadata == {"automations": made.id}
    assert "is_first_purchase" in refused.message
    typed = schema(order_total="number", currency="string", is_first_purchase="number")
    assert (await verdict(update(redefinition(typed))))[1] == "CONDITIONS_BROKEN"
    assert (await update(redefinition(WITHOUT_FIRST, force=True))).event_definition.revision == 2
    # A condition that is already broken does not prevent other changes.
    await shop.redefine(schema(order_total="number"))


async def test_a_schema_that_breaks_no_condition_in_use_is_accepted(shop: Client) -> None:
    made = await automate(shop, condition=FIRST)
    await automate(shop, "other", condition=FIRST)
    await shop.redefine(schema(order_total="number", is_first_purchase="boolean"))
    await pause(shop, made)
    await shop.redefine(schema(order_total="number"))


async def test_the_condition_of_a_waiting_run_is_kept_too(shop: Client) -> None:
    await automate(shop)
    run = await started(shop)
    await await_event(shop, run, ORDER, condition=FIRST)
    assert (await verdict(shop.redefine(WITHOUT_FIRST)))[1] == "CONDITIONS_BROKEN"
    await complete(shop, run)
    assert (await shop.redefine(WITHOUT_FIRST)).revision == 2


# While matching


async def test_a_condition_that_fails_keeps_no_event_from_being_recorded(shop: Client) -> None:
    await automate(shop, condition="7 / 0 > 1")
    await automate(shop, condition="properties.order_total > 1.0")
    assert await matches_of(shop) == []
    assert await shop.positions() == [1]
