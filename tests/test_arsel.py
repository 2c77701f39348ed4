"""Arsel on the wire, line by line beside its documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from signalbox.v1 import event_definitions_pb2 as pb
from tests.support.automations import automate, pause
from tests.support.bridge import ID, MILLIS, TEXT, UNSENT, Caller, Case, calling
from tests.support.messages import ADA, schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Client, Service

ORDER = "order.completed"
FIELDS = [
    {"name": "order_id", "type": "string", "required": True},
    {"name": "total", "type": "number", "required": True},
    {"name": "is_gift", "type": "boolean", "required": False},
    {"name": "placed_on", "type": "date", "required": False},
]
DEFINITION = {"name": ORDER, "description": "Fired at checkout.", "schema": {"fields": FIELDS}}
DEFINED = ("POST /v1/events", DEFINITION)
DEFINITION_ANSWER = {"id": ID, **DEFINITION, "created_at": MILLIS, "updated_at": MILLIS}
BARE_ANSWER = DEFINITION_ANSWER | {"name": "bare", "description": None, "schema": {"fields": []}}

JOHN = {
    "email": "John.Doe@example.com",
    "phone_number": "+966512345678",
    "first_name": "John",
    "last_name": "Doe",
    "properties": {"company": "Acme Inc", "age": 30},
}
CREATED = ("POST /v1/contacts", JOHN)
JOHN_ANSWER = {
    "id": ID,
    **JOHN,
    "email": "john.doe@example.com",
    "source": "api",
    "is_suppressed": False,
    "created_at": MILLIS,
    "updated_at": MILLIS,
}
ACCEPTED = {"id": ID, "status": "accepted"}
SEND = "POST /v1/events/send"
DATA = {"order_id": "A-1023", "total": 149.99}
UNKNOWN_ID = "01957e3a-4b5c-7d8e-9f0a-1b2c3d4e5f6a"
LIMITS = {"ratelimit-limit": "2", "ratelimit-remaining": "2", "ratelimit-reset": "1"}


def error(status: int, name: str, message: Any = TEXT) -> dict[str, Any]:
    return {"status_code": status, "name": name, "message": message}


def bad_request(message: Any = TEXT) -> dict[str, Any]:
    return error(400, "bad_request", message)


def invalid(message: Any = TEXT) -> dict[str, Any]:
    return error(422, "validation_error", message)


def not_found(message: Any = TEXT) -> dict[str, Any]:
    return error(404, "not_found", message)


def event(data: Any = DATA, **more: Any) -> dict[str, Any]:
    return {"event": ORDER, "email": ADA, "data": data, **more}


def named(*names: str) -> list[tuple[str, Any]]:
    return [("POST /v1/events", {"name": name}) for name in names]


def page(*data: Any, more: bool = False) -> dict[str, Any]:
    return {"object": "list", "has_more": more, "data": list(data)}


def bare(name: str, number: int) -> dict[str, Any]:
    return BARE_ANSWER | {"name": name, "id": f"{{{number}.id}}"}


def john(number: int) -> dict[str, Any]:
    return JOHN_ANSWER | {"email": f"john{number}@example.com", "id": f"{{{number}.id}}"}


JOHNS = [("POST /v1/contacts", JOHN | {"email": f"john{number}@example.com"}) for number in range(3)]
MISMATCH = invalid(f'Payload does not match the "{ORDER}" schema.')
NEITHER = bad_request("Provide either email or contact_id.")
NO_CURSOR = bad_request(f"Unknown cursor {UNKNOWN_ID}: after and before take the id of a listed item.")
BOTH = bad_request("Provide either after or before, not both.")

CASES = [
    # POST /v1/events
    Case("an event is defined", *DEFINED, 201, DEFINITION_ANSWER),
    Case("a definition needs a name alone", "POST /v1/events", {"name": "bare"}, 201, BARE_ANSWER),
    Case(
        "a field may be left optional",
        "POST /v1/events",
        {"name": "bare", "schema": {"fields": [{"name": "_a1", "type": "date"}]}},
        201,
        BARE_ANSWER | {"schema": {"fields": [{"name": "_a1", "type": "date", "required": False}]}},
    ),
    Case("any character is a name's", "POST /v1/events", {"name": "a/b c%"}, 201, BARE_ANSWER | {"name": "a/b c%"}),
    Case("a name has 80 characters", "POST /v1/events", {"name": "ü" * 80}, 201, BARE_ANSWER | {"name": "ü" * 80}),
    Case("and no more", "POST /v1/events", {"name": "a" * 81}, 422, invalid()),
    Case("a name is not empty", "POST /v1/events", {"name": ""}, 422, invalid()),
    Case("a name is not blank", "POST /v1/events", {"name": " "}, 422, invalid()),
    Case("a name is needed", "POST /v1/events", {}, 400, bad_request("name is required")),
    Case("a name is a text", "POST /v1/events", {"name": 5}, 422, invalid("name: Expected `str`, got `int`")),
    Case("an empty body is an empty object", "POST /v1/events", b"", 400, bad_request("name is required")),
    Case("the body is JSON", "POST /v1/events", b"{", 400, bad_request("The body is not valid JSON")),
    Case(
        "a description has 2000 characters", "POST /v1/events", DEFINITION | {"description": "x" * 2001}, 422, invalid()
    ),
    *(
        Case(
            f"{name[:9]!r} is no field", "POST /v1/events", {"name": "a", "schema": {"fields": [field]}}, 422, invalid()
        )
        for name in ("1st", "a-b", "a.b", "", "a b", "ü", "a" * 65, "a\n")
        for field in [{"name": name, "type": "string", "required": True}]
    ),
    Case(
        "a field has one of four types",
        "POST /v1/events",
        {"name": "a", "schema": {"fields": [{"name": "b", "type": "object", "required": True}]}},
        422,
        invalid(),
    ),
    Case(
        "every fault is named",
        "POST /v1/events",
        {"name": "a", "schema": {"fields": [{"name": each, "type": "string"} for each in "aabb"]}},
        422,
        invalid(
            'Property "a" is declared twice at this level, Property "b" is declared twice at this level',
        ),
    ),
    Case(
        "a name is defined once",
        *DEFINED,
        409,
        error(409, "conflict", f'An event named "{ORDER}" already exists.'),
        [DEFINED],
    ),
    Case(
        "in another case it is another",
        "POST /v1/events",
        {"name": "BARE"},
        201,
        BARE_ANSWER | {"name": "BARE"},
        named("bare"),
    ),
    # GET /v1/events
    Case("nothing is defined at first", "GET /v1/events", UNSENT, 200, page()),
    Case("the newest comes first", "GET /v1/events", UNSENT, 200, page(bare("b", 1), bare("a", 0)), named("a", "b")),
    Case(
        "a page is limited",
        "GET /v1/events?limit=2",
        UNSENT,
        200,
        page(bare("c", 2), bare("b", 1), more=True),
        named("a", "b", "c"),
    ),
    Case(
        "by default to 20",
        "GET /v1/events",
        UNSENT,
        200,
        page(*(bare(f"e{number}", number) for number in range(20, 0, -1)), more=True),
        named(*(f"e{number}" for number in range(21))),
    ),
    Case("the next goes on", "GET /v1/events?after={1.id}", UNSENT, 200, page(bare("a", 0)), named("a", "b", "c")),
    Case(
        "so does a limited one",
        "GET /v1/events?after={2.id}&limit=1",
        UNSENT,
        200,
        page(bare("b", 1), more=True),
        named("a", "b", "c"),
    ),
    Case("behind the last there is nothing", "GET /v1/events?after={0.id}", UNSENT, 200, page(), named("a", "b")),
    Case(
        "the page before is next to the cursor",
        "GET /v1/events?before={0.id}&limit=1",
        UNSENT,
        200,
        page(bare("b", 1), more=True),
        named("a", "b", "c"),
    ),
    Case(
        "a cursor outlives what it names",
        "GET /v1/events?after={1.id}",
        UNSENT,
        200,
        page(bare("a", 0)),
        [*named("a", "b", "c"), ("DELETE /v1/events/{1.id}", UNSENT)],
    ),
    Case("a cursor is one", f"GET /v1/events?after={UNKNOWN_ID}", UNSENT, 400, NO_CURSOR),
    Case("either way", f"GET /v1/events?before={UNKNOWN_ID}", UNSENT, 400, NO_CURSOR),
    Case("a name is no cursor", "GET /v1/events?after=a", UNSENT, 400, bad_request(), named("a")),
    Case("one cursor is enough", "GET /v1/events?after={0.id}&before={0.id}", UNSENT, 400, BOTH, named("a")),
    Case(
        "a search is for a part in any case",
        "GET /v1/events?search=%C3%9CX",
        UNSENT,
        200,
        page(bare("Üx", 2), bare("aüXb", 0)),
        named("aüXb", "b", "Üx"),
    ),
    Case("a search is no pattern", "GET /v1/events?search=%25", UNSENT, 200, page(bare("5%", 0)), named("5%", "b")),
    *(
        Case(f"a limit is not {limit!r}", f"GET /v1/events?limit={limit}", UNSENT, 422, invalid())
        for limit in ("0", "101", "-1", "many", "")
    ),
    # /v1/events/{id}
    Case("one is read", "GET /v1/events/{0.id}", UNSENT, 200, DEFINITION_ANSWER | {"id": "{0.id}"}, [DEFINED]),
    Case("a name is no id", f"GET /v1/events/{ORDER}", UNSENT, 404, not_found(f"Event {ORDER} not found"), [DEFINED]),
    *(
        Case(f"none is there to {method}", f"{method} /v1/events/{UNKNOWN_ID}", {}, 404, gone)
        for method in ("GET", "PATCH", "DELETE")
        for gone in [not_found(f"Event {UNKNOWN_ID} not found")]
    ),
    Case(
        "one is described anew",
        "PATCH /v1/events/{0.id}",
        {"description": "Someone paid."},
        200,
        DEFINITION_ANSWER | {"description": "Someone paid."},
        [DEFINED],
    ),
    Case(
        "a description is taken away",
        "PATCH /v1/events/{0.id}",
        {"description": None},
        200,
        DEFINITION_ANSWER | {"description": None},
        [DEFINED],
    ),
    Case(
        "a schema is replaced whole",
        "PATCH /v1/events/{0.id}",
        {"schema": {"fields": FIELDS[2:3]}},
        200,
        DEFINITION_ANSWER | {"schema": {"fields": FIELDS[2:3]}},
        [DEFINED],
    ),
    Case("a body may change nothing", "PATCH /v1/events/{0.id}", {}, 200, DEFINITION_ANSWER, [DEFINED]),
    Case(
        "what is, may be repeated",
        "PATCH /v1/events/{0.id}",
        {"id": "{0.id}", "name": ORDER},
        200,
        DEFINITION_ANSWER,
        [DEFINED],
    ),
    Case(
        "another name is not accepted",
        "PATCH /v1/events/{0.id}",
        {"name": "order.paid", "description": "x"},
        400,
        bad_request("The name of an event cannot be changed."),
        [DEFINED],
    ),
    Case("a schema is an object", "PATCH /v1/events/{0.id}", {"schema": None}, 422, invalid(), [DEFINED]),
    Case("one is deleted", "DELETE /v1/events/{0.id}", UNSENT, 200, {"message": "Event deleted"}, [DEFINED]),
    Case("a body of a DELETE is ignored", "DELETE /v1/events/{0.id}", {}, 200, {"message": "Event deleted"}, [DEFINED]),
    Case(
        "a deleted one is gone",
        "GET /v1/events/{0.id}",
        UNSENT,
        404,
        not_found("Event {0.id} not found"),
        [DEFINED, ("DELETE /v1/events/{0.id}", UNSENT)],
    ),
    Case("a deleted name is free", *DEFINED, 201, DEFINITION_ANSWER, [DEFINED, ("DELETE /v1/events/{0.id}", UNSENT)]),
    # POST /v1/events/send
    Case("an event is accepted", SEND, event(), 202, ACCEPTED, [DEFINED]),
    Case("from a contact's id", SEND, event(email=None, contact_id="{1.id}"), 202, ACCEPTED, [DEFINED, CREATED]),
    Case("from an address that is nobody's", SEND, event(email="new@example.com"), 202, ACCEPTED, [DEFINED]),
    Case("a field that is not declared is kept", SEND, event(DATA | {"coupon": 1}), 202, ACCEPTED, [DEFINED]),
    Case(
        "values are coerced",
        SEND,
        event({"order_id": 7, "total": "149.99", "is_gift": "true"}),
        202,
        ACCEPTED,
        [DEFINED],
    ),
    *(
        Case(f"it occurred at {when}", SEND, event(timestamp=when), 202, ACCEPTED, [DEFINED])
        for when in ("2026-06-01T12:00:00.000Z", "2026-06-01T15:00:00+03:00", "2026-06-01", None)
    ),
    *(
        Case(f"{when!r} is no time", SEND, event(timestamp=when), 422, invalid(), [DEFINED])
        for when in ("2026-06-01T12:00:00", "yesterday", "", "2026-06-01 12:00:00Z", 1_780_000_000_000)
    ),
    Case("nobody is named", SEND, {"event": ORDER, "data": DATA}, 400, NEITHER, [DEFINED]),
    Case("nobody is named by nothing", SEND, event(email="", contact_id=None), 400, NEITHER, [DEFINED]),
    Case("somebody is named twice", SEND, event(contact_id="{1.id}"), 400, NEITHER, [DEFINED, CREATED]),
    Case("data is required", SEND, {"event": ORDER, "email": ADA}, 400, bad_request("data is required"), [DEFINED]),
    Case("data is an object", SEND, event([1]), 422, invalid("data: Expected `object`, got `array`"), [DEFINED]),
    Case("data is not null", SEND, event(None), 422, invalid("data: Expected `object`, got `null`"), [DEFINED]),
    Case("an event is required", SEND, {"email": ADA, "data": {}}, 400, bad_request("event is required")),
    Case("an address is one", SEND, event(email="john.doe"), 422, invalid(), [DEFINED]),
    Case(
        "the event is defined",
        SEND,
        event(),
        404,
        not_found(f'No event named "{ORDER}" is defined in this organization.'),
    ),
    Case(
        "in this very case",
        SEND,
        event(event="Order.Completed"),
        404,
        not_found('No event named "Order.Completed" is defined in this organization.'),
        [DEFINED],
    ),
    Case(
        "a deleted event takes nothing",
        SEND,
        event(),
        404,
        not_found(f'No event named "{ORDER}" is defined in this organization.'),
        [DEFINED, ("DELETE /v1/events/{0.id}", UNSENT)],
    ),
    Case(
        "a contact's id is known",
        SEND,
        event(email=None, contact_id=UNKNOWN_ID),
        404,
        not_found("Contact not found"),
        [DEFINED],
    ),
    *(
        Case(f"the payload is not {data}", SEND, event(data), 422, MISMATCH, [DEFINED])
        for data in (
            {},
            {"total": 1},
            {"order_id": None, "total": 1},
            DATA | {"total": "much"},
            DATA | {"total": True},
            DATA | {"is_gift": "yes"},
            DATA | {"placed_on": "tomorrow"},
            DATA | {"order_id": ["A-1023"]},
        )
    ),
    # POST /v1/contacts
    Case("a contact is created", *CREATED, 201, JOHN_ANSWER),
    Case(
        "an address will do",
        "POST /v1/contacts",
        {"email": ADA},
        201,
        JOHN_ANSWER | {"email": ADA, "phone_number": None, "first_name": None, "last_name": None, "properties": {}},
    ),
    Case(
        "an address is taken once",
        *CREATED,
        409,
        error(409, "conflict", 'A contact with the email "john.doe@example.com" already exists.'),
        [CREATED],
    ),
    Case("an address is needed", "POST /v1/contacts", {"phone_number": "+1"}, 400, bad_request("email is required")),
    Case("and is one", "POST /v1/contacts", {"email": "john"}, 422, invalid()),
    Case("a name has 100 characters", "POST /v1/contacts", JOHN | {"first_name": "x" * 101}, 422, invalid()),
    # GET /v1/contacts
    Case("nobody is there at first", "GET /v1/contacts", UNSENT, 200, page()),
    Case(
        "the newest contact comes first",
        "GET /v1/contacts?limit=2",
        UNSENT,
        200,
        page(john(2), john(1), more=True),
        JOHNS,
    ),
    Case("the next contacts", "GET /v1/contacts?after={1.id}", UNSENT, 200, page(john(0)), JOHNS),
    Case(
        "the contacts before",
        "GET /v1/contacts?before={0.id}&limit=1",
        UNSENT,
        200,
        page(john(1), more=True),
        JOHNS,
    ),
    Case(
        "a deleted contact is a cursor still",
        "GET /v1/contacts?after={1.id}",
        UNSENT,
        200,
        page(john(0)),
        [*JOHNS, ("DELETE /v1/contacts/{1.id}", UNSENT)],
    ),
    Case("a search for contacts", "GET /v1/contacts?search=JOHN1@", UNSENT, 200, page(john(1)), JOHNS),
    Case("a contact's cursor is one", f"GET /v1/contacts?after={UNKNOWN_ID}", UNSENT, 400, NO_CURSOR),
    Case("one cursor among contacts", "GET /v1/contacts?after=a&before=b", UNSENT, 400, BOTH),
    Case("there are no lists", "GET /v1/contacts?list_id=a", UNSENT, 400, bad_request()),
    # /v1/contacts/{id}
    Case("a contact is read", "GET /v1/contacts/{0.id}", UNSENT, 200, JOHN_ANSWER | {"id": "{0.id}"}, [CREATED]),
    *(
        Case(f"no contact is there to {method}", f"{method} /v1/contacts/x", {}, 404, not_found("Contact not found"))
        for method in ("GET", "PATCH", "DELETE")
    ),
    Case(
        "what is not sent stays, null clears, properties are replaced",
        "PATCH /v1/contacts/{0.id}",
        {"id": "{0.id}", "email": "JOHN.DOE@example.com", "last_name": None, "properties": {"company": "New"}},
        200,
        JOHN_ANSWER | {"last_name": None, "properties": {"company": "New"}},
        [CREATED],
    ),
    Case("a PATCH may change nothing", "PATCH /v1/contacts/{0.id}", b"", 200, JOHN_ANSWER, [CREATED]),
    *(
        Case(
            f"the address does not become {email}",
            "PATCH /v1/contacts/{0.id}",
            {"email": email},
            400,
            bad_request("The email of a contact cannot be changed."),
            [CREATED],
        )
        for email in ("other@example.com", None)
    ),
    Case("a contact is deleted", "DELETE /v1/contacts/{0.id}", {}, 200, {"message": "Contact deleted"}, [CREATED]),
    Case(
        "a deleted contact is gone",
        "GET /v1/contacts/{0.id}",
        UNSENT,
        404,
        not_found("Contact not found"),
        [CREATED, ("DELETE /v1/contacts/{0.id}", UNSENT)],
    ),
    # POST /v1/contacts/bulk-delete
    Case(
        "contacts are deleted together",
        "POST /v1/contacts/bulk-delete",
        {"contact_ids": ["{0.id}", "{2.id}", "{2.id}", UNKNOWN_ID, "x"]},
        200,
        {"message": "Contacts deleted", "deleted": 2},
        JOHNS,
    ),
    Case("ids are needed", "POST /v1/contacts/bulk-delete", {}, 400, bad_request("contact_ids is required")),
    Case("one at least", "POST /v1/contacts/bulk-delete", {"contact_ids": []}, 422, invalid()),
    Case("1000 at most", "POST /v1/contacts/bulk-delete", {"contact_ids": ["x"] * 1001}, 422, invalid()),
    # What is said beside the bodies
    Case("limits are told", "GET /v1/events", UNSENT, 200, page(), headers=LIMITS),
    Case("of errors too", "GET /v1/events/x", UNSENT, 404, not_found("Event x not found"), headers=LIMITS),
    Case(
        "a key of another is none",
        "GET /v1/events",
        UNSENT,
        401,
        error(401, "unauthorized", "Invalid or missing API key"),
        sent={"authorization": "Bearer be_unknown"},
    ),
    Case("an unknown path", "GET /v1/other", UNSENT, 404, not_found()),
    Case("another method", "PUT /v1/events", {}, 405, error(405, "method_not_allowed"), headers={"allow": "GET, POST"}),
    Case(
        "the body says that it is JSON",
        SEND,
        b"{}",
        415,
        error(415, "unsupported_media_type"),
        sent={"content-type": "text/plain"},
    ),
]


@pytest_asyncio.fixture
async def project(lasting_service: Service) -> Client:
    return await lasting_service.project()


@pytest_asyncio.fixture
async def arsel(lasting_service: Service, project: Client) -> AsyncIterator[Caller]:
    async with calling(lasting_service, project, "arsel") as caller:
        yield caller


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_arsel_answers(arsel: Caller, case: Case) -> None:
    await arsel.check(case)


async def defined(caller: Caller) -> str:
    made = (await caller.call(*DEFINED)).json()
    return str(made["id"])


async def test_what_is_recorded_is_what_was_said(arsel: Caller, project: Client) -> None:
    await defined(arsel)
    data = {"order_id": 7, "total": "149.99", "placed_on": "2026-06-01", "coupon": "LAUNCH20"}
    sent = event(data, timestamp="2026-06-01T15:00:00+03:00")
    accepted = (await arsel.call(SEND, sent)).json()
    found = await project.get(accepted["id"])
    assert found.occurred_at.ToJsonString() == "2026-06-01T12:00:00Z"
    assert dict(found.properties) == {
        "order_id": "7",
        "total": 149.99,
        "placed_on": "2026-06-01T00:00:00.000Z",
        "coupon": "LAUNCH20",
    }
    later = await project.get((await arsel.call(SEND, event())).json()["id"])
    assert later.occurred_at == later.received_at


async def test_a_contact_is_made_when_its_event_sets_an_automation_off(arsel: Caller, project: Client) -> None:
    await defined(arsel)
    unmatched = await project.get((await arsel.call(SEND, event())).json()["id"])
    assert (unmatched.contact_id, unmatched.email) == ("", ADA)
    assert (await arsel.call("GET /v1/contacts")).json() == page()
    await automate(project, ORDER)
    matched = await project.get((await arsel.call(SEND, event())).json()["id"])
    (contact,) = (await arsel.call("GET /v1/contacts")).json()["data"]
    assert (contact["email"], contact["id"]) == (ADA, matched.contact_id)


async def test_an_event_in_use_is_not_deleted(arsel: Caller, project: Client) -> None:
    event_id = await defined(arsel)
    flows = [await automate(project, ORDER), await automate(project, ORDER)]
    await automate(project, ORDER, active=False)
    refused = await arsel.call(f"DELETE /v1/events/{event_id}")
    message = f'Event "{ORDER}" is used by 2 active flow(s). Remove the trigger from those flows first.'
    assert (refused.status_code, refused.json()) == (409, error(409, "conflict", message))
    assert (await arsel.call(f"GET /v1/events/{event_id}")).status_code == 200
    for flow in flows:
        await pause(project, flow)
    assert (await arsel.call(f"DELETE /v1/events/{event_id}")).json() == {"message": "Event deleted"}


async def test_what_arsel_has_no_word_for_is_left_out(arsel: Caller, project: Client) -> None:
    made = await project.define("cart", schema(items="array", total="number", owner="object"))
    shown = (await arsel.call(f"GET /v1/events/{made.id}")).json()
    assert shown["schema"] == {"fields": [{"name": "total", "type": "number", "required": False}]}


async def test_a_new_schema_keeps_the_rules_of_the_definition(arsel: Caller, project: Client) -> None:
    made = await project.define("cart", schema(total="number"))
    assert (await arsel.call(f"PATCH /v1/events/{made.id}", {"schema": {}})).json()["schema"] == {"fields": []}
    request = pb.GetEventDefinitionRequest(event_definition="cart")
    found = (await project.definitions.GetEventDefinition(request)).event_definition
    assert found.schema.unknown_properties == pb.UNKNOWN_PROPERTIES_REJECT


async def test_a_contact_that_unsubscribed_is_suppressed(arsel: Caller, project: Client) -> None:
    await project.upsert(ADA, {"unsubscribed": True})
    (contact,) = (await arsel.call("GET /v1/contacts")).json()["data"]
    assert (contact["is_suppressed"], contact["properties"]) == (True, {})
    changed = await arsel.call(f"PATCH /v1/contacts/{contact['id']}", {"properties": {"plan": "pro"}})
    assert (changed.json()["is_suppressed"], changed.json()["properties"]) == (True, {"plan": "pro"})
