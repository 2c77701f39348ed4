"""EmailSendX's requests and responses, in the order of its documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from signalbox.v1 import automations_pb2 as pb
from tests.support.bridge import ID, NUMBER, SECONDS, TEXT, UNSENT, Caller, Case, calling
from tests.support.messages import struct

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Service

NAME = "purchase_completed"
GRACE = {
    "email": "Grace@Example.com",
    "firstName": "Grace",
    "metadata": {"plan": "pro", "customerId": "cus_1"},
}
GRACE_ANSWER = {
    "id": ID,
    "email": "grace@example.com",
    "firstName": "Grace",
    "lastName": None,
    "status": "active",
    "metadata": {"plan": "pro", "customerId": "cus_1"},
    "createdAt": SECONDS,
    "updatedAt": SECONDS,
}
KNOWN = ("POST /api/v1/contacts", GRACE)
EVENTS = "POST /api/v1/contacts/{0.data.id}/events"
DATA = {
    "orderId": "ord_abc123",
    "amount": 99.00,
    "currency": "USD",
    "items": ["Pro Plan - Annual"],
    "coupon": "LAUNCH20",
}


def fired(name: str = NAME, count: int = 0) -> dict[str, Any]:
    return {
        "data": {
            "contactId": "{0.data.id}",
            "eventName": name,
            "matchingAutomations": count,
            "firedAt": SECONDS,
        }
    }


def error(message: Any = TEXT) -> dict[str, Any]:
    return {"error": message}


def page(*items: Any, number: int = 1, limit: int = 50, total: int | None = None) -> dict[str, Any]:
    count = len(items) if total is None else total
    pages = -(-count // limit)
    return {
        "data": list(items),
        "pagination": {"page": number, "limit": limit, "total": count, "totalPages": pages},
    }


CASES = [
    # POST /api/v1/contacts/{id}/events
    Case("an event is fired", EVENTS, {"name": NAME, "data": DATA}, 200, fired(), [KNOWN]),
    Case("data are optional", EVENTS, {"name": NAME}, 200, fired(), [KNOWN]),
    Case(
        "any name is accepted, and returned as it was sent",
        EVENTS,
        {"name": "Any Name!"},
        200,
        fired("Any Name!"),
        [KNOWN],
    ),
    Case("data may have 16 KB", EVENTS, {"name": NAME, "data": {"a": "x" * 16_376}}, 200, fired(), [KNOWN]),
    Case("data may not have more", EVENTS, {"name": NAME, "data": {"a": "x" * 16_377}}, 400, error(), [KNOWN]),
    *(
        Case(f"data are not {data!r}", EVENTS, {"name": NAME, "data": data}, 400, error(), [KNOWN])
        for data in ([1], "text", 5, True)
    ),
    Case("a name is required", EVENTS, {}, 400, error("name is required"), [KNOWN]),
    Case("a name is not empty", EVENTS, {"name": ""}, 400, error(), [KNOWN]),
    Case("a name is a string", EVENTS, {"name": 5}, 400, error(), [KNOWN]),
    Case("the body is JSON", EVENTS, b"{", 400, error(), [KNOWN]),
    Case(
        "an unknown contact is not found",
        "POST /api/v1/contacts/x/events",
        {"name": NAME},
        404,
        error("Contact not found"),
    ),
    # Contacts
    Case("a contact is created", *KNOWN, 201, {"data": GRACE_ANSWER}),
    Case(
        "and updated by its address",
        "POST /api/v1/contacts",
        {"email": "grace@example.com", "lastName": "Hopper", "metadata": {"plan": "free"}},
        200,
        {
            "data": GRACE_ANSWER
            | {"id": "{0.data.id}", "lastName": "Hopper", "metadata": {"plan": "free", "customerId": "cus_1"}}
        },
        [KNOWN],
    ),
    Case("an address is required", "POST /api/v1/contacts", {}, 400, error("email is required")),
    Case("an address is valid", "POST /api/v1/contacts", {"email": "grace"}, 400, error()),
    Case("a contact is returned", "GET /api/v1/contacts/{0.data.id}", UNSENT, 200, {"data": GRACE_ANSWER}, [KNOWN]),
    Case("an unknown contact is not found", "GET /api/v1/contacts/x", UNSENT, 404, error("Contact not found")),
    Case("there are no contacts at first", "GET /api/v1/contacts", UNSENT, 200, page()),
    Case("contacts are listed", "GET /api/v1/contacts", UNSENT, 200, page(GRACE_ANSWER), [KNOWN]),
    Case(
        "contacts are listed by pages, newest first",
        "GET /api/v1/contacts?page=2&limit=1",
        UNSENT,
        200,
        page(GRACE_ANSWER, number=2, limit=1, total=2),
        [KNOWN, ("POST /api/v1/contacts", {"email": "second@example.com"})],
    ),
    Case(
        "a page after the last is empty", "GET /api/v1/contacts?page=9", UNSENT, 200, page(number=9, total=1), [KNOWN]
    ),
    *(
        Case(f"no page {query}", f"GET /api/v1/contacts?{query}", UNSENT, 400, error())
        for query in ("page=0", "page=x", "limit=0", "limit=101")
    ),
    # Automations
    Case("there are no automations", "GET /api/v1/automations", UNSENT, 200, page()),
    Case("an unknown one is not found", "GET /api/v1/automations/x", UNSENT, 404, error("Automation not found")),
    # Keys
    Case(
        "the key may be in its own header",
        "GET /api/v1/contacts",
        UNSENT,
        200,
        page(),
        sent={"authorization": "", "x-api-key": "{key}"},
    ),
    Case(
        "every response states the limit",
        "GET /api/v1/contacts",
        UNSENT,
        200,
        page(),
        headers={"x-ratelimit-limit": "120", "x-ratelimit-remaining": "120", "x-ratelimit-reset": NUMBER},
    ),
    Case("an unknown key", "GET /api/v1/contacts", UNSENT, 401, error(), sent={"authorization": "Bearer esx_test_x"}),
]


@pytest_asyncio.fixture
async def emailsendx(lasting_service: Service) -> AsyncIterator[Caller]:
    async with calling(lasting_service, await lasting_service.project(), "emailsendx") as caller:
        yield caller


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_emailsendx_responds(emailsendx: Caller, case: Case) -> None:
    await emailsendx.check(case)


async def automation(emailsendx: Caller, event_name: str, state: pb.AutomationState.ValueType) -> str:
    wanted = pb.Automation(
        name="thanks", event_name=event_name, state=state, attributes=struct({"steps": [{"type": "send_email"}]})
    )
    request = pb.CreateAutomationRequest(automation=wanted)
    return (await emailsendx.client.automations.CreateAutomation(request)).automation.id


async def test_active_automations_match_in_any_case(emailsendx: Caller) -> None:
    for name in (NAME, "Purchase_Completed", "other"):
        await automation(emailsendx, name, pb.AUTOMATION_STATE_ACTIVE)
    await automation(emailsendx, NAME, pb.AUTOMATION_STATE_DRAFT)
    contact = (await emailsendx.call(*KNOWN)).json()["data"]["id"]
    for name in (NAME, "PURCHASE_COMPLETED", "Purchase_Completed"):
        answer = await emailsendx.call(f"POST /api/v1/contacts/{contact}/events", {"name": name, "data": DATA})
        assert (answer.json()["data"]["eventName"], answer.json()["data"]["matchingAutomations"]) == (name, 2)
    assert [each.name for each in await emailsendx.client.log()] == [NAME, "PURCHASE_COMPLETED", "Purchase_Completed"]


async def test_automations_are_shown_with_their_counts(emailsendx: Caller) -> None:
    active = await automation(emailsendx, NAME, pb.AUTOMATION_STATE_ACTIVE)
    draft = await automation(emailsendx, NAME, pb.AUTOMATION_STATE_DRAFT)
    contact = (await emailsendx.call(*KNOWN)).json()["data"]["id"]
    for _ in range(3):
        await emailsendx.call(f"POST /api/v1/contacts/{contact}/events", {"name": NAME})
    runs = (await emailsendx.client.automations.ListRuns(pb.ListRunsRequest())).runs
    await emailsendx.client.automations.CompleteRun(pb.CompleteRunRequest(run_id=runs[0].id))
    shown = {
        "id": active,
        "name": "thanks",
        "status": "active",
        "triggerType": "CUSTOM_EVENT",
        "stepCount": 1,
        "enrolledCount": 3,
        "completedCount": 1,
        "createdAt": SECONDS,
        "updatedAt": SECONDS,
    }
    unused = shown | {"id": draft, "status": "draft", "enrolledCount": 0, "completedCount": 0}
    assert (await emailsendx.call("GET /api/v1/automations")).json() == page(unused, shown)
    one = await emailsendx.call(f"GET /api/v1/automations/{active}")
    assert one.json() == {"data": shown | {"steps": [{"type": "send_email"}]}}


async def test_the_data_are_validated_against_a_definition_of_the_name(emailsendx: Caller) -> None:
    await emailsendx.client.define()
    contact = (await emailsendx.call(*KNOWN)).json()["data"]["id"]
    refused = await emailsendx.call(
        f"POST /api/v1/contacts/{contact}/events", {"name": "Order_Completed", "data": {"order_total": "much"}}
    )
    wrong = 'Property "order_total" must be a number; got the string "much"'
    assert (refused.status_code, refused.json()) == (400, {"error": wrong})
