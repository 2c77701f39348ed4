"""OpenSend's automations and runs: requests and responses, in the order of the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict

from server.bridge.dialects.opensend.documents import step_after_wait
from signalbox.v1 import automations_pb2 as pb
from tests.support.automations import TIMED_OUT
from tests.support.bridge import ID, MILLIS, TEXT, UNSENT, Caller, Case, calling, mistyped
from tests.support.consumers import EARLIEST, pull, subscribe
from tests.support.messages import ADA, struct

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Service

NAME = "user.signed_up"
TRIGGER = {"key": "start", "type": "trigger", "config": {"event_name": NAME}}
WAIT = {"key": "wait", "type": "wait_for_event", "config": {"event_name": "user.paid", "timeout_seconds": 3600}}
MAIL = {"key": "mail", "type": "send_email", "config": {"template_id": "tpl_1"}}
IF = {
    "key": "rich",
    "type": "condition",
    "config": {"left": "event.plan", "operator": "equals", "right": "pro"},
}
STEPS = [TRIGGER, WAIT, MAIL]
EDGES = [{"from": "start", "to": "wait"}, {"from": "wait", "to": "mail"}]
WELCOME = {"name": "Welcome", "status": "enabled", "steps": STEPS, "connections": EDGES}
SHOWN_STEPS = [{"id": ID, **step, "position": number} for number, step in enumerate(STEPS)]
WELCOME_ANSWER = {
    "object": "automation",
    "id": ID,
    "name": "Welcome",
    "status": "enabled",
    "trigger_event_name": NAME,
    "connections": EDGES,
    "steps": SHOWN_STEPS,
    "created_at": MILLIS,
    "updated_at": MILLIS,
}
LISTED = {
    "object": "automation",
    "id": ID,
    "name": "Welcome",
    "status": "enabled",
    "trigger_event_name": NAME,
    "step_count": 3,
    "last_run": None,
    "created_at": MILLIS,
    "updated_at": MILLIS,
}
MADE = ("POST /automations", WELCOME)
DRAFTED = ("POST /automations", {"steps": [TRIGGER]})
GONE = {"error": "Automation not found"}
NOBODY = "01957e3a-4b5c-7d8e-9f0a-1b2c3d4e5f6a"


def rule(code: str, message: Any = TEXT) -> dict[str, Any]:
    return {"error": message, "code": code}


def failed(**fields: Any) -> dict[str, Any]:
    return {"error": "Validation failed", "details": {"formErrors": [], "fieldErrors": fields}}


def listing(*items: Any, more: bool = False) -> dict[str, Any]:
    return {"object": "list", "data": list(items), "has_more": more}


def steps(*more: Any, **changes: Any) -> dict[str, Any]:
    return {"steps": [TRIGGER, *more], **changes}


def step(kind: str, **config: Any) -> dict[str, Any]:
    return {"key": "x", "type": kind, "config": config}


def condition(**changes: Any) -> dict[str, Any]:
    return step("condition", **{"left": "event.plan", "operator": "equals", "right": "pro", **changes})


def triggered(**config: Any) -> dict[str, Any]:
    return {"steps": [{"key": "start", "type": "trigger", "config": config}]}


def edge(start: str = "start", end: str = "rich", **more: Any) -> dict[str, Any]:
    return {"from": start, "to": end, **more}


NO_TYPES: tuple[Any, ...] = ("maybe", None, 5, ["x"], {})
REFUSED = [
    ({}, "automation_steps_required"),
    ({"steps": []}, "automation_steps_required"),
    (steps(status="on"), "automation_status_invalid"),
    ({"steps": [MAIL]}, "trigger_must_be_first"),
    ({"steps": [{**TRIGGER, "position": 1}, {**MAIL, "position": 0}]}, "trigger_must_be_first"),
    (steps({**TRIGGER, "key": "again"}), "duplicate_trigger"),
    (steps({**MAIL, "key": "a b"}), "step_key_invalid"),
    (steps({**MAIL, "key": ""}), "step_key_invalid"),
    (steps({**MAIL, "key": "a" * 65}), "step_key_invalid"),
    (steps(MAIL, MAIL), "duplicate_step_key"),
    ({"steps": [{"key": "start", "type": "trigger"}]}, "trigger_event_name_required"),
    *((triggered(event_name=name), "trigger_event_name_required") for name in ("", "  ", 5, None)),
    (triggered(eventName="Resend:x"), "event_name_reserved"),
    (steps(trigger_event_name="other"), "trigger_event_name_mismatch"),
    ({"steps": [{"key": "start", "type": "trigger"}], "triggerEventName": "resend:x"}, "event_name_reserved"),
    (steps(IF, connections=[{"from": "start"}]), "connection_edge_invalid"),
    *((steps(IF, connections=[edge(type=kind)]), "connection_type_invalid") for kind in NO_TYPES),
    (steps(IF, connections=[edge(end="nowhere")]), "connection_unknown_step"),
    (steps(IF, connections=[edge("rich", "rich")]), "connection_self_loop"),
    (steps(IF, connections=[edge(type="condition_met")]), "connection_branch_from_non_condition"),
    (
        steps(IF, MAIL, connections=[edge("rich", end, type="condition_met") for end in ("mail", "start")]),
        "connection_branch_duplicate",
    ),
    (steps(step("wait_for_event")), "event_name_required"),
    (steps(step("wait_for_event", event_name="resend:x")), "event_name_reserved"),
    *(
        (steps(step("wait_for_event", event_name="a", timeout_seconds=seconds)), "wait_for_event_timeout_invalid")
        for seconds in (0, 2_592_001, 1.5, "60", True)
    ),
    (steps(step("condition")), "condition_predicate_required"),
    *((steps(condition(left=left)), "condition_left_invalid") for left in ("plan", "event.", "steps.a.input", 5)),
    *((steps(condition(operator=operator)), "condition_operator_invalid") for operator in ("eq", None)),
    *((steps(condition(right=right)), "condition_right_invalid") for right in ([1], {"a": 1})),
    *((steps(step("delay", duration=text)), "delay_duration_invalid") for text in ("soon", "0 h", "1 month", 5, None)),
    *((steps(step("delay", duration=text)), "delay_duration_too_long") for text in ("31 days", "5w")),
    (steps(step("send_email")), "send_email_template_id_required"),
    (steps(step("contact_update")), "contact_update_config_required"),
    (steps(step("contact_delete", really=True)), "contact_delete_config_invalid"),
    (steps(step("add_to_segment")), "add_to_segment_segment_id_required"),
]

TAKEN = [
    step("delay", duration="2 hours"),
    step("delay", duration="1.5 d"),
    step("delay", duration="30 days"),
    step("end"),
    step("condition", left="contact.email", operator="exists"),
    step("condition", left="steps.wait.output.waited_event", operator="not_equals", right=None),
    step("condition", predicate={"left": "event.a.b", "operator": "contains", "right": "x"}),
    step("wait_for_event", event_name="user.paid"),
    step("wait_for_event", eventName="user.paid", timeout_seconds=2_592_000),
    step("wait_for_event", event_name="send"),
    step("contact_update", first_name="Ada"),
    step("contact_delete"),
    step("add_to_segment", segment_id="seg_1"),
]

CASES = [
    # POST /automations
    Case("an automation is made", *MADE, 201, WELCOME_ANSWER),
    Case("a definition is created under /api", "POST /api/automations", WELCOME, 201, WELCOME_ANSWER),
    Case(
        "a trigger is enough",
        *DRAFTED,
        201,
        WELCOME_ANSWER
        | {"name": "Untitled", "status": "draft", "connections": [], "steps": [{"id": ID, **TRIGGER, "position": 0}]},
    ),
    Case(
        "the event may stand beside the steps",
        "POST /automations",
        {"trigger_event_name": NAME, "status": "disabled", "steps": [{"key": "start", "type": "trigger"}]},
        201,
        WELCOME_ANSWER
        | {
            "name": "Untitled",
            "status": "disabled",
            "connections": [],
            "steps": [{"id": ID, "key": "start", "type": "trigger", "config": {}, "position": 0}],
        },
    ),
    *(
        Case(
            f"{each['type']} {each['config']}",
            "POST /automations",
            steps(each),
            201,
            WELCOME_ANSWER
            | {
                "name": "Untitled",
                "status": "draft",
                "connections": [],
                "steps": [{"id": ID, **part, "position": at} for at, part in enumerate((TRIGGER, each))],
            },
        )
        for each in TAKEN
    ),
    *(
        Case(f"{code} {number}", "POST /automations", body, 422, rule(code))
        for number, (body, code) in enumerate(REFUSED)
    ),
    *(
        Case(
            f"the event {name!r}",
            "POST /automations",
            triggered(eventName=name),
            201,
            WELCOME_ANSWER
            | {
                "name": "Untitled",
                "status": "draft",
                "trigger_event_name": name,
                "connections": [],
                "steps": [{"id": ID, **triggered(eventName=name)["steps"][0], "position": 0}],
            },
        )
        for name in ("send", " just as it is ", "Ünï")
    ),
    Case(
        "an awaited name is trimmed",
        "POST /automations",
        steps(step("wait_for_event", event_name=" user.paid ")),
        201,
        WELCOME_ANSWER
        | {
            "name": "Untitled",
            "status": "draft",
            "connections": [],
            "steps": [
                {"id": ID, **TRIGGER, "position": 0},
                {"id": ID, **step("wait_for_event", event_name="user.paid"), "position": 1},
            ],
        },
    ),
    Case(
        "a name that no event can have",
        "POST /automations",
        triggered(event_name="a\tb"),
        422,
        failed(trigger_event_name=[TEXT]),
    ),
    Case(
        "nor can one that is awaited",
        "POST /automations",
        steps(step("wait_for_event", event_name="a\tb")),
        422,
        failed(steps=[TEXT]),
    ),
    Case(
        "a name has at most 255 characters",
        "POST /automations",
        steps(name="a" * 256),
        422,
        failed(name=["Too big: expected string to have <=255 characters"]),
    ),
    Case("a name is a string", "POST /automations", steps(name=5), 422, failed(name=[TEXT])),
    Case("steps are a list", "POST /automations", {"steps": {}}, 422, failed(steps=[TEXT])),
    Case("of objects", "POST /automations", {"steps": [5]}, 422, failed(steps=[TEXT])),
    Case("of known types", "POST /automations", steps(step("dance")), 422, failed(steps=[TEXT])),
    Case("with keys", "POST /automations", {"steps": [{"type": "trigger"}]}, 422, failed(steps=[TEXT])),
    # GET /automations
    Case("there are none at first", "GET /automations", UNSENT, 200, listing()),
    Case("they are listed", "GET /automations?limit=1", UNSENT, 200, listing(LISTED, more=True), [DRAFTED, MADE]),
    Case("a page comes after an id", "GET /automations?after={1.id}", UNSENT, 200, listing(LISTED), [MADE, DRAFTED]),
    Case("by their status", "GET /automations?status=enabled", UNSENT, 200, listing(LISTED), [MADE, DRAFTED]),
    Case(
        "definitions are searched by a part of the name",
        "GET /automations?search=WELC",
        UNSENT,
        200,
        listing(LISTED),
        [MADE, DRAFTED],
    ),
    Case("not by another status", "GET /automations?status=on", UNSENT, 422, rule("automation_status_invalid")),
    # /automations/{id}
    Case("a definition is returned", "GET /automations/{0.id}", UNSENT, 200, WELCOME_ANSWER | {"id": "{0.id}"}, [MADE]),
    Case(
        "one is renamed",
        "PATCH /automations/{0.id}",
        {"name": "Hello"},
        200,
        WELCOME_ANSWER | {"name": "Hello"},
        [MADE],
    ),
    Case(
        "one is enabled",
        "PATCH /automations/{0.id}",
        {"status": "enabled"},
        200,
        WELCOME_ANSWER,
        [("POST /automations", {**WELCOME, "status": "draft"})],
    ),
    Case(
        "one gets other steps",
        "PATCH /automations/{0.id}",
        {"steps": [{**TRIGGER, "config": {"event_name": "other"}}], "connections": []},
        200,
        WELCOME_ANSWER
        | {
            "trigger_event_name": "other",
            "connections": [],
            "steps": [{"id": ID, "key": "start", "type": "trigger", "config": {"event_name": "other"}, "position": 0}],
        },
        [MADE],
    ),
    Case(
        "which the connections must fit",
        "PATCH /automations/{0.id}",
        {"steps": [TRIGGER]},
        422,
        rule("connection_unknown_step"),
        [MADE],
    ),
    Case(
        "one is stopped",
        "POST /automations/{0.id}/stop",
        UNSENT,
        200,
        WELCOME_ANSWER | {"status": "disabled"},
        [MADE],
    ),
    Case(
        "and again",
        "POST /automations/{0.id}/stop",
        {},
        200,
        WELCOME_ANSWER | {"status": "disabled"},
        [MADE, ("POST /automations/{0.id}/stop", UNSENT)],
    ),
    Case(
        "an enabled one stays",
        "DELETE /automations/{0.id}",
        UNSENT,
        409,
        rule("automation_enabled", "Disable the automation before deleting"),
        [MADE],
    ),
    *(
        Case(
            f"a {status} one goes",
            "DELETE /automations/{0.id}",
            UNSENT,
            200,
            {"object": "automation", "id": "{0.id}", "deleted": True},
            [("POST /automations", {**WELCOME, "status": status})],
        )
        for status in ("draft", "disabled")
    ),
    *(
        Case(f"none at {call}", call, body, 404, GONE)
        for call, body in (
            ("GET /automations/x", UNSENT),
            ("PATCH /automations/x", {"name": "a"}),
            ("DELETE /automations/x", UNSENT),
            ("POST /automations/x/stop", UNSENT),
            ("GET /automations/x/runs", UNSENT),
            (f"GET /automations/x/runs/{NOBODY}", UNSENT),
            (f"POST /api/automations/x/runs/{NOBODY}/cancel", {}),
        )
    ),
    # Runs
    Case("there are no runs at first", "GET /automations/{0.id}/runs", UNSENT, 200, listing(), [MADE]),
    Case("no run is read", "GET /automations/{0.id}/runs/x", UNSENT, 404, {"error": "Run not found"}, [MADE]),
    Case(
        "not by another status",
        "GET /automations/{0.id}/runs?status=queued,gone",
        UNSENT,
        422,
        failed(status=[TEXT]),
        [MADE],
    ),
    Case("not behind anything", "GET /automations/{0.id}/runs?after=x", UNSENT, 422, failed(after=[TEXT]), [MADE]),
    Case(
        "runs are cancelled under /api alone",
        f"POST /automations/x/runs/{NOBODY}/cancel",
        {},
        404,
        rule("route_not_found"),
    ),
]

QUEUED = {
    "object": "automation_run",
    "id": ID,
    "automation_id": ID,
    "status": "queued",
    "started_at": MILLIS,
    "completed_at": None,
    "duration_ms": None,
    "current_step_key": "trigger",
    "failed_step_key": None,
    "failure_reason": None,
    "next_step_at": None,
    "created_at": MILLIS,
    "updated_at": MILLIS,
}


@pytest_asyncio.fixture
async def opensend(lasting_service: Service) -> AsyncIterator[Caller]:
    async with calling(lasting_service, await lasting_service.project(), "opensend") as caller:
        yield caller


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_opensend_responds(opensend: Caller, case: Case) -> None:
    await opensend.check(case)


# They are refused before the database, and what is accepted is stored like any other automation.
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_values_of_other_types_cause_no_internal_error(opensend: Caller) -> None:
    predicate = {"predicate": {"left": "event.a", "operator": "equals", "right": 1}}
    document = {
        **WELCOME,
        "trigger_event_name": NAME,
        "steps": [
            *STEPS,
            {**IF, "id": "1", "position": 3},
            {"key": "if", "type": "condition", "config": predicate},
            {"key": "then", "type": "delay", "config": {"duration": "2 h"}},
            {"key": "last", "type": "add_to_segment", "config": {"segment_id": "seg_1"}},
        ],
        "connections": [{"from": "if", "to": "then", "type": "condition_met"}],
    }
    assert (await opensend.call("POST /automations", document)).status_code == 201
    for wrong in mistyped(document):
        answer = await opensend.call("POST /automations", wrong)
        assert answer.status_code in {201, 422}, wrong


async def send(opensend: Caller, name: str = NAME) -> dict[str, Any]:
    answer = await opensend.call("POST /events/send", {"event": name, "email": ADA, "payload": {"plan": "pro"}})
    assert answer.status_code == 202
    told: dict[str, Any] = answer.json()
    return told


async def test_an_event_reports_the_runs_that_it_started(opensend: Caller) -> None:
    automation = (await opensend.call(*MADE)).json()["id"]
    await opensend.call(*DRAFTED)
    told = await send(opensend)
    assert told["automation_runs"] == [QUEUED | {"automation_id": automation}]
    assert (await send(opensend, "User.Signed_Up"))["automation_runs"] == []
    run = told["automation_runs"][0]
    assert (await opensend.call(f"GET /automations/{automation}/runs")).json() == listing(run)
    detailed = (await opensend.call(f"GET /api/automations/{automation}/runs/{run['id']}")).json()
    contact = told["delivery"]["contact_id"]
    assert detailed == run | {"trigger_event_id": told["delivery"]["id"], "contact_id": contact, "step_states": {}}
    (listed, *_) = (await opensend.call("GET /automations?status=enabled")).json()["data"]
    assert listed["last_run"] == {"status": "queued", "created_at": run["created_at"]}


async def test_an_engine_parks_a_run_at_a_step_and_an_event_resumes_it(opensend: Caller) -> None:
    automation = (await opensend.call(*MADE)).json()["id"]
    run = (await send(opensend))["automation_runs"][0]["id"]
    engine = opensend.client.automations
    found = (await engine.GetAutomation(pb.GetAutomationRequest(id=automation))).automation
    wait = next(each for each in MessageToDict(found.attributes)["steps"] if each["type"] == "wait_for_event")
    request = pb.AwaitEventRequest(
        run_id=run,
        event_name=wait["config"]["event_name"],
        timeout=Duration(seconds=int(wait["config"]["timeout_seconds"])),
        attributes=struct({"current_step_key": wait["key"], "step_states": {"wait": {"status": "waiting"}}}),
    )
    await engine.AwaitEvent(request)
    parked = (await opensend.call(f"GET /automations/{automation}/runs?status=waiting,queued")).json()["data"][0]
    assert (parked["status"], parked["current_step_key"], parked["next_step_at"]) == ("waiting", "wait", MILLIS)
    told = await send(opensend, "user.paid")
    assert told["automation_runs"] == []
    assert told["resumed_runs"] == [QUEUED | {"id": run, "automation_id": automation, "current_step_key": "mail"}]
    detailed = (await opensend.call(f"GET /automations/{automation}/runs/{run}")).json()
    assert (detailed["current_step_key"], detailed["step_states"]) == ("mail", {"wait": {"status": "waiting"}})
    assert (await opensend.call(f"GET /automations/{automation}/runs")).json() == listing(*told["resumed_runs"])


WAITED = [TRIGGER, WAIT, MAIL, {"key": "last", "type": "end", "config": {}}]


@pytest.mark.parametrize(
    ("attributes", "key", "after"),
    [
        ({"steps": WAITED, "connections": [{"from": "wait", "to": "last"}]}, "wait", "last"),
        ({"steps": WAITED, "connections": [{"from": "start", "to": "wait"}]}, "wait", "mail"),
        ({"steps": WAITED}, "wait", "mail"),
        ({"steps": STEPS[:2], "connections": []}, "wait", None),
        ({"steps": WAITED}, "mail", "mail"),
        ({"steps": WAITED}, "gone", "gone"),
        ({}, "wait", "wait"),
        ({"steps": [5, {"key": []}, WAIT, {"key": 5}], "connections": ["x", {"from": "wait", "to": 5}]}, "wait", None),
        ({"steps": "x", "connections": "x"}, "wait", "wait"),
    ],
)
def test_the_step_after_a_wait_is_the_connected_one_or_the_next(
    attributes: dict[str, Any], key: str, after: str | None
) -> None:
    assert step_after_wait(attributes, key) == after


async def test_a_run_whose_wait_timed_out_stays_at_its_step(opensend: Caller) -> None:
    automation = (await opensend.call(*MADE)).json()["id"]
    run = (await send(opensend))["automation_runs"][0]["id"]
    request = pb.AwaitEventRequest(
        run_id=run,
        event_name="user.paid",
        timeout=Duration(seconds=1),
        attributes=struct({"current_step_key": "wait"}),
    )
    await opensend.client.automations.AwaitEvent(request)
    await subscribe(opensend.client)
    (delivery,) = await pull(opensend.client, wait=10)
    assert delivery.match.kind == TIMED_OUT
    shown = (await opensend.call(f"GET /automations/{automation}/runs/{run}")).json()
    assert (shown["status"], shown["current_step_key"]) == ("running", "wait")


async def test_a_run_shows_how_its_engine_ended_it(opensend: Caller) -> None:
    automation = (await opensend.call(*MADE)).json()["id"]
    run = (await send(opensend))["automation_runs"][0]["id"]
    ended = pb.CompleteRunRequest(
        run_id=run,
        outcome=pb.RUN_OUTCOME_FAILED,
        reason="no template",
        attributes=struct({"current_step_key": "mail", "failed_step_key": "mail"}),
    )
    await opensend.client.automations.CompleteRun(ended)
    shown = (await opensend.call(f"GET /automations/{automation}/runs/{run}")).json()
    assert (shown["status"], shown["failure_reason"], shown["failed_step_key"]) == ("failed", "no template", "mail")
    assert shown["completed_at"] == MILLIS
    assert shown["duration_ms"] >= 0


async def test_a_queued_or_waiting_run_can_be_cancelled(opensend: Caller) -> None:
    automation = (await opensend.call(*MADE)).json()["id"]
    runs = [(await send(opensend))["automation_runs"][0]["id"] for _ in range(2)]
    path = f"POST /api/automations/{automation}/runs"
    first = await opensend.call(f"{path}/{runs[0]}/cancel")
    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    assert first.json()["failure_reason"] == "cancelled_by_api"
    longest = "x" * 500
    second = await opensend.call(f"{path}/{runs[1]}/cancel", {"reason": longest})
    assert second.json()["failure_reason"] == longest
    again = await opensend.call(f"{path}/{runs[0]}/cancel", {})
    assert (again.status_code, again.json()) == (409, rule("run_not_cancellable", "Run is not cancellable"))
    for body in ({"reason": ""}, {"reason": "x" * 501}, {"reason": "a", "force": True}, {"reason": 5}):
        assert (await opensend.call(f"{path}/{runs[1]}/cancel", body)).status_code == 422


async def test_a_running_run_cannot_be_cancelled(opensend: Caller) -> None:
    automation = (await opensend.call(*MADE)).json()["id"]
    run = (await send(opensend))["automation_runs"][0]["id"]
    await subscribe(opensend.client, start=EARLIEST)
    assert len(await pull(opensend.client)) == 1
    refused = await opensend.call(f"POST /api/automations/{automation}/runs/{run}/cancel")
    assert (refused.status_code, refused.json()) == (409, rule("run_not_cancellable", "Run is not cancellable"))
    shown = (await opensend.call(f"GET /automations/{automation}/runs/{run}")).json()
    assert shown["status"] == "running"


async def test_an_automation_matches_events_after_it_was_enabled(opensend: Caller) -> None:
    automation = (await opensend.call("POST /automations", {**WELCOME, "status": "disabled"})).json()["id"]
    assert (await send(opensend))["automation_runs"] == []
    await opensend.call(f"PATCH /automations/{automation}", {"status": "enabled"})
    (run,) = (await send(opensend))["automation_runs"]
    stopped = await opensend.call(f"POST /automations/{automation}/stop")
    assert stopped.json()["status"] == "disabled"
    assert (await send(opensend))["automation_runs"] == []
    listed = (await opensend.call(f"GET /automations/{automation}/runs")).json()
    assert [(each["id"], each["status"]) for each in listed["data"]] == [(run["id"], "queued")]


async def test_runs_are_listed_newest_first_by_pages(opensend: Caller) -> None:
    automation = (await opensend.call(*MADE)).json()["id"]
    runs = [(await send(opensend))["automation_runs"][0]["id"] for _ in range(3)]
    first = (await opensend.call(f"GET /automations/{automation}/runs?limit=2")).json()
    assert ([each["id"] for each in first["data"]], first["has_more"]) == ([runs[2], runs[1]], True)
    rest = (await opensend.call(f"GET /automations/{automation}/runs?limit=2&after={runs[1]}")).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([runs[0]], False)
    other = (await opensend.call("POST /automations", {**WELCOME, "name": "Other"})).json()["id"]
    assert (await opensend.call(f"GET /automations/{other}/runs/{runs[0]}")).json() == {"error": "Run not found"}


async def test_an_event_without_a_contact_starts_runs(opensend: Caller) -> None:
    automation = (await opensend.call(*MADE)).json()["id"]
    answer = await opensend.call("POST /events/send", {"event": NAME, "contact_id": NOBODY})
    (run,) = answer.json()["automation_runs"]
    detailed = (await opensend.call(f"GET /automations/{automation}/runs/{run['id']}")).json()
    assert (answer.json()["delivery"]["contact_id"], detailed["contact_id"]) == (None, None)
