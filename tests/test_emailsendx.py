"""EmailSendX on the wire, line by line beside its documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from signalbox.v1 import automations_pb2 as pb
from tests.support.automations import automate, await_event, complete, get_run, list_runs, pause
from tests.support.bridge import ID, NUMBER, SECONDS, TEXT, UNSENT, Caller, Case, calling
from tests.support.messages import ADA, schema, struct

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Client, Service

PURCHASE = "purchase_completed"
GRACE = {"email": "Grace@Example.com", "firstName": "Grace", "metadata": {"plan": "pro", "seats": {"paid": 3}}}
GRACE_ANSWER = {
    "id": ID,
    "email": "grace@example.com",
    "firstName": "Grace",
    "lastName": None,
    "status": "active",
    "metadata": {"plan": "pro", "seats": {"paid": 3}},
    "createdAt": SECONDS,
    "updatedAt": SECONDS,
}
UPSERTED = ("POST /api/v1/contacts", GRACE)
FIRE = "POST /api/v1/contacts/{0.data.id}/events"
LIMITS = {"x-ratelimit-limit": "120", "x-ratelimit-remaining": "120", "x-ratelimit-reset": NUMBER}


def fired(name: str = PURCHASE, matching: int = 0) -> dict[str, Any]:
    told = {"contactId": "{0.data.id}", "eventName": name, "matchingAutomations": matching, "firedAt": SECONDS}
    return {"data": told}


def error(message: Any) -> dict[str, Any]:
    return {"error": message}


def page(*data: Any, number: int = 1, limit: int = 50, total: int, pages: int) -> dict[str, Any]:
    return {"data": list(data), "pagination": {"page": number, "limit": limit, "total": total, "totalPages": pages}}


def filler(size: int) -> dict[str, Any]:
    """Make data that takes so many bytes as compact JSON."""
    return {"text": "x" * (size - len('{"text":""}'))}


CASES = [
    # POST /api/v1/contacts/{id}/events
    Case("an event is fired", FIRE, {"name": PURCHASE, "data": {"amount": 99.0}}, 200, fired(), [UPSERTED]),
    Case("data is optional", FIRE, {"name": PURCHASE}, 200, fired(), [UPSERTED]),
    Case("data may be null", FIRE, {"name": PURCHASE, "data": None}, 200, fired(), [UPSERTED]),
    Case(
        "data may nest",
        FIRE,
        {"name": PURCHASE, "data": {"items": ["Pro Plan - Annual", {"sku": [1, 2]}], "coupon": None}},
        200,
        fired(),
        [UPSERTED],
    ),
    Case("any name is taken, and given back as it came", FIRE, {"name": "Ünï/ 1"}, 200, fired("Ünï/ 1"), [UPSERTED]),
    Case("data takes 16 KB", FIRE, {"name": PURCHASE, "data": filler(16_384)}, 200, fired(), [UPSERTED]),
    Case(
        "and no more",
        FIRE,
        {"name": PURCHASE, "data": filler(16_385)},
        400,
        error("data takes 16,385 bytes; at most 16,384 are allowed"),
        [UPSERTED],
    ),
    *(
        Case(f"data is no {kind}", FIRE, {"name": PURCHASE, "data": data}, 400, error(TEXT), [UPSERTED])
        for kind, data in (("array", [1]), ("string", "x"), ("number", 1), ("boolean", True))
    ),
    Case(
        "data is nested 32 levels deep at most",
        FIRE,
        b'{"name":"a","data":{"a":' + b"[" * 40 + b"]" * 40 + b"}}",
        400,
        error("data may be nested 32 levels deep, not more"),
        [UPSERTED],
    ),
    Case("a name is needed", FIRE, {"data": {}}, 400, error("name is required"), [UPSERTED]),
    Case("a name is a text", FIRE, {"name": 5}, 400, error("name: Expected `str`, got `int`"), [UPSERTED]),
    Case("a name is not blank", FIRE, {"name": " "}, 400, error("The event name must not be blank"), [UPSERTED]),
    Case("an empty body is an empty object", FIRE, b"", 400, error("name is required"), [UPSERTED]),
    Case("the body is JSON", FIRE, b"{", 400, error("The body is not valid JSON"), [UPSERTED]),
    Case("the body is an object", FIRE, [], 400, error(TEXT), [UPSERTED]),
    Case("the contact is there", "POST /api/v1/contacts/x/events", {"name": PURCHASE}, 404, error("Contact not found")),
    Case(
        "an address is no id",
        f"POST /api/v1/contacts/{ADA}/events",
        {"name": PURCHASE},
        404,
        error("Contact not found"),
    ),
    # POST /api/v1/contacts
    Case("a contact is created", *UPSERTED, 201, {"data": GRACE_ANSWER}),
    Case(
        "and changed by its address",
        "POST /api/v1/contacts",
        {"email": "grace@example.com", "lastName": "Hopper", "metadata": {"rank": 7, "plan": None}},
        200,
        {"data": GRACE_ANSWER | {"lastName": "Hopper", "metadata": {"seats": {"paid": 3}, "rank": 7}}},
        [UPSERTED],
    ),
    Case(
        "a contact is unsubscribed",
        "POST /api/v1/contacts",
        GRACE | {"status": "unsubscribed"},
        200,
        {"data": GRACE_ANSWER | {"status": "unsubscribed"}},
        [UPSERTED],
    ),
    Case("no other status is set", "POST /api/v1/contacts", GRACE | {"status": "bounced"}, 400, error(TEXT)),
    Case("an address is needed", "POST /api/v1/contacts", {}, 400, error("email is required")),
    Case(
        "an address is one",
        "POST /api/v1/contacts",
        {"email": "grace"},
        400,
        error('"grace" is not an e-mail address of at most 254 characters, such as ada@example.com'),
    ),
    # GET /api/v1/contacts
    Case("nobody is there at first", "GET /api/v1/contacts", UNSENT, 200, page(total=0, pages=0)),
    Case(
        "contacts are listed, newest first",
        "GET /api/v1/contacts",
        UNSENT,
        200,
        page(GRACE_ANSWER | {"id": "{1.data.id}"}, GRACE_ANSWER | {"email": ADA}, total=2, pages=1),
        [("POST /api/v1/contacts", GRACE | {"email": ADA}), UPSERTED],
    ),
    Case(
        "by page and limit",
        "GET /api/v1/contacts?page=2&limit=1",
        UNSENT,
        200,
        page(GRACE_ANSWER | {"email": ADA}, number=2, limit=1, total=2, pages=2),
        [("POST /api/v1/contacts", GRACE | {"email": ADA}), UPSERTED],
    ),
    Case(
        "behind the last page there is nothing",
        "GET /api/v1/contacts?page=9000000000000000000",
        UNSENT,
        200,
        page(number=9_000_000_000_000_000_000, total=1, pages=1),
        [UPSERTED],
    ),
    Case(
        "a page has 100 at most",
        "GET /api/v1/contacts?limit=1000",
        UNSENT,
        200,
        page(limit=100, total=0, pages=0),
    ),
    *(
        Case(f"{query} is no page", f"GET /api/v1/contacts?{query}", UNSENT, 400, error(TEXT))
        for query in ("page=0", "page=-1", "page=two", "page=", "limit=0", "limit=many", "limit=1.5")
    ),
    Case("a contact is read", "GET /api/v1/contacts/{0.data.id}", UNSENT, 200, {"data": GRACE_ANSWER}, [UPSERTED]),
    Case("no contact is read", "GET /api/v1/contacts/x", UNSENT, 404, error("Contact not found")),
    # GET /api/v1/automations
    Case("no automation is there at first", "GET /api/v1/automations", UNSENT, 200, page(total=0, pages=0)),
    Case("no automation is read", "GET /api/v1/automations/x", UNSENT, 404, error("Automation not found")),
    # What is said beside the bodies
    Case(
        "the key may come in a header of its own",
        "GET /api/v1/automations",
        UNSENT,
        200,
        page(total=0, pages=0),
        sent={"authorization": "", "x-api-key": "{secret}"},
    ),
    Case("limits are told", "GET /api/v1/contacts", UNSENT, 200, page(total=0, pages=0), headers=LIMITS),
    Case("of errors too", "GET /api/v1/contacts/x", UNSENT, 404, error("Contact not found"), headers=LIMITS),
    Case("and where nothing is", "GET /api/v1/other", UNSENT, 404, error(TEXT), headers=LIMITS),
    Case(
        "a key of another is none",
        "GET /api/v1/contacts",
        UNSENT,
        401,
        error("Invalid or revoked API key"),
        sent={"authorization": "Bearer esx_test_unknown"},
    ),
    Case(
        "a key is needed",
        "GET /api/v1/contacts",
        UNSENT,
        401,
        error("Missing API key"),
        sent={"authorization": ""},
    ),
    Case("another method", "PUT /api/v1/contacts", {}, 405, error(TEXT), headers={"allow": "GET, POST"}),
]


@pytest_asyncio.fixture
async def project(lasting_service: Service) -> Client:
    return await lasting_service.project()


@pytest_asyncio.fixture
async def emailsendx(lasting_service: Service, project: Client) -> AsyncIterator[Caller]:
    async with calling(lasting_service, project, "emailsendx") as caller:
        yield caller


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_emailsendx_answers(emailsendx: Caller, case: Case) -> None:
    await emailsendx.check(case)


async def upserted(caller: Caller) -> str:
    made = (await caller.call(*UPSERTED)).json()
    return str(made["data"]["id"])


async def fire(caller: Caller, contact_id: str, name: str = PURCHASE, **data: Any) -> dict[str, Any]:
    response = await caller.call(f"POST /api/v1/contacts/{contact_id}/events", {"name": name, "data": data})
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()["data"]
    return told


async def test_an_event_matches_active_automations_of_its_name_in_any_case(emailsendx: Caller, project: Client) -> None:
    for name in (PURCHASE, "Purchase_Completed"):
        await automate(project, name)
    await automate(project, PURCHASE, active=False)
    await pause(project, await automate(project, PURCHASE))
    await automate(project, PURCHASE, condition="properties.amount > 100.0")
    await automate(project, "trial_started")
    contact_id = await upserted(emailsendx)
    for name, amount, matching in (
        (PURCHASE, 99, 2),
        ("PURCHASE_COMPLETED", 99, 2),
        (PURCHASE, 200, 3),
        ("trial_ended", 1, 0),
    ):
        told = await fire(emailsendx, contact_id, name, amount=amount)
        assert (told["eventName"], told["matchingAutomations"]) == (name, matching)
    assert [each.name for each in await project.log()] == [PURCHASE, "PURCHASE_COMPLETED", PURCHASE, "trial_ended"]


async def test_a_run_that_an_event_resumes_is_no_automation_that_it_triggered(
    emailsendx: Caller, project: Client
) -> None:
    await automate(project, PURCHASE)
    contact_id = await upserted(emailsendx)
    assert (await fire(emailsendx, contact_id))["matchingAutomations"] == 1
    (run,) = await list_runs(project)
    await await_event(project, run, "paid")
    assert (await fire(emailsendx, contact_id, "paid"))["matchingAutomations"] == 0
    assert (await get_run(project, run.id)).status == pb.RUN_STATUS_QUEUED


async def test_a_definition_of_the_name_judges_the_data_and_is_found_in_any_case(
    emailsendx: Caller, project: Client
) -> None:
    await project.define("Purchase_Completed", schema(amount="number"))
    contact_id = await upserted(emailsendx)
    told = await fire(emailsendx, contact_id, amount="99")
    assert told["eventName"] == PURCHASE
    (event,) = await project.log()
    assert (event.name, dict(event.properties)) == ("Purchase_Completed", {"amount": 99.0})
    path = f"POST /api/v1/contacts/{contact_id}/events"
    refused = await emailsendx.call(path, {"name": PURCHASE, "data": {"coupon": "LAUNCH20"}})
    assert (refused.status_code, refused.json()) == (400, error(TEXT))
    assert len(await project.log()) == 1


async def test_automations_are_listed_with_their_counts(emailsendx: Caller, project: Client) -> None:
    steps = [{"type": "SEND_EMAIL", "subject": "Welcome"}, {"type": "WAIT", "days": 1}]
    welcome = await automate(project, PURCHASE, name="Welcome", attributes=struct({"steps": steps}))
    paused = await pause(project, await automate(project, PURCHASE, name="Paused", attributes=struct({"steps": "x"})))
    draft = await automate(project, "trial_started", name="Draft", active=False)
    contact_id = await upserted(emailsendx)
    for _ in range(3):
        await fire(emailsendx, contact_id)
    runs = await list_runs(project)
    await complete(project, runs[0])

    def shown(automation_id: str, name: str, status: str, *counts: int) -> dict[str, Any]:
        times = {"createdAt": SECONDS, "updatedAt": SECONDS}
        counted = dict(zip(("stepCount", "enrolledCount", "completedCount"), counts, strict=True))
        return {"id": automation_id, "name": name, "status": status, "triggerType": "CUSTOM_EVENT", **counted, **times}

    all_three = [
        shown(draft.id, "Draft", "draft", 0, 0, 0),
        shown(paused.id, "Paused", "paused", 0, 0, 0),
        shown(welcome.id, "Welcome", "active", 2, 3, 1),
    ]
    listed = (await emailsendx.call("GET /api/v1/automations")).json()
    assert listed == page(*all_three, total=3, pages=1)
    second = (await emailsendx.call("GET /api/v1/automations?page=2&limit=2")).json()
    assert second == page(all_three[2], number=2, limit=2, total=3, pages=2)
    assert (await emailsendx.call("GET /api/v1/automations?page=3&limit=2")).json()["data"] == []
    one = (await emailsendx.call(f"GET /api/v1/automations/{welcome.id}")).json()
    assert one == {"data": {**all_three[2], "steps": steps}}
    bare = (await emailsendx.call(f"GET /api/v1/automations/{paused.id}")).json()
    assert bare == {"data": {**all_three[1], "steps": []}}
