"""Arsel's requests and responses, in the order of its documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from server.bridge.dialects.arsel.errors import write_error
from server.bridge.errors import ReportedError
from signalbox.v1 import automations_pb2 as pb
from tests.support.bridge import ID, MILLIS, TEXT, UNSENT, Caller, Case, calling
from tests.support.messages import ADA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Service

NAME = "order.completed"
FIELDS = [
    {"name": "order_id", "type": "string", "required": True},
    {"name": "total", "type": "number", "required": False},
]
ORDER = {"name": NAME, "description": "An order was paid for", "schema": {"fields": FIELDS}}
ORDER_ANSWER = {"id": ID, **ORDER, "created_at": MILLIS, "updated_at": MILLIS}
DEFINED = ("POST /v1/events", ORDER)
DATA = {"order_id": "A-1023", "total": 149.99}
GRACE = {
    "email": "Grace@Example.com",
    "phone_number": "+966512345678",
    "first_name": "Grace",
    "properties": {"plan": "pro", "age": 30},
}
GRACE_ANSWER = {
    "id": ID,
    "email": "grace@example.com",
    "phone_number": "+966512345678",
    "first_name": "Grace",
    "last_name": None,
    "source": "api",
    "properties": {"plan": "pro", "age": 30},
    "is_suppressed": False,
    "created_at": MILLIS,
    "updated_at": MILLIS,
}
KNOWN = ("POST /v1/contacts", GRACE)
BARE_CONTACT = GRACE_ANSWER | {"email": ADA + "x", "phone_number": None, "first_name": None, "properties": {}}
ACCEPTED = {"id": ID, "status": "accepted"}


def error(status: int, name: str, message: Any = TEXT) -> dict[str, Any]:
    return {"status_code": status, "name": name, "message": message}


def bad(message: Any = TEXT) -> dict[str, Any]:
    return error(400, "bad_request", message)


def gone(message: str) -> dict[str, Any]:
    return error(404, "not_found", message)


def taken(message: str) -> dict[str, Any]:
    return error(409, "conflict", message)


def event(**changes: Any) -> dict[str, Any]:
    sent = {"event": NAME, "email": ADA, "data": DATA, **changes}
    return {name: value for name, value in sent.items() if value is not UNSENT}


def listing(*items: Any, more: bool = False) -> dict[str, Any]:
    return {"object": "list", "has_more": more, "data": list(items)}


ONE_OF_TWO = bad("Provide either email or contact_id.")
MISMATCH = error(422, "validation_error", f'Payload does not match the "{NAME}" schema.')

CASES = [
    # POST /v1/events
    Case("a definition is created", *DEFINED, 201, ORDER_ANSWER),
    Case(
        "a name is enough",
        "POST /v1/events",
        {"name": "a b.c"},
        201,
        {
            "id": ID,
            "name": "a b.c",
            "description": None,
            "schema": {"fields": []},
            "created_at": MILLIS,
            "updated_at": MILLIS,
        },
    ),
    Case("a name is required", "POST /v1/events", {}, 400, bad("name is required")),
    Case("a name is not blank", "POST /v1/events", {"name": " "}, 400, bad()),
    Case("a name has at most 80 characters", "POST /v1/events", {"name": "a" * 81}, 400, bad()),
    Case("a description has at most 2,000", "POST /v1/events", {"name": "a", "description": "x" * 2001}, 400, bad()),
    *(
        Case(
            f"a field is not {field}",
            "POST /v1/events",
            {"name": "a", "schema": {"fields": [field]}},
            400,
            bad(),
        )
        for field in (
            {"name": "1a", "type": "string"},
            {"name": "a-b", "type": "string"},
            {"name": "a" * 65, "type": "string"},
            {"name": "a", "type": "object"},
            {"name": "a"},
        )
    ),
    Case(
        "a name is unique",
        *DEFINED,
        409,
        error(409, "conflict", f'An event named "{NAME}" already exists.'),
        [DEFINED],
    ),
    # GET /v1/events
    Case("there are no definitions at first", "GET /v1/events", UNSENT, 200, listing()),
    Case("definitions are listed", "GET /v1/events", UNSENT, 200, listing(ORDER_ANSWER), [DEFINED]),
    Case(
        "a page has up to limit definitions, newest first",
        "GET /v1/events?limit=1",
        UNSENT,
        200,
        listing(ORDER_ANSWER, more=True),
        [("POST /v1/events", {"name": "first"}), DEFINED],
    ),
    Case(
        "a page comes after an id",
        "GET /v1/events?after={1.id}",
        UNSENT,
        200,
        listing(ORDER_ANSWER),
        [DEFINED, ("POST /v1/events", {"name": "second"})],
    ),
    Case(
        "a page comes before an id",
        "GET /v1/events?limit=1&before={0.id}",
        UNSENT,
        200,
        listing(ORDER_ANSWER, more=True),
        [("POST /v1/events", {"name": "first"}), DEFINED, ("POST /v1/events", {"name": "third"})],
    ),
    Case(
        "definitions are searched by a part of the name",
        "GET /v1/events?search=ORDER.",
        UNSENT,
        200,
        listing(ORDER_ANSWER),
        [DEFINED, ("POST /v1/events", {"name": "other"})],
    ),
    Case("a page has one cursor", "GET /v1/events?after=a&before=b", UNSENT, 400, bad()),
    *(
        Case(f"not {limit} of them", f"GET /v1/events?limit={limit}", UNSENT, 400, bad())
        for limit in ("0", "101", "-1", "many")
    ),
    # /v1/events/{id}
    Case("a definition is returned", "GET /v1/events/{0.id}", UNSENT, 200, ORDER_ANSWER | {"id": "{0.id}"}, [DEFINED]),
    Case(
        "a definition is identified by its id only",
        f"GET /v1/events/{NAME}",
        UNSENT,
        404,
        gone(f"Event {NAME} not found"),
        [DEFINED],
    ),
    Case(
        "a schema is replaced as a whole",
        "PATCH /v1/events/{0.id}",
        {"id": "x", "name": NAME, "schema": {"fields": [{"name": "at", "type": "date"}]}},
        200,
        ORDER_ANSWER | {"schema": {"fields": [{"name": "at", "type": "date", "required": False}]}},
        [DEFINED],
    ),
    Case("a name cannot change", "PATCH /v1/events/{0.id}", {"name": "other"}, 400, bad(), [DEFINED]),
    Case(
        "null removes a description",
        "PATCH /v1/events/{0.id}",
        {"description": None},
        200,
        ORDER_ANSWER | {"description": None},
        [DEFINED],
    ),
    Case("an unknown one is not updated", "PATCH /v1/events/x", {}, 404, gone("Event x not found")),
    Case("a definition is deleted", "DELETE /v1/events/{0.id}", UNSENT, 200, {"message": "Event deleted"}, [DEFINED]),
    Case(
        "a deleted one is not found",
        "GET /v1/events/{0.id}",
        UNSENT,
        404,
        gone("Event {0.id} not found"),
        [DEFINED, ("DELETE /v1/events/{0.id}", UNSENT)],
    ),
    # POST /v1/events/send
    Case("an event is accepted", "POST /v1/events/send", event(), 202, ACCEPTED, [DEFINED]),
    Case(
        "an event may have a timestamp",
        "POST /v1/events/send",
        event(timestamp="2026-06-01T12:00:00.000Z"),
        202,
        ACCEPTED,
        [DEFINED],
    ),
    Case("a timestamp is valid", "POST /v1/events/send", event(timestamp="noon"), 400, bad(), [DEFINED]),
    Case(
        "a contact may be identified by its id",
        "POST /v1/events/send",
        event(email=UNSENT, contact_id="{1.id}"),
        202,
        ACCEPTED,
        [DEFINED, KNOWN],
    ),
    Case("a contact is required", "POST /v1/events/send", event(email=UNSENT), 400, ONE_OF_TWO, [DEFINED]),
    Case("a contact is identified once", "POST /v1/events/send", event(contact_id="x"), 400, ONE_OF_TWO, [DEFINED]),
    Case(
        "an unknown address is accepted",
        "POST /v1/events/send",
        event(email="new@example.com"),
        202,
        ACCEPTED,
        [DEFINED],
    ),
    Case("an address is valid", "POST /v1/events/send", event(email="nobody"), 400, bad(), [DEFINED]),
    Case(
        "an unknown id is not found",
        "POST /v1/events/send",
        event(email=UNSENT, contact_id="x"),
        404,
        gone("Contact not found"),
        [DEFINED],
    ),
    Case(
        "an undefined event is not found",
        "POST /v1/events/send",
        event(),
        404,
        gone(f'No event named "{NAME}" is defined in this organization.'),
    ),
    Case("data are required", "POST /v1/events/send", event(data=UNSENT), 400, bad("data is required"), [DEFINED]),
    Case("data are an object", "POST /v1/events/send", event(data=[1]), 400, bad(), [DEFINED]),
    Case("a required field may not be missing", "POST /v1/events/send", event(data={}), 422, MISMATCH, [DEFINED]),
    Case(
        "a field has its declared type",
        "POST /v1/events/send",
        event(data={"order_id": "A", "total": "much"}),
        422,
        MISMATCH,
        [DEFINED],
    ),
    Case(
        "undeclared data are accepted",
        "POST /v1/events/send",
        event(data={**DATA, "more": [1]}),
        202,
        ACCEPTED,
        [DEFINED],
    ),
    # Contacts
    Case("a contact is created", *KNOWN, 201, GRACE_ANSWER),
    Case(
        "a contact is created once",
        *KNOWN,
        409,
        error(409, "conflict", 'A contact with the email "grace@example.com" already exists.'),
        [KNOWN],
    ),
    Case(
        "a contact is returned by its id",
        "GET /v1/contacts/{0.id}",
        UNSENT,
        200,
        GRACE_ANSWER | {"id": "{0.id}"},
        [KNOWN],
    ),
    Case("an address is enough", "POST /v1/contacts", {"email": ADA + "x"}, 201, BARE_CONTACT),
    Case("an address is required", "POST /v1/contacts", {"phone_number": "+1"}, 400, bad("email is required")),
    Case("a first name has at most 100 characters", "POST /v1/contacts", GRACE | {"first_name": "x" * 101}, 400, bad()),
    Case(
        "absent fields stay, null clears, properties are replaced",
        "PATCH /v1/contacts/{0.id}",
        {"id": "{0.id}", "email": "GRACE@example.com", "first_name": None, "properties": {"rank": 7}},
        200,
        GRACE_ANSWER | {"first_name": None, "properties": {"rank": 7}},
        [KNOWN],
    ),
    Case("a PATCH may change nothing", "PATCH /v1/contacts/{0.id}", b"", 200, GRACE_ANSWER, [KNOWN]),
    *(
        Case(f"the address stays, not {email}", "PATCH /v1/contacts/{0.id}", {"email": email}, 400, bad(), [KNOWN])
        for email in ("other@example.com", None)
    ),
    Case("filters by list are not supported", "GET /v1/contacts?list_id=a", UNSENT, 400, bad()),
    Case("a contact is deleted", "DELETE /v1/contacts/{0.id}", UNSENT, 200, {"message": "Contact deleted"}, [KNOWN]),
    *(
        Case(f"nobody to {method}", f"{method} /v1/contacts/x", body, 404, gone("Contact not found"))
        for method, body in (("GET", UNSENT), ("PATCH", {}), ("DELETE", UNSENT))
    ),
    Case("contacts are listed", "GET /v1/contacts?limit=1", UNSENT, 200, listing(GRACE_ANSWER, more=True), [KNOWN]),
    Case(
        "contacts are searched by address", "GET /v1/contacts?search=GRACE", UNSENT, 200, listing(GRACE_ANSWER), [KNOWN]
    ),
    Case("there is no page before the newest", "GET /v1/contacts?before={0.id}", UNSENT, 200, listing(), [KNOWN]),
    Case(
        "several contacts are deleted together",
        "POST /v1/contacts/bulk-delete",
        {"contact_ids": ["{0.id}", "{1.id}", "{0.id}", "x"]},
        200,
        {"message": "Contacts deleted", "deleted": 2},
        [KNOWN, ("POST /v1/contacts", {"email": "other@example.com"})],
    ),
    Case("ids are required", "POST /v1/contacts/bulk-delete", {}, 400, bad("contact_ids is required")),
    Case("at least one id is required", "POST /v1/contacts/bulk-delete", {"contact_ids": []}, 400, bad()),
    Case("at most 1,000 ids are accepted", "POST /v1/contacts/bulk-delete", {"contact_ids": ["x"] * 1_001}, 400, bad()),
    # Keys
    Case(
        "an unknown key",
        "GET /v1/events",
        UNSENT,
        401,
        error(401, "unauthorized", "Invalid or missing API key"),
        sent={"authorization": "Bearer be_unknown"},
    ),
    Case(
        "a path of another dialect",
        "GET /v1/events/eventName/a",
        UNSENT,
        404,
        gone("There is no GET /v1/events/eventName/a here"),
    ),
]


@pytest_asyncio.fixture
async def arsel(lasting_service: Service) -> AsyncIterator[Caller]:
    client = await lasting_service.project()
    await client.upsert()
    async with calling(lasting_service, client, "arsel") as caller:
        yield caller


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_arsel_responds(arsel: Caller, case: Case) -> None:
    await arsel.check(case)


async def activate(arsel: Caller, condition: str = "") -> str:
    automation = pb.Automation(name="welcome", event_name=NAME, condition=condition, state=pb.AUTOMATION_STATE_ACTIVE)
    request = pb.CreateAutomationRequest(automation=automation)
    return (await arsel.client.automations.CreateAutomation(request)).automation.id


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "bad_request"),
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not_found"),
        (405, "method_not_allowed"),
        (408, "request_timeout"),
        (409, "conflict"),
        (413, "payload_too_large"),
        (415, "unsupported_media_type"),
        (422, "validation_error"),
        (429, "rate_limit_exceeded"),
        (500, "internal_server_error"),
        (503, "service_unavailable"),
        (418, "error"),
    ],
)
def test_an_error_without_a_name_has_the_name_of_its_status(status: int, name: str) -> None:
    assert write_error(ReportedError(status, None, "why"), ValueError(), "") == error(status, name, "why")
    assert write_error(ReportedError(status, "other", "why"), ValueError(), "") == error(status, "other", "why")


async def test_a_definition_in_use_is_not_deleted(arsel: Caller) -> None:
    definition = (await arsel.call(*DEFINED)).json()["id"]
    used = [await activate(arsel), await activate(arsel)]
    refused = await arsel.call(f"DELETE /v1/events/{definition}")
    message = f'Event "{NAME}" is used by 2 active flow(s). Remove the trigger from those flows first.'
    assert (refused.status_code, refused.json()) == (409, error(409, "conflict", message))
    for automation in used:
        await arsel.client.automations.PauseAutomation(pb.PauseAutomationRequest(id=automation))
    assert (await arsel.call(f"DELETE /v1/events/{definition}")).status_code == 200


async def test_a_contact_is_created_when_an_automation_matches(arsel: Caller) -> None:
    await arsel.call(*DEFINED)
    await activate(arsel, "properties.total > 100")
    for total in (5, 500):
        sent = event(email=f"new{total}@example.com", data={"order_id": "A", "total": total})
        assert (await arsel.call("POST /v1/events/send", sent)).status_code == 202
    people = (await arsel.call("GET /v1/contacts?search=new")).json()["data"]
    assert [each["email"] for each in people] == ["new500@example.com"]


async def test_the_timestamp_of_an_event_is_stored(arsel: Caller) -> None:
    await arsel.call(*DEFINED)
    texts = ("2026-06-01T14:00:00+02:00", "2026-06-01T12:00Z", "2026-06-01T14:00+02", "20260601T120000+0000")
    for text in texts:
        assert (await arsel.call("POST /v1/events/send", event(timestamp=text))).status_code == 202
    assert {each.occurred_at.ToJsonString() for each in await arsel.client.log()} == {"2026-06-01T12:00:00Z"}
    refused = (await arsel.call("POST /v1/events/send", event(timestamp="2026-06-01T12:00"))).json()
    assert "with an offset, such as 2026-06-01T12:00:00Z" in refused["message"]


async def test_an_unsubscribed_contact_is_suppressed(arsel: Caller) -> None:
    await arsel.client.upsert(ADA, {"unsubscribed": True})
    (contact,) = (await arsel.call("GET /v1/contacts")).json()["data"]
    assert (contact["is_suppressed"], contact["properties"]) == (True, {})
    changed = (await arsel.call(f"PATCH /v1/contacts/{contact['id']}", {"properties": {"plan": "pro"}})).json()
    assert (changed["is_suppressed"], changed["properties"]) == (True, {"plan": "pro"})
