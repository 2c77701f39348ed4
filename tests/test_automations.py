"""Automations over the wire: their fields, and the events that they are matched with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode

from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import projects_pb2
from tests.support.automations import (
    activate,
    automate,
    await_event,
    change,
    delete,
    get_run,
    match_log,
    matches_of,
    pause,
    started,
)
from tests.support.messages import ANYTHING, ORDER, event, orders, struct
from tests.support.refusals import refusal, verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = [pytest.mark.lasting, pytest.mark.usefixtures("neighbour")]
# Invalid requests are refused before any database is asked.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

INVALID = StatusCode.INVALID_ARGUMENT
NOT_FOUND = (StatusCode.NOT_FOUND, "AUTOMATION_NOT_FOUND")
ETAG_MISMATCH = (StatusCode.ABORTED, "ETAG_MISMATCH")
DRAFT, ACTIVE, PAUSED = pb.AUTOMATION_STATE_DRAFT, pb.AUTOMATION_STATE_ACTIVE, pb.AUTOMATION_STATE_PAUSED


async def get(client: Client, automation: pb.Automation) -> pb.Automation:
    return (await client.automations.GetAutomation(pb.GetAutomationRequest(id=automation.id))).automation


async def listed(client: Client, **request: Any) -> list[str]:
    answer = await client.automations.ListAutomations(pb.ListAutomationsRequest(**request))
    return [each.name for each in answer.automations]


async def created(client: Client, wanted: pb.Automation, *, validate_only: bool = False) -> pb.Automation:
    request = pb.CreateAutomationRequest(automation=wanted, validate_only=validate_only)
    return (await client.automations.CreateAutomation(request)).automation


# Keeping them


async def test_an_automation_is_a_draft_unless_it_is_to_be_active(shop: Client) -> None:
    draft = await created(shop, pb.Automation(name="Welcome", event_name=ORDER))
    assert (draft.state, draft.entry_rule, draft.HasField("activated_position")) == (
        DRAFT,
        pb.ENTRY_RULE_EVERY_TIME,
        False,
    )
    assert UUID(draft.id).version == 7
    assert draft.created_at == draft.updated_at
    active = await automate(shop)
    assert (active.state, active.HasField("activated_position"), active.activated_position) == (ACTIVE, True, 0)
    assert await get(shop, draft) == draft
    assert await get(shop, active) == active


async def test_everything_stated_is_kept(shop: Client) -> None:
    attributes = {"steps": [{"send": "welcome"}, {"wait": 3}], "on": True}
    made = await automate(
        shop,
        "anything",
        name="Ünïcode",
        entry_rule=pb.ENTRY_RULE_ONCE_PER_CONTACT,
        labels={"team": "growth", "x y": "1"},
        attributes=struct(attributes),
    )
    assert (made.name, made.event_name, made.entry_rule) == ("Ünïcode", "anything", pb.ENTRY_RULE_ONCE_PER_CONTACT)
    assert dict(made.labels) == {"team": "growth", "x y": "1"}
    assert MessageToDict(made.attributes) == attributes
    assert await get(shop, made) == made


async def test_a_checked_automation_has_no_id_and_is_not_stored(shop: Client) -> None:
    checked = await created(shop, pb.Automation(name="Welcome", event_name=ORDER, state=ACTIVE), validate_only=True)
    assert (checked.id, checked.state) == ("", ACTIVE)
    assert await listed(shop) == []
    assert (await shop.send()).match_count == 0


REFUSED: list[tuple[pb.Automation, str, str | None]] = [
    (pb.Automation(name=" ", event_name=ORDER), "INVALID_NAME", "name"),
    (pb.Automation(name="x" * 256, event_name=ORDER), "INVALID_NAME", "name"),
    (pb.Automation(name="fine", event_name=""), "INVALID_NAME", "event_name"),
    (pb.Automation(name="fine", event_name="signalbox:x"), "INVALID_NAME", "event_name"),
    (pb.Automation(name="fine", event_name=ORDER, state=99), "INVALID_ARGUMENT", "state"),  # type: ignore[arg-type]
    (pb.Automation(name="fine", event_name=ORDER, entry_rule=99), "INVALID_ARGUMENT", "entry_rule"),  # type: ignore[arg-type]
    (pb.Automation(name="fine", event_name=ORDER, labels={"a": ""}), "INVALID_AUTOMATION", "labels.a"),
    (pb.Automation(name="fine", event_name=ORDER, labels={"": "a"}), "INVALID_AUTOMATION", 'labels[""]'),
    (pb.Automation(name="fine", event_name=ORDER, labels={"a": "x" * 256}), "INVALID_AUTOMATION", "labels.a"),
    (
        pb.Automation(name="fine", event_name=ORDER, labels={"k" * 64: "x"}),
        "INVALID_AUTOMATION",
        f"labels.{'k' * 63}",
    ),
    (
        pb.Automation(name="fine", event_name=ORDER, labels={f"k{number}": "x" for number in range(33)}),
        "INVALID_AUTOMATION",
        "labels",
    ),
    (
        pb.Automation(name="fine", event_name=ORDER, attributes=struct({"x": "x" * 257 * 1024})),
        "INVALID_ARGUMENT",
        "attributes",
    ),
    (
        pb.Automation(name="fine", event_name=ORDER, attributes=struct({"x": [0] * 10_000})),
        "INVALID_ARGUMENT",
        "attributes",
    ),
]


@on_sqlite
async def test_an_invalid_field_is_refused_with_its_path(shop: Client) -> None:
    for wanted, reason, path in REFUSED:
        for validate_only in (True, False):
            refused = await refusal(created(shop, wanted, validate_only=validate_only))
            assert (refused.code, refused.reason) == (INVALID, reason)
            assert [place for place, _ in refused.violations] == ([] if path is None else [path])
    assert await listed(shop) == []


async def test_the_largest_automation_is_kept(shop: Client) -> None:
    labels = {f"{number:063}": "v" * 255 for number in range(32)}
    largest = await automate(shop, "e" * 255, name="n" * 255, labels=labels)
    assert await get(shop, largest) == largest


async def test_an_update_changes_only_the_named_fields(shop: Client) -> None:
    made = await automate(shop, labels={"team": "growth", "tier": "1"}, attributes=struct({"a": 1}))
    changed = await change(
        shop, made, name="Goodbye", labels={"tier": "", "plan": "pro"}, entry_rule=pb.ENTRY_RULE_ONCE_PER_CONTACT
    )
    assert (changed.name, dict(changed.labels)) == ("Goodbye", {"team": "growth", "plan": "pro"})
    assert (changed.event_name, changed.state, changed.activated_position) == (ORDER, ACTIVE, 0)
    assert changed.attributes == made.attributes
    assert changed.etag != made.etag
    assert (await change(shop, changed, attributes=struct({}))).attributes == struct({})
    assert (await get(shop, made)).entry_rule == pb.ENTRY_RULE_ONCE_PER_CONTACT


async def test_an_update_that_changes_nothing_keeps_the_etag(shop: Client) -> None:
    made = await automate(shop, labels={"team": "growth"})
    assert await change(shop, made, name=made.name, labels={"team": "growth", "none": ""}) == made


async def test_a_checked_update_is_not_stored(shop: Client) -> None:
    made = await automate(shop)
    assert (await change(shop, made, name="Other", validate_only=True)).name == "Other"
    assert await get(shop, made) == made


async def test_an_outdated_etag_changes_nothing(shop: Client) -> None:
    made = await automate(shop)
    await change(shop, made, name="Other", etag=made.etag)
    for call in (
        change(shop, made, name="Third", etag=made.etag),
        pause(shop, made, made.etag),
        activate(shop, made, made.etag),
        delete(shop, made, made.etag),
    ):
        assert await verdict(call) == ETAG_MISMATCH
    assert ((await get(shop, made)).name, (await get(shop, made)).state) == ("Other", ACTIVE)


@on_sqlite
@pytest.mark.parametrize("changes", [{"name": ""}, {"event_name": " "}])
async def test_an_update_to_a_blank_name_is_refused(shop: Client, changes: dict[str, str]) -> None:
    made = await automate(shop)
    assert await verdict(change(shop, made, **changes)) == (INVALID, "INVALID_NAME")


async def test_another_projects_automation_is_not_found(service: Service, shop: Client) -> None:
    other = await service.shop()
    made = await automate(other)
    for unknown, expected in (
        (made, NOT_FOUND),
        (pb.Automation(id="nothing"), NOT_FOUND),
        (pb.Automation(id="a\x00b"), (INVALID, "UNSTORABLE_TEXT")),
    ):
        for call in (
            get(shop, unknown),
            change(shop, unknown, name="Mine"),
            activate(shop, unknown),
            pause(shop, unknown),
            delete(shop, unknown),
        ):
            assert await verdict(call) == expected
    assert await get(other, made) == made


async def test_a_list_is_newest_first_and_narrowed_by_its_filters(shop: Client) -> None:
    await automate(shop, name="One", labels={"team": "a", "tier": "1"})
    await automate(shop, name="Two", labels={"team": "a"}, active=False)
    await automate(shop, "other", name="Three 100%", labels={"team": "b"})
    assert await listed(shop) == ["Three 100%", "Two", "One"]
    assert await listed(shop, event_name=ORDER) == ["Two", "One"]
    assert await listed(shop, state=DRAFT) == ["Two"]
    assert await listed(shop, labels={"team": "a"}) == ["Two", "One"]
    assert await listed(shop, labels={"team": "a", "tier": "1"}) == ["One"]
    assert await listed(shop, search="tWo") == ["Two"]
    assert await listed(shop, search="0%") == ["Three 100%"]
    assert await listed(shop, search="_") == []


async def test_labels_are_found_on_the_first_page_however_many_automations_are_newer(shop: Client) -> None:
    for number in range(5):
        await automate(shop, name=str(number), labels={"team": "a" if number < 2 else "b"})
    assert await listed(shop, labels={"team": "a"}, page_size=1) == ["1"]
    assert await listed(shop, labels={"team": "a"}, page_size=2) == ["1", "0"]


@pytest.mark.parametrize("filters", [{}, {"labels": {"team": "a"}}])
async def test_pages_follow_each_other(shop: Client, filters: dict[str, Any]) -> None:
    for number in range(5):
        await automate(shop, name=str(number), labels={"team": "a"})
    request = pb.ListAutomationsRequest(page_size=2, **filters)
    pages = []
    while True:
        answer = await shop.automations.ListAutomations(request)
        pages.append([each.name for each in answer.automations])
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            break
    assert pages == [["4", "3"], ["2", "1"], ["0"]]
    request.page_token, request.search = "", "x"
    assert (await shop.automations.ListAutomations(request)).next_page_token == ""


async def test_a_page_ends_early_where_much_is_kept(shop: Client) -> None:
    for number in range(6):
        await automate(shop, name=str(number), attributes=struct({"x": "x" * 250_000}))
    answer = await shop.automations.ListAutomations(pb.ListAutomationsRequest())
    assert [each.name for each in answer.automations] == ["5", "4", "3"]
    rest = pb.ListAutomationsRequest(page_token=answer.next_page_token)
    assert [each.name for each in (await shop.automations.ListAutomations(rest)).automations] == ["2", "1", "0"]


# States


async def test_a_draft_cannot_be_paused_nor_an_active_one_deleted(shop: Client) -> None:
    draft, active = await automate(shop, active=False), await automate(shop)
    assert await verdict(pause(shop, draft)) == (StatusCode.FAILED_PRECONDITION, "AUTOMATION_NOT_ACTIVE")
    assert await verdict(delete(shop, active)) == (StatusCode.FAILED_PRECONDITION, "AUTOMATION_ACTIVE")
    assert (await delete(shop, draft)).automation == draft
    assert await verdict(get(shop, draft)) == NOT_FOUND
    assert await listed(shop) == [active.name]


async def test_activating_and_pausing_again_changes_nothing(shop: Client) -> None:
    active = await activate(shop, await automate(shop, active=False))
    await shop.send()
    assert await activate(shop, active) == active
    paused = await pause(shop, active)
    assert (paused.state, paused.activated_position) == (PAUSED, 0)
    assert await pause(shop, paused) == paused
    again = await activate(shop, paused)
    assert (again.state, again.activated_position) == (ACTIVE, 1)


async def test_only_events_after_the_activation_match(shop: Client) -> None:
    automation = await automate(shop, active=False)
    counts = [(await shop.send()).match_count]
    await activate(shop, automation)
    counts.append((await shop.send()).match_count)
    await pause(shop, automation)
    counts.append((await shop.send()).match_count)
    await activate(shop, automation)
    counts.append((await shop.send()).match_count)
    assert counts == [0, 1, 0, 1]


async def test_a_new_event_name_applies_to_the_events_after_the_change(shop: Client) -> None:
    await shop.define("other", ANYTHING)
    automation = await automate(shop)
    assert (await shop.send()).match_count == 1
    await change(shop, automation, event_name="other")
    assert (await shop.send()).match_count == 0
    assert (await shop.send(event(name="other"))).match_count == 1


async def test_batches_in_flight_are_matched_by_the_state_at_their_positions(shop: Client, store: Store) -> None:
    """Whatever the order in which they come through, position and activation agree."""
    automation = await automate(shop, active=False)
    async with store.held():
        sending = [asyncio.create_task(shop.send_all(orders(20)))]
        await asyncio.sleep(0.05)
        activating = asyncio.create_task(activate(shop, automation))
        await asyncio.sleep(0.05)
        sending += [asyncio.create_task(shop.send_all(orders(20))) for _ in range(3)]
        await asyncio.sleep(0.05)
    activated = (await activating).activated_position
    receipts = [result.receipt for answer in await asyncio.gather(*sending) for result in answer]
    assert activated in range(0, 80, 20)
    counts = {each.event.position: each.match_count for each in receipts}
    assert counts == {position: int(position > activated) for position in range(1, 81)}
    assert [each.event_position for each in await match_log(store)] == list(range(activated + 1, 81))


async def test_names_are_compared_by_the_rule_of_the_project(service: Service) -> None:
    exact = await service.shop(undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT)
    lax = await service.shop(
        undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT, name_case=projects_pb2.NAME_CASE_INSENSITIVE
    )
    for client, counts in ((exact, [0, 1]), (lax, [1, 1])):
        await automate(client, "Cart_Seen")
        sent = [await client.send(event(name=name)) for name in ("cart_seen", "Cart_Seen")]
        assert [each.match_count for each in sent] == counts


async def test_the_name_case_of_a_project_can_change(service: Service) -> None:
    shop = await service.shop(undefined_events=projects_pb2.UNDEFINED_EVENTS_ACCEPT)
    await automate(shop, "Cart_Seen")
    assert (await shop.send(event(name="cart_seen"))).match_count == 0
    request = projects_pb2.UpdateProjectRequest(project=shop.project, name_case=projects_pb2.NAME_CASE_INSENSITIVE)
    await service.admin.projects.UpdateProject(request)
    assert (await shop.send(event(name="cart_seen"))).match_count == 1


# Deleting


async def test_deleting_cancels_the_open_runs_and_keeps_the_matches(shop: Client, store: Store) -> None:
    automation, kept = await automate(shop), await automate(shop, name="Kept")
    runs = [await get_run(shop, each.run_id) for _ in range(2) for each in await matches_of(shop)]
    own = [each for each in runs if each.automation_id == automation.id]
    await await_event(shop, own[0])
    await pause(shop, automation)
    answer = await delete(shop, automation)
    assert (answer.cancelled_run_count, answer.automation.id) == (2, automation.id)
    for run in own:
        cancelled = await get_run(shop, run.id)
        assert (cancelled.status, cancelled.HasField("wait")) == (pb.RUN_STATUS_CANCELLED, False)
        assert "deleted" in cancelled.reason
        assert cancelled.finished_at.seconds
    assert {(await get_run(shop, each.id)).status for each in runs if each not in own} == {pb.RUN_STATUS_QUEUED}
    assert len(await match_log(store)) == 4
    (match,) = await matches_of(shop, event(name=ORDER))
    assert match.automation_id == kept.id


async def test_a_deleted_waiting_run_is_not_resumed(shop: Client) -> None:
    await shop.define("paid", ANYTHING)
    automation = await automate(shop)
    await await_event(shop, await started(shop))
    await pause(shop, automation)
    await delete(shop, automation)
    assert (await shop.send(event(name="paid"))).match_count == 0


async def test_no_text_makes_an_internal_error(shop: Client) -> None:
    """A NUL is the character that a database may not take."""
    text = "a\x00b"
    made = await automate(shop)
    calls: list[Awaitable[Any]] = [
        automate(shop, labels={text: text}),
        automate(shop, attributes=struct({text: text})),
        listed(shop, search=text),
        listed(shop, event_name=text),
        change(shop, made, labels={"x": text}),
    ]
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            assert "INTERNAL" not in str(outcome)


# Conditions


@on_sqlite
async def test_a_condition_is_checked_against_the_definition_when_it_is_saved(service: Service) -> None:
    shop = await service.shop(name_case=projects_pb2.NAME_CASE_INSENSITIVE)
    refused = await refusal(automate(shop, ORDER.upper(), condition="properties.order_total > "))
    assert (refused.code, refused.reason) == (INVALID, "CONDITION_INVALID")
    assert [path for path, _ in refused.violations] == ["condition"]
    unknown = "properties.nothing == 1"
    assert await verdict(automate(shop, ORDER.upper(), condition=unknown)) == (INVALID, "CONDITION_INVALID")
    other = await automate(shop, "undefined", condition=unknown, active=False)
    assert await verdict(change(shop, other, event_name=ORDER)) == (INVALID, "CONDITION_INVALID")
    await shop.define("undefined")
    assert await verdict(activate(shop, other)) == (INVALID, "CONDITION_INVALID")
    assert (await change(shop, other, name="Renamed")).condition == unknown
    run = await started_any(shop)
    assert await verdict(await_event(shop, run, ORDER, condition=unknown)) == (INVALID, "CONDITION_INVALID")


async def started_any(shop: Client) -> pb.Run:
    await automate(shop)
    return await started(shop)


async def test_only_events_that_satisfy_the_condition_match_or_resume(shop: Client) -> None:
    await automate(shop, condition="properties.order_total > 100.0")
    results = await shop.send_all([event({"order_total": total}) for total in (5, 500)])
    assert [each.receipt.match_count for each in results] == [0, 1]
    run = await started(shop, event({"order_total": 500}))
    await await_event(shop, run, ORDER, condition='properties.currency == "EUR" && contact.email.startsWith("ada")')
    counts = [len(await matches_of(shop, event({"currency": currency}))) for currency in ("USD", "EUR", "EUR")]
    assert counts == [0, 1, 0]
