"""OpenSend on the wire, line by line beside its documentation: events and contacts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import event_definitions_pb2 as definitions_pb2
from tests.support.bridge import ID, MILLIS, TEXT, UNSENT, Caller, Case, calling, mistyped
from tests.support.messages import ADA, schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Service

NAME = "user.signed_up"
SCHEMA = {
    "type": "object",
    "properties": {
        "plan": {"type": "string"},
        "seats": {"type": "number"},
        "trial": {"type": "boolean"},
        "team": {"type": "object", "properties": {"size": {"type": "number"}}, "required": ["size"]},
        "tags": {"type": "array"},
    },
    "required": ["plan"],
}
SIGNUP = {"name": NAME, "schema": SCHEMA}
SIGNUP_ANSWER = {"object": "event", "id": ID, **SIGNUP, "created_at": MILLIS, "updated_at": MILLIS}
DEFINED = ("POST /events", SIGNUP)
GRACE = {"email": " Grace@Example.com", "first_name": "Grace", "properties": {"plan": "pro"}}
KNOWN = ("POST /contacts", GRACE)
GRACE_ANSWER = {
    "object": "contact",
    "id": ID,
    "email": "grace@example.com",
    "first_name": "Grace",
    "last_name": None,
    "unsubscribed": False,
    "properties": {"plan": "pro"},
    "created_at": MILLIS,
    "updated_at": MILLIS,
}
NOBODY = "01957e3a-4b5c-7d8e-9f0a-1b2c3d4e5f6a"
B_AND_A = {"b": {"type": "string"}, "a": {"type": "number"}}
BACKEND = {"x-ratelimit-backend": "memory"}
EXACTLY_ONE = "provide exactly one contact identifier: contact_id/contactId or email"


def failed(form: list[Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"error": "Validation failed", "details": {"formErrors": form or [], "fieldErrors": fields}}


def rule(code: str, message: Any = TEXT) -> dict[str, Any]:
    return {"error": message, "code": code}


def mismatch(*faults: tuple[str, str]) -> dict[str, Any]:
    return {
        "error": "Event payload does not match schema",
        "code": "event_payload_invalid",
        "details": [{"path": path, "message": message} for path, message in faults],
    }


def sent(payload: Any = UNSENT, **changes: Any) -> dict[str, Any]:
    body = {"event": NAME, "email": ADA, "payload": payload, **changes}
    return {name: value for name, value in body.items() if value is not UNSENT}


def delivered(payload: Any = None, **changes: Any) -> dict[str, Any]:
    delivery = {
        "object": "event_delivery",
        "id": ID,
        "event": NAME,
        "contact_id": ID,
        "email": ADA,
        "payload": payload or {},
        "received_at": MILLIS,
    }
    return {"object": "event_delivery", "delivery": delivery | changes, "resumed_runs": [], "automation_runs": []}


def listing(*items: Any, more: bool = False) -> dict[str, Any]:
    return {"object": "list", "data": list(items), "has_more": more}


NO_EVENT = {"error": "Event not found"}
NO_CONTACT = {"error": "Contact not found"}
UNDEFINED = "Invalid input: expected string, received undefined"

CASES = [
    # POST /events
    Case("an event is defined", *DEFINED, 201, SIGNUP_ANSWER),
    Case("and under /api", "POST /api/events", SIGNUP, 201, SIGNUP_ANSWER),
    Case("without a schema", "POST /events", {"name": NAME}, 201, SIGNUP_ANSWER | {"schema": None}),
    Case(
        "any characters",
        "POST /events",
        {"name": "Ünï \u2713"},
        201,
        SIGNUP_ANSWER | {"name": "Ünï \u2713", "schema": None},
    ),
    Case("a name is needed", "POST /events", {}, 422, failed(name=[UNDEFINED])),
    Case("an empty body is an empty object", "POST /events", b"", 422, failed(name=[UNDEFINED])),
    Case("a body is an object", "POST /events", [], 422, failed(["Invalid input: expected object, received array"])),
    Case("a body is JSON", "POST /events", b"{", 400, {"error": "Invalid JSON body"}),
    Case(
        "a name is a text",
        "POST /events",
        {"name": 5},
        422,
        failed(name=["Invalid input: expected string, received number"]),
    ),
    Case(
        "a name is not empty",
        "POST /events",
        {"name": ""},
        422,
        failed(name=["Too small: expected string to have >=1 characters"]),
    ),
    Case(
        "a name has at most 255 characters",
        "POST /events",
        {"name": "a" * 256},
        422,
        failed(name=["Too big: expected string to have <=255 characters"]),
    ),
    Case("a name is not blank", "POST /events", {"name": "  "}, 422, rule("event_name_required")),
    Case("send is reserved", "POST /events", {"name": " Send "}, 422, failed(name=['" Send " is a reserved name'])),
    Case(
        "and told with the other faults",
        "POST /events",
        {"name": "send", "schema": []},
        422,
        failed(name=['"send" is a reserved name'], schema=["schema must be an object"]),
    ),
    Case(
        "and so is a prefix",
        "POST /events",
        {"name": "Resend:x"},
        422,
        rule("event_name_reserved", 'event_name "Resend:x" uses reserved prefix "resend:"'),
    ),
    Case("a name is defined once", *DEFINED, 409, {"error": "An event with this name already exists"}, [DEFINED]),
    Case(
        "another case is another name",
        "POST /events",
        {"name": "User.Signed_Up"},
        201,
        SIGNUP_ANSWER | {"name": "User.Signed_Up", "schema": None},
        [DEFINED],
    ),
    *(
        Case(f"not {given}", "POST /events", {"name": "a", "schema": given}, 422, failed(schema=[message]))
        for given, message in (
            ([], "schema must be an object"),
            ({"type": "array"}, 'schema.type must be "object"'),
            ({"type": "object", "properties": []}, "schema.properties must be an object"),
            ({"type": "object", "required": "plan"}, "schema.required must be an array of non-empty strings"),
            ({"type": "object", "required": [" "]}, "schema.required must be an array of non-empty strings"),
            ({"type": "object", "title": "x"}, "schema.title is not a supported schema keyword"),
            (
                {"type": "object", "properties": {"plan": {"type": "date"}}},
                "schema.properties.plan.type must be one of: string, number, boolean, object, array",
            ),
            (
                {"type": "object", "properties": {"plan": {"type": "string", "enum": ["a"]}}},
                "schema.properties.plan.enum is not a supported schema keyword",
            ),
            ({"type": "object", "properties": {"plan": "string"}}, "schema.properties.plan must be an object"),
            (
                {"type": "object", "properties": {"plan": {"type": "string", "properties": {}}}},
                "schema.properties.plan.properties is only supported for objects",
            ),
        )
    ),
    Case(
        "a flat map of types is none",
        "POST /events",
        {"name": "a", "schema": {"plan": "string"}},
        422,
        failed(schema=["schema.plan is not a supported schema keyword", 'schema.type must be "object"']),
    ),
    Case(
        "what is required need not be declared",
        "POST /events",
        {"name": NAME, "schema": {"type": "object", "required": ["id"]}},
        201,
        SIGNUP_ANSWER | {"schema": {"type": "object", "required": ["id"]}},
    ),
    Case(
        "what is required is shown in the order of the properties",
        "POST /events",
        {"name": NAME, "schema": {"type": "object", "properties": B_AND_A, "required": ["z", "a", "b"]}},
        201,
        SIGNUP_ANSWER | {"schema": {"type": "object", "properties": B_AND_A, "required": ["b", "a", "z"]}},
    ),
    Case(
        "an object of anything is no schema",
        "POST /events",
        {"name": NAME, "schema": {"type": "object"}},
        201,
        SIGNUP_ANSWER | {"schema": None},
    ),
    Case(
        "a name is without control characters",
        "POST /events",
        {"name": "a\tb"},
        422,
        failed(name=[TEXT]),
    ),
    # GET /events
    Case("nothing is defined at first", "GET /events", UNSENT, 200, listing()),
    Case(
        "definitions are listed",
        "GET /events?limit=1",
        UNSENT,
        200,
        listing(SIGNUP_ANSWER, more=True),
        [("POST /events", {"name": "a"}), DEFINED],
    ),
    Case(
        "behind one",
        "GET /events?after={1.id}",
        UNSENT,
        200,
        listing(SIGNUP_ANSWER),
        [DEFINED, ("POST /events", {"name": "a"})],
    ),
    Case("not so many", "GET /events?limit=101", UNSENT, 422, failed(limit=[TEXT])),
    # /events/{identifier}
    Case("one by its name", f"GET /events/{NAME}", UNSENT, 200, SIGNUP_ANSWER, [DEFINED]),
    Case("one by its id", "GET /api/events/{0.id}", UNSENT, 200, SIGNUP_ANSWER | {"id": "{0.id}"}, [DEFINED]),
    Case(
        "a name with a slash",
        "GET /events/a%2Fb%20c",
        UNSENT,
        200,
        SIGNUP_ANSWER | {"name": "a/b c", "schema": None},
        [("POST /events", {"name": "a/b c"})],
    ),
    Case(
        "one whose name looks like an id",
        f"GET /events/{NOBODY}",
        UNSENT,
        200,
        SIGNUP_ANSWER | {"name": NOBODY, "schema": None},
        [("POST /events", {"name": NOBODY})],
    ),
    Case("not in another case", "GET /events/User.Signed_Up", UNSENT, 404, NO_EVENT, [DEFINED]),
    Case("none", "GET /events/other", UNSENT, 404, NO_EVENT),
    *(
        Case(f"none to {method}", f"{method} /events/other", body, 404, NO_EVENT)
        for method, body in (("PATCH", {"name": "a"}), ("DELETE", UNSENT))
    ),
    Case(
        "a new name",
        f"PATCH /events/{NAME}",
        {"id": "x", "name": "user.joined"},
        200,
        SIGNUP_ANSWER | {"name": "user.joined"},
        [DEFINED],
    ),
    Case(
        "that is free",
        f"PATCH /events/{NAME}",
        {"name": "a"},
        409,
        {"error": "An event with this name already exists"},
        [DEFINED, ("POST /events", {"name": "a"})],
    ),
    Case(
        "no schema any more",
        f"PATCH /events/{NAME}",
        {"schema": None},
        200,
        SIGNUP_ANSWER | {"schema": None},
        [DEFINED],
    ),
    Case(
        "another schema",
        f"PATCH /events/{NAME}",
        {"schema": {"type": "object", "properties": {"a": {"type": "array"}}}},
        200,
        SIGNUP_ANSWER | {"schema": {"type": "object", "properties": {"a": {"type": "array"}}}},
        [DEFINED],
    ),
    *(
        Case(f"not the name {name!r}", f"PATCH /events/{NAME}", {"name": name}, 422, refusal, [DEFINED])
        for name, refusal in (
            ("send", failed(name=['"send" is a reserved name'])),
            (" ", rule("event_name_required")),
            ("resend:x", rule("event_name_reserved", 'event_name "resend:x" uses reserved prefix "resend:"')),
            ("", failed(name=["Too small: expected string to have >=1 characters"])),
        )
    ),
    Case(
        "not another kind of schema",
        f"PATCH /events/{NAME}",
        {"schema": {"plan": "string"}},
        422,
        failed(schema=["schema.plan is not a supported schema keyword", 'schema.type must be "object"']),
        [DEFINED],
    ),
    Case("something", f"PATCH /events/{NAME}", {}, 422, failed(["Provide at least one field to update"]), [DEFINED]),
    Case("deleted", f"DELETE /events/{NAME}", UNSENT, 200, {"object": "event", "id": ID, "deleted": True}, [DEFINED]),
    Case(
        "deleted by the query",
        "DELETE /api/events?id={0.id}",
        UNSENT,
        200,
        {"object": "event", "id": "{0.id}", "deleted": True},
        [DEFINED],
    ),
    Case("by its id alone", f"DELETE /api/events?id={NAME}", UNSENT, 404, NO_EVENT, [DEFINED]),
    Case("an id is needed", "DELETE /api/events", UNSENT, 422, failed(id=["Required"])),
    Case("not at the root", "DELETE /events", UNSENT, 405, {"error": TEXT, "code": "method_not_allowed"}),
    Case("and gone", f"GET /events/{NAME}", UNSENT, 404, NO_EVENT, [DEFINED, (f"DELETE /events/{NAME}", UNSENT)]),
    # POST /events/send
    Case("an event is recorded", "POST /events/send", sent({"plan": "pro"}), 202, delivered({"plan": "pro"})),
    Case("under /api too", "POST /api/events/send", sent({"plan": "pro"}), 202, delivered({"plan": "pro"})),
    Case("without a payload", "POST /events/send", sent(), 202, delivered()),
    Case("the address in lower case", "POST /events/send", sent(email=" ADA@Example.com"), 202, delivered()),
    Case(
        "an unknown address is made a contact",
        "POST /events/send",
        sent(email="new@example.com"),
        202,
        delivered(email="new@example.com"),
    ),
    Case(
        "by the contact's id",
        "POST /events/send",
        sent(email=UNSENT, contact_id="{0.id}"),
        202,
        delivered(email=None, contact_id="{0.id}"),
        [KNOWN],
    ),
    Case(
        "by its alias",
        "POST /events/send",
        sent(email=UNSENT, contactId="{0.id}"),
        202,
        delivered(email=None, contact_id="{0.id}"),
        [KNOWN],
    ),
    Case(
        "by both alike",
        "POST /events/send",
        sent(email=UNSENT, contactId="{0.id}", contact_id="{0.id}"),
        202,
        delivered(email=None, contact_id="{0.id}"),
        [KNOWN],
    ),
    Case(
        "an unknown id is nobody",
        "POST /events/send",
        sent(email=UNSENT, contact_id=NOBODY),
        202,
        delivered(email=None, contact_id=None),
    ),
    Case("the name send is fine here", "POST /events/send", sent(event="send"), 202, delivered(event="send")),
    Case("properties are not read", "POST /events/send", sent(properties={"a": 1}), 202, delivered()),
    Case("nobody", "POST /events/send", sent(email=UNSENT), 422, failed(contact_id=[EXACTLY_ONE])),
    Case(
        "somebody twice",
        "POST /events/send",
        sent(contact_id=NOBODY),
        422,
        failed(email=[EXACTLY_ONE]),
    ),
    *(
        Case(f"the event {name!r:.20}", "POST /events/send", sent(event=name), 422, refusal)
        for name, refusal in (
            ("", failed(event=["Too small: expected string to have >=1 characters"])),
            ("a" * 256, failed(event=["Too big: expected string to have <=255 characters"])),
            ("  ", rule("event_name_required")),
            ("a\tb", failed(event=[TEXT])),
        )
    ),
    *(
        Case(f"the body {body!r}", "POST /events/send", body, 422, failed([f"Invalid input: expected object, {seen}"]))
        for body, seen in ((b"[]", "received array"), (b"null", "received null"), (b"5", "received number"))
    ),
    Case(
        "two ids",
        "POST /events/send",
        sent(email=UNSENT, contact_id="{0.id}", contactId=NOBODY),
        422,
        failed(contact_id=["contactId and contact_id must match when both are provided"]),
        [KNOWN],
    ),
    Case(
        "all faults at once",
        "POST /events/send",
        {"email": "ada", "payload": []},
        422,
        failed(
            event=[UNDEFINED],
            email=["Invalid email address"],
            payload=["Invalid input: expected record, received array"],
        ),
    ),
    Case(
        "an id is a UUID",
        "POST /events/send",
        sent(email=UNSENT, contact_id="11111111-1111-1111-1111-111111111111"),
        422,
        failed(contact_id=["Invalid UUID"]),
    ),
    Case(
        "whatever its length",
        "POST /events/send",
        sent(email=UNSENT, contactId="x" * 600),
        422,
        failed(contactId=["Invalid UUID"]),
    ),
    Case(
        "an address is no longer than 512 characters",
        "POST /events/send",
        sent(email="a" * 513),
        422,
        failed(email=["Too big: expected string to have <=512 characters"]),
    ),
    Case(
        "the nil UUID is one",
        "POST /events/send",
        sent(email=UNSENT, contact_id="00000000-0000-0000-0000-000000000000"),
        202,
        delivered(email=None, contact_id=None),
    ),
    Case(
        "an address has three characters",
        "POST /events/send",
        sent(email="a@"),
        422,
        failed(email=["Too small: expected string to have >=3 characters"]),
    ),
    Case(
        "a reserved prefix",
        "POST /events/send",
        sent(event="resend:x"),
        422,
        rule("event_name_reserved", 'event_name "resend:x" uses reserved prefix "resend:"'),
    ),
    Case(
        "more than the schema says",
        "POST /events/send",
        sent({"plan": "pro", "more": [1, None], "team": {"size": 3, "x": 1}}),
        202,
        delivered({"plan": "pro", "more": [1, None], "team": {"size": 3, "x": 1}}),
        [DEFINED],
    ),
    Case(
        "what is missing comes first, then what is of another type",
        "POST /events/send",
        sent({"seats": "5", "trial": 1, "team": {"size": "x"}, "tags": {}}),
        422,
        mismatch(
            ("payload.plan", "Missing required field payload.plan"),
            ("payload.seats", 'Expected payload.seats to be "number"'),
            ("payload.trial", 'Expected payload.trial to be "boolean"'),
            ("payload.team.size", 'Expected payload.team.size to be "number"'),
            ("payload.tags", 'Expected payload.tags to be "array"'),
        ),
        [DEFINED],
    ),
    Case(
        "required and not declared",
        "POST /events/send",
        sent({}),
        422,
        mismatch(("payload.id", "Missing required field payload.id")),
        [("POST /events", {"name": NAME, "schema": {"type": "object", "required": ["id"]}})],
    ),
    Case(
        "anything will do",
        "POST /events/send",
        sent({"id": [1]}),
        202,
        delivered({"id": [1]}),
        [("POST /events", {"name": NAME, "schema": {"type": "object", "required": ["id"]}})],
    ),
    Case(
        "null is of no type",
        "POST /events/send",
        sent({"plan": None}),
        422,
        mismatch(("payload.plan", 'Expected payload.plan to be "string"')),
        [DEFINED],
    ),
    Case(
        "nested and missing",
        "POST /events/send",
        sent({"plan": "a", "team": {}}),
        422,
        mismatch(("payload.team.size", "Missing required field payload.team.size")),
        [DEFINED],
    ),
    # Contacts
    Case("a contact is created", *KNOWN, 201, {"object": "contact", "id": ID}),
    Case("once", *KNOWN, 409, {"error": "A contact with this email already exists"}, [KNOWN]),
    Case("an address is needed", "POST /contacts", {}, 422, failed(email=[UNDEFINED])),
    Case(
        "properties are texts",
        "POST /contacts",
        {"email": ADA, "properties": {"a": 1}},
        422,
        failed(properties=["a must be a string"]),
    ),
    Case("read by its id", "GET /contacts/{0.id}", UNSENT, 200, GRACE_ANSWER, [KNOWN]),
    Case("read by its address", "GET /contacts/grace@example.com", UNSENT, 200, GRACE_ANSWER, [KNOWN]),
    Case("and by an escaped one", "GET /api/contacts/Grace%40example.com", UNSENT, 200, GRACE_ANSWER, [KNOWN]),
    Case(
        "changed",
        "PATCH /contacts/grace@example.com",
        {"unsubscribed": True},
        200,
        {"object": "contact", "id": "{0.id}"},
        [KNOWN],
    ),
    Case(
        "its address is repeated",
        "PATCH /contacts/{0.id}",
        {"id": "{0.id}", "email": "GRACE@example.com", "last_name": "Hopper"},
        200,
        {"object": "contact", "id": "{0.id}"},
        [KNOWN],
    ),
    Case(
        "but stays",
        "PATCH /contacts/{0.id}",
        {"email": "hopper@example.com"},
        422,
        failed(email=["The address of a contact cannot be changed"]),
        [KNOWN],
    ),
    Case(
        "and so it is",
        "GET /contacts/{0.id}",
        UNSENT,
        200,
        GRACE_ANSWER | {"unsubscribed": True},
        [KNOWN, ("PATCH /contacts/{0.id}", {"unsubscribed": True})],
    ),
    Case(
        "deleted",
        "DELETE /contacts/grace@example.com",
        UNSENT,
        200,
        {"object": "contact", "id": "{0.id}", "deleted": True},
        [KNOWN],
    ),
    *(
        Case(f"nobody to {method}", f"{method} /contacts/nobody@example.com", body, 404, NO_CONTACT)
        for method, body in (("GET", UNSENT), ("PATCH", {}), ("DELETE", UNSENT))
    ),
    Case("not so many contacts", "GET /contacts?limit=101", UNSENT, 422, failed(limit=[TEXT])),
    Case(
        "listed behind one",
        "GET /contacts?after={1.id}",
        UNSENT,
        200,
        listing(GRACE_ANSWER),
        [KNOWN, ("POST /contacts", {"email": ADA})],
    ),
    Case(
        "listed",
        "GET /contacts?limit=1",
        UNSENT,
        200,
        listing(GRACE_ANSWER, more=True),
        [("POST /contacts", {"email": ADA}), KNOWN],
    ),
    # Keys
    *(
        Case(
            f"no key: {said!r}",
            "GET /events",
            UNSENT,
            401,
            {"error": "Missing or invalid API key"},
            sent={"authorization": said},
            headers=BACKEND,
        )
        for said in ("", "Bearer os_unknown", "bearer {key}", "Bearer  {key}", "{key}", "Basic {key}")
    ),
    Case(
        "every answer names what counts",
        "GET /events",
        UNSENT,
        200,
        listing(),
        headers=BACKEND,
    ),
    Case(
        "an unknown path", "GET /events/a/b", UNSENT, 404, {"error": TEXT, "code": "route_not_found"}, headers=BACKEND
    ),
    Case("a refused body", "POST /events", {}, 422, failed(name=[UNDEFINED]), headers=BACKEND),
    # The order of checks
    Case("first the body is JSON", "PATCH /events/other", b"{", 400, {"error": "Invalid JSON body"}),
    Case(
        "then it is valid",
        "PATCH /events/other",
        {"name": 5},
        422,
        failed(name=["Invalid input: expected string, received number"]),
    ),
]


@pytest_asyncio.fixture
async def opensend(lasting_service: Service) -> AsyncIterator[Caller]:
    async with calling(lasting_service, await lasting_service.project(), "opensend") as caller:
        yield caller


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_opensend_answers(opensend: Caller, case: Case) -> None:
    await opensend.check(case)


async def test_a_key_without_the_scope_is_told_so_in_another_shape(lasting_service: Service) -> None:
    async with calling(lasting_service, await lasting_service.project(), "opensend", "events:read") as caller:
        refused = await caller.call("POST /events/send", b"{")
    name = "insufficient_api_key_permission"
    message = "This API key does not have permission to access this resource."
    assert refused.status_code == 403
    assert refused.json() == {"name": name, "code": name, "message": message, "statusCode": 403}
    assert refused.headers["x-ratelimit-backend"] == "memory"


@pytest.mark.parametrize(
    ("call", "document"), [DEFINED, ("POST /events/send", sent({"plan": "pro"}, contactId=NOBODY)), KNOWN]
)
async def test_no_value_of_another_kind_is_our_fault(opensend: Caller, call: str, document: Any) -> None:
    for wrong in mistyped(document):
        answer = await opensend.call(call, wrong)
        assert answer.status_code in {201, 202, 409, 422}, wrong


async def test_nothing_is_stored_of_a_refused_event_not_even_its_contact(opensend: Caller) -> None:
    await opensend.call(*DEFINED)
    assert (await opensend.call("POST /events/send", sent({}, email="new@example.com"))).status_code == 422
    assert await opensend.client.log() == []
    assert (await opensend.call("GET /contacts/new@example.com")).status_code == 404


async def test_a_contact_of_another_project_is_nobody(lasting_service: Service, opensend: Caller) -> None:
    other = await (await lasting_service.project()).upsert()
    answer = await opensend.call("POST /events/send", sent(email=UNSENT, contact_id=other.id))
    assert (answer.status_code, answer.json()) == (202, delivered(email=None, contact_id=None))


async def test_a_contact_is_found_by_its_id_in_any_case(opensend: Caller) -> None:
    contact = (await opensend.call(*KNOWN)).json()["id"]
    assert (await opensend.call(f"GET /contacts/{contact.upper()}")).json()["id"] == contact
    answer = await opensend.call("POST /events/send", sent(email=UNSENT, contact_id=contact.upper()))
    assert answer.json()["delivery"]["contact_id"] == contact


async def test_a_deleted_event_is_taken_as_one_without_a_schema(opensend: Caller) -> None:
    await opensend.call(*DEFINED)
    automation = pb.Automation(name="welcome", event_name=NAME, state=pb.AUTOMATION_STATE_ACTIVE)
    await opensend.client.automations.CreateAutomation(pb.CreateAutomationRequest(automation=automation))
    assert (await opensend.call("POST /events/send", sent({}))).status_code == 422
    assert (await opensend.call(f"DELETE /events/{NAME}")).status_code == 200
    answer = await opensend.call("POST /events/send", sent({"plan": 5}))
    assert (answer.status_code, len(answer.json()["automation_runs"])) == (202, 1)


async def test_a_definition_of_another_door_keeps_its_rules_until_it_has_no_schema(opensend: Caller) -> None:
    await opensend.client.define(NAME, schema(plan="string"))

    async def shown() -> Any:
        return (await opensend.call(f"GET /events/{NAME}")).json()["schema"]

    async def taken(payload: Any) -> Any:
        answer = await opensend.call("POST /events/send", sent(payload))
        return answer.json()["delivery"]["payload"] if answer.is_success else answer.json()

    assert await taken({"plan": 5}) == {"plan": "5"}
    assert await taken({"more": 1}) == mismatch(("payload.more", "Unexpected field payload.more"))
    await opensend.client.redefine(schema(), NAME)
    assert await shown() == {"type": "object"}
    await opensend.call(f"PATCH /events/{NAME}", {"schema": None})
    assert await shown() is None
    assert await taken({"more": 1}) == {"more": 1}


async def test_a_repeated_send_tells_the_same_runs(opensend: Caller) -> None:
    automation = pb.Automation(name="welcome", event_name=NAME, state=pb.AUTOMATION_STATE_ACTIVE)
    await opensend.client.automations.CreateAutomation(pb.CreateAutomationRequest(automation=automation))
    first, again = [await opensend.call("POST /events/send", sent(), {"idempotency-key": "k1"}) for _ in range(2)]
    assert len(first.json()["automation_runs"]) == 1
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(await opensend.client.log()) == 1


async def test_a_renamed_event_leaves_automations_and_deliveries_their_name(opensend: Caller) -> None:
    await opensend.call(*DEFINED)
    automation = pb.Automation(name="welcome", event_name=NAME, state=pb.AUTOMATION_STATE_ACTIVE)
    await opensend.client.automations.CreateAutomation(pb.CreateAutomationRequest(automation=automation))
    await opensend.call("POST /events/send", sent({"plan": "a"}))
    await opensend.call(f"PATCH /events/{NAME}", {"name": "user.joined"})
    answer = (await opensend.call("POST /events/send", sent({}))).json()
    assert len(answer["automation_runs"]) == 1
    assert (await opensend.call("POST /events/send", sent({}, event="user.joined"))).status_code == 422
    assert [each.name for each in await opensend.client.log()] == [NAME, NAME]


async def test_field_numbers_outlive_a_renaming_under_both_names(opensend: Caller) -> None:
    async def define(name: str, prop: str) -> None:
        schema = {"type": "object", "properties": {prop: {"type": "string"}}}
        assert (await opensend.call("POST /events", {"name": name, "schema": schema})).status_code == 201

    async def text(name: str) -> str:
        request = definitions_pb2.GetDescriptorSetRequest(event_definitions=[name])
        answer = await opensend.client.definitions.GetDescriptorSet(request)
        (found,) = answer.files.values()
        return found

    await define("b", "old")
    await opensend.call("DELETE /events/b")
    await define("a", "first")
    await opensend.call("PATCH /events/a", {"name": "b"})
    await define("a", "second")
    assert "string first = 2 " in await text("b")
    assert "string second = 2 " in await text("a")
